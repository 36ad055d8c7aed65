"""A model's text stream, cut into speakable pieces as early as possible."""

from __future__ import annotations

import re

_END = re.compile(r"([.!?…]+[\"')\]]*)(\s+)|(\n+)")
_ABBREVIATION = re.compile(
    r"(?:\b(?:mr|mrs|ms|dr|st|prof|no|vs|etc|approx|e\.g|i\.e|a\.m|p\.m)|\b[A-Za-z]|\b\d+)\.$",
    re.IGNORECASE,
)
MIN_CHARS = 2
MAX_CHARS = 220
"""A run without a sentence end is cut at its last comma or space before this length."""


class SentenceSplitter:
    """Feed text deltas; take whole sentences.

    A sentence is given out when the character after its end is known, so that "3.5" and "Dr. Lee"
    stay whole. `flush` gives out the rest.
    """

    __slots__ = ("_buffer",)

    def __init__(self) -> None:
        self._buffer = ""

    def feed(self, text: str) -> list[str]:
        self._buffer += text
        pieces: list[str] = []
        start = 0
        for match in _END.finditer(self._buffer):
            piece = self._buffer[start : match.end(1) if match.group(1) else match.start()].strip()
            if match.group(1) and _ABBREVIATION.search(piece) and len(piece) < MAX_CHARS:
                continue
            if len(piece) >= MIN_CHARS:
                pieces.append(piece)
                start = match.end()
        self._buffer = self._buffer[start:]
        while len(self._buffer) > MAX_CHARS:
            cut = max(self._buffer.rfind(mark, 0, MAX_CHARS) for mark in (", ", "; ", ": ", " - "))
            if cut < MAX_CHARS // 3:
                cut = self._buffer.rfind(" ", 0, MAX_CHARS)
            cut = MAX_CHARS if cut <= 0 else cut + 1
            pieces.append(self._buffer[:cut].strip())
            self._buffer = self._buffer[cut:].lstrip()
        return pieces

    def flush(self) -> str:
        rest, self._buffer = self._buffer.strip(), ""
        return rest
