from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowcat_server.providers.llm._intents import wordpiece
from flowcat_server.providers.llm._intents.wordpiece import MAX_TOKENS, WordPiece, split, uncased

VOCABULARY_SHA256 = "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3"


def test_the_vocabulary_is_the_published_one():
    data = wordpiece._VOCABULARY.read_bytes()
    assert hashlib.sha256(data).hexdigest() == VOCABULARY_SHA256


# Ids as the reference implementation gives them for bert-base-uncased.
@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("hello world", [7592, 2088]),
        ("Hello, World!", [7592, 1010, 2088, 999]),
        ("", []),
        ("unaffable", [14477, 20961, 3468]),
        ("Café", [7668]),
    ],
    ids=["words", "punctuation and case", "nothing", "pieces", "accents"],
)
def test_gives_the_ids_of_the_reference(text, ids):
    assert uncased().encode(text) == [101, *ids, 102]


def test_takes_the_longest_pieces_first():
    words = ["[UNK]", "[CLS]", "[SEP]", "un", "##aff", "##able", "##a"]
    assert WordPiece(words).encode("unaffable") == [1, 3, 4, 5, 2]


@pytest.mark.parametrize("word", ["ሴ", "x" * 101], ids=["unknown script", "far too long"])
def test_a_word_without_pieces_is_unknown(word):
    assert uncased().encode(word) == [101, 100, 102]


def test_splits_ideographs_and_symbols():
    assert split("a$b 中文\u00a0x\u200by") == ["a", "$", "b", "中", "文", "xy"]


@given(st.text())
def test_any_text_gives_a_bounded_sequence(text):
    ids = uncased().encode(text)
    assert ids[0] == 101
    assert ids[-1] == 102
    assert len(ids) <= MAX_TOKENS
    assert all(0 <= number < 30_522 for number in ids)
