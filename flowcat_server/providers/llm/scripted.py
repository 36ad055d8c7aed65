"""`scripted`: a language model that says the lines of a script.

It keeps no state: the same request always gets the same reply. The number of caller messages
decides which reply is due, and a reply with a tool is continued by its ``then`` once the tool's
result stands in the request.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from flowcat_server.core.interfaces import ModelEvent, ModelRequest, TextDelta, ToolCall, Usage
from flowcat_server.providers.drills import FaultOptions, FaultPlan
from flowcat_server.providers.registry import Provider, Settings

ECHO = "You said: {caller}"


class Reply(BaseModel):
    """One reply. ``{caller}`` in a text is what the caller said, ``{result}`` a tool's result."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    say: str = ""
    tool: str = ""
    """Call this tool after saying `say`."""
    arguments: Mapping[str, Any] = Field(default_factory=dict)
    then: str = "Done."
    """Said once the tool has returned."""


class Match(Reply):
    """A reply to callers whose words match a pattern."""

    pattern: str = Field(alias="if")
    """Regular expression, searched in the caller's last words without regard to case."""
    node: str = ""
    """Only in the node of this id."""

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, value: str) -> str:
        try:
            re.compile(value)
        except re.error as error:
            raise ValueError(f"not a regular expression: {error}") from error
        return value


class ScriptedLlmOptions(FaultOptions):
    """What is said, and how late."""

    replies: tuple[str | Reply, ...] = ()
    """The nth answers the caller's nth message; after the last, the last again (see `loop`)."""
    match: tuple[Match, ...] = ()
    """Tried first, in order."""
    echo: bool = False
    """Repeat the caller's words. Also what happens when there are no `replies`."""
    opening: str = "Hello, how can I help you?"
    """Said when the model is asked to speak before the caller has."""
    loop: bool = False
    """After the last reply begin again with the first."""
    first_token_ms: int = Field(default=0, ge=0)
    token_ms: int = Field(default=0, ge=0)
    """Between two words."""


class ScriptedLlm:
    """Streams replies word by word."""

    def __init__(self, options: ScriptedLlmOptions) -> None:
        self._options = options
        self._faults = FaultPlan(options)
        self._patterns = [re.compile(entry.pattern, re.IGNORECASE) for entry in options.match]

    async def start(self) -> None:
        """Nothing to load."""

    async def reply(self, request: ModelRequest) -> AsyncGenerator[ModelEvent, None]:
        """Stream the reply that is due."""
        trouble = self._faults.take()
        await trouble.before()
        await asyncio.sleep(self._options.first_token_ms / 1000)
        caller, result = _last_caller(request), _tool_result(request)
        reply = self._choose(request, caller)
        text = reply.say if result is None else reply.then
        text = text.replace("{caller}", caller).replace("{result}", result or "")
        words = text.split()
        for number, word in enumerate(words):
            if number and self._options.token_ms:
                await asyncio.sleep(self._options.token_ms / 1000)
            yield TextDelta(word if number == 0 else " " + word)
            if number == 0:
                await trouble.during()
        if reply.tool and result is None:
            yield ToolCall(f"scripted-{len(request.messages)}", reply.tool, dict(reply.arguments))
        if not words:
            await trouble.during()
        heard = sum(len(message.text.split()) for message in request.messages)
        yield Usage(input_tokens=heard + len(request.system.split()), output_tokens=len(words))

    def _choose(self, request: ModelRequest, caller: str) -> Reply:
        options = self._options
        for entry, pattern in zip(options.match, self._patterns, strict=True):
            if entry.node in ("", request.node.id) and caller and pattern.search(caller):
                return entry
        number = sum(message.role == "user" for message in request.messages)
        if number == 0:
            return Reply(say=options.opening)
        if options.echo or not options.replies:
            return Reply(say=ECHO)
        count = len(options.replies)
        index = (number - 1) % count if options.loop else min(number, count) - 1
        chosen = options.replies[index]
        return Reply(say=chosen) if isinstance(chosen, str) else chosen

    async def close(self) -> None:
        """Nothing to stop."""


def _last_caller(request: ModelRequest) -> str:
    said = (message.text for message in reversed(request.messages) if message.role == "user")
    return next(said, "")


def _tool_result(request: ModelRequest) -> str | None:
    """The newest tool result that came after the caller's last words."""
    for message in reversed(request.messages):
        if message.role == "tool":
            return message.text
        if message.role == "user":
            break
    return None


def create(settings: Settings) -> ScriptedLlm:
    """Create the provider."""
    return ScriptedLlm(settings.options)


PROVIDER = Provider(
    create=create,
    options=ScriptedLlmOptions,
    local=True,
    status="built-in",
    title="Says the lines of a script; for tests, demos, load and fault drills.",
)
