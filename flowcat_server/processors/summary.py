"""What a conversation was about, for a person who takes it over."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from flowcat_server.core.agent import Agent
from flowcat_server.core.interfaces import (
    KnowsAgent,
    LanguageModel,
    Message,
    ModelRequest,
    TextDelta,
)
from flowcat_server.errors import ProviderError
from flowcat_server.processors.call import Call
from flowcat_server.processors.deadlines import Deadline, timed

SUMMARY = "summary"
"""The variable of an introduction that stands for it."""
WITHIN_MS = 6000
DEADLINE = Deadline(4000, 4000)
MAX_CHARS = 400
LATEST = 3
"""Of the caller's turns, where there is no model that could sum them up."""
ASK = """\
A colleague takes over this telephone call. Tell them in one or two short spoken sentences, in the \
language of the conversation, who is calling, what they want and what has been found out. Say \
nothing else."""


async def summary(
    call: Call, agent: Agent, messages: Sequence[Message], models: Sequence[LanguageModel]
) -> str:
    """One or two sentences; the caller's own last words where no model can sum them up."""
    model = next((model for model in models if not isinstance(model, KnowsAgent)), None)
    said = [message for message in messages if message.role != "tool" and message.text]
    if model is not None and said:
        try:
            async with asyncio.timeout(WITHIN_MS / 1000):
                text = await _ask(call, agent, said, model)
        except (ProviderError, TimeoutError):
            text = ""
        if text:
            return text[:MAX_CHARS]
    latest = [message.text for message in said if message.role == "user"][-LATEST:]
    return " ".join(latest)[-MAX_CHARS:]


async def _ask(call: Call, agent: Agent, said: Sequence[Message], model: LanguageModel) -> str:
    talk = "\n".join(
        f"{'Caller' if message.role == 'user' else 'Agent'}: {message.text}" for message in said
    )
    request = ModelRequest(ASK, [Message("user", talk)], (), call.id, agent.node, (), {})
    text = ""
    async with timed(model.reply(request), DEADLINE, "summary") as stream:
        async for event in stream:
            if isinstance(event, TextDelta):
                text += event.text
    return text.strip()
