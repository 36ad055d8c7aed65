"""Takes out what a speech recognizer says again because it had sound to fill.

People repeat themselves too ("no no no", "five five five"), so what is cut is only what nobody
says: whole phrases at once again, or far more words than fit into the time.
"""

from __future__ import annotations

import re

CROWDED = 6.5
"""Words per second of voice from which repeated words are doubted; digits read out have 5."""
_NOT_WORD = re.compile(r"[^\w']+")
_LONGEST = 24
"""Words of the longest phrase looked for."""


def cut_repeats(text: str, voiced_ms: int) -> str:
    """`text` without phrases repeated by the recognizer; `voiced_ms` of the sound were loud."""
    words = text.split()
    keys = [_NOT_WORD.sub("", word).lower() for word in words]
    crowded = len(words) * 1000 > CROWDED * voiced_ms
    at = 0
    while at < len(words):
        # The shortest period first: four equal words are not a phrase of two said twice.
        for size in range(1, min(_LONGEST, (len(words) - at) // 2) + 1):
            runs = _runs(keys, at, size)
            if runs > _allowed(size, crowded):
                del words[at + size : at + runs * size]
                del keys[at + size : at + runs * size]
                break
        at += 1
    return " ".join(words)


def _runs(keys: list[str], at: int, size: int) -> int:
    """How many times the `size` words at `at` stand in a row."""
    phrase = keys[at : at + size]
    runs = 1
    while keys[at + runs * size : at + (runs + 1) * size] == phrase:
        runs += 1
    return runs


def _allowed(size: int, crowded: bool) -> int:
    """How often a phrase of so many words may stand in a row."""
    if crowded:
        return 1
    if size >= 4:
        return 1
    return 3 if size > 1 else 6
