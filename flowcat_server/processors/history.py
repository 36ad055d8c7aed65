"""What a speech-to-speech session is told of the conversation before it.

It must not believe words that were never heard: what the caller cuts off is taken back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from flowcat_server.core.conversation import Conversation
from flowcat_server.core.interfaces import Correct, Message
from flowcat_server.core.speech import Reply
from flowcat_server.processors.answers import Answer


@dataclass(frozen=True, slots=True)
class _Open:
    """A reply at the end of the history that may not be heard whole."""

    index: int
    reply: Reply
    first: int
    last: int
    """Its pieces there, `last` exclusive."""

    def join(self, texts: Sequence[str]) -> str:
        """Of the texts of the reply's pieces, those that stand there."""
        return " ".join(text for text in texts[self.first : self.last] if text)


class History:
    """The history of the session under way."""

    def __init__(self, conversation: Conversation) -> None:
        self._conversation = conversation
        self._open: _Open | None = None

    def begin(self, owed: Answer | None) -> list[Message]:
        """A session takes over, and owes this; returns what it is told.

        Fillers before an answer that is yet to come are left out: the last message is the one to
        answer.
        """
        self._open = None
        messages = self._conversation.messages()
        end = self._conversation.open_end()
        if end is None:
            return messages
        reply, first = end
        if owed is not None and owed.turn == reply.turn and not owed.pieces:
            messages.pop()
        else:
            self._open = _Open(len(messages) - 1, reply, first, len(reply.pieces))
        return messages

    def correction(self) -> Correct | None:
        """After an interruption: what was not heard of it in the end."""
        end, self._open = self._open, None
        if end is None or not end.reply.settled:
            return None
        heard = end.join(end.reply.heard)
        told = end.join([piece.text for piece in end.reply.pieces])
        return Correct(end.index, heard) if heard != told else None
