"""What was said before, as items of an OpenAI Realtime conversation.

https://developers.openai.com/api/docs/api-reference/realtime-client-events/conversation/item/create:
items may be created with an id of the client's, and behind any other item.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from flowcat_server.core.interfaces import Correct, Message
from flowcat_server.providers.llm._messages import spoken_text

Json = dict[str, Any]

NAME = "said_"
"""Begins the ids of these items; the message's place in the history follows."""


def history_items(history: Sequence[Message]) -> list[Json]:
    """The events that create them."""
    return [
        {"type": "conversation.item.create", "item": item}
        for index, message in enumerate(history)
        for item in _items(index, message)
    ]


def correction(history: Sequence[Message], correct: Correct) -> Iterator[Json]:
    """The events that leave of a reply only what was heard."""
    index = correct.index
    name = f"{NAME}{index}"
    yield {"type": "conversation.item.delete", "item_id": name}
    if correct.text:
        before = list(_items(index - 1, history[index - 1])) if index else []
        heard = Message("assistant", correct.text, interrupted=True)
        yield {
            "type": "conversation.item.create",
            # "root" is the vendor's name for the beginning.
            "previous_item_id": before[-1]["id"] if before else "root",
            "item": {**next(_items(index, heard)), "id": f"{name}_heard"},
        }


def _items(index: int, message: Message) -> Iterator[Json]:
    name = f"{NAME}{index}"
    if message.role == "tool":
        yield {
            "id": name,
            "type": "function_call_output",
            "call_id": message.tool_call_id,
            "output": message.text,
        }
        return
    text = spoken_text(message)
    if text:
        kind = "input_text" if message.role == "user" else "output_text"
        content = [{"type": kind, "text": text}]
        yield {"id": name, "type": "message", "role": message.role, "content": content}
    for number, call in enumerate(message.tool_calls):
        yield {
            "id": f"{name}_{number}",
            "type": "function_call",
            "call_id": call.id,
            "name": call.name,
            "arguments": msgspec.json.encode(call.arguments).decode(),
        }
