"""What of turn-taking depends on a language, and the files that hold it."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from flowcat_server.config import language
from flowcat_server.config.language import languages, turn_words
from flowcat_server.core.language import TurnWords, phrase

FOLDER = Path(language.__file__).parent / "words"
LISTS = {
    "machines",
    "people",
    "endings",
    "unmarked_endings",
    "stranded",
    "question_words",
    "backchannels",
    "digits",
    "pairs",
    "tens",
    "joiners",
    "letter_names",
    "spelled_as",
    "spelling",
    "places",
    "mail",
    "at_signs",
    "dots",
}
MAPS = {"zeros", "repeats"}


def words(code: str = "en") -> TurnWords:
    found = turn_words(code)
    assert found is not None
    return found


# --- the files --------------------------------------------------------------------------------


@pytest.mark.parametrize("code", languages())
class TestFile:
    def data(self, code: str) -> dict[str, list[str] | dict[str, int]]:
        return yaml.safe_load((FOLDER / f"{code}.yaml").read_text(encoding="utf-8"))

    def test_has_every_list_and_no_other(self, code: str) -> None:
        assert set(self.data(code)) == LISTS | MAPS

    def test_holds_only_texts(self, code: str) -> None:
        data = self.data(code)
        assert {key for key in LISTS if not all(isinstance(word, str) for word in data[key])} == (
            set()
        ), "YAML took an unquoted word for something else"
        assert all(isinstance(word, str) for key in MAPS for word in data[key])

    def test_says_nothing_twice(self, code: str) -> None:
        data = self.data(code)
        for key in LISTS - {"backchannels"}:
            said = [phrase(word) for word in data[key]]
            assert [word for word in said if said.count(word) > 1] == []
        assert len(set(data["backchannels"])) == len(data["backchannels"])
        both = {phrase(w) for w in data["endings"]} & {phrase(w) for w in data["unmarked_endings"]}
        assert both == set()
        numbers = [phrase(w) for key in ("digits", "pairs", "tens", "zeros") for w in data[key]]
        assert [word for word in numbers if numbers.count(word) > 1] == []

    def test_understands_its_own_words(self, code: str) -> None:
        data, known = self.data(code), words(code)
        assert [w for w in data["backchannels"] if not known.is_backchannel(w)] == []
        assert [w for w in data["endings"] if not known.unfinished(f"Foo {w}.")] == []
        assert [w for w in data["unmarked_endings"] if not known.unfinished(f"Foo {w}")] == []
        assert [w for w in data["digits"] if known.digits(w) != 1] == []
        assert [w for w in (*data["pairs"], *data["tens"]) if known.digits(w) != 2] == []


def test_english_german_spanish_and_french_are_there():
    assert {"en", "de", "es", "fr"} <= set(languages())


@pytest.mark.parametrize(
    ("code", "found"), [("", "en"), ("en-US", "en"), ("DE_at", "de"), ("fr", "fr"), ("xx", None)]
)
def test_a_language_is_found_by_its_code(code: str, found: str | None):
    known = turn_words(code)
    assert (known and known.language) == found


# --- backchannels -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "Mm-hmm.",
        "Mhm",
        "Uh-huh.",
        "Yeah, yeah. Right.",
        "I see.",
        "Hmmmm...",
        "OK",
        "O.K.",
        "Oh, I see!",
    ],
)
def test_what_listeners_say_is_a_backchannel(text: str):
    assert words().is_backchannel(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "...",
        "Yeah, but how much is it?",
        "Stop.",
        "No.",
        "Right now",
        "Wait, okay",
        "I see him",
    ],
)
def test_what_says_more_is_not(text: str):
    assert not words().is_backchannel(text)


@pytest.mark.parametrize(
    ("code", "text"),
    [("de", "Ja, genau."), ("de", "Ach so."), ("es", "Sí, claro."), ("fr", "Ah oui, d’accord.")],
)
def test_other_languages_have_theirs(code: str, text: str):
    assert words(code).is_backchannel(text)
    assert not words("en").is_backchannel(text)


# --- sentences --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "I would like to",
        "I would like to.",
        "My name is",
        "And then,",
        "I'm calling because...",
        "It's about the, um.",
        "Turn it on",
        "Well",
        "Well.",
        "Do you have a table for?",
        "I called because... So.",
    ],
)
def test_a_sentence_that_asks_for_more(text: str):
    assert words().unfinished(text)


@pytest.mark.parametrize(
    "text",
    [
        "What are your hours?",
        "Turn it on.",
        "What is that for?",
        "Can I come in?",
        "Yes, that works for me.",
        "That's what it is.",
        "Saturday",
        "I am very well.",
        "",
        ".",
    ],
)
def test_a_sentence_that_does_not(text: str):
    assert not words().unfinished(text)


# --- numbers and spellings --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("555 0142", 7),
        ("555-0142.", 7),
        ("five five five oh one", 5),
        ("My number is 5, 5, 5, zero one", 5),
        ("double five, triple oh", 5),
        ("twenty one forty", 4),
        ("one eight hundred", 4),
        ("no digits here", 0),
        ("", 0),
    ],
)
def test_digits_are_counted_however_they_are_written(text: str, count: int):
    assert words().digits(text) == count


@pytest.mark.parametrize(
    ("code", "text", "count"),
    [
        ("de", "null eins fünf zwei", 4),
        ("de", "einundzwanzig", 2),
        ("es", "treinta y uno", 2),
        ("es", "seis cinco cuatro", 3),
        ("fr", "zéro six quatre-vingt-dix-sept", 4),
        ("fr", "quatre-vingt-quatorze", 2),
        ("fr", "soixante et onze", 2),
    ],
)
def test_digits_of_other_languages(code: str, text: str, count: int):
    assert words(code).digits(text) == count


@pytest.mark.parametrize(
    ("text", "expected", "is_open"),
    [
        ("My number is 555", None, True),
        ("five five five,", None, True),
        ("my number is five double", None, True),
        ("A table for two", None, False),
        ("At 10.30", None, False),
        ("About 1,200.", None, False),
        ("At 10:30", None, False),
        ("It costs $140", None, False),
        ("555, is that right?", None, False),
        ("two oh two", 10, True),
        ("202 555 0142", 10, False),
        ("2025550142 and", 10, False),
        ("No, I won't tell you", 10, False),
        ("forty", 0, True),
    ],
)
def test_a_number_is_open_until_it_is_complete(text: str, expected: int | None, is_open: bool):
    assert words().open_number(text, expected) is is_open


@pytest.mark.parametrize(
    ("text", "expected", "is_open"),
    [
        ("It's spelled M A", False, True),
        ("It's spelled MA.", False, True),
        ("M-A-R-I.", False, True),
        ("M as in Mike", False, True),
        ("double u", True, True),
        ("Plan B", False, False),
        ("I like it", False, False),
        ("Plan B for today", False, False),
        ("OK.", True, False),
        ("I drive a BMW", False, False),
        ("KO.", True, True),
        ("Peter Miller", True, False),
        ("", True, False),
    ],
)
def test_a_spelling_is_open_while_letters_come(text: str, expected: bool, is_open: bool):
    assert words().open_spelling(text, expected) is is_open


# --- anything ---------------------------------------------------------------------------------

SAID = st.one_of(
    st.text(),
    st.lists(
        st.sampled_from(
            [
                "five",
                "twenty",
                "double",
                "oh",
                "555",
                "12:30",
                "$",
                "M",
                "as in",
                "um",
                "mm-hmm",
                "yeah",
                ",",
                ".",
                "...",
                "?",
                "y",
                "treinta",
                "İ",
                "²",
                "٣",
            ]  # fmt: skip
        )
    ).map(" ".join),
)


@given(text=SAID, code=st.sampled_from(languages()), expected=st.none() | st.integers(0, 20))
def test_any_text_has_an_answer(text: str, code: str, expected: int | None):
    known = words(code)
    assert known.digits(text) >= 0
    for answer in (
        known.is_backchannel(text),
        known.unfinished(text),
        known.open_number(text, expected),
        known.open_spelling(text, expected is not None),
        known.asks_for_place(text),
        known.asks_for_mail(text),
        known.whole_mail(text),
    ):
        assert isinstance(answer, bool)
    if expected and known.digits(text) >= expected:
        assert not known.open_number(text, expected)


@given(text=SAID, code=st.sampled_from(languages()))
def test_case_and_marks_do_not_make_a_backchannel(text: str, code: str):
    known = words(code)
    if known.is_backchannel(text):
        assert known.is_backchannel(f" {text}. ")
        assert known.is_backchannel(f"{text}, {text}")
