"""How long to wait after what was said."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowcat_server.config.language import turn_words
from flowcat_server.core.endpointing import NOTHING, Endpointing, Expects
from flowcat_server.core.graph import Slot

MIN, MAX, NUMBER = 300, 1000, 1500
ENDPOINTING = Endpointing(MIN, MAX, NUMBER, turn_words("en"))
PHONE = Expects(number=True)
TEN = Expects(number=True, digits=10)
ADDRESS = Expects(address=True)
MAIL = Expects(mail=True)


@pytest.mark.parametrize(
    ("text", "expects", "delay"),
    [
        pytest.param("", NOTHING, MIN, id="nothing"),
        pytest.param("What are your hours?", NOTHING, MIN, id="a sentence"),
        pytest.param("I'd like to, um", NOTHING, MAX, id="an unfinished sentence"),
        pytest.param("Uh-huh", NOTHING, MIN, id="an answer that sounds like a filler"),
        pytest.param("It's 555", NOTHING, NUMBER, id="dictated unasked"),
        pytest.param("For two.", NOTHING, MIN, id="an amount"),
        pytest.param("At ten.", TEN, NUMBER, id="the beginning of the number asked for"),
        pytest.param("My number is", PHONE, NUMBER, id="before the number asked for"),
        pytest.param("202 555 0142", TEN, MIN, id="the complete number"),
        pytest.param("202 555 0142,", TEN, MIN, id="complete, whatever the voice does"),
        pytest.param("202 555 0142", PHONE, NUMBER, id="a number of unknown length"),
        pytest.param("Well, go to all", PHONE, NUMBER, id="digits misheard"),
        pytest.param("Why do you need it?", PHONE, MIN, id="a question instead of the number"),
        pytest.param("I would rather not tell you that.", PHONE, MIN, id="a refusal"),
        pytest.param("Yes.", PHONE, MIN, id="an answer instead of the number"),
        pytest.param("Peter Miller", Expects(name=True), MIN, id="a name"),
        pytest.param("K-O.", Expects(name=True), NUMBER, id="a name that is spelled"),
        pytest.param("All right.", Expects(spelling=True), NUMBER, id="letters misheard"),
        pytest.param("12 Willow Lane.", ADDRESS, NUMBER, id="a part of an address"),
        pytest.param("Springfield, please.", ADDRESS, NUMBER, id="another part"),
        pytest.param("Which address?", ADDRESS, MIN, id="a question instead of the address"),
        pytest.param("Anna dot miller", MAIL, NUMBER, id="the beginning of a mail address"),
        pytest.param("anna at example dot", MAIL, NUMBER, id="a mail address without its end"),
        pytest.param("Anna at example dot com.", MAIL, MIN, id="a whole mail address"),
        pytest.param("anna@example.com", MAIL, MIN, id="a mail address as it is written"),
    ],
)
def test_the_wait_depends_on_what_was_said(text: str, expects: Expects, delay: int):
    assert ENDPOINTING.delay_ms(text, expects) == delay


@pytest.mark.parametrize("text", ["I'd like to", "555", "Fine."])
def test_without_words_every_wait_is_the_short_one(text: str):
    assert Endpointing(MIN, MAX, NUMBER).delay_ms(text, PHONE) == MIN


@given(
    st.text(),
    st.integers(1, 3000),
    st.integers(1, 3000),
    st.integers(1, 3000),
    st.builds(Expects, st.booleans(), st.integers(0, 20), *[st.booleans()] * 4),
)
def test_no_wait_is_shorter_or_longer_than_the_rules_say(
    text: str, shortest: int, longest: int, number: int, expects: Expects
):
    rules = Endpointing(shortest, max(shortest, longest), number, turn_words("en"))
    assert shortest <= rules.delay_ms(text, expects) <= rules.longest_ms


# --- what the agent asks for ------------------------------------------------------------------

DAY = Slot("day", "day")
NAME = Slot("caller", "name")
NUMBER_SLOT = Slot("phone", "phone", digits=10)


def test_the_first_unknown_slot_is_what_the_agent_asks_for():
    slots = (DAY, NAME, NUMBER_SLOT)
    assert ENDPOINTING.expects(slots, {}) == Expects(digits=10)
    assert ENDPOINTING.expects(slots, {"day": "2026-11-27"}) == Expects(name=True, digits=10)
    asked = ENDPOINTING.expects(slots, {"day": "2026-11-27", "caller": "Ann"})
    assert asked == Expects(number=True, digits=10)
    done = {"day": "2026-11-27", "caller": "Ann", "phone": "2025550142"}
    assert ENDPOINTING.expects(slots, done) == NOTHING
    assert ENDPOINTING.expects((), {}) == NOTHING


def test_how_many_is_not_dictated_but_an_account_number_is():
    assert not ENDPOINTING.expects((Slot("guests", "number"),), {}).number
    assert ENDPOINTING.expects((Slot("account", "number", digits=8),), {}).number


def test_a_slot_that_speaks_of_spelling_is_spelled():
    slot = Slot("caller", "name", ask=("How do you spell your name?",))
    assert ENDPOINTING.expects((slot,), {}).spelling


@pytest.mark.parametrize(
    ("slot", "expected"),
    [
        (Slot("home_address"), ADDRESS),
        (Slot("where", prompt="Street and house number of the caller"), ADDRESS),
        (Slot("where", ask=("What is your zip code?",)), ADDRESS),
        (Slot("email_address"), MAIL),
        (Slot("contact", prompt="E-mail of the caller"), MAIL),
        (Slot("topic", prompt="What it is about"), NOTHING),
    ],
)
def test_an_address_is_known_by_what_is_asked_for(slot: Slot, expected: Expects):
    assert ENDPOINTING.expects((slot,), {}) == expected
