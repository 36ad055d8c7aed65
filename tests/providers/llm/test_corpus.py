"""Whole answers in the vendors' form, read through every layer and cut at every byte."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from flowcat_server.core.interfaces import ModelEvent, TextDelta, ToolCall, Usage
from flowcat_server.providers.llm._anthropic import MessageReply
from flowcat_server.providers.llm._chat import ChatReply
from flowcat_server.providers.llm._sse import SseParser

CORPUS = Path(__file__).parents[2] / "corpus"
LOOK_UP = ToolCall("call_0", "look_up", {"day": "Friday"})
CASES: dict[str, tuple[str, list[ToolCall], Usage]] = {
    "openai/text": ("We open at nine, Zoë.", [], Usage(31, 7, 16)),
    "openai/tools": (
        "One moment.",
        [LOOK_UP, ToolCall("call_1", "end_call", {})],
        Usage(12, 3, 0),
    ),
    "openai/openrouter_comments": ("Hi.", [], Usage(5, 2, 0)),
    "openai/deepseek_reasoning": ("Hello.", [], Usage(9, 6, 4)),
    "openai/think_crlf": ("Good day.", [], Usage(4, 9, 0)),
    "anthropic/text": ("We open at nine, Zoë.", [], Usage(47, 7, 16)),
    "anthropic/tools": (
        "One moment.",
        [ToolCall("toolu_1", "look_up", {"day": "Friday"}), ToolCall("toolu_2", "end_call", {})],
        Usage(12, 12, 0),
    ),
}


def read(make: Callable[[], Any], *chunks: bytes) -> tuple[str, list[ToolCall], Usage]:
    parser, reply = SseParser(), make()
    events: list[ModelEvent] = []
    for chunk in chunks:
        for event in parser.feed(chunk):
            if event.data != "[DONE]":
                events.extend(reply.feed(msgspec.json.decode(event.data)))
    events.extend(reply.finish())
    return (
        "".join(event.text for event in events if isinstance(event, TextDelta)),
        [event for event in events if isinstance(event, ToolCall)],
        [event for event in events if isinstance(event, Usage)][-1],
    )


@pytest.mark.parametrize(("name", "expected"), CASES.items(), ids=CASES)
def test_an_answer_is_read_however_it_is_cut(
    name: str, expected: tuple[str, list[ToolCall], Usage]
):
    body = (CORPUS / f"{name}.sse").read_bytes()
    make = ChatReply if name.startswith("openai") else MessageReply
    assert read(make, body) == expected
    for at in range(len(body)):
        assert read(make, body[:at], body[at:]) == expected
