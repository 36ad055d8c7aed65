"""Requests and readers that the tests of language models share."""

from __future__ import annotations

from contextlib import aclosing
from typing import Any

from flowcat_server.core.graph import Node
from flowcat_server.core.interfaces import Message, ModelEvent, ModelRequest, TextDelta, ToolSpec

LOOK_UP = ToolSpec(
    "look_up",
    "Look up free times.",
    {"type": "object", "properties": {"day": {"type": "string"}}, "required": ["day"]},
)


def request(
    *messages: Message, system: str = "You answer the phone.", tools: tuple[ToolSpec, ...] = ()
) -> ModelRequest:
    return ModelRequest(
        system=system,
        messages=messages,
        tools=tools,
        call_id="call-1",
        node=Node("start", "start", "Start"),
        edges=(),
        variables={},
    )


HELLO = request(Message("user", "Hello?"))


async def collect(model: Any, asked: ModelRequest = HELLO) -> list[ModelEvent]:
    async with aclosing(model.reply(asked)) as events:
        return [event async for event in events]


def text_of(events: list[ModelEvent]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta))
