"""Anthropic's Messages API as data: a conversation becomes messages, events become ours."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from flowcat_server.core.interfaces import Message, ModelEvent, TextDelta, ToolCall, Usage
from flowcat_server.providers.llm._chat import (
    MAX_ARGUMENT_CHARS,
    MAX_TOOL_CALLS,
    parse_arguments,
)
from flowcat_server.providers.llm._messages import OPENING, SILENCE, pair_tools, spoken_text
from flowcat_server.providers.llm._visible import VisibleText

_VALID_ID = re.compile(r"^[a-zA-Z0-9_-]+$")


def wire_messages(messages: Iterable[Message]) -> list[dict[str, Any]]:
    """The conversation in Anthropic's form.

    User and assistant alternate, the first and the last message are the user's (an assistant
    message at the end would be continued, which current models refuse), every ``tool_use`` is
    answered by a ``tool_result`` in the next user message, and no text is empty.
    """
    turns: list[dict[str, Any]] = []
    ids = _ToolIds()
    for message in pair_tools(messages):
        blocks = _blocks(message, ids)
        if not blocks:
            continue
        role = "assistant" if message.role == "assistant" else "user"
        if not turns and role == "assistant":
            turns.append({"role": "user", "content": [{"type": "text", "text": OPENING}]})
        if turns and turns[-1]["role"] == role:
            turns[-1]["content"].extend(blocks)
        else:
            turns.append({"role": role, "content": blocks})
    if not turns or turns[-1]["role"] != "user":
        text = SILENCE if turns else OPENING
        turns.append({"role": "user", "content": [{"type": "text", "text": text}]})
    return turns


class _ToolIds:
    """Ids of tool calls that the API accepts: its alphabet, and none twice."""

    def __init__(self) -> None:
        self._seen: set[str] = set()
        self._open: list[str] = []

    def call(self, given: str) -> str:
        valid = _VALID_ID.match(given) and given not in self._seen
        chosen = given if valid else f"call_{len(self._seen)}"
        while chosen in self._seen:
            chosen += "_"
        self._seen.add(chosen)
        self._open.append(chosen)
        return chosen

    def answer(self) -> str:
        # `pair_tools` puts the answers behind their calls, in the calls' order.
        return self._open.pop(0)


def _blocks(message: Message, ids: _ToolIds) -> list[dict[str, Any]]:
    if message.role == "tool":
        return [{"type": "tool_result", "tool_use_id": ids.answer(), "content": message.text}]
    text = spoken_text(message).strip()
    blocks: list[dict[str, Any]] = [{"type": "text", "text": text}] if text else []
    blocks.extend(
        {
            "type": "tool_use",
            "id": ids.call(call.id),
            "name": call.name,
            "input": dict(call.arguments),
        }
        for call in message.tool_calls
    )
    return blocks


@dataclass(slots=True)
class _ToolUse:
    id: str
    name: str
    json: list[str] = field(default_factory=list)
    size: int = 0


class MessageReply:
    """One streamed reply. Feed every event to `feed` until `ended`, then call `finish`."""

    __slots__ = ("_text", "_tools", "_usage", "ended", "stop_reason")

    def __init__(self) -> None:
        self.ended = False
        self.stop_reason = ""
        self._text = VisibleText()
        self._tools: dict[int, _ToolUse] = {}
        self._usage = Usage()

    def feed(self, event: Mapping[str, Any]) -> Iterator[ModelEvent]:
        """The events of one event. Kinds that are not known (`ping` and future ones) are none."""
        kind = event.get("type")
        if kind == "content_block_delta":
            yield from self._delta(event["index"], event["delta"])
        elif kind == "content_block_start":
            block = event["content_block"]
            if block.get("type") == "tool_use":
                self._tools[event["index"]] = _ToolUse(str(block["id"]), str(block["name"]))
                if len(self._tools) > MAX_TOOL_CALLS:
                    raise ValueError("too many tool calls")
            elif block.get("type") == "text":
                yield from self._visible(block.get("text") or "")
        elif kind == "message_start":
            yield from self._count(event["message"].get("usage") or {})
        elif kind == "message_delta":
            self.stop_reason = str(event["delta"].get("stop_reason") or "")
            yield from self._count(event.get("usage") or {})
        elif kind == "message_stop":
            self.ended = True

    def finish(self) -> Iterator[ModelEvent]:
        """What was waiting for the end of the reply."""
        text = self._text.flush()
        if text:
            yield TextDelta(text)
        for tool in self._tools.values():
            yield ToolCall(tool.id, tool.name, parse_arguments("".join(tool.json)))

    def _delta(self, index: int, delta: Mapping[str, Any]) -> Iterator[ModelEvent]:
        if delta["type"] == "text_delta":
            yield from self._visible(delta["text"])
        elif delta["type"] == "input_json_delta" and index in self._tools:
            tool = self._tools[index]
            tool.size += len(delta["partial_json"])
            if tool.size > MAX_ARGUMENT_CHARS:
                raise ValueError("tool arguments are too long")
            tool.json.append(delta["partial_json"])

    def _visible(self, text: str) -> Iterator[ModelEvent]:
        visible = self._text.feed(text)
        if visible:
            yield TextDelta(visible)

    def _count(self, raw: Mapping[str, Any]) -> Iterator[ModelEvent]:
        """Anthropic counts cached input apart; we count all input, and how much was cached."""
        before = self._usage
        cached = int(raw.get("cache_read_input_tokens") or before.cached_tokens)
        usage = Usage(
            (int(raw["input_tokens"]) + int(raw.get("cache_creation_input_tokens") or 0) + cached)
            if raw.get("input_tokens") is not None
            else before.input_tokens,
            int(raw.get("output_tokens") or before.output_tokens),
            cached,
        )
        if usage != before:
            self._usage = usage
            yield usage
