"""Calls that we made, in which a person or a machine answers: what the far end hears then."""

from __future__ import annotations

import numpy as np
import pytest

from flowcat_server.core import ended, events
from flowcat_server.processors.machine import TONE_WAIT_MS, MachineRules
from tests.callscript import SILENCE, Script, call
from tests.virtual import on_virtual_time

GREETING = (
    "Good morning to you, this is the surgery. I am calling about your appointment tomorrow at "
    "nine, which we would like to move."
)
MESSAGE = "This is the surgery. Please call us back."
CASCADED = """
topology:
  vad: {provider: scripted}
  stt: {provider: scripted, options: {lines: [LINES], loop: true, delay_ms: 80}}
  llm: {provider: scripted, options: {replies: [Thank you.], loop: true, first_token_ms: 120}}
  tts: {provider: scripted, options: {first_audio_ms: 100, ms_per_char: 50}}
"""
REALTIME = """
topology: {mode: realtime, provider: scripted, options: {replies: [Thank you.]}}
"""
kinds = pytest.mark.parametrize("kind", ["cascaded", "speech to speech"])
LEAVE = MachineRules(on_machine="leave_message", message=MESSAGE)


def yaml(kind: str = "cascaded", lines: str = "hello", more: str = "") -> str:
    topology = CASCADED.replace("LINES", lines) if kind == "cascaded" else REALTIME
    return f'agent: {{prompt: Be kind., greeting: "{GREETING}"{more}}}\n{topology}'


def voice(seed: int) -> bytes:
    """20 ms of something loud that is no tone."""
    noise = np.random.default_rng(seed).normal(0, 6000, 160)
    return np.clip(noise, -32768, 32767).astype("<i2").tobytes()


def tone(at: int) -> bytes:
    t = np.arange(160) + 160 * at
    return (8000 * np.sin(2 * np.pi * 1000 * t / 8000)).astype("<i2").tobytes()


async def talks(script: Script, ms: int) -> None:
    for n in range(ms // 20):
        await script.passes(20, voice(n))


async def beeps(script: Script, ms: int = 400) -> None:
    for n in range(ms // 20):
        await script.passes(20, tone(n))


def found(script: Script) -> list[tuple[str, str]]:
    return [(event.answerer, event.why) for event in script.all(events.AnswerDetected)]


def said(script: Script) -> list[str]:
    """Replies that were heard to their end."""
    return [e.text for e in script.all(events.AgentHeard) if e.text and not e.interrupted]


@kinds
@on_virtual_time
async def test_a_person_is_talked_to_as_ever(kind: str):
    async with call(yaml(kind), machine=MachineRules()) as script:
        await script.passes(300)
        await talks(script, 500)
        await script.passes(3000)
        assert found(script) == [("human", "short answer")]
        assert script.ended is None
        assert script.transport.heard_ms() > 0


@kinds
@on_virtual_time
async def test_the_greeting_does_not_wait_for_the_result(kind: str):
    async with call(yaml(kind), machine=MachineRules()) as script:
        await script.passes(600)
        assert script.transport.heard
        assert found(script) == []


@on_virtual_time
async def test_the_hello_of_who_picks_up_neither_cuts_the_greeting_nor_is_answered():
    async with call(yaml(), machine=MachineRules()) as script:
        await script.passes(300)
        await talks(script, 500)
        await script.passes(9500)
        assert said(script) == [GREETING]
        assert script.transport.cleared == []
        await talks(script, 700)
        await script.passes(1500)
        assert said(script) == [GREETING, "Thank you."]
        # What was not answered is not heard again as part of the next turn either.
        assert [e.text for e in script.all(events.CallerText) if e.final] == ["hello", "hello"]


@on_virtual_time
async def test_once_it_is_known_who_answered_the_greeting_can_be_interrupted():
    async with call(yaml(), machine=MachineRules()) as script:
        await script.passes(300)
        await talks(script, 500)
        await script.passes(1500)
        await talks(script, 1500)
        await script.passes(1000)
        (cut,) = [e for e in script.all(events.AgentHeard) if e.interrupted]
        assert cut.turn == 0


@on_virtual_time
async def test_without_our_own_detection_a_hello_interrupts_as_ever():
    async with call(yaml(), machine=MachineRules(own=False)) as script:
        await script.passes(300)
        await talks(script, 700)
        await script.passes(1500)
        assert [e.turn for e in script.all(events.AgentHeard) if e.interrupted] == [0]


@kinds
@on_virtual_time
async def test_a_machine_is_hung_up_on(kind: str):
    async with call(yaml(kind), machine=MachineRules()) as script:
        await script.passes(300)
        await talks(script, 5000)
        assert script.ended == ended.MACHINE_HUNG_UP
        assert script.session.detail == "long greeting"


@kinds
@on_virtual_time
async def test_a_message_is_left_after_the_tone_and_nothing_else_is_said(kind: str):
    async with call(yaml(kind, more=", protect_greeting: true"), machine=LEAVE) as script:
        await script.passes(300)
        await talks(script, 6000)
        assert found(script) == [("machine", "long greeting")]
        before = script.transport.heard_ms()
        await talks(script, 2000)
        await script.passes(700)
        assert script.transport.heard_ms() == before  # it is silent until it is its turn
        await beeps(script)
        begun = script.session.now_ms()
        while script.ended is None:
            await script.passes(20)
        assert script.ended == ended.MACHINE_MESSAGE_LEFT
        # The scripted speech-to-speech provider speaks in its own words.
        if kind == "cascaded":
            assert said(script) == [MESSAGE]
            assert script.session.now_ms() - begun >= 50 * len(MESSAGE)
        first = min(at for at, _ in script.transport.heard if at > begun - 200)
        assert begun <= first <= begun + 1200


@on_virtual_time
async def test_what_the_machine_says_over_the_message_does_not_stop_it():
    async with call(yaml(), machine=LEAVE) as script:
        await talks(script, 5000)
        await script.passes(300)
        await beeps(script)
        await script.passes(600)
        await talks(script, 1500)
        await beeps(script)
        while script.ended is None:
            await script.passes(20)
        assert script.ended == ended.MACHINE_MESSAGE_LEFT
        assert said(script) == [MESSAGE]


@on_virtual_time
async def test_without_a_tone_the_message_is_left_after_a_long_silence():
    async with call(yaml(), machine=LEAVE) as script:
        await talks(script, 6000)
        await script.passes(1500)
        assert said(script) == []
        while script.ended is None:
            await script.passes(20)
        assert said(script) == [MESSAGE]


@on_virtual_time
async def test_a_machine_that_never_ends_its_greeting_gets_the_message_all_the_same():
    async with call(yaml(), machine=LEAVE) as script:
        await talks(script, 5000)
        for _ in range(60):
            await talks(script, 1000)
            if script.ended is not None:
                break
        assert script.ended == ended.MACHINE_MESSAGE_LEFT
        assert TONE_WAIT_MS <= script.session.now_ms() <= TONE_WAIT_MS + 12_000


@on_virtual_time
async def test_a_short_greeting_is_a_persons_until_its_tone():
    async with call(yaml(), machine=LEAVE) as script:
        await talks(script, 900)
        await script.passes(1100)
        assert found(script) == [("human", "short answer")]
        await beeps(script)
        while script.ended is None:
            await script.passes(20)
        assert found(script) == [("human", "short answer"), ("machine", "tone")]
        assert said(script)[-1] == MESSAGE


@on_virtual_time
async def test_words_of_the_transcript_are_enough():
    lines = '"please leave a message after the tone"'
    async with call(yaml(lines=lines), machine=MachineRules()) as script:
        await talks(script, 1500)
        await script.passes(1000)
        assert script.ended == ended.MACHINE_HUNG_UP
        assert found(script)[-1] == ("machine", "words")


@on_virtual_time
async def test_a_person_can_be_given_the_message_too():
    rules = MachineRules(on_human="leave_message", message=MESSAGE)
    async with call(yaml(), machine=rules) as script:
        await talks(script, 500)
        while script.ended is None:
            await script.passes(20)
        assert script.ended == ended.MACHINE_MESSAGE_LEFT
        assert said(script) == [MESSAGE]


@on_virtual_time
async def test_nobody_knows_and_the_call_ends_if_that_is_wanted():
    async with call(yaml(), machine=MachineRules(on_unknown="hang_up")) as script:
        await script.passes(5000)
        assert found(script) == [("unknown", "silence")]
        assert script.ended == ended.MACHINE_HUNG_UP


# --- waiting --------------------------------------------------------------------------------------


@kinds
@on_virtual_time
async def test_an_agent_that_waits_greets_when_a_person_has_answered(kind: str):
    async with call(yaml(kind), machine=MachineRules(wait=True)) as script:
        await script.passes(300)
        await talks(script, 500)
        assert script.transport.heard == []
        await script.passes(3000)
        assert found(script) == [("human", "short answer")]
        assert script.transport.heard
        if kind == "cascaded":  # the greeting answers the callee's hello
            await script.passes(9000)
            assert said(script) == [GREETING]


@on_virtual_time
async def test_words_are_searched_for_while_the_agent_waits():
    lines = '"please leave a message after the tone"'
    async with call(yaml(lines=lines), machine=MachineRules(wait=True)) as script:
        await talks(script, 1500)
        await script.passes(700)
        assert script.ended == ended.MACHINE_HUNG_UP
        assert found(script) == [("machine", "words")]
        assert script.transport.heard == []


@on_virtual_time
async def test_an_agent_that_waits_says_nothing_to_a_machine_but_the_message():
    rules = MachineRules(on_machine="leave_message", message=MESSAGE, wait=True)
    async with call(yaml(), machine=rules) as script:
        await talks(script, 5000)
        await script.passes(300)
        await beeps(script)
        while script.ended is None:
            await script.passes(20)
        assert said(script) == [MESSAGE]
        assert len(script.all(events.AgentHeard)) == 1


@on_virtual_time
async def test_an_agent_that_waits_does_not_wait_for_ever():
    rules = MachineRules(own=False, wait=True)
    async with call(yaml(), machine=rules) as script:
        await script.passes(5900, SILENCE)
        assert script.transport.heard == []
        await script.passes(1000)
        assert found(script) == [("unknown", "time")]
        assert script.transport.heard


# --- the carrier's word ---------------------------------------------------------------------------


@kinds
@on_virtual_time
async def test_the_carriers_result_counts_as_ours(kind: str):
    async with call(yaml(kind), machine=MachineRules(own=False)) as script:
        await script.passes(500)
        script.session.receive_detection("human", greeting_over=False)
        await script.passes(500)
        assert script.ended is None
        script.session.receive_detection("machine", greeting_over=False)
        assert script.ended == ended.MACHINE_HUNG_UP
    assert [e.by for e in script.all(events.AnswerDetected)] == ["carrier", "carrier"]


@on_virtual_time
async def test_the_carrier_may_say_when_the_greeting_is_over():
    rules = MachineRules(on_machine="leave_message", message=MESSAGE, own=False)
    async with call(yaml(), machine=rules) as script:
        await talks(script, 1000)
        script.session.receive_detection("machine", greeting_over=False)
        await talks(script, 4000)
        assert said(script) == []
        script.session.receive_detection("machine", greeting_over=True)
        while script.ended is None:
            await script.passes(20)
        assert said(script) == [MESSAGE]


@on_virtual_time
async def test_a_machine_stays_one_whatever_the_carrier_says():
    async with call(yaml(), machine=LEAVE) as script:
        await talks(script, 5000)
        script.session.receive_detection("human", greeting_over=False)
        assert found(script) == [("machine", "long greeting")]


@on_virtual_time
async def test_a_result_that_comes_in_the_middle_of_a_conversation_changes_nothing():
    async with call(yaml(), machine=MachineRules()) as script:
        await talks(script, 500)
        await script.passes(21_000)
        script.session.receive_detection("machine", greeting_over=False)
        await script.passes(100)
        assert script.ended is None


@on_virtual_time
async def test_nobody_talks_to_a_fax_machine():
    async with call(yaml(), machine=MachineRules(on_machine="talk")) as script:
        await script.passes(500)
        script.session.receive_detection("fax", greeting_over=False)
        assert script.ended == ended.MACHINE_HUNG_UP
