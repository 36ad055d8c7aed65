"""Text streams cut into speakable pieces."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowcat_server.core.sentences import MAX_CHARS, SentenceSplitter


def cut(text: str, step: int = 1) -> list[str]:
    splitter = SentenceSplitter()
    pieces: list[str] = []
    for start in range(0, len(text), step):
        pieces += splitter.feed(text[start : start + step])
    rest = splitter.flush()
    return [*pieces, rest] if rest else pieces


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        pytest.param("Yes. We are open.", ["Yes.", "We are open."], id="two sentences"),
        pytest.param("Really?! Well…  Fine!", ["Really?!", "Well…", "Fine!"], id="other marks"),
        pytest.param("Dr. Lee is in.", ["Dr. Lee is in."], id="a title"),
        pytest.param("It is 3.5 km.", ["It is 3.5 km."], id="a decimal point"),
        pytest.param("At 5. And then?", ["At 5.", "And then?"], id="a number at the end"),
        pytest.param("1. First", ["1. First"], id="a number at the beginning"),
        pytest.param('He said "no." Then', ['He said "no."', "Then"], id="quotes"),
        pytest.param("Er sagte »nein.« Dann", ["Er sagte »nein.«", "Dann"], id="guillemets"),
        pytest.param("One\n\nTwo", ["One", "Two"], id="lines"),
        pytest.param("これは文です。次です。", ["これは文です。", "次です。"], id="Japanese"),
        pytest.param("「はい。」と言った。", ["「はい。」", "と言った。"], id="Japanese quotes"),
        pytest.param("नमस्ते। कैसे हैं?", ["नमस्ते।", "कैसे हैं?"], id="Hindi"),
        pytest.param("", [], id="nothing"),
        pytest.param(" \n ", [], id="white space"),
    ],
)
@pytest.mark.parametrize("step", [1, 4, 1000])
def test_where_text_is_cut(text: str, pieces: list[str], step: int):
    assert cut(text, step) == pieces


def test_a_sentence_is_given_out_as_soon_as_it_is_known_to_have_ended():
    splitter = SentenceSplitter()
    assert splitter.feed("We are open.") == []
    assert splitter.feed(" ") == ["We are open."]


@given(st.text(alphabet="ab .,!?;\n'\"。」Dr1-", max_size=800), st.integers(1, 50))
def test_nothing_is_lost_or_added_and_no_piece_is_too_long(text: str, step: int):
    pieces = cut(text, step)
    assert "".join("".join(pieces).split()) == "".join(text.split())
    assert all(piece and len(piece) <= MAX_CHARS + step for piece in pieces)


def test_a_splitter_can_be_used_again_after_a_flush():
    splitter = SentenceSplitter()
    splitter.feed("half a")
    assert splitter.flush() == "half a"
    assert splitter.feed("New. ") == ["New."]
