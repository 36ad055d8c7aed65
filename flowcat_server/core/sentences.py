"""A model's text stream, cut into speakable pieces as early as possible."""

from __future__ import annotations

import re

_END = re.compile(r"([.!?…؟।]+[\"'”’»«)\]]*)\s+|([。！？]+[」』”’）]*)\s*(?=[^」』”’）。！？])|\n+")
"""Chinese and Japanese put no space behind a sentence; Arabic and Hindi have marks of their own."""
_ABBREVIATION = re.compile(
    r"(?:\b(?:mr|mrs|ms|dr|st|prof|no|vs|etc|approx|e\.g|i\.e|a\.m|p\.m)|\b[A-Za-z]|^\d+)\.$",
    re.IGNORECASE,
)
"""A full stop behind these ends no sentence; a number only where it opens one ("1. First")."""
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
        """More text; returns the sentences that it completes."""
        self._buffer += text
        pieces: list[str] = []
        start = 0
        for match in _END.finditer(self._buffer):
            end = match.start() if match.lastindex is None else match.end(match.lastindex)
            piece = self._buffer[start:end].strip()
            if match.lastindex == 1 and _ABBREVIATION.search(piece) and len(piece) < MAX_CHARS:
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
            if piece := self._buffer[:cut].strip():
                pieces.append(piece)
            self._buffer = self._buffer[cut:].lstrip()
        return pieces

    def flush(self) -> str:
        """What is left, whole sentence or not; the object is then ready for a new text."""
        rest, self._buffer = self._buffer.strip(), ""
        return rest
