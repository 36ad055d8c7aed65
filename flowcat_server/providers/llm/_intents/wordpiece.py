"""BERT's uncased tokenizer: basic splitting, then greedy longest-match WordPiece.

After Devlin et al. 2018 and the reference in google-research/bert ``tokenization.py``.
"""

from __future__ import annotations

import unicodedata
from functools import cache
from pathlib import Path

MAX_TOKENS = 64
"""Longest input, with the two special tokens. Callers' sentences and example phrases are short."""

_MAX_WORD = 100
_VOCABULARY = Path(__file__).parents[2] / "_data" / "bert_uncased_vocab.txt"


class WordPiece:
    """Text to token ids."""

    def __init__(self, words: list[str]) -> None:
        self._ids = {word: number for number, word in enumerate(words)}
        self._unknown = self._ids["[UNK]"]
        self._first = self._ids["[CLS]"]
        self._last = self._ids["[SEP]"]

    def encode(self, text: str, limit: int = MAX_TOKENS) -> list[int]:
        """Ids of `text` between the two special tokens, at most `limit` in all."""
        ids = [self._first]
        for word in split(text):
            ids.extend(self._pieces(word))
            if len(ids) >= limit - 1:
                break
        return [*ids[: limit - 1], self._last]

    def _pieces(self, word: str) -> list[int]:
        if len(word) > _MAX_WORD:
            return [self._unknown]
        found: list[int] = []
        start = 0
        while start < len(word):
            end = len(word)
            prefix = "##" if start else ""
            while end > start and (prefix + word[start:end]) not in self._ids:
                end -= 1
            if end == start:
                return [self._unknown]
            found.append(self._ids[prefix + word[start:end]])
            start = end
        return found


@cache
def uncased() -> WordPiece:
    """The tokenizer over the vocabulary that all uncased BERT models share."""
    return WordPiece(_VOCABULARY.read_text(encoding="utf-8").rstrip("\n").split("\n"))


def split(text: str) -> list[str]:
    """Words and punctuation marks, lower case, without accents."""
    words: list[str] = []
    current: list[str] = []

    def flush() -> None:
        if current:
            words.append("".join(current))
            current.clear()

    for char in unicodedata.normalize("NFD", _clean(text).lower()):
        category = unicodedata.category(char)
        if category == "Mn":
            continue
        if char == " ":
            flush()
        elif _is_punctuation(char, category) or _is_ideograph(ord(char)):
            flush()
            words.append(char)
        else:
            current.append(char)
    flush()
    return words


def _clean(text: str) -> str:
    kept = []
    for char in text:
        if char in "\t\n\r" or unicodedata.category(char) == "Zs":
            kept.append(" ")
        elif char not in ("\0", "\ufffd") and not unicodedata.category(char).startswith("C"):
            kept.append(char)
    return "".join(kept)


def _is_punctuation(char: str, category: str) -> bool:
    # ASCII symbols such as "$" count too, although Unicode files them elsewhere.
    return category.startswith("P") or (
        char.isascii() and char.isprintable() and not char.isalnum()
    )


def _is_ideograph(point: int) -> bool:
    return (
        0x4E00 <= point <= 0x9FFF
        or 0x3400 <= point <= 0x4DBF
        or 0x20000 <= point <= 0x2CEAF
        or 0xF900 <= point <= 0xFAFF
        or 0x2F800 <= point <= 0x2FA1F
    )
