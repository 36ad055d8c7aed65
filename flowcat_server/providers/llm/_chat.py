"""OpenAI's chat completions as data: a request becomes a body, chunks become events.

https://developers.openai.com/api/reference/resources/chat. What other vendors do differently is
noted where it is handled.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from flowcat_server.core.interfaces import (
    Message,
    ModelEvent,
    TextDelta,
    ToolCall,
    ToolSpec,
    Usage,
)
from flowcat_server.providers.llm._messages import (
    OPENING,
    alternate,
    pair_tools,
    spoken_text,
    without_tools,
)
from flowcat_server.providers.llm._visible import VisibleText

MAX_TOOL_CALLS = 64
"""Per reply; a server that asks for more is not following the protocol."""

MAX_ARGUMENT_CHARS = 1 << 20


def chat_messages(
    system: str, messages: Sequence[Message], *, tools: bool = True, strict_roles: bool = False
) -> list[dict[str, Any]]:
    """The conversation in OpenAI's form.

    The system text goes under the role ``system``: ``developer`` is not known everywhere.
    `strict_roles` makes user and assistant alternate, which some servers demand.
    """
    wire: list[dict[str, Any]] = [{"role": "system", "content": system}] if system else []
    paired = pair_tools(messages) if tools else without_tools(messages)
    if strict_roles and not any(message.tool_calls for message in paired):
        paired = alternate(paired)
    if not paired:
        # Chat templates of open models fail on a conversation without a user.
        paired = [Message("user", OPENING)]
    wire.extend(_wire_message(message) for message in paired)
    return wire


def _wire_message(message: Message) -> dict[str, Any]:
    if message.role == "tool":
        return {"role": "tool", "tool_call_id": message.tool_call_id, "content": message.text}
    text = spoken_text(message)
    if not message.tool_calls:
        return {"role": message.role, "content": text}
    calls = [
        {
            "id": call.id,
            "type": "function",
            "function": {
                "name": call.name,
                "arguments": msgspec.json.encode(call.arguments).decode(),
            },
        }
        for call in message.tool_calls
    ]
    return {"role": "assistant", "content": text or None, "tool_calls": calls}


def chat_tools(tools: Sequence[ToolSpec]) -> list[dict[str, Any]]:
    """Functions in OpenAI's form."""
    return [
        {
            "type": "function",
            "function": {
                "name": tool.name,
                "description": tool.description,
                "parameters": dict(tool.parameters),
            },
        }
        for tool in tools
    ]


def deep_merge(base: dict[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` laid over `base`: objects are merged key by key, everything else is replaced."""
    merged = dict(base)
    for name, value in over.items():
        below = merged.get(name)
        if isinstance(below, dict) and isinstance(value, Mapping):
            merged[name] = deep_merge(below, value)
        else:
            merged[name] = value
    return merged


def parse_arguments(text: str) -> Mapping[str, Any]:
    """A tool call's arguments; raise `ValueError` or `TypeError` if they are not a JSON object."""
    if not text.strip():
        return {}
    arguments = msgspec.json.decode(text)
    if not isinstance(arguments, dict):
        raise TypeError("tool arguments are not a JSON object")
    return arguments


@dataclass(slots=True)
class _PartialCall:
    id: str = ""
    name: str = ""
    arguments: list[str] = field(default_factory=list)
    size: int = 0

    def add(self, piece: Any) -> None:
        # Some servers send the arguments as an object instead of its text.
        text = piece if isinstance(piece, str) else msgspec.json.encode(piece).decode()
        self.size += len(text)
        if self.size > MAX_ARGUMENT_CHARS:
            raise ValueError("tool arguments are too long")
        self.arguments.append(text)


class ChatReply:
    """One streamed reply. Feed every parsed chunk to `feed`, then call `finish`.

    Anything that is not of OpenAI's shape leaves as `ValueError`, `TypeError` or `KeyError`.
    """

    __slots__ = ("_by_index", "_calls", "_text", "_usage", "finish_reason")

    def __init__(self, *, thinking: bool = False) -> None:
        self.finish_reason = ""
        self._text = VisibleText(thinking=thinking)
        self._calls: list[_PartialCall] = []
        self._by_index: dict[int, _PartialCall] = {}
        self._usage: Usage | None = None

    def feed(self, chunk: Mapping[str, Any]) -> Iterator[ModelEvent]:
        """The events of one chunk. Tool calls wait for `finish`."""
        # The usage comes in a last chunk without choices, or, with some vendors, in every chunk.
        usage = _usage(chunk.get("usage"))
        if usage is not None and usage != self._usage:
            self._usage = usage
            yield usage
        choices = chunk.get("choices")
        if not choices:
            return
        choice = choices[0]
        delta = choice.get("delta") or {}
        # `reasoning_content` and `reasoning` are not looked at: they are never spoken.
        text = self._text.feed(_plain(delta.get("content")) + (delta.get("refusal") or ""))
        if text:
            yield TextDelta(text)
        for fragment in delta.get("tool_calls") or ():
            self._fragment(fragment)
        if choice.get("finish_reason"):
            self.finish_reason = str(choice["finish_reason"])

    def finish(self) -> Iterator[ModelEvent]:
        """What was waiting for the end of the reply."""
        text = self._text.flush()
        if text:
            yield TextDelta(text)
        for call in self._calls:
            if not call.name:
                raise ValueError("a tool call without a name")
            yield ToolCall(
                call.id or f"call_{secrets.token_hex(8)}",
                call.name,
                parse_arguments("".join(call.arguments)),
            )

    def _fragment(self, fragment: Mapping[str, Any]) -> None:
        function = fragment.get("function") or {}
        call_id, name = fragment.get("id") or "", function.get("name") or ""
        index = fragment.get("index")
        call = self._by_index.get(index) if index is not None else None
        if call is None and index is None and not name and self._calls:
            call = self._calls[-1]
        if call is None or (name and call_id and call.id and call_id != call.id):
            # Some vendors leave the index out, or give 0 to every one of several calls.
            call = _PartialCall()
            self._calls.append(call)
            if len(self._calls) > MAX_TOOL_CALLS:
                raise ValueError("too many tool calls")
        if index is not None:
            self._by_index[int(index)] = call
        call.id = call.id or str(call_id)
        call.name = call.name or str(name)
        if function.get("arguments"):
            call.add(function["arguments"])


def _plain(content: Any) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    # Mistral's reasoning models answer in parts of type text and thinking.
    return "".join(part["text"] for part in content if part.get("type") == "text")


def _usage(raw: Any) -> Usage | None:
    if not isinstance(raw, Mapping):
        return None
    details = raw.get("prompt_tokens_details") or {}
    cached = details.get("cached_tokens") or raw.get("prompt_cache_hit_tokens") or 0  # DeepSeek
    return Usage(
        int(raw.get("prompt_tokens") or 0), int(raw.get("completion_tokens") or 0), int(cached)
    )
