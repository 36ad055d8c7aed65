"""Server-sent events, read piece by piece.

Follows the event stream grammar of the WHATWG HTML standard, section 9.2.6
(https://html.spec.whatwg.org/multipage/server-sent-events.html): lines end in LF, CR or CRLF, a
leading byte order mark is skipped, lines that begin with a colon are comments, several ``data``
lines are joined with LF, and an event that no blank line completes is dropped.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass

import aiohttp

MAX_EVENT_BYTES = 1 << 20
"""The longest line, and the most data of one event, that is accepted."""

_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class SseEvent:
    """One event with data."""

    data: str
    name: str = "message"


class SseParser:
    """Bytes in, events out; keeps what is incomplete. Memory is bounded by `MAX_EVENT_BYTES`."""

    __slots__ = ("_at_start", "_data", "_name", "_rest", "_scanned", "_size", "_skip_lf")

    def __init__(self) -> None:
        self._rest = bytearray()
        self._scanned = 0
        self._at_start = True
        self._skip_lf = False
        self._data: list[bytes] = []
        self._size = 0
        self._name = "message"

    def feed(self, chunk: bytes) -> Iterator[SseEvent]:
        """Take the next bytes; raise `ValueError` if a bound is passed or text is not UTF-8.

        Events that were complete before the mistake come first. Consume it whole.
        """
        if self._skip_lf and chunk:
            # The LF of a CRLF whose CR ended the chunk before.
            self._skip_lf = False
            chunk = chunk.removeprefix(b"\n")
        self._rest += chunk
        if self._at_start:
            if len(self._rest) < len(_BOM) and _BOM.startswith(self._rest):
                return
            self._at_start = False
            if self._rest.startswith(_BOM):
                del self._rest[: len(_BOM)]
        yield from self._lines()

    def _lines(self) -> Iterator[SseEvent]:
        rest, start = self._rest, 0
        while (end := self._line_end(start)) >= 0:
            event = self._line(bytes(rest[start:end]))
            if event is not None:
                yield event
            start = end + 1
            if rest[end] == 0x0D:
                if start == len(rest):
                    self._skip_lf = True
                elif rest[start] == 0x0A:
                    start += 1
            self._scanned = start
        if start:
            del rest[:start]
        # A line is scanned once, however small the pieces are in which it comes.
        self._scanned = len(rest)
        if len(rest) > MAX_EVENT_BYTES:
            raise ValueError(f"a line of more than {MAX_EVENT_BYTES} bytes")

    def _line_end(self, start: int) -> int:
        begin = max(start, self._scanned)
        lf = self._rest.find(b"\n", begin)
        cr = self._rest.find(b"\r", begin, lf if lf >= 0 else len(self._rest))
        return cr if cr >= 0 else lf

    def _line(self, line: bytes) -> SseEvent | None:
        if not line:
            return self._dispatch()
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            self._size += len(value) + 1
            if self._size > MAX_EVENT_BYTES:
                raise ValueError(f"an event of more than {MAX_EVENT_BYTES} bytes")
            self._data.append(value)
        elif field == b"event":
            self._name = value.decode() or "message"
        return None

    def _dispatch(self) -> SseEvent | None:
        data, name = self._data, self._name
        self._data, self._name, self._size = [], "message", 0
        return SseEvent(b"\n".join(data).decode(), name) if data else None


async def read_events(response: aiohttp.ClientResponse) -> AsyncGenerator[SseEvent, None]:
    """The events of a response, as they arrive; ends with the body."""
    parser = SseParser()
    async for chunk in response.content.iter_any():
        for event in parser.feed(chunk):
            yield event
