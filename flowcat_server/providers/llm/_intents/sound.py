"""How alike two sentences sound, word boundaries aside.

A small speech model over a phone line writes "can you say that a gain" or "is there barking". As
sentences these mean something else; as sounds they are almost the same.
"""

from __future__ import annotations

import re
from functools import lru_cache

_SPELLINGS = (
    (re.compile(r"tion|sion|ssion|cian"), "jan"),
    (re.compile(r"ph"), "f"),
    (re.compile(r"gh(?=t|s|$)"), ""),
    (re.compile(r"wh"), "w"),
    (re.compile(r"^kn|(?<= )kn"), "n"),
    (re.compile(r"(?<=[a-z])mb\b"), "m"),
    (re.compile(r"ch|sh|tch"), "j"),
    (re.compile(r"c(?=[eiy])"), "s"),
    (re.compile(r"ck|qu|x"), "k"),
    (re.compile(r"th"), "t"),
)
_CLASSES = str.maketrans(
    {
        **dict.fromkeys("bp", "b"),
        **dict.fromkeys("fv", "f"),
        **dict.fromkeys("cgkq", "k"),
        **dict.fromkeys("sz", "s"),
        **dict.fromkeys("dt", "t"),
        **dict.fromkeys("mn", "n"),
        **dict.fromkeys("aeiouyw", "a"),
        "h": "",
        " ": "",
    }
)
_REPEATED = re.compile(r"(.)\1+")

SHORTEST = 6
"""Shorter codes are alike by chance."""


@lru_cache(4096)
def code(sentence: str) -> str:
    """Classes of sounds that are easily taken for each other, all vowels being one."""
    text = re.sub(r"[^a-z ]", "", sentence.lower().replace("-", " "))
    for spelling, sound in _SPELLINGS:
        text = spelling.sub(sound, text)
    return _REPEATED.sub(r"\1", text.translate(_CLASSES))


def likeness(one: str, other: str, least: float) -> float:
    """1 minus the edit distance of two codes over the longer one's length; 0 if below `least`."""
    longest = max(len(one), len(other))
    if min(len(one), len(other)) < SHORTEST:
        return 1.0 if one == other and one else 0.0
    allowed = int(longest * (1 - least))
    if abs(len(one) - len(other)) > allowed:
        return 0.0
    distance = _distance(one, other, allowed)
    return 1 - distance / longest if distance <= allowed else 0.0


def _distance(one: str, other: str, allowed: int) -> int:
    """Levenshtein's distance, given up (as `allowed` + 1) once it exceeds `allowed`."""
    row = list(range(len(other) + 1))
    for at, char in enumerate(one, start=1):
        previous, row[0] = row[0], at
        for column, against in enumerate(other, start=1):
            cost = previous + (char != against)
            previous = row[column]
            row[column] = min(cost, row[column] + 1, row[column - 1] + 1)
        if min(row) > allowed:
            return allowed + 1
    return row[-1]
