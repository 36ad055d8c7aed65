from __future__ import annotations

from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowcat_server.core.graph import Node, Slot
from flowcat_server.providers.llm._intents.slots import clock, numbers, phone
from flowcat_server.providers.llm._intents.slots.rules import Context, Opening, read, yes_or_no

SUNDAY = date(2026, 11, 22)
OPENING = Opening.from_node(
    Node("b", "agent", "b", data={"open": {"mon-fri": "8:00-18:00", "sat": "9:00-12:30"}})
)
DAY, TIME, NAME = Slot("day", "day"), Slot("time", "time"), Slot("name", "name")
PHONE, EMAIL = Slot("phone", "phone"), Slot("email", "email")
SIZE = Slot("size", "choice", choices=("small", "medium", "extra large"))
VISIT = (DAY, TIME, NAME, PHONE)


def values(text, slots=VISIT, asked="", **context):
    found = read(slots, text, Context(SUNDAY, asked, OPENING, **context))
    return {name: r.problem or r.value for name, r in found.items()}


@pytest.mark.parametrize(
    ("said", "day"),
    [
        ("today", "day_closed"),
        ("tomorrow", "2026-11-23"),
        ("the day after tomorrow please", "2026-11-24"),
        ("Friday", "2026-11-27"),
        ("next Friday", "2026-11-27"),
        ("on Wendsday", "2026-11-25"),
        ("uh, choose day", "2026-11-24"),
        ("Friday the 27th", "2026-11-27"),
        ("Saturday the twelfth", "2026-12-12"),
        ("the twenty fifth", "2026-11-25"),
        ("December 1st", "2026-12-01"),
        ("the third of March", "2027-03-03"),
        ("March third", "2027-03-03"),
        ("a week on Friday", "2026-12-04"),
        ("Friday week", "2026-12-04"),
        ("in three days", "2026-11-25"),
        ("in two weeks", "day_closed"),
        ("2026-12-24", "2026-12-24"),
        ("12/24", "2026-12-24"),
        ("as soon as possible", "2026-11-23"),
        ("Friday the 12th", "day_mismatch"),
        ("the 31st of February", "day_unknown"),
        ("sometime next week", "day_vague"),
        ("Sunday", "day_closed"),
        ("in 900 days", "day_far"),
        ("not Monday but Wednesday", "2026-11-25"),
        ("no, Thursday", "2026-11-26"),
    ],
)
def test_reads_days(said, day):
    assert values(said, (DAY,), "day") == {"day": day}


@pytest.mark.parametrize("said", ["I sat down", "one second", "may I ask something", "the sun"])
def test_words_that_sound_like_days_are_none(said):
    assert values(said, (DAY,), "day") == {}


def test_next_weekday_said_early_in_the_week_is_the_coming_weeks():
    monday = date(2026, 11, 23)
    found = read((DAY,), "next Friday", Context(monday))
    assert found["day"].value == "2026-12-04"
    assert read((DAY,), "this Friday", Context(monday))["day"].value == "2026-11-27"


@pytest.mark.parametrize(
    ("said", "time"),
    [
        ("half past three", "15:30"),
        ("half three", "15:30"),
        ("three thirty", "15:30"),
        ("3 30 pm", "15:30"),
        ("3.30", "15:30"),
        ("330", "15:30"),
        ("15:30", "15:30"),
        ("at 3:30 p.m.", "15:30"),
        ("quarter to four", "15:45"),
        ("a quarter past four", "16:15"),
        ("ten to four", "15:50"),
        ("five past nine", "09:05"),
        ("nine oh five", "09:05"),
        ("ten", "10:00"),
        ("10 o'clock", "10:00"),
        ("nine in the morning", "09:00"),
        ("around noon", "12:00"),
        ("five", "17:00"),
        ("8", "08:00"),
        ("not three, four o'clock", "16:00"),
        ("7 pm", "time_closed"),
        ("in the afternoon", "time_period"),
        ("anytime", "time_any"),
    ],
)
def test_reads_times(said, time):
    assert values(said, (TIME,), "time") == {"time": time}


@pytest.mark.parametrize(
    "said", ["there are three of us", "for 2 people", "good morning", "I called 3 days ago"]
)
def test_numbers_of_other_things_are_no_times(said):
    assert values(said, (TIME,)) == {}


def test_a_time_of_day_named_before_decides_the_half():
    window = clock.Window(0, 24 * 60)
    assert clock.find("8", asked=True, window=window, period="evening").value == "20:00"
    assert clock.find("8", asked=True, window=window, period="morning").value == "08:00"


def test_the_hours_of_the_named_day_count():
    assert values("Saturday at two") == {"day": "2026-11-28", "time": "time_closed"}
    assert values("Saturday at ten") == {"day": "2026-11-28", "time": "10:00"}


@pytest.mark.parametrize(
    ("said", "name"),
    [
        ("Anna Becker", "Anna Becker"),
        ("it's anna becker", "Anna Becker"),
        ("My name is Anna Becker.", "Anna Becker"),
        ("Um, yes, this is Anna.", "Anna"),
        ("Anna Becker speaking", "Anna Becker"),
        ("the name's Sean O'Brien", "Sean O'Brien"),
        ("put it under Maria Lopez-Garcia please", "Maria Lopez-Garcia"),
        ("Mrs Becker, B E C K E R", "Becker"),
        ("Anna Becka, B-E-C-K-E-R", "Anna Becker"),
        ("I'm Dr. Miller", "Miller"),
    ],
)
def test_reads_names(said, name):
    assert values(said, (NAME,), "name") == {"name": name}


@pytest.mark.parametrize(
    "said",
    [
        "I'm not sure",
        "can you repeat that",
        "it's about my appointment",
        "I'm calling for my wife",
        "what do you mean",
        "yes",
        "",
    ],
)
def test_sentences_are_no_names(said):
    assert values(said, (NAME,), "name") == {}


def test_an_unasked_name_must_be_introduced_and_capitalized():
    assert values("I'm Anna", (NAME,)) == {"name": "Anna"}
    assert values("i'm anna", (NAME,)) == {}
    assert values("Anna Becker", (NAME,)) == {}


@pytest.mark.parametrize(
    ("said", "number"),
    [
        ("2 0 2 5 5 5 0 1 4 3", "2025550143"),
        ("two oh two, five five five, oh one four three", "2025550143"),
        ("202-555-0143", "2025550143"),
        ("(202) 555 0143", "2025550143"),
        ("it's 202 triple five oh one double four", "2025550144"),
        ("plus one 202 555 0143", "+12025550143"),
        ("202 555", "202555"),
        ("202", "phone_short"),
        ("1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7", "phone_long"),
    ],
)
def test_reads_phone_numbers(said, number):
    assert values(said, (PHONE,), "phone") == {"phone": number}


def test_a_phone_number_may_come_in_pieces():
    assert values("555 0143", (PHONE,), "phone", digits="202") == {"phone": "2025550143"}


def test_phone_numbers_are_said_in_groups():
    assert phone.spoken("+12025550143") == "plus 1 2 0, 2 5 5, 5 0 1 4 3"
    assert phone.spoken("2025550143") == "2 0 2, 5 5 5, 0 1 4 3"


@pytest.mark.parametrize(
    ("text", "keys"),
    [("[keypad: 4 2 #]", "42#"), ("yes [Keypad:12]", "12"), ("keypad", ""), ("[keypad: ]", "")],
)
def test_reads_keys(text, keys):
    assert phone.keypad(text) == keys


@pytest.mark.parametrize(
    ("said", "address"),
    [
        ("anna@example.com", "anna@example.com"),
        ("it's anna dot becker at example dot com", "anna.becker@example.com"),
        ("Anna underscore B at mail dot example dot org.", "anna_b@mail.example.org"),
    ],
)
def test_reads_email_addresses(said, address):
    assert values(said, (EMAIL,), "email") == {"email": address}


@pytest.mark.parametrize(
    ("said", "choice"),
    [
        ("the medium one", "medium"),
        ("extra large", "extra large"),
        ("large", "extra large"),
        ("the first one", "small"),
        ("number two", "medium"),
        ("the last one", "extra large"),
    ],
)
def test_reads_choices(said, choice):
    assert values(said, (SIZE,), "size") == {"size": choice}


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Yes.", True),
        ("yeah, that's right", True),
        ("Um, yep", True),
        ("no problem", True),
        ("No, that's right.", True),
        ("No.", False),
        ("nope, that's wrong", False),
        ("that's not right", False),
        ("right, but that's not correct", False),
        ("What time?", None),
        ("Notably fine", None),
    ],
)
def test_tells_yes_from_no(text, answer):
    assert yes_or_no(text) is answer


def test_several_values_in_one_sentence():
    said = "Friday at half past three, my name is Tom Baker and my number is 202 555 0143"
    assert values(said) == {
        "day": "2026-11-27",
        "time": "15:30",
        "name": "Tom Baker",
        "phone": "2025550143",
    }


def test_a_date_is_not_taken_for_a_time():
    assert values("on the 25th at 10") == {"day": "2026-11-25", "time": "10:00"}
    assert values("the 3rd", asked="time") == {"day": "2026-12-03"}


@pytest.mark.parametrize(
    ("said", "number"), [("four people", 4), ("twenty five", 25), ("two hundred", 200)]
)
def test_reads_numbers(said, number):
    assert numbers.cardinal(numbers.normalize(said)) == number


@pytest.mark.parametrize("hours", [{"mon": "late"}, {"someday": "8:00-9:00"}, {"mon": "8-99"}])
def test_wrong_hours_are_refused(hours):
    with pytest.raises(ValueError, match=r"day|time|literal"):
        Opening.from_node(Node("b", "agent", "b", data={"open": hours}))


KINDS = ("day", "time", "name", "phone", "email", "number", "choice", "boolean", "string")
EVERY_KIND = tuple(Slot(kind, kind, choices=("one", "two")) for kind in KINDS)
SAID = """the at on half past to quarter 3 30 12th friday march pm am oh double zero + - : / . , not
no name is my week in next o'clock 999999999999999999999 31st 25:99 \u0663 @ dot a b c"""
WORDS = st.sampled_from(sorted(SAID.split()))


@given(
    st.one_of(st.text(max_size=80), st.lists(WORDS, max_size=12).map(" ".join)),
    st.sampled_from(["", *(slot.name for slot in EVERY_KIND)]),
)
def test_nothing_a_caller_can_say_breaks_the_rules(text, asked):
    for name, reading in read(EVERY_KIND, text, Context(SUNDAY, asked, OPENING)).items():
        if reading.problem:
            continue
        if name == "day":
            assert date.fromisoformat(str(reading.value)) >= SUNDAY
        elif name == "time":
            assert 0 <= clock.parse(str(reading.value)) < 24 * 60
        elif name == "phone":
            assert phone.MIN_DIGITS <= len(str(reading.value).lstrip("+")) <= phone.MAX_DIGITS
