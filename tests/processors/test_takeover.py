"""Speech-to-speech sessions that fail: what the next one knows, hears, and goes on with.

On virtual time; the pipeline, the ledger and the session of the call are the real ones.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from flowcat_server.core import ended, events
from flowcat_server.core.audio import MULAW_8K, PCM_8K, PCM_16K
from flowcat_server.core.breaker import Breaker, BreakerRules
from flowcat_server.core.interfaces import (
    AgentAudio,
    AgentTranscript,
    Alive,
    CallerSpeaking,
    CallerTranscript,
    Correct,
    GoOn,
    Message,
    Probe,
    ResponseEnded,
    Say,
    Speak,
    ToolCall,
    ToolResult,
    Truncate,
)
from flowcat_server.errors import ProviderBusy, ProviderRefused, ProviderUnavailable
from flowcat_server.providers.vad.energy import PROVIDER as ENERGY
from tests.callscript import VOICE, Script, call, loaded, parts
from tests.fakes.settings import settings
from tests.fakes.talker import Vendor, sound, turn_of
from tests.processors.test_realtime import GRAPH, TOOL_AGENT, tool
from tests.virtual import on_virtual_time

GONE = ProviderUnavailable("x", "gone")
REFUSED = ProviderRefused("x", "no")
BUSY = ProviderBusy("x", "busy")

AGENT = """
agent: {prompt: Be kind., greeting: Good morning to you.}
topology:
  mode: realtime
  provider: scripted
"""
VOICED = AGENT + "  tts: {provider: scripted, options: {first_audio_ms: 120, ms_per_char: 50TTS}}\n"
"""With a voice for fixed words."""
WITH_VOICE = VOICED.replace("TTS", "")
MS_PER_CHAR = 80
"""A slow speaker: all that was given of a text is surely said."""


def led(*vendors: Vendor, yaml: str = AGENT, **more: Any) -> Any:
    meter = ENERGY.create(settings(ENERGY))
    return call(yaml, extra={"realtime": vendors, "vad": [meter]}, **more)


def slowly(item: str, text: str) -> tuple[Any, ...]:
    """The beginning of an answer."""
    return AgentTranscript(text, item), sound(item, MS_PER_CHAR * len(text))


async def greeted(script: Script, vendor: Vendor, text: str = "Good morning to you.") -> None:
    vendor.send(*slowly("greeting", text), ResponseEnded("greeting"))
    await script.until(events.AgentHeard)


async def asked(script: Script, vendor: Vendor, text: str, item: str) -> None:
    """The caller says something, and the vendor hears it."""
    vendor.send(CallerSpeaking(True, item))
    await script.passes(500, VOICE)
    await script.passes(300)
    vendor.send(CallerSpeaking(False, item))
    if text:
        vendor.send(CallerTranscript(text, True, item))
    await script.passes(40)


def voice_in(vendor: Vendor) -> int:
    """Milliseconds of the caller's voice that a vendor was sent."""
    sent = b"".join(audio.payload for audio in vendor.audio)
    return 20 * sum(sent[at : at + len(VOICE)] == VOICE for at in range(0, len(sent), len(VOICE)))


# --- what the next session knows ------------------------------------------------------------------


@on_virtual_time
async def test_a_session_that_ends_between_turns_is_opened_again_with_what_was_heard():
    vendor = Vendor()
    async with led(vendor) as script:
        await greeted(script, vendor)
        await asked(script, vendor, "When do you open?", "c1")
        vendor.send(*slowly("a", "At nine."), ResponseEnded("a"))
        await script.until(events.AgentHeard, count=2)
        vendor.send(None)
        await script.passes(1000)
        await asked(script, vendor, "And when do you close?", "c2")
        vendor.send(*slowly("a", "At five."), ResponseEnded("a"))
        await script.until(events.AgentHeard, count=3)
        assert script.ended is None
    first, second = vendor.setups
    assert first.greeting == "Good morning to you."
    assert second.greeting == ""
    assert second.instructions == first.instructions
    assert list(second.history) == [
        Message("assistant", "Good morning to you."),
        Message("user", "When do you open?"),
        Message("assistant", "At nine."),
    ]
    assert vendor.got == [], "nobody was asked to speak"
    assert script.agent_lines == ["Good morning to you.", "At nine.", "At five."]
    assert [n.code for n in script.all(events.Notice)] == ["realtime_retried"]


@on_virtual_time
async def test_a_reply_that_was_cut_off_stands_there_as_it_was_heard():
    vendor = Vendor()
    async with led(vendor) as script:
        vendor.send(*slowly("g", "Good morning to you and all of yours."), ResponseEnded("g"))
        await script.passes(1200)
        await asked(script, vendor, "Stop.", "c1")
        vendor.send(*slowly("a", "Yes."), ResponseEnded("a"))
        await script.until(events.AgentHeard, count=2)
        vendor.send(GONE)
        await script.passes(1000)
    heard = script.agent_lines[0]
    assert heard
    assert heard != "Good morning to you and all of yours."
    history = list(vendor.setups[1].history)
    assert history[0] == Message("assistant", heard, interrupted=True)


@on_virtual_time
async def test_the_next_session_has_the_instructions_and_tools_of_the_node():
    vendor = Vendor()
    async with led(vendor, yaml=GRAPH) as script:
        await greeted(script, vendor, "Hello.")
        await asked(script, vendor, "The terms please.", "c1")
        vendor.send(ToolCall("1", "terms", {}), ResponseEnded(""))
        await script.passes(40)
        vendor.send(*slowly("a", "These are they."), ResponseEnded("a"))
        await script.until(events.AgentHeard, count=2)
        vendor.send(GONE)
        await script.passes(1000)
    first, second = vendor.setups
    assert "Read the terms." in second.instructions
    assert [t.name for t in second.tools] != [t.name for t in first.tools]
    roles = [message.role for message in second.history]
    assert roles == ["assistant", "user", "assistant", "tool", "assistant"]
    assert second.history[2].tool_calls[0].name == "terms"


@on_virtual_time
async def test_words_that_the_caller_cuts_off_later_are_taken_back():
    vendor, spare = Vendor(), Vendor()
    async with led(vendor, spare) as script:
        await greeted(script, vendor)
        await asked(script, vendor, "Tell me.", "c1")
        vendor.send(*slowly("a", "It is a long story about a mill at the river."))
        await script.passes(400)
        vendor.send(REFUSED)
        await script.passes(400)
        told = spare.setups[0].history[-1]
        assert told.text.startswith("It is a long story about a mill")
        spare.send(CallerSpeaking(True))
        await script.passes(100)
    (correct,) = spare.all(Correct)
    assert correct == Correct(2, script.agent_lines[1])
    assert told.text.startswith(correct.text)
    assert told.text != correct.text


@pytest.mark.parametrize("buffers", [True, False], ids=["carrier", "browser"])
@on_virtual_time
async def test_the_next_session_is_told_what_was_heard_of_its_own_part(buffers: bool):
    vendor, spare = Vendor(), Vendor()
    async with led(vendor, spare, buffers=buffers) as script:
        await greeted(script, vendor)
        before = script.transport.heard_ms()
        await asked(script, vendor, "Tell me.", "c1")
        vendor.send(*slowly("a", "It is long,"), REFUSED)
        await script.passes(200)
        spare.send(*slowly("a", "very long, and nobody knows its end."))
        await script.passes(1400)
        spare.send(CallerSpeaking(True))
        heard = await script.until(events.AgentHeard, count=2)
        await script.passes(100)
    (cut,) = spare.all(Truncate)
    assert 0 < cut.heard_ms < 36 * MS_PER_CHAR
    assert cut.heard_ms + 11 * MS_PER_CHAR == heard.heard_ms
    assert heard.heard_ms == pytest.approx(script.transport.heard_ms() - before, abs=60)
    assert heard.text.startswith("It is long, very")
    assert not spare.all(Correct), "of the first part all was heard"


# --- going on -------------------------------------------------------------------------------------


@on_virtual_time
async def test_the_fallback_goes_on_behind_the_last_word_that_was_surely_said():
    vendor, spare = Vendor(), Vendor()
    async with led(vendor, spare) as script:
        await greeted(script, vendor)
        await asked(script, vendor, "When do you open?", "c1")
        # The text is ahead of the sound: of its 30 characters only 12 or so are in 1000 ms.
        vendor.send(AgentTranscript("We open at nine o'clock today.", "a"), sound("a", 1000))
        vendor.send(REFUSED)
        await script.passes(200)
        assert spare.got == [GoOn("We open at")]
        spare.send(*slowly("a", "nine o'clock today."), ResponseEnded("a"))
        await script.until(events.AgentHeard, count=2)
    assert script.agent_lines[1] == "We open at nine o'clock today."
    assert spare.setups[0].history[-1] == Message("assistant", "We open at")
    assert [t.turn for t in script.all(events.TurnCompleted)] == [0, 1]
    assert voice_in(spare) == 0, "the question was written down"


@on_virtual_time
async def test_an_answer_to_words_that_were_not_written_down_is_gone_on_with_too():
    vendor, spare = Vendor(), Vendor()
    async with led(vendor, spare) as script:
        await greeted(script, vendor)
        await asked(script, vendor, "", "c1")
        vendor.send(*slowly("a", "We open at"), REFUSED)
        await script.passes(300)
        assert spare.got == [GoOn("We open at")]
        assert voice_in(spare) == 0, "the question is being answered"
        spare.send(*slowly("a", "nine."), ResponseEnded("a"))
        await script.until(events.AgentHeard, count=2)
    assert script.agent_lines[1] == "We open at nine."


@on_virtual_time
async def test_a_greeting_that_breaks_off_is_said_to_its_end():
    vendor, spare = Vendor(), Vendor()
    async with led(vendor, spare) as script:
        vendor.send(*slowly("g", "Good morning"), REFUSED)
        await script.passes(100)
        assert spare.got == [Speak("to you.")]
        spare.send(*slowly("g", "to you."), ResponseEnded("g"))
        await script.until(events.AgentHeard)
    assert script.agent_lines == ["Good morning to you."]


@on_virtual_time
async def test_a_greeting_of_which_nothing_was_said_is_said_by_the_fallback():
    vendor, spare = Vendor(), Vendor()
    async with led(vendor, spare) as script:
        vendor.send(REFUSED)
        await script.passes(100)
    assert spare.got == [Speak("Good morning to you.")]
    assert list(spare.setups[0].history) == []


@on_virtual_time
async def test_a_question_that_was_written_down_is_answered_by_the_fallback():
    vendor, spare = Vendor(), Vendor()
    async with led(vendor, spare) as script:
        await greeted(script, vendor)
        await asked(script, vendor, "When do you open?", "c1")
        vendor.send(REFUSED)
        await script.passes(100)
        assert spare.got == [Speak()]
        assert spare.setups[0].history[-1] == Message("user", "When do you open?")
        spare.send(*slowly("a", "At nine."), ResponseEnded("a"))
        await script.until(events.AgentHeard, count=2)
    assert script.agent_lines[1] == "At nine."
    assert voice_in(spare) == 0


@on_virtual_time
async def test_a_question_that_was_not_is_heard_again_and_is_the_same_turn():
    vendor, spare = Vendor(), Vendor()
    async with led(vendor, spare) as script:
        await greeted(script, vendor)
        await asked(script, vendor, "", "c1")
        vendor.send(REFUSED)
        await script.passes(100)
        assert spare.got == []
        assert voice_in(spare) == 500
        spare.send(*turn_of("x1"), CallerTranscript("When?", True, "x1"))
        spare.send(*slowly("a", "At nine."), ResponseEnded("a"))
        done = await script.until(events.TurnCompleted, count=2)
    assert (done.turn, done.caller, done.agent) == (1, "When?", "At nine.")
    speaking = [e.speaking for e in script.all(events.CallerSpeaking)]
    assert speaking == [True, False]


@on_virtual_time
async def test_typed_words_are_answered_by_the_fallback():
    vendor, spare = Vendor(), Vendor()
    async with led(vendor, spare) as script:
        await greeted(script, vendor)
        script.session.receive_text("When do you open?")
        await script.passes(40)
        assert vendor.got == [Say("When do you open?")]
        vendor.send(REFUSED)
        await script.passes(100)
        assert spare.got == [Speak()]
    assert spare.setups[0].history[-1] == Message("user", "When do you open?")


@pytest.mark.parametrize("audio", [PCM_8K, PCM_16K, MULAW_8K], ids=str)
@on_virtual_time
async def test_a_caller_in_mid_sentence_loses_no_word(audio: Any):
    vendor, spare = Vendor(), Vendor(audio)
    async with led(vendor, spare) as script:
        await greeted(script, vendor)
        await script.passes(2000)
        vendor.send(CallerSpeaking(True, "c1"))
        await script.passes(600, VOICE)
        vendor.send(REFUSED)
        await script.passes(600, VOICE)
        await script.passes(300)
        sent = sum(len(item.payload) for item in spare.audio)
        assert audio.duration_ms(sent) == pytest.approx(1000 + 1200 + 300, abs=60)
        spare.send(*turn_of("x1"), CallerTranscript("All of it.", True, "x1"))
        # Half a second of what the spare says, in its own format.
        spare.send(AgentTranscript("Yes.", "a"), AgentAudio(audio.silence(500), "a"))
        spare.send(ResponseEnded("a"))
        done = await script.until(events.TurnCompleted, count=2)
    assert (done.turn, done.caller, done.agent) == (1, "All of it.", "Yes.")
    assert script.all(events.AgentHeard)[1].heard_ms == 500


@on_virtual_time
async def test_what_is_held_back_stays_so_over_a_change_of_sessions():
    yaml = AGENT + "turn: {interruption: {enabled: false}}\n"
    vendor, spare = Vendor(), Vendor()
    async with led(vendor, spare, yaml=yaml) as script:
        vendor.send(*slowly("g", "Good morning to you."), ResponseEnded("g"))
        await script.passes(300)
        await script.passes(300, VOICE)
        vendor.send(REFUSED)
        await script.passes(300)
        assert voice_in(spare) == 0, "the agent still speaks"
        await script.until(events.AgentHeard)
        await script.passes(100)
        assert voice_in(spare) == 300
    assert script.agent_lines == ["Good morning to you."]


@on_virtual_time
async def test_a_tool_under_way_is_finished_and_the_next_session_knows_its_result():
    vendor, spare = Vendor(), Vendor()
    yaml = TOOL_AGENT
    async with led(vendor, spare, yaml=yaml, tools=[tool(delay_s=1.5)]) as script:
        await greeted(script, vendor, "Hello.")
        await asked(script, vendor, "Is there a table?", "c1")
        vendor.send(ToolCall("1", "look_up", {"day": "today"}), ResponseEnded(""))
        await script.passes(300)
        vendor.send(REFUSED)
        await script.passes(1000)
        assert spare.setups == []
        await script.passes(500)
        assert spare.got == [Speak()]
        spare.send(*slowly("a", "There are four."), ResponseEnded("a"))
        await script.until(events.AgentHeard, count=2)
    assert not spare.all(ToolResult), "the vendor has made no such call"
    asked_for, result = spare.setups[0].history[-2:]
    assert asked_for.tool_calls == (ToolCall("1", "look_up", {"day": "today"}),)
    assert result == Message("tool", "four tables {'day': 'today'}", tool_call_id="1")
    assert script.agent_lines[1] == "There are four."
    assert len(script.all(events.ToolStarted)) == 1


# --- a session that does not listen ---------------------------------------------------------------


@on_virtual_time
async def test_a_session_that_says_nothing_is_found_out_by_the_callers_own_voice():
    vendor, spare = Vendor(), Vendor()
    async with led(vendor, spare, yaml=WITH_VOICE) as script:
        await greeted(script, vendor)
        await script.passes(2000)
        await script.passes(800, VOICE)
        last_voice = script.session.now_ms()
        await script.passes(1500)
        assert vendor.got == [Probe()]
        filler = await script.until(events.AgentSpeaking, count=3)
        assert filler.at_ms - last_voice <= 2500
        await script.passes(4000)
        assert voice_in(spare) == 800
        spare.send(Alive(), *turn_of("x1"), CallerTranscript("Hello?", True, "x1"))
        spare.send(*slowly("a", "Here I am."), ResponseEnded("a"))
        await script.until(events.AgentHeard, count=4)
    assert script.agent_lines[-1] == "Here I am."
    assert [n.code for n in script.all(events.Notice)] == ["realtime_fallback"]


@on_virtual_time
async def test_a_session_that_ignores_a_cough_but_is_there_is_left_in_peace():
    vendor, spare = Vendor(), Vendor()
    async with led(vendor, spare, yaml=WITH_VOICE) as script:
        await greeted(script, vendor)
        await script.passes(400, VOICE)
        await script.passes(1100)
        assert vendor.got == [Probe()]
        vendor.send(Alive())
        await script.passes(9000)
    assert script.agent_lines == ["Good morning to you."]
    assert spare.setups == []


# --- fixed words ----------------------------------------------------------------------------------


@on_virtual_time
async def test_a_late_answer_is_preceded_by_a_filler_and_follows_it():
    vendor = Vendor()
    async with led(vendor, yaml=WITH_VOICE) as script:
        await greeted(script, vendor)
        await asked(script, vendor, "When?", "c1")
        began = len(script.transport.heard)
        for _ in range(120):
            if len(script.transport.heard) > began:
                break
            await script.passes(20)
        vendor.send(*slowly("a", "At nine."), ResponseEnded("a"))
        done = await script.until(events.TurnCompleted, count=2)
        played = b"".join(audio for _, audio in script.transport.heard[began:])
    assert done.agent == "One moment. At nine."
    assert done.turn == 1
    first = played.find(b"\x00\x40" * 100)
    assert PCM_8K.duration_ms(first) >= 12 * 50 - 60, "the answer waits for the filler's end"


@on_virtual_time
async def test_a_filler_that_has_no_sound_yet_makes_way_for_the_answer():
    yaml = VOICED.replace("TTS", "").replace("first_audio_ms: 120", "first_audio_ms: 1000")
    vendor = Vendor()
    async with led(vendor, yaml=yaml) as script:
        await greeted(script, vendor)
        await asked(script, vendor, "When?", "c1")
        await script.passes(1800)
        vendor.send(*slowly("a", "At nine."), ResponseEnded("a"))
        done = await script.until(events.TurnCompleted, count=2)
    assert [e.text for e in script.all(events.AgentText)][-2] == "One moment."
    assert done.agent == "At nine."
    assert not done.interrupted


@on_virtual_time
async def test_a_filler_is_interrupted_like_any_other_speech():
    vendor = Vendor()
    async with led(vendor, yaml=WITH_VOICE) as script:
        await greeted(script, vendor)
        await asked(script, vendor, "When?", "c1")
        await script.until(events.AgentSpeaking, count=3)
        await script.passes(200)
        vendor.send(CallerSpeaking(True, "c2"))
        heard = await script.until(events.AgentHeard, count=2)
        await script.passes(300)
        assert script.transport.cleared
        vendor.send(ResponseEnded(""), CallerSpeaking(False, "c2"))
        vendor.send(*slowly("b", "At nine."), ResponseEnded("b"))
        await script.until(events.AgentHeard, count=3)
    assert heard.interrupted
    assert heard.text in ("", "One")
    assert script.agent_lines[2] == "At nine."


@on_virtual_time
async def test_a_tool_that_takes_long_is_bridged_by_a_filler():
    vendor = Vendor()
    voice = "provider: scripted, tts: {provider: scripted}"
    yaml = TOOL_AGENT.replace("provider: scripted", voice)
    async with led(vendor, yaml=yaml, tools=[tool(delay_s=3)]) as script:
        await greeted(script, vendor, "Hello.")
        await asked(script, vendor, "Is there a table?", "c1")
        vendor.send(ToolCall("1", "look_up", {}), ResponseEnded(""))
        await script.passes(3200)
        vendor.send(*slowly("b", "There are four."), ResponseEnded("b"))
        await script.until(events.AgentHeard, count=2)
    assert script.agent_lines[1] == "One moment. There are four."


@on_virtual_time
async def test_without_a_voice_there_are_no_fillers_and_the_end_names_the_culprit():
    vendor = Vendor()
    async with led(vendor) as script:
        await greeted(script, vendor)
        await asked(script, vendor, "When?", "c1")
        vendor.send(GONE, GONE)
        over = await script.until(events.CallEnded)
    assert (over.reason, over.detail) == (ended.PROVIDER_FAILED, "realtime x: gone")
    assert script.agent_lines[0] == "Good morning to you."
    assert len(vendor.setups) == 2


@on_virtual_time
async def test_a_turn_that_nobody_can_help_with_is_apologised_for_and_the_call_goes_on():
    vendor = Vendor()
    async with led(vendor, yaml=WITH_VOICE) as script:
        await greeted(script, vendor)
        await asked(script, vendor, "When?", "c1")
        vendor.send(GONE, GONE)
        await script.until(events.AgentHeard, count=2)
        await asked(script, vendor, "When do you open?", "c2")
        vendor.send(*slowly("a", "At nine."), ResponseEnded("a"))
        await script.until(events.AgentHeard, count=3)
        await asked(script, vendor, "And close?", "c3")
        vendor.send(GONE, GONE)
        await script.until(events.AgentHeard, count=4)
        assert script.ended is None, "one answer between two failures starts the count anew"
    sorry = "Sorry, I lost my thread. Could you repeat that?"
    assert script.agent_lines[1:] == [sorry, "At nine.", sorry]
    assert vendor.setups[-1].history[-1] == Message("assistant", sorry)


@on_virtual_time
async def test_a_refused_key_ends_the_call_with_a_goodbye():
    vendor = Vendor()
    async with led(vendor, yaml=WITH_VOICE) as script:
        vendor.send(REFUSED)
        over = await script.until(events.CallEnded)
    assert (over.reason, over.detail) == (ended.PROVIDER_FAILED, "realtime x: no")
    assert script.agent_lines[-1].endswith("Please call again a little later.")


@on_virtual_time
async def test_a_call_that_cannot_go_on_is_passed_on_with_its_cause():
    yaml = WITH_VOICE + (
        "turn: {dead_air: {transfer: {name: desk, phone: '+442079460000', say: One moment.}}}\n"
    )
    vendor = Vendor()
    async with led(vendor, yaml=yaml) as script:
        vendor.send(REFUSED)
        over = await script.until(events.CallEnded)
    assert (over.reason, over.detail) == (ended.AGENT_TRANSFERRED, "desk, for realtime x: no")
    assert script.agent_lines == ["One moment."]


@on_virtual_time
async def test_a_goodbye_that_breaks_off_still_ends_the_call_as_it_was_meant():
    vendor = Vendor()
    async with led(vendor, yaml=GRAPH) as script:
        await greeted(script, vendor, "Hello.")
        await asked(script, vendor, "That is all.", "c1")
        vendor.send(ToolCall("1", "wrap_up", {}), ResponseEnded(""))
        await script.passes(100)
        vendor.send(*slowly("a", "Goodbye,"), GONE, GONE)
        over = await script.until(events.CallEnded)
    assert over.reason == ended.AGENT_ENDED
    assert script.agent_lines[-1] == "Goodbye,"


@pytest.mark.parametrize("fault", ["refuse", "hang"])
@on_virtual_time
async def test_a_voice_that_fails_costs_the_fillers_but_not_the_call(fault: str):
    vendor = Vendor()
    async with led(vendor, yaml=VOICED.replace("TTS", f", fail: {fault}")) as script:
        await greeted(script, vendor)
        await asked(script, vendor, "When?", "c1")
        await script.passes(3500)
        vendor.send(*slowly("a", "At nine."), ResponseEnded("a"))
        await script.until(events.AgentHeard, count=2)
        await asked(script, vendor, "And?", "c2")
        await script.passes(3500)
        vendor.send(*slowly("b", "At five."), ResponseEnded("b"))
        await script.until(events.AgentHeard, count=3)
        assert script.ended is None
    assert script.agent_lines[1:] == ["At nine.", "At five."]


# --- over several calls ---------------------------------------------------------------------------


@on_virtual_time
async def test_calls_begin_with_the_fallback_while_the_breaker_is_open():
    dead, spare = Vendor(), Vendor()
    made = await parts(loaded(AGENT), extra={"realtime": [dead, spare]})
    rules = BreakerRules(failures=2, open_ms=30_000)
    shared = replace(made, realtime=[replace(c, breaker=Breaker(rules)) for c in made.realtime])
    for number in range(3):
        dead.send(BUSY)
        async with call(AGENT, shared=shared) as script:
            await greeted(script, spare)
        assert script.agent_lines == ["Good morning to you."]
        assert len(dead.setups) == min(number + 1, 2)
    assert shared.realtime[0].breaker.opened == 1
    assert spare.setups[-1].greeting == "Good morning to you."


@on_virtual_time
async def test_words_that_were_prepared_are_said_though_their_voice_is_silent():
    vendor = Vendor()
    meter = ENERGY.create(settings(ENERGY))
    shared = await parts(
        loaded(VOICED.replace("TTS", ", fail: hang, fail_after: 1")),
        extra={"realtime": [vendor], "vad": [meter]},
    )
    await shared.prepared.add(shared.tts[0].plug, ["One moment."])
    async with call("", shared=shared) as script:
        await greeted(script, vendor)
        await asked(script, vendor, "When?", "c1")
        await script.passes(2500)
        vendor.send(*slowly("a", "At nine."), ResponseEnded("a"))
        await script.until(events.AgentHeard, count=2)
    assert script.agent_lines[1] == "One moment. At nine."
