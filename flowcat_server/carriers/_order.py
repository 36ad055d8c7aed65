"""Audio messages that may overtake one another on their way, put back in order."""

from __future__ import annotations

import msgspec

from flowcat_server.carriers._json_stream import JsonStream, Settings
from flowcat_server.carriers._values import UNREADABLE
from flowcat_server.core.carrier import Fed, Ignored

WINDOW = 3
"""Messages that wait for one that is missing: 60 ms where each has 20 ms."""
JUMP = 50
"""A number this far behind is that of a count that began anew."""
IN_VAIN = 5
"""After so many waits in a row for one that never came, the numbers are not what they seem."""


class Order:
    """Messages by number. No clock: what is missing is waited for by counting what comes."""

    __slots__ = ("_held", "_next", "_vain")

    def __init__(self) -> None:
        self._next = 0
        """The number that is due; 0: none came yet."""
        self._held: dict[int, bytes] = {}
        self._vain = 0

    def take(self, number: int, audio: bytes) -> bytes:
        """What can be heard now: nothing yet, this message, or several in order.

        Args:
            number: Counts up from message to message; 0 or less: unknown.
            audio: Not empty.
        """
        due = self._next
        if number <= 0 or self._vain >= IN_VAIN:
            return audio
        if number < due - JUMP:
            self._held.clear()
            due = 0
        if not due or number == due:
            self._next = number + 1
            if not self._held:
                return audio
            self._vain = 0
            return audio + self._run()
        if number < due:
            return b""  # its place is over, or it came twice
        self._held[number] = audio
        if len(self._held) <= WINDOW:
            return b""
        self._vain += 1
        self._next = min(self._held)
        released = self._run()
        if self._vain >= IN_VAIN:
            released += b"".join(self._held.pop(each) for each in sorted(self._held))
        return released

    def _run(self) -> bytes:
        """Those that are next."""
        held, pieces = self._held, []
        while self._next in held:
            pieces.append(held.pop(self._next))
            self._next += 1
        return b"".join(pieces)


class _Media(msgspec.Struct, gc=False):
    payload: bytes
    chunk: int
    track: str = "inbound"


class _MediaMessage(msgspec.Struct, gc=False):
    event: str
    media: _Media


_decode_media = msgspec.json.Decoder(_MediaMessage, strict=False).decode
"""Lax, since numbers come in quotes."""


class OrderedJsonStream(JsonStream):
    """A media socket of a carrier that does not promise the order of its messages."""

    __slots__ = ("_order",)

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._order = Order()

    def feed(self, message: str | bytes, binary: bool = False) -> Fed:  # noqa: FBT001, FBT002, RUF100 - one call a frame
        """As `JsonStream.feed`; audio out of turn waits for a moment."""
        try:
            parsed = _decode_media(message)
        except UNREADABLE:
            return super().feed(message, binary)
        if parsed.event != "media":
            return super().feed(message, binary)
        fed = self._audio(parsed.media.payload, parsed.media.track)
        if type(fed) is not bytes:
            return fed
        return self._order.take(parsed.media.chunk, fed) or Ignored("audio out of turn")
