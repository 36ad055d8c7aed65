from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowcat_server.records.redact import Redactor, luhn

CARDS = Redactor(["card_number"])


@pytest.mark.parametrize(
    "spoken",
    [
        pytest.param("4242424242424242", id="digits"),
        pytest.param("4242 4242 4242 4242", id="groups"),
        pytest.param("4242-4242-4242-4242", id="dashes"),
        pytest.param("4242, 4242. 4242, 4242", id="as whisper punctuates"),
        pytest.param(" ".join(["four two"] * 8), id="words"),
        pytest.param(", ".join(["Four-two-four-two"] * 4), id="words with dashes"),
        pytest.param(" ".join(["forty-two"] * 8), id="tens"),
        pytest.param("4242 four two four two 4242 forty two 42", id="mixed"),
        pytest.param("3782 822463 10005", id="fifteen digits"),
        pytest.param("five triple five, five five double five, four four four four, 4 4 4 2",
                     id="double and triple"),
        pytest.param("٤٢٤٢ ٤٢٤٢ ٤٢٤٢ ٤٢٤٢", id="arabic digits"),
        pytest.param("four two four two and 4242 uh 4242, um 4242", id="with fillers"),
    ],
)  # fmt: skip
def test_a_card_number_is_not_stored(spoken: str) -> None:
    text = CARDS.text(f"Sure, it is {spoken}, thank you.")

    assert text == "Sure, it is [card number], thank you."


def test_expiry_and_code_run_into_the_number() -> None:
    text = CARDS.text("4242424242424242 12 27 123")

    assert "4242" not in text
    assert "[card number]" in text


@pytest.mark.parametrize(
    "text",
    [
        "My number is 020 7946 0958.",
        "The 4 of us at 10:30 on 12/11/2026 for 45 minutes.",
        "Order 4242424242424241, please.",  # wrong check digit
        "One moment, two of them are free.",
        "",
    ],
)
def test_other_numbers_stay(text: str) -> None:
    assert CARDS.text(text) == text


def test_digits_are_masked_with_their_shape_kept() -> None:
    redactor = Redactor(["digits"])

    assert redactor.text("at 10:30, pin four five six 7; call 020 7946 0958") == (
        "at 10:30, pin # # # #; call ### #### ####"
    )


def test_pressed_keys_are_masked() -> None:
    redactor = Redactor(["dtmf"])

    assert redactor.text("[keypad: 4 2 #] and 42") == "[keypad: ***] and 42"
    assert redactor.digit("7") == "*"
    assert Redactor([]).digit("7") == "7"


def test_values_are_searched_in_depth_and_made_fit_for_json() -> None:
    value = CARDS.value(
        {
            "card": 4242424242424242,
            "list": ["4242 4242 4242 4242", 3, None, True, 1.5],
            "api_key": "abc",
            "max_tokens": 7,
            "nan": float("nan"),
            "huge": 10**5000,
            "odd\0": b"\xff",
        }
    )

    assert value["card"] == "[card number]"
    assert value["list"] == ["[card number]", 3, None, True, 1.5]
    assert value["api_key"] == "[secret]"
    assert value["max_tokens"] == 7
    assert "odd" in value
    json.loads(json.dumps(value, allow_nan=False))


def test_unknown_kinds_are_refused() -> None:
    with pytest.raises(ValueError, match="card_number, dtmf, digits"):
        Redactor(["cards"])


@given(st.text())
@settings(max_examples=300)
def test_any_text_can_be_stored(text: str) -> None:
    for kinds in ([], ["card_number", "dtmf", "digits"]):
        stored = Redactor(kinds).text(text)
        assert "\0" not in stored
        stored.encode()


@given(
    st.text(alphabet="0123456789", min_size=12, max_size=18),
    st.lists(st.sampled_from(["", " ", "-", ", "]), min_size=18, max_size=18),
)
def test_any_valid_number_in_any_grouping_is_hidden(body: str, gaps: list[str]) -> None:
    number = next(body + check for check in "0123456789" if luhn(body + check))
    if len(set(number)) == 1:
        return
    written = "".join(digit + gap for digit, gap in zip(number, [*gaps, ""], strict=False))

    assert "[card number]" in CARDS.text(f"it is {written.rstrip(' ,-')} ok")


def test_an_endless_text_is_cut() -> None:
    assert len(CARDS.text("four two " * 20_000)) < 8_100
