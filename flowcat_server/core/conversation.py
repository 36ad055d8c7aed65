"""The conversation as the model sees it: a view of what was said and what was heard."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from flowcat_server.core.interfaces import Message, ToolCall
from flowcat_server.core.playout import Playout


@dataclass(slots=True)
class _Said:
    """A stretch of one reply: pieces `first` to `last`, then perhaps tool calls."""

    turn: int
    first: int
    last: int | None = None
    """Exclusive; None while the reply goes on."""
    tool_calls: tuple[ToolCall, ...] = ()


@dataclass(slots=True)
class _Line:
    message: Message


@dataclass(slots=True)
class Conversation:
    """Messages in order. The agent's words come from the playout ledger, nowhere else."""

    playout: Playout
    max_messages: int = 200
    """Older messages are left out of what the model sees."""
    _entries: list[_Said | _Line] = field(default_factory=list)

    def caller(self, text: str) -> None:
        """The caller finished a turn."""
        self._entries.append(_Line(Message("user", text)))

    def reply_begins(self, turn: int) -> None:
        """A reply starts; its pieces are taken from the playout."""
        self._entries.append(_Said(turn, 0))

    def tool_round(self, turn: int, calls: Sequence[ToolCall], results: Sequence[str]) -> None:
        """The model called tools and got their results; the reply goes on after them."""
        said = next(
            entry
            for entry in reversed(self._entries)
            if isinstance(entry, _Said) and entry.turn == turn and entry.last is None
        )
        reply = self.playout.reply(turn)
        said.last = len(reply.pieces) if reply else said.first
        said.tool_calls = tuple(calls)
        for call, result in zip(calls, results, strict=True):
            self._entries.append(_Line(Message("tool", result, tool_call_id=call.id)))
        self._entries.append(_Said(turn, said.last))

    def messages(self) -> list[Message]:
        """What the model may know: heard words, marked where they were cut off.

        A reply that is still under way counts as said; one of which nothing was heard is absent.
        """
        messages: list[Message] = []
        for entry in self._entries:
            if isinstance(entry, _Line):
                messages.append(entry.message)
                continue
            text, interrupted = self._text(entry)
            if text or entry.tool_calls:
                messages.append(
                    Message("assistant", text, tool_calls=entry.tool_calls, interrupted=interrupted)
                )
        return _tail(messages, self.max_messages)

    def _text(self, said: _Said) -> tuple[str, bool]:
        reply = self.playout.reply(said.turn)
        if reply is None:
            return "", False
        end = len(reply.pieces) if said.last is None else said.last
        pieces = [piece.text for piece in reply.pieces[said.first : end]]
        if not reply.settled:
            return " ".join(pieces), False
        heard = [text for text in reply.heard[said.first : end] if text]
        full = " ".join(pieces)
        text = " ".join(heard)
        return text, reply.interrupted and text != full


def _tail(messages: list[Message], most: int) -> list[Message]:
    if len(messages) <= most:
        return messages
    tail = messages[-most:]
    while tail and tail[0].role == "tool":  # never a result without its call
        tail.pop(0)
    return tail
