from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowcat_server.providers.tts._spoken_text import speakable
from flowcat_server.providers.tts.piper import split_long


@pytest.mark.parametrize(
    ("written", "spoken"),
    [
        ("It's **bold**, `code` and _that_.", "It's bold, code and that."),
        ("# Hours\n- Monday\n- Friday", "Hours. Monday. Friday"),
        ("See [our page](https://acme.com/x?y=1).", "See our page."),
        ("https://www.acme.com/hours?x=1#top.", "acme.com/hours."),
        ("Great 😀 — see you!", "Great, see you!"),
        ("<b>Yes</b>, really…", "Yes, really..."),
        ("Dr. Smith and Mrs. Jones", "doctor Smith and missis Jones"),
        ("It is $25.", "It is 25 dollars."),
        ("From $1,250.50 to £1", "From 1,250 dollars and 50 cents to 1 pound"),
        ("Call 555-0123.", "Call 5 5 5, 0 1 2 3."),
        ("(212) 555-0199", "2 1 2, 5 5 5, 0 1 9 9"),
        ("9-5, Mon-Fri", "9 to 5, Monday to Friday"),
        ("At 9:00, not 9:30", "At 9 o'clock, not 9:30"),
        ("At 5:00 p.m.", "At 5 p.m."),
        ("Tea & cake", "Tea and cake"),
        ("a well-known snake_case name", "a well-known snake case name"),
        ("50% of 3.5", "50% of 3.5"),
        ("Born on 2024-01-05", "Born on 2024-01-05"),
        ("😀 *** ...", ""),
        ("  ", ""),
    ],
)  # fmt: skip
def test_what_is_written_becomes_what_is_said(written: str, spoken: str) -> None:
    assert speakable(written) == spoken


@given(st.text(max_size=300))
def test_any_text_can_be_said_or_is_empty(text: str) -> None:
    spoken = speakable(text)
    assert spoken == spoken.strip()
    assert not spoken or any(c.isalnum() for c in spoken)
    assert not set(spoken) & set("*`<>[]{}|\\\n\t\r\x00")


@given(st.text(alphabet="a1 -.,*_#$:()/\n|[]~@&", max_size=3000))
def test_the_time_it_takes_does_not_explode(text: str) -> None:
    speakable(text)


@given(st.text(alphabet="ab .!?", max_size=200), st.integers(1, 40))
def test_long_texts_are_split_without_losing_a_letter(text: str, limit: int) -> None:
    parts = split_long(text, limit)
    assert all(0 < len(part) <= limit for part in parts)
    assert "".join(parts).replace(" ", "") == text.replace(" ", "")


def test_long_texts_are_split_after_a_sentence() -> None:
    assert split_long("One two. Three four. Five", 14) == ["One two.", "Three four.", "Five"]
