"""Speech over the agent, as scripts of what is heard when."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowcat_server.core.bargein import HOLDS, BargeInRules
from flowcat_server.core.frames import (
    AgentHeld,
    AgentResumed,
    Interrupted,
    SpeechProbed,
    TurnEnded,
)
from flowcat_server.core.turn import TurnRules
from tests.turnscript import CHUNK_MS, Script


def rules(**more: int | bool) -> TurnRules:
    return TurnRules(barge_in=BargeInRules(**more))  # type: ignore[arg-type]


def outcome(call: Script) -> list[str]:
    """What became of the agent's speech."""
    about = ("AgentHeld", "AgentResumed", "Interrupted", "TurnEnded", "TurnDropped")
    return [kind for kind in call.kinds() if kind in about]


def test_the_agent_is_silent_as_soon_as_the_caller_is_believed_to_speak():
    call = Script(speaks=3).silence(320).speech(96)
    held = call.last(AgentHeld)
    assert held.turn == 3
    assert held.at_ms - 320 <= 64 + CHUNK_MS
    assert "Interrupted" not in call.kinds()


def test_words_interrupt():
    call = Script(speaks=3).speech(320).silence(256).transcript("Stop.")
    assert outcome(call) == ["AgentHeld", "Interrupted"]
    assert call.last(Interrupted).turn == 3
    call.silence(320)
    assert call.last(TurnEnded).text == "Stop."


@pytest.mark.parametrize("text", ["", "...", "Mm-hmm.", "Yeah, yeah. Right."])
def test_what_holds_no_words_for_the_agent_lets_it_go_on_and_is_no_turn(text: str):
    call = Script(speaks=3).speech(320).silence(256).transcript(text)
    assert outcome(call) == ["AgentHeld", "AgentResumed", "TurnDropped"]
    call.silence(2000)
    assert "TurnEnded" not in call.kinds()


def test_a_listeners_word_is_an_answer_when_the_agent_is_silent():
    call = Script().speech(320).silence(256).transcript("Yeah.").silence(320)
    assert call.last(TurnEnded).text == "Yeah."


def test_a_listeners_word_is_an_answer_when_the_question_is_all_but_asked():
    call = Script(speaks=3, about_to_ask=True).speech(320).silence(256).transcript("Yeah.")
    assert outcome(call) == ["AgentHeld", "Interrupted"]


@pytest.mark.parametrize(
    ("speech_ms", "text", "frame"),
    [
        pytest.param(640, "No, on Monday.", "Interrupted", id="words"),
        pytest.param(640, "Okay, okay.", "AgentResumed", id="a backchannel"),
        pytest.param(160, "Monday.", "AgentResumed", id="a short word"),
    ],
)
def test_what_stops_an_answer_that_is_being_made(speech_ms: int, text: str, frame: str):
    call = Script(makes=3).speech(speech_ms).silence(256).transcript(text)
    assert outcome(call) == ["AgentHeld", frame]
    call.silence(320)
    assert call.last(TurnEnded).text == text


def test_a_listeners_word_with_more_behind_it_interrupts():
    call = Script(speaks=3).speech(320).silence(160).transcript("Yeah,")
    assert outcome(call) == ["AgentHeld"]
    call.speech(640).silence(256).transcript("Yeah, but what about Sunday?")
    assert outcome(call) == ["AgentHeld", "Interrupted"]


def test_two_guesses_that_agree_interrupt_in_mid_speech():
    call = Script(speaks=3).speech(480).guess("Sorry")
    assert "Interrupted" not in call.kinds()
    call.speech(416).guess("Sorry, can I ask")
    assert outcome(call) == ["AgentHeld", "Interrupted"]


def test_guesses_that_do_not_agree_are_noise():
    call = Script(speaks=3).speech(480).guess("Save my card.")
    call.speech(416).guess("").speech(320)
    assert outcome(call) == ["AgentHeld", "AgentResumed"]
    call.speech(2000)
    assert outcome(call) == ["AgentHeld", "AgentResumed"]


def test_the_transcriber_is_asked_less_and_less_often_about_a_noise():
    call = Script(speaks=3).speech(480).guess("").speech(416).guess("")
    asked = call.kinds().count("SpeechProbed")
    for _ in range(200):
        call.speech(64)
        if call.kinds().count("SpeechProbed") > asked:
            asked += 1
            call.guess("")
    assert asked <= 7
    assert call.last(SpeechProbed).at_ms > 6000


def test_long_speech_interrupts_although_nobody_says_what_it_is():
    call = Script(rules(min_speech_ms=1000), speaks=3).speech(992)
    assert "Interrupted" not in call.kinds()
    call.speech(96)
    assert outcome(call) == ["AgentHeld", "Interrupted"]


def test_a_reply_that_was_heard_to_its_end_meanwhile_holds_back_no_other():
    call = Script(speaks=3).speech(96)
    assert outcome(call) == ["AgentHeld"]
    call.speaks = None
    call.speech(960).silence(256).transcript("Is that so on Sundays too?").silence(320)
    assert outcome(call) == ["AgentHeld", "AgentResumed", "TurnEnded"]


def test_words_known_by_themselves_interrupt_at_once():
    call = Script(speaks=3).speech(320).transcript("no wait", answers=False)
    assert call.last(Interrupted).turn == 3


def test_too_few_words_do_not_interrupt_but_are_answered():
    call = Script(rules(min_words=2), speaks=3).speech(640).silence(256).transcript("Tuesday.")
    assert outcome(call) == ["AgentHeld", "AgentResumed"]
    call.silence(320)
    assert call.last(TurnEnded).text == "Tuesday."


@pytest.mark.parametrize(
    ("call", "text"),
    [
        pytest.param(Script(rules(enabled=False), speaks=3), "Stop it.", id="switched off"),
        pytest.param(Script(speaks=3, protected=True), "Stop it.", id="a protected reply"),
    ],
)
def test_what_is_said_over_protected_speech_is_answered_after_it(call: Script, text: str):
    call.speech(1600).silence(256).transcript(text).silence(320)
    assert outcome(call) == ["TurnEnded"]


def test_a_transcriber_that_falls_silent_costs_a_bounded_pause():
    call = Script(speaks=3).speech(320).silence(256)
    held = call.last(AgentHeld)
    while "AgentResumed" not in call.kinds():
        call.wakes()
    assert call.last(AgentResumed).at_ms - held.at_ms <= 1500 + CHUNK_MS
    call.transcript("Excuse me, I have a question.")
    assert outcome(call)[:3] == ["AgentHeld", "AgentResumed", "Interrupted"]


def test_the_agents_own_sound_neither_holds_nor_interrupts_it():
    call = Script(speaks=3, echo_until=10_000).speech(3200).silence(256)
    call.transcript("Thank you for calling.").silence(320)
    assert outcome(call) == ["TurnDropped"]
    assert "SpeechProbed" not in call.kinds()


def test_a_caller_over_the_echo_is_noticed():
    call = Script(speaks=3, echo_until=1600).speech(1600)
    assert "AgentHeld" not in call.kinds()
    call.speech(96)
    assert call.last(AgentHeld).at_ms <= 1600 + 2 * CHUNK_MS


def test_after_some_false_alarms_only_words_stop_the_agent():
    call = Script(speaks=3)
    for _ in range(HOLDS + 2):
        call.speech(320).silence(256).transcript("").silence(320)
    assert call.kinds().count("AgentHeld") == HOLDS
    call.speech(320).silence(256).transcript("Stop that.")
    assert call.kinds()[-1] == "Interrupted"


def test_an_interruption_is_one_although_the_loop_was_blocked():
    """All of it arrives when the loop runs again: what counts is when it was said."""
    call = Script(speaks=3)
    late = 3000
    for at in range(CHUNK_MS, 1200, CHUNK_MS):
        call.take(call.detector.voice(at, 0.9, CHUNK_MS, late))
    assert outcome(call) == ["AgentHeld", "Interrupted"]


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["speech", "silence", "words", "mhm", "nothing", "wait"]),
            st.integers(1, 20),
        ),
        max_size=60,
    )
)
def test_the_agent_is_never_held_for_ever(steps: list[tuple[str, int]]):
    call = Script(speaks=3)
    for step, count in steps:
        if step in ("speech", "silence"):
            getattr(call, step)(count * CHUNK_MS)
        elif step == "wait":
            call.now += count * 100
            call.take(call.detector.tick(call.now))
        elif call.detector.open:
            text = {"words": "hold on please", "mhm": "mhm", "nothing": ""}[step]
            number = call.detector._pauses.last
            call.take(call.detector.transcript(text, 0, number, call.now))
        if "Interrupted" in call.kinds():
            return
    call.silence(6000)
    changes = [kind for kind in call.kinds() if kind in ("AgentHeld", "AgentResumed")]
    assert changes == ["AgentHeld", "AgentResumed"] * (len(changes) // 2)


def test_the_echo_before_the_caller_is_no_part_of_what_they_said():
    call = Script(speaks=3, echo_until=1600, says="We are open every day except Monday.")
    call.speech(2400).transcript("Open every day except Monday. What about Friday?", answers=False)
    call.silence(256).transcript("Open every day except Monday. What about Friday?").silence(600)
    assert call.last(TurnEnded).text == "What about Friday?"


def test_a_caller_who_repeats_the_agent_without_an_echo_is_taken_at_their_word():
    call = Script(speaks=3, says="We are open every day except Monday.")
    call.speech(1600).transcript("Every day except Monday?", answers=False)
    call.silence(256).transcript("Every day except Monday?").silence(600)
    assert call.last(TurnEnded).text == "Every day except Monday?"
