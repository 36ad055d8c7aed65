"""Gives times to the words of a text as it was written, from the times of what was said.

"$25" is said as "25 dollars" and an emoji not at all; whoever asks which words were heard asks
about the text they sent. Each word of it, split at spaces, gets exactly one `Word`, in order; one
that is not said begins and ends where the word before it ended.
"""

from __future__ import annotations

from collections.abc import Sequence
from difflib import SequenceMatcher

from flowcat_server.core.interfaces import Word

_MAX_PAIRS = 40_000
"""Longer texts are matched by their lengths alone: the matcher's time is quadratic."""


class WrittenWords:
    """One text on its way."""

    def __init__(self, written: str, spoken: str) -> None:
        """`spoken` is what is said for `written`."""
        self._written = written.split()
        self._through = match(self._written, spoken.split())
        self._said: list[Word] = []
        self._given = 0
        self._end_ms = 0

    def feed(self, said: Sequence[Word]) -> tuple[Word, ...]:
        """Times of the next words that were said; returns the written words they complete."""
        self._said += said
        return self._take(len(self._said))

    def flush(self) -> tuple[Word, ...]:
        """The written words that are left; nothing more is said."""
        return self._take(len(self._through) and max(len(self._said), self._through[-1]))

    def _take(self, said: int) -> tuple[Word, ...]:
        words: list[Word] = []
        while self._given < len(self._written) and self._through[self._given] <= said:
            begin = self._through[self._given - 1] if self._given else 0
            own = self._said[begin : self._through[self._given]]
            start = own[0].start_ms if own else self._end_ms
            self._end_ms = own[-1].end_ms if own else self._end_ms
            words.append(Word(self._written[self._given], start, self._end_ms))
            self._given += 1
        return tuple(words)


def match(written: Sequence[str], spoken: Sequence[str]) -> list[int]:
    """For each written word, how many spoken words have been said when it is over."""
    if list(written) == list(spoken):
        return list(range(1, len(written) + 1))
    blocks: list[tuple[int, int, int]] = [(len(written), len(spoken), 0)]
    if len(written) * len(spoken) <= _MAX_PAIRS:
        matcher = SequenceMatcher(None, _keys(written), _keys(spoken), autojunk=False)
        blocks = [(b.a, b.b, b.size) for b in matcher.get_matching_blocks()]
    through: list[int] = []
    i = j = 0
    for next_i, next_j, size in blocks:
        between = written[i:next_i]
        if through and not any(map(str.isalnum, "".join(between))):
            # What is said here has no written word of its own: it belongs to the one before.
            through[-1] = next_j
        through += _share(between, j, next_j)
        through += range(next_j + 1, next_j + size + 1)
        i, j = next_i + size, next_j + size
    return through


def _keys(words: Sequence[str]) -> list[str]:
    return ["".join(filter(str.isalnum, word)).lower() or word for word in words]


def _share(words: Sequence[str], begin: int, end: int) -> list[int]:
    """Spread spoken words over written ones that have no equal, by their letters."""
    weights = [sum(map(str.isalnum, word)) for word in words]
    total, passed, through = sum(weights), 0, []
    for weight in weights:
        passed += weight
        through.append(begin + (end - begin) * passed // total if total else end)
    if through:
        through[-1] = end
    return through
