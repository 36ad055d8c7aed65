"""Media sockets with bare audio in binary messages and control in text: what they have in common.

Audio is the frequent message, so it is told by the message's kind and handed on as it is. A
subclass says what its texts mean and what it sends.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from flowcat_server.carriers._values import fault, parse_object
from flowcat_server.core.carrier import Fed, Ignored, Message


class PcmStream:
    """One media socket."""

    __slots__ = ("_started",)

    def __init__(self) -> None:
        self._started = False

    def feed(self, message: str | bytes, binary: bool = False) -> Fed:  # noqa: FBT001, FBT002, RUF100 - one call a frame
        """What one message means; its bytes if it is audio. Never raises."""
        if not binary:
            return self._text(message)
        if not self._started:
            return Ignored("audio before the first message", fault=True)
        if not message or isinstance(message, str):
            return Ignored("audio without samples")
        return message

    def _text(self, message: str | bytes) -> Fed:
        fields = parse_object(message)
        return fault(fields) if isinstance(fields, str) else self._control(fields)

    def _control(self, fields: Mapping[str, Any]) -> Fed:
        """What a JSON message means."""
        raise NotImplementedError

    def accept(self) -> Sequence[Message]:
        """Nothing: the carrier waits for nothing."""
        return ()

    def audio(self, payload: bytes) -> Message:
        """Speech is sent as it is."""
        return payload

    def mark(self, name: str) -> Message | None:
        """There are no marks."""
        del name
        return None

    def clear(self) -> Message | None:
        """Nothing can be taken back."""
        return None

    def dtmf(self, digits: str) -> Sequence[Message]:
        """Keys cannot be sent."""
        del digits
        return ()

    def end(self, reason: str, target: str = "") -> Sequence[Message]:
        """Closing says it."""
        del reason, target
        return ()
