"""A sentence by several voices: what is said again, and what the ledger is told."""

from __future__ import annotations

from flowcat_server.core.interfaces import Word
from flowcat_server.processors.spoken import SURELY_MS_PER_CHAR, Spoken

TEXT = "One two three four."


def words(*texts: str, ms: int = 300) -> list[Word]:
    return [Word(text, n * ms, (n + 1) * ms) for n, text in enumerate(texts)]


def test_words_are_told_when_their_audio_is_there():
    spoken = Spoken(TEXT)
    assert spoken.take(300, words("One", "two", "three", "four.")) == (Word("One", 0, 300),)
    assert [w.text for w in spoken.take(800, ())] == ["two"]
    assert [w.text for w in spoken.finish(1200)] == ["three", "four."]


def test_the_next_voice_begins_with_the_word_that_was_cut():
    spoken = Spoken(TEXT)
    spoken.take(750, words("One", "two", "three", "four."))
    assert spoken.cut() == ()
    assert spoken.rest == "three four."
    assert spoken.finish(500) == (Word("three", 750, 1000), Word("four.", 1000, 1250))


def test_the_next_voices_own_times_follow_on():
    spoken = Spoken(TEXT)
    spoken.take(600, words("One", "two", "three", "four."))
    spoken.cut()
    assert spoken.take(400, words("three", "four.", ms=400)) == (Word("three", 600, 1000),)
    assert spoken.finish(800) == (Word("four.", 1000, 1400),)


def test_a_voice_without_times_is_taken_for_a_slow_one():
    spoken = Spoken(TEXT)
    spoken.take(8 * SURELY_MS_PER_CHAR, ())
    told = spoken.cut()
    assert spoken.rest == "three four."
    assert [(w.text, w.end_ms) for w in told] == [("One", 360), ("two", 720)]


def test_a_voice_that_counts_words_differently_loses_none():
    spoken = Spoken("It costs $5 today.")
    spoken.take(1200, words("It", "costs", "five", "dollars", "today."))
    spoken.cut()
    assert spoken.rest == "$5 today."


def test_a_voice_that_breaks_behind_its_last_word_has_said_all():
    spoken = Spoken(TEXT)
    spoken.take(1200, words("One", "two", "three", "four."))
    spoken.cut()
    assert spoken.begun
    assert spoken.rest == ""


def test_a_voice_that_was_never_heard_leaves_the_whole_sentence():
    spoken = Spoken(TEXT)
    spoken.take(0, words("One", "two"))
    assert spoken.cut() == ()
    assert not spoken.begun
    assert spoken.rest == TEXT
