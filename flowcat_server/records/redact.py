"""What is taken out of texts before they are stored.

- ``card_number``: payment card numbers, 13 to 19 digits that pass the Luhn check (ISO/IEC 7812-1
  annex B), written in any grouping or spoken ("four two four two", "forty-two", "double four").
- ``dtmf``: keys the caller pressed.
- ``digits``: written and spoken numbers of four digits and more.

A number that is spread over several turns is not recognised as a card number: each text is
looked at alone. Where callers are asked for card numbers, use ``digits``.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Collection, Mapping
from itertools import pairwise
from typing import Any

KINDS = ("card_number", "dtmf", "digits")

_UNITS = {
    "oh": "0",
    "o": "0",
    "zero": "0",
    "nought": "0",
    "nil": "0",
    "one": "1",
    "two": "2",
    "three": "3",
    "four": "4",
    "five": "5",
    "six": "6",
    "seven": "7",
    "eight": "8",
    "nine": "9",
    "ten": "10",
    "eleven": "11",
    "twelve": "12",
    "thirteen": "13",
    "fourteen": "14",
    "fifteen": "15",
    "sixteen": "16",
    "seventeen": "17",
    "eighteen": "18",
    "nineteen": "19",
}
_TENS = {
    "twenty": "2",
    "thirty": "3",
    "forty": "4",
    "fifty": "5",
    "sixty": "6",
    "seventy": "7",
    "eighty": "8",
    "ninety": "9",
}
_REPEATS = {"double": 2, "triple": 3, "treble": 3}
_TOKEN = re.compile(
    r"\d+|\b(?:" + "|".join([*_UNITS, *_TENS, *_REPEATS]) + r")\b", re.IGNORECASE | re.UNICODE
)
_BETWEEN = re.compile(r"[\s,.\-\u2010-\u2015/_]{0,6}(?:(?:and|uh|um|then)[\s,.]{1,3})?")
"""What may stand between two digits of one spoken or written number."""
_KEYPAD = re.compile(r"\[keypad:[^\]]*\]", re.IGNORECASE)
_CARD = "[card number]"
_SHORTEST, _LONGEST = 13, 19
"""Digits of a card number."""
_SECRET_KEY = re.compile(r"(?i)token|secret|password|passwd|api_?key|authorization|^cvv$|^cvc$")
_MAX_DEPTH = 8
MAX_TEXT = 8_000
"""Characters kept of one text: some minutes of talk, or a large tool result."""

_Piece = tuple[str, int, int]
"""Digits, and where the words that say them begin and end."""


def luhn(digits: str) -> bool:
    """Whether the check digit (the last one) is right."""
    total = 0
    for place, char in enumerate(reversed(digits)):
        value = int(char)
        if place % 2:
            value = value * 2 - 9 if value > 4 else value * 2
        total += value
    return total % 10 == 0


def storable(text: str) -> str:
    """A text without what databases refuse."""
    if text.isascii() and "\0" not in text:
        return text
    # PostgreSQL takes no NUL, and no driver takes half a surrogate pair.
    return text.replace("\0", "").encode("utf-8", "replace").decode()


class Redactor:
    """Takes the chosen kinds of numbers out of texts and JSON-like values."""

    def __init__(self, kinds: Collection[str]) -> None:
        unknown = set(kinds) - set(KINDS)
        if unknown:
            raise ValueError(f"redact knows {', '.join(KINDS)}, not {', '.join(sorted(unknown))}")
        self.kinds = frozenset(kinds)
        self._steps: list[Callable[[str], str]] = []
        if "dtmf" in self.kinds:
            self._steps.append(_hide_keypad)
        if "card_number" in self.kinds:
            self._steps.append(_hide_cards)
        if "digits" in self.kinds:
            self._steps.append(_hide_digits)

    def text(self, text: str) -> str:
        """The text as it may be stored: redacted, not endless, without what databases refuse."""
        if len(text) > MAX_TEXT:
            text = text[:MAX_TEXT] + "..."
        text = storable(text)
        for step in self._steps:
            text = step(text)
        return text

    def digit(self, digit: str) -> str:
        """One pressed key."""
        return "*" if self.kinds & {"dtmf", "digits"} else self.text(digit)

    def value(self, value: Any, depth: int = 0) -> Any:
        """A value from a tool, the model or the caller, made fit for a JSON column."""
        if isinstance(value, str):
            return self.text(value)
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, int) and value.bit_length() > 256:
            return "[number]"
        if isinstance(value, int | float):
            written = str(value)
            hidden = self.text(written)
            finite = value == value and abs(value) != float("inf")
            return value if hidden == written and finite else hidden
        if depth >= _MAX_DEPTH:
            return "..."
        if isinstance(value, Mapping):
            return {
                self.text(str(key)): (
                    "[secret]"
                    if _SECRET_KEY.search(str(key)) and isinstance(item, str)
                    else self.value(item, depth + 1)
                )
                for key, item in value.items()
            }
        if isinstance(value, list | tuple | set | frozenset):
            return [self.value(item, depth + 1) for item in value]
        return self.text(str(value))


def _hide_keypad(text: str) -> str:
    return _KEYPAD.sub("[keypad: ***]", text) if "[" in text else text


def _runs(text: str) -> list[list[_Piece]]:
    """Numbers in the text, each as the pieces it is said in."""
    runs: list[list[_Piece]] = []
    end_of_last = -1
    tokens = list(_TOKEN.finditer(text))
    place = 0
    while place < len(tokens):
        pieces, taken = _pieces(text, tokens, place)
        place += taken
        if not pieces:
            continue
        if end_of_last >= 0 and _BETWEEN.fullmatch(text, end_of_last, pieces[0][1]):
            runs[-1] += pieces
        else:
            runs.append(pieces)
        end_of_last = pieces[-1][2]
    return runs


def _pieces(text: str, tokens: list[re.Match[str]], place: int) -> tuple[list[_Piece], int]:
    """What the token (and perhaps the next one) says, and how many tokens that took."""
    token = tokens[place]
    word = token.group().lower()
    start, end = token.span()
    if word.isdecimal():
        digits = word if word.isascii() else "".join(str(unicodedata.decimal(c)) for c in word)
        if len(digits) <= _LONGEST:
            return [(digits, start, end)], 1
        # Number, expiry and code run into one: a card number may begin and end anywhere.
        return [(digit, start + n, start + n + 1) for n, digit in enumerate(digits)], 1
    following = tokens[place + 1] if place + 1 < len(tokens) else None
    if following is not None and not _BETWEEN.fullmatch(text, end, following.start()):
        following = None
    next_word = following.group().lower() if following is not None else ""
    if word in _REPEATS:
        digit = _UNITS.get(next_word, next_word if next_word in "0123456789" else "")
        if following is None or len(digit) != 1:
            return [], 1
        return [(digit * _REPEATS[word], start, following.end())], 2
    if word in _TENS:
        unit = _UNITS.get(next_word, "")
        if following is not None and len(unit) == 1 and unit != "0":
            return [(_TENS[word] + unit, start, following.end())], 2
        return [(_TENS[word] + "0", start, end)], 1
    return [(_UNITS[word], start, end)], 1


def _hide_cards(text: str) -> str:
    spans = [span for run in _runs(text) for span in _cards(run)]
    for start, end in reversed(spans):
        text = text[:start] + _CARD + text[end:]
    return text


def _cards(run: list[_Piece]) -> list[tuple[int, int]]:
    """Spans of the run that say card numbers; overlapping ones are joined."""
    found: list[tuple[int, int]] = []
    for first, (_, start, _) in enumerate(run):
        digits, end = "", -1
        for piece, _, piece_end in run[first : first + _LONGEST]:
            digits += piece
            if len(digits) > _LONGEST:
                break
            if len(digits) >= _SHORTEST and len(set(digits)) > 1 and luhn(digits):
                end = piece_end
        if end < 0:
            continue
        if found and start < found[-1][1]:
            found[-1] = (found[-1][0], max(end, found[-1][1]))
        else:
            found.append((start, end))
    return found


def _hide_digits(text: str) -> str:
    for run in reversed(_runs(text)):
        if sum(len(digits) for digits, _, _ in run) >= 4:
            masked = "#" * len(run[0][0])
            for before, piece in pairwise(run):
                masked += text[before[2] : piece[1]] + "#" * len(piece[0])
            text = text[: run[0][1]] + masked + text[run[-1][2] :]
    return text
