"""Finds which phonemes of a sentence belong to which of its words.

The phonemizer returns clauses of phonemes, not words: it reads ``8:30`` as two words and
``of the`` as one. Where the count of words agrees, each word is its group; elsewhere the words
share the phonemes in proportion to how many each has when it stands alone, and their borders
snap to the nearest space.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate

_BREAKS = ",;:.!?"


@dataclass(frozen=True, slots=True)
class Spoken:
    """A word and the phonemes `begin` up to `end` that speak it."""

    text: str
    begin: int
    end: int


@dataclass(slots=True)
class Clause:
    """Phonemes up to a comma, a full stop or the like."""

    symbols: list[str]
    """Single phonemes, stress marks, spaces and the closing mark."""
    ends: bool
    """The sentence ends here."""
    words: list[Spoken] = field(default_factory=list)

    def split(self, limit: int) -> list[Clause]:
        """This clause in parts of at most `limit` symbols, cut between words where it can be."""
        parts: list[Clause] = []
        begin = 0
        while len(self.symbols) - begin > limit:
            end = begin + limit
            while end > begin and self.symbols[end - 1] != " ":
                end -= 1
            end = end if end > begin else begin + limit
            parts.append(self._part(begin, end, False))
            begin = end
        parts.append(self._part(begin, len(self.symbols), self.ends))
        return parts

    def _part(self, begin: int, end: int, ends: bool) -> Clause:
        size = end - begin
        words = [
            Spoken(w.text, max(0, w.begin - begin), min(size, w.end - begin))
            for w in self.words
            if begin <= w.begin < end
        ]
        return Clause(self.symbols[begin:end], ends, words)


def place_words(words: Sequence[str], weights: Sequence[int], clauses: Sequence[Clause]) -> None:
    """Fill in `Clause.words`. `weights`: how many phonemes each word has on its own."""
    if not words or not clauses:
        return
    groups = _by_clause(words)
    if len(groups) != len(clauses):
        groups = _by_weight(weights, clauses)
    for (begin, end), clause in zip(groups, clauses, strict=True):
        clause.words = _place(words[begin:end], weights[begin:end], clause.symbols)


def _by_clause(words: Sequence[str]) -> list[tuple[int, int]]:
    """Ranges of words, each up to a word that ends in a mark."""
    groups, begin = [], 0
    for i, word in enumerate(words):
        if word.rstrip("\"')")[-1:] in _BREAKS or i == len(words) - 1:
            groups.append((begin, i + 1))
            begin = i + 1
    return groups


def _by_weight(weights: Sequence[int], clauses: Sequence[Clause]) -> list[tuple[int, int]]:
    total = sum(weights)
    size = sum(len(clause.symbols) for clause in clauses)
    groups: list[tuple[int, int]] = []
    begin, passed, said = 0, 0, 0
    for number, clause in enumerate(clauses):
        said += len(clause.symbols)
        end = begin
        last = number == len(clauses) - 1
        while end < len(weights) and (last or (passed + weights[end] / 2) * size <= said * total):
            passed += weights[end]
            end += 1
        groups.append((begin, end))
        begin = end
    return groups


def _place(words: Sequence[str], weights: Sequence[int], symbols: Sequence[str]) -> list[Spoken]:
    if not words:
        return []
    length = len(symbols)
    while length and symbols[length - 1] in (" ", *_BREAKS):
        length -= 1
    spaces = [i for i in range(length) if symbols[i] == " "]
    if len(spaces) == len(words) - 1:
        borders = [0, *(i + 1 for i in spaces), length]
    else:
        borders = _shared(weights, length, spaces)
    return [Spoken(w, borders[i], max(borders[i], borders[i + 1])) for i, w in enumerate(words)]


def _shared(weights: Sequence[int], length: int, spaces: Sequence[int]) -> list[int]:
    total = sum(weights)
    ideals = [passed * length // total for passed in accumulate(weights[:-1])]
    reach = max(2, length // (2 * len(weights)))
    # Each space is the border that is nearest to it; a border with several takes the nearest.
    snapped: dict[int, int] = {}
    for space in spaces:
        border = space + 1
        i = min(range(len(ideals)), key=lambda i: abs(ideals[i] - border), default=-1)
        if i < 0 or abs(ideals[i] - border) > reach:
            continue
        if i not in snapped or abs(ideals[i] - border) < abs(ideals[i] - snapped[i]):
            snapped[i] = border
    borders = [0]
    for i, ideal in enumerate(ideals):
        borders.append(min(length, max(borders[-1], snapped.get(i, ideal))))
    return [*borders, length]
