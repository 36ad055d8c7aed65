"""Cuts a call's sound into chunks and knows when each chunk ended."""

from __future__ import annotations

from collections.abc import Iterator

from flowcat_server.core.audio import PCM_8K

CHUNK_MS = 32
CHUNK = PCM_8K.bytes_for(CHUNK_MS)
"""Bytes."""
_BYTES_PER_MS = PCM_8K.bytes_for(1)


class Chunker:
    """Collects PCM16 at 8 kHz."""

    __slots__ = ("_held",)

    def __init__(self) -> None:
        self._held = b""

    def feed(self, pcm: bytes, at_ms: int) -> Iterator[tuple[bytes, int]]:
        """Each chunk completed by `pcm`, with the time of its end; `at_ms` is `pcm`'s end."""
        held = self._held + pcm if self._held else pcm
        size = len(held)
        end = CHUNK
        while end <= size:
            # Rounded to the nearest millisecond; exact where packets are whole milliseconds.
            behind = (2 * (size - end) + _BYTES_PER_MS) // (2 * _BYTES_PER_MS)
            yield held[end - CHUNK : end], at_ms - behind
            end += CHUNK
        self._held = held[end - CHUNK :]
