"""Reasoning and marks never reach the voice, wherever the pieces are cut."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowcat_server.providers.llm._visible import INTERRUPTED, VisibleText

CASES = {
    "plain": ("We open at nine.", "We open at nine."),
    "reasoning first": ("<think>Nine? <b>Yes</b>.</think>\n\nAt nine.", "At nine."),
    "reasoning between": ("At <think>hm</think>nine.", "At nine."),
    "thinking tag": ("<thinking>hm</thinking>At nine.", "At nine."),
    "Mistral's tag": ("[THINK]hm[/THINK] At nine.", "At nine."),
    "only the closing tag": ("</think>At nine.", "At nine."),
    "reasoning never closed": ("At nine. <think>or ten", "At nine. "),
    "imitated mark": (f"At nine. {INTERRUPTED}", "At nine. "),
    "looks like a mark": ("2 < 3 [see] <thin> air [int", "2 < 3 [see] <thin> air [int"),
    "a mark begins at the end": ("less <thi", "less <thi"),
    "white space first": ("  \n Hello", "Hello"),
}


def visible(*pieces: str, thinking: bool = False) -> str:
    text = VisibleText(thinking=thinking)
    return "".join(text.feed(piece) for piece in pieces) + text.flush()


@pytest.mark.parametrize(("text", "spoken"), CASES.values(), ids=CASES)
def test_says_only_what_is_meant_to_be_heard(text: str, spoken: str):
    assert visible(text) == spoken


@pytest.mark.parametrize(("text", "spoken"), CASES.values(), ids=CASES)
def test_cuts_change_nothing(text: str, spoken: str):
    for at in range(len(text) + 1):
        assert visible(text[:at], text[at:]) == spoken
    assert visible(*text) == spoken


def test_a_reply_may_begin_inside_reasoning():
    assert visible("Nine or ten?</th", "ink>At nine.", thinking=True) == "At nine."


def test_plain_text_is_not_held_back():
    text = VisibleText()
    assert text.feed("We open ") == "We open "
    assert text.feed("at nine.") == "at nine."


@given(st.lists(st.sampled_from([*"<>[]/thinkab ", "<think>", "</think>", INTERRUPTED])))
def test_pieces_give_what_the_whole_gives(pieces: list[str]):
    assert visible(*pieces) == visible("".join(pieces))
