"""Reads Whisper's answer: byte-level BPE tokens and timestamps to text.

The token file is the ``tokenizer.json`` of the Hugging Face tokenizers library; the byte alphabet
is GPT-2's: printable bytes stand for themselves, the others are shifted to U+0100 and up.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

TICK_MS = 20
"""Step of the timestamp tokens."""
MOST_BEFORE = 100
"""Tokens of earlier text that are given; each one costs time in every answer."""


def byte_alphabet() -> dict[str, int]:
    """Which byte each character of a token stands for."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    alphabet = {chr(byte): byte for byte in printable}
    alphabet.update({chr(0x100 + i): byte for i, byte in enumerate(others)})
    return alphabet


@dataclass(frozen=True, slots=True)
class Piece:
    """Text between two timestamps; `None` where the model gave none."""

    tokens: tuple[int, ...]
    start_ms: int | None
    end_ms: int | None


class Vocabulary:
    """The model's tokens."""

    def __init__(self, tokenizer_json: bytes) -> None:
        """Raises ValueError or KeyError for another kind of file."""
        document = json.loads(tokenizer_json)
        alphabet = byte_alphabet()
        table: dict[str, int] = document["model"]["vocab"]
        added = {entry["content"]: int(entry["id"]) for entry in document["added_tokens"]}
        self._bytes = {
            number: bytes(alphabet[character] for character in token)
            for token, number in table.items()
            if token not in added
        }
        self._numbers = {content: number for number, content in self._bytes.items()}
        self._before = added["<|startofprev|>"]
        self.start = added["<|startoftranscript|>"]
        self.end = added["<|endoftext|>"]
        # Timestamps follow the last named token and have no entries of their own.
        self.first_timestamp = added["<|notimestamps|>"] + 1

    def opening(self, said_before: str) -> list[int]:
        """What an answer begins with; `said_before` is taken for the text that went before.

        Words are split at the longest tokens rather than by the merge rules: the model reads both.
        """
        if not said_before:
            return [self.start]
        rest = f" {said_before.strip()}".encode()
        tokens: list[int] = []
        while rest:
            size = next(n for n in range(len(rest), 0, -1) if rest[:n] in self._numbers)
            tokens.append(self._numbers[rest[:size]])
            rest = rest[size:]
        return [self._before, *tokens[-MOST_BEFORE:], self.start]

    def text(self, tokens: Sequence[int]) -> str:
        """The text of tokens; special ones say nothing, broken UTF-8 becomes U+FFFD."""
        return b"".join(self._bytes.get(token, b"") for token in tokens).decode(errors="replace")

    def pieces(self, tokens: Sequence[int]) -> list[Piece]:
        """Split an answer at its timestamps."""
        pieces: list[Piece] = []
        held: list[int] = []
        start: int | None = None
        for token in tokens:
            if token < self.first_timestamp:
                if token != self.end:
                    held.append(token)
                continue
            at = (token - self.first_timestamp) * TICK_MS
            if held:
                pieces.append(Piece(tuple(held), start, at))
                held = []
            start = at
        if held:
            pieces.append(Piece(tuple(held), start, None))
        return pieces
