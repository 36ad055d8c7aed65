"""The conversation as the model sees it: a view of what was said and what was heard."""

from __future__ import annotations

from collections.abc import Sequence

from flowcat_server.core.interfaces import Message, ToolCall
from flowcat_server.core.playout import Playout
from flowcat_server.core.speech import Reply


class _Said:
    """A stretch of one reply: its pieces from `first` to `last`, then perhaps tool calls."""

    __slots__ = ("first", "last", "reply", "results", "tool_calls")

    def __init__(self, reply: Reply, first: int, last: int | None = None) -> None:
        self.reply, self.first = reply, first
        self.last = last
        """Exclusive; None while the reply goes on."""
        self.tool_calls: tuple[ToolCall, ...] = ()
        self.results: tuple[Message, ...] = ()

    def messages(self) -> list[Message]:
        """What was heard of it, and the tool calls with their results right behind."""
        reply = self.reply
        said = " ".join(piece.text for piece in reply.pieces[self.first : self.last])
        text = said
        if reply.settled:
            text = " ".join(text for text in reply.heard[self.first : self.last] if text)
        if not text and not self.tool_calls:
            return []
        cut = reply.interrupted and text != said
        spoken = Message("assistant", text, tool_calls=self.tool_calls, interrupted=cut)
        return [spoken, *self.results]


class Conversation:
    """Messages in order. The agent's words come from the playout ledger, nowhere else."""

    def __init__(
        self, playout: Playout, max_messages: int = 200, earlier: Sequence[Message] = ()
    ) -> None:
        """Begin a conversation.

        Args:
            playout: The ledger.
            max_messages: Older messages are left out of what the model sees.
            earlier: What was said before, where the conversation began in another call.
        """
        self._playout = playout
        self._max_messages = max_messages
        self._entries: list[_Said | Message] = list(earlier)

    def caller(self, text: str, turn: int | None = None) -> None:
        """The caller finished a turn; with its number, one whose reply may have begun already."""
        place = next((i for i, entry in enumerate(self._entries) if _is_reply(entry, turn)), None)
        self._entries.insert(len(self._entries) if place is None else place, Message("user", text))

    def reply_begins(self, turn: int) -> None:
        """A reply starts; its pieces are taken from the playout, where it has begun."""
        reply = self._playout.reply(turn)
        if reply is None:
            raise ValueError(f"reply {turn} has not begun")
        self._entries.append(_Said(reply, 0))

    def interjected(self, turn: int, late: int) -> None:
        """A reply starts that is heard before what reply `late` has no sound for yet."""
        self.reply_begins(turn)
        interjection = self._entries.pop()
        for index, entry in reversed(list(enumerate(self._entries))):
            if isinstance(entry, _Said) and entry.reply.turn == late:
                mute = entry.reply.mute
                if entry.first <= mute:
                    before = _Said(entry.reply, entry.first, mute)
                    entry.first = mute
                    self._entries[index:index] = [before, interjection]
                    return
        self._entries.append(interjection)

    def tool_round(self, turn: int, calls: Sequence[ToolCall], results: Sequence[str]) -> None:
        """The model called tools and got their results; the reply goes on after them.

        Whatever the caller has said meanwhile comes after the reply, as it did.
        """
        index, said = next(
            (index, entry)
            for index, entry in reversed(list(enumerate(self._entries)))
            if isinstance(entry, _Said) and entry.reply.turn == turn
        )
        said.last = len(said.reply.pieces)
        said.tool_calls = tuple(calls)
        said.results = tuple(
            Message("tool", result, tool_call_id=call.id)
            for call, result in zip(calls, results, strict=True)
        )
        self._entries.insert(index + 1, _Said(said.reply, said.last))

    def open_end(self) -> tuple[Reply, int] | None:
        """The reply of the last message and the piece that begins it, if more may be heard yet."""
        end = self._entries[-1] if self._entries else None
        if not isinstance(end, _Said) or end.reply.settled or not end.messages():
            return None
        return end.reply, end.first

    def messages(self, supposed: str = "") -> list[Message]:
        """What the model may know: heard words, marked where they were cut off.

        A reply that is still under way counts as said; one of which nothing was heard is absent.
        `supposed` stands at the end as if the caller had said it.
        """
        entries = self._entries
        if supposed:
            entries = [*entries[-self._max_messages :], Message("user", supposed)]
        messages: list[Message] = []
        for entry in entries[-self._max_messages :]:
            if isinstance(entry, Message):
                messages.append(entry)
            else:
                messages += entry.messages()
        return _tail(messages, self._max_messages)


def _is_reply(entry: _Said | Message, turn: int | None) -> bool:
    return isinstance(entry, _Said) and entry.reply.turn == turn


def _tail(messages: list[Message], most: int) -> list[Message]:
    if len(messages) <= most:
        return messages
    tail = messages[-most:]
    while tail and tail[0].role == "tool":  # never a result without its call
        tail.pop(0)
    return tail
