"""Number words as digits: "half past three" -> "half past 3", "double five" -> "5 5"."""

from __future__ import annotations

import re

_UNITS = {
    word: number
    for number, word in enumerate(
        [
            "zero",
            "one",
            "two",
            "three",
            "four",
            "five",
            "six",
            "seven",
            "eight",
            "nine",
            "ten",
            "eleven",
            "twelve",
            "thirteen",
            "fourteen",
            "fifteen",
            "sixteen",
            "seventeen",
            "eighteen",
            "nineteen",
        ]
    )
} | {"nought": 0, "naught": 0, "nil": 0}
_TENS = {
    word: 10 * number
    for number, word in enumerate(
        ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"], start=2
    )
} | {"fourty": 40}
_ORDINALS = {
    word: number
    for number, word in enumerate(
        [
            "first",
            "second",
            "third",
            "fourth",
            "fifth",
            "sixth",
            "seventh",
            "eighth",
            "ninth",
            "tenth",
            "eleventh",
            "twelfth",
            "thirteenth",
            "fourteenth",
            "fifteenth",
            "sixteenth",
            "seventeenth",
            "eighteenth",
            "nineteenth",
        ],
        start=1,
    )
} | {"twentieth": 20, "thirtieth": 30}
_REPEATS = {"double": 2, "triple": 3, "treble": 3}
_ALSO_NOUNS = frozenset({"second"})
_LETTER_O = frozenset({"o", "oh"})

_ORDINAL_CONTEXT = re.compile(
    r"^(the|a|on|monday|tuesday|wednesday|thursday|friday|saturday|sunday|january|february|march|"
    r"april|may|june|july|august|september|october|november|december)$"
)
_TOKEN = re.compile(r"\d+(?:st|nd|rd|th)?|[^\W\d_]+(?:'[^\W\d_]+)*|[^\s\w]|_")
_DIGITS = re.compile(r"\d+")


def normalize(text: str) -> str:
    """Lower case, one space between tokens, number words as digits, ``p.m.`` as ``pm``.

    Digits of a clock time stay together (``3:30``); dashes and dots between digits become spaces.
    """
    text = text.lower().replace("\u2019", "'").replace("\u2013", "-").replace("\u2014", " - ")
    text = re.sub(r"\b([ap])\s?\.?\s?m\b\.?", r"\1m", text)
    text = re.sub(r"(\d)(am|pm)\b", r"\1 \2", text)
    text = re.sub(r"(\d),(\d{3})\b", r"\1\2", text)
    text = re.sub(r"(?<=\d)[.](?=\d)", ":" if _clock_like(text) else " ", text)
    text = re.sub(r"(?<=[a-z])-(?=[a-z])", " ", text)
    text = re.sub(r"\bo'clock\b|\bo clock\b|\boclock\b", "o'clock", text)
    return _join(_replace(_TOKEN.findall(text)))


def _clock_like(text: str) -> bool:
    return bool(re.search(r"(?<![\d.])\d{1,2}\.\d{2}(?![\d.])", text))


def _join(tokens: list[str]) -> str:
    text = " ".join(tokens)
    text = re.sub(r"(\d) ?: ?(\d)", r"\1:\2", text)
    return re.sub(r"(\d) ?/ ?(\d)", r"\1/\2", text)


def _replace(tokens: list[str]) -> list[str]:
    out: list[str] = []
    at = 0
    while at < len(tokens):
        token = tokens[at]
        after = tokens[at + 1] if at + 1 < len(tokens) else ""
        before = out[-1] if out else ""
        used = 1
        if token in _REPEATS and (digit := _digit(after)) is not None:
            out.extend([digit] * _REPEATS[token])
            used = 2
        elif token in _LETTER_O and (_number(before) or _number(after)):
            out.append("0")
        elif token in _TENS:
            used = _tens(out, token, after)
        elif token in _UNITS:
            used = _units(out, token, after)
        elif token in _ORDINALS and _is_ordinal(token, before, after):
            out.append(ordinal(_ORDINALS[token]))
        else:
            out.append(token)
        at += used
    return out


def _tens(out: list[str], token: str, after: str) -> int:
    if 0 < _UNITS.get(after, 0) < 10:
        out.append(str(_TENS[token] + _UNITS[after]))
        return 2
    if 0 < _ORDINALS.get(after, 0) < 10:
        out.append(ordinal(_TENS[token] + _ORDINALS[after]))
        return 2
    out.append(str(_TENS[token]))
    return 1


def _units(out: list[str], token: str, after: str) -> int:
    if after == "hundred":
        out.append(str(_UNITS[token] * 100))
        return 2
    out.append(str(_UNITS[token]))
    return 1


def _digit(token: str) -> str | None:
    if token in _LETTER_O:
        return "0"
    if token in _UNITS and _UNITS[token] < 10:
        return str(_UNITS[token])
    return token if token.isdecimal() and len(token) == 1 else None


def _number(token: str) -> bool:
    return bool(_DIGITS.fullmatch(token)) or token in _UNITS or token in _REPEATS


def _is_ordinal(token: str, before: str, after: str) -> bool:
    # "one second" and "second" alone are no dates.
    return (
        token not in _ALSO_NOUNS or after in ("of", "one") or bool(_ORDINAL_CONTEXT.match(before))
    )


def ordinal(number: int) -> str:
    """1 -> ``1st``."""
    if number % 100 in (11, 12, 13):
        return f"{number}th"
    return f"{number}{ {1: 'st', 2: 'nd', 3: 'rd'}.get(number % 10, 'th') }"


def cardinal(text: str) -> int | None:
    """The first plain number in a normalized sentence."""
    if re.search(r"\b(a couple|both)\b", text):
        return 2
    found = re.search(r"(?<![\d:/])\b(\d{1,6})\b(?![\d:/])", text)
    if found:
        return int(found[1])
    if re.search(r"\b(just me|only me|myself|by myself|alone)\b", text):
        return 1
    return None
