"""Endpointing, as scripts of what is heard when."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowcat_server.core.bargein import BargeInRules
from flowcat_server.core.frames import (
    Frame,
    Interrupted,
    SpeechPaused,
    SpeechResumed,
    SpeechStarted,
    TurnDropped,
    TurnEnded,
)
from flowcat_server.core.keypad import Keys
from flowcat_server.core.turn import TurnRules
from tests.turnscript import CHUNK_MS, ENDPOINTING, Script


def test_a_finished_sentence_ends_the_turn_after_the_short_delay():
    call = Script().silence(320).speech(960).silence(256).transcript("What are your hours?")
    assert "TurnEnded" not in call.kinds()
    call.silence(256)
    ended = call.last(TurnEnded)
    assert ended.text == "What are your hours?"
    assert ended.turn == 1
    assert 400 <= ended.decided_ms - ended.speech_end_ms < 400 + CHUNK_MS
    assert ended.endpoint_ms == ended.speech_end_ms + 400


def test_an_unfinished_sentence_waits_longer_but_not_for_ever():
    call = Script().speech(960).silence(256).transcript("I would like to come on").silence(640)
    assert "TurnEnded" not in call.kinds()
    call.silence(640)
    assert call.last(TurnEnded).decided_ms - call.last(TurnEnded).speech_end_ms >= 1200


def test_a_late_transcript_holds_the_turn_and_the_wait_is_named():
    call = Script().speech(960).silence(960)
    assert "TurnEnded" not in call.kinds()
    call.transcript("Yes.")
    ended = call.last(TurnEnded)
    assert ended.endpoint_ms < ended.decided_ms == call.now


def test_a_transcriber_that_never_answers_costs_a_bounded_wait():
    call = Script().speech(960)
    call.detector.transcript("partial words", 0, None, call.now)
    call.silence(3200)
    assert call.last(TurnEnded).text == "partial words"


def test_going_on_after_a_pause_is_one_turn():
    call = Script().speech(640).silence(256).transcript("My number is").speech(640).silence(256)
    call.transcript("My number is on the card.").silence(320)
    assert call.kinds() == [
        "SpeechStarted",
        "SpeechPaused",
        "SpeechResumed",
        "SpeechPaused",
        "TurnEnded",
    ]
    assert call.last(SpeechResumed).at_ms > call.last(SpeechStarted).at_ms


def test_a_click_is_not_speech():
    call = Script().silence(320).speech(CHUNK_MS).silence(960)
    assert call.frames == []


def test_noise_without_words_is_dropped_and_owes_no_reply():
    call = Script().speech(320).silence(256).transcript("").silence(320)
    assert call.kinds() == ["SpeechStarted", "SpeechPaused", "TurnDropped"]
    assert type(call.frames[-1]) is TurnDropped
    call.speech(640).silence(256).transcript("Hello.").silence(320)
    assert call.last(TurnEnded).text == "Hello."


def test_a_blocked_loop_does_not_end_a_turn():
    """All audio of 800 ms arrives at once: silence is measured in the audio, not by the clock."""
    call = Script().speech(640)
    late = call.now + 800
    frames: list[Frame] = call.detector.tick(call.now + 400)
    for at in range(call.now + CHUNK_MS, late, CHUNK_MS):
        frames += call.detector.voice(at, 0.9, CHUNK_MS, late)
    assert frames == []


def test_a_caller_who_mutes_in_mid_word_is_not_waited_for():
    call = Script().speech(640)
    frames = call.detector.tick(call.detector.deadline_ms() or 0)
    assert [type(frame) for frame in frames] == [SpeechPaused]


def test_keys_are_one_turn_when_the_keypad_rests():
    call = Script()
    assert call.detector.digit("4", 100) == []
    assert call.detector.digit("2", 600) == []
    assert call.detector.deadline_ms() == 2100
    (ended,) = call.detector.tick(2100)
    assert isinstance(ended, TurnEnded)
    assert ended.text == "[keypad: 4 2]"
    assert ended.typed


def test_hash_ends_a_number_at_once():
    call = Script()
    call.detector.digit("7", 100)
    (ended,) = call.detector.digit("#", 300)
    assert isinstance(ended, TurnEnded)
    assert ended.text == "[keypad: 7 #]"


def test_a_key_interrupts_where_the_agent_listens():
    call = Script(speaks=2, keys=Keys())
    (interrupted,) = call.press("7")
    assert interrupted == Interrupted(2, call.now)
    assert call.press("#") == [TurnEnded(1, "[keypad: 7 #]", 0, 0, 0, typed=True)]


@pytest.mark.parametrize(
    "call",
    [
        Script(speaks=2),
        Script(speaks=2, keys=Keys(), protected=True),
        Script(TurnRules(barge_in=BargeInRules(enabled=False)), speaks=2, keys=Keys()),
    ],
    ids=["nobody listens", "protected", "interruption off"],
)
def test_elsewhere_a_key_is_kept(call: Script):
    assert call.press("7") == []
    assert call.press("#") == [TurnEnded(1, "[keypad: 7 #]", 0, 0, 0, typed=True)]


def test_a_complete_number_interrupts_an_answer_in_the_making():
    call = Script(makes=2, keys=Keys())
    assert call.press("7") == []
    assert [type(frame) for frame in call.press("#")] == [Interrupted, TurnEnded]


def test_typing_interrupts_and_ends_a_turn():
    call = Script(speaks=2)
    interrupted, ended = call.detector.typed("hello", 50)
    assert isinstance(interrupted, Interrupted)
    assert isinstance(ended, TurnEnded)
    assert ended.speech_end_ms == ended.endpoint_ms == ended.decided_ms == 50


def test_typing_waits_for_an_agent_that_always_finishes():
    call = Script(TurnRules(barge_in=BargeInRules(enabled=False)), speaks=2)
    (ended,) = call.detector.typed("hello", 50)
    assert isinstance(ended, TurnEnded)


def test_segments_are_joined_in_order_and_replaced():
    call = Script().speech(640).silence(256)
    call.transcript("second", segment=1, answers=False)
    call.transcript("first", segment=0, answers=False)
    call.transcript("Second.", segment=1).silence(320)
    assert call.last(TurnEnded).text == "first Second."


@given(st.lists(st.tuples(st.floats(0, 1), st.sampled_from(["", "words", None])), max_size=200))
def test_every_pause_is_answered_or_runs_out(steps: list[tuple[float, str | None]]):
    """Whatever is heard, the open turn ends within its longest wait of silence."""
    call = Script()
    for probability, text in steps:
        call.audio(CHUNK_MS, probability)
        if text is not None and any(type(frame) is SpeechPaused for frame in call.frames):
            call.transcript(text)
    call.silence(call.rules.transcript_wait_ms + 2 * ENDPOINTING.longest_ms)
    assert not call.detector.open
    turns = [frame.turn for frame in call.frames if isinstance(frame, TurnEnded)]
    assert turns == list(range(1, len(turns) + 1))


def run_without_audio(call: Script, until: int) -> int:
    """Let only the clock go on, waking when asked; returns how often that was."""
    woken = 0
    while (due := call.detector.deadline_ms()) is not None and due < until and woken < 1000:
        woken += 1
        call.now = max(call.now, due)
        call.frames += call.detector.tick(call.now)
    return woken


@pytest.mark.parametrize("rules", [TurnRules(), TurnRules(transcript_wait_ms=300)])
@pytest.mark.parametrize("text", ["Hello.", "I want to", None])
def test_a_line_that_falls_silent_wakes_the_detector_a_few_times_only(
    rules: TurnRules, text: str | None
):
    call = Script(rules).speech(640).silence(224)
    if text is not None:
        call.transcript(text)
    assert run_without_audio(call, call.now + 60_000) <= 3
    assert not call.detector.open
    assert call.kinds()[-1] == ("TurnDropped" if text is None else "TurnEnded")


def test_a_caller_who_mutes_in_mid_word_wakes_it_a_few_times_only():
    call = Script().speech(640)
    assert run_without_audio(call, call.now + 60_000) <= 4
    assert not call.detector.open
