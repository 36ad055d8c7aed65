"""Repairs a conversation so that every vendor accepts it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from flowcat_server.core.interfaces import Message
from flowcat_server.providers.llm._visible import INTERRUPTED

OPENING = "[The call begins.]"
"""Stands for the caller where a vendor wants the first word to be the user's."""

SILENCE = "[The caller says nothing.]"
"""Stands for the caller where a vendor wants the last word to be the user's."""

NO_RESULT = "[no result: the caller interrupted]"
"""Answer of a tool whose result never came."""


def spoken_text(message: Message) -> str:
    """A message's text, marked where the caller cut it off."""
    if not message.interrupted:
        return message.text
    return f"{message.text} {INTERRUPTED}".strip()


def pair_tools(messages: Iterable[Message]) -> list[Message]:
    """Place exactly one answer behind every tool call.

    All vendors refuse a tool call without an answer, an answer without a call, and anything that
    stands between them. Answers are moved up to their calls, missing ones are filled in with
    `NO_RESULT`, and answers to unknown calls are dropped.
    """
    sequence = list(messages)
    answers: dict[str, list[Message]] = {}
    for message in sequence:
        if message.role == "tool":
            # Some servers use the same ids again in every reply.
            answers.setdefault(message.tool_call_id, []).append(message)
    paired: list[Message] = []
    for message in sequence:
        if message.role == "tool":
            continue
        paired.append(message)
        for call in message.tool_calls:
            waiting = answers.get(call.id)
            paired.append(
                waiting.pop(0) if waiting else Message("tool", NO_RESULT, tool_call_id=call.id)
            )
    return paired


def without_tools(messages: Iterable[Message]) -> list[Message]:
    """The conversation as it was spoken, for a model that knows no tools."""
    return [
        replace(message, tool_calls=())
        for message in messages
        if message.role != "tool" and (message.text or message.interrupted)
    ]


def alternate(messages: Sequence[Message]) -> list[Message]:
    """Make user and assistant alternate, beginning and ending with the user.

    Only for conversations without tool messages. Neighbours of one role are joined by a line
    break.
    """
    joined: list[Message] = []
    for message in messages:
        text = spoken_text(message)
        if joined and joined[-1].role == message.role:
            joined[-1] = Message(message.role, f"{joined[-1].text}\n{text}")
        else:
            joined.append(Message(message.role, text))
    if not joined or joined[0].role != "user":
        joined.insert(0, Message("user", OPENING))
    if joined[-1].role != "user":
        joined.append(Message("user", SILENCE))
    return joined
