"""Speech-to-speech calls on virtual time: a vendor that does what the test says, or a scripted one.

The pipeline, the ledger and the session are the real ones.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from flowcat_server.core import ended, events
from flowcat_server.core.interfaces import (
    AgentTranscript,
    CallerSpeaking,
    CallerTranscript,
    ResponseEnded,
    Say,
    Speak,
    ToolCall,
    ToolResult,
    ToolSpec,
    Truncate,
    Update,
    Usage,
)
from flowcat_server.processors.reply import MAX_ROUNDS
from flowcat_server.providers.vad.scripted import PROVIDER as SCRIPTED_VAD
from flowcat_server.tools.toolbox import Tool
from tests.callscript import VOICE, Script, call
from tests.fakes.settings import settings
from tests.fakes.talker import Vendor, says, sound, turn_of
from tests.virtual import on_virtual_time

AGENT = """
agent: {prompt: Be kind., greeting: Good morning to you.}
topology: {mode: realtime, provider: scripted, options: {OPTIONS}}
"""
GRAPH = """
agent:
  graph_inline:
    nodes:
      - {id: start, type: startCall, data: {prompt: Help., greeting: Hello.}}
      - {id: terms, type: agentNode, data: {prompt: Read the terms., allow_interrupt: false}}
      - {id: pass, type: agentNode, data: {prompt: Pass on., transfer_targets: [
          {name: desk, target_phone: "+12025550143", say: One second please.}]}}
      - {id: done, type: endCall, data: {prompt: Say goodbye., greeting: "Goodbye, and thank you."}}
    edges:
      - {id: e, source: start, target: done, label: Wrap up, data: {condition: The caller is done}}
      - {id: t, source: start, target: terms, label: Terms, data: {condition: Terms are wanted}}
      - {id: p, source: start, target: pass, label: Pass, data: {condition: A person is wanted}}
topology: {mode: realtime, provider: scripted}
"""


both_wires = pytest.mark.parametrize("buffers", [True, False], ids=["carrier", "browser"])


def scripted(options: str = "") -> str:
    return AGENT.replace("OPTIONS", options)


def led(vendor: Vendor, yaml: str = AGENT.replace("OPTIONS", ""), **more: Any) -> Any:
    return call(yaml, extra={"realtime": [vendor]}, **more)


async def greeted(script: Script, vendor: Vendor, text: str = "Good morning to you.") -> None:
    """The vendor greets and is heard to the end."""
    vendor.send(*says("greeting", text, 600))
    await script.until(events.AgentHeard)


def texts(script: Script, *, final: bool = True) -> list[tuple[int, str]]:
    return [(e.turn, e.text) for e in script.all(events.CallerText) if e.final is final]


# --- a conversation -------------------------------------------------------------------------------


@both_wires
@on_virtual_time
async def test_it_greets_listens_and_answers(buffers: bool):
    yaml = scripted("hears: [hello there, and again], replies: [First answer., Second answer.]")
    async with call(yaml, buffers=buffers) as script:
        await script.until(events.AgentHeard)
        for count in (2, 3):
            await script.speaks()
            await script.until(events.AgentHeard, count=count)
    assert script.agent_lines == ["Good morning to you.", "First answer.", "Second answer."]
    assert texts(script) == [(1, "hello there"), (2, "and again")]
    turns = script.all(events.TurnCompleted)
    assert [(t.turn, t.caller, t.agent) for t in turns] == [
        (0, "", "Good morning to you."),
        (1, "hello there", "First answer."),
        (2, "and again", "Second answer."),
    ]
    assert [e.node for e in script.all(events.NodeEntered)] == ["start"]


@both_wires
@on_virtual_time
async def test_latency_is_counted_from_the_callers_last_voiced_sample(buffers: bool):
    yaml = scripted("hears: [hello], replies: [An answer.], silence_ms: 400, first_audio_ms: 150")
    vad = SCRIPTED_VAD.create(settings(SCRIPTED_VAD))
    async with call(yaml, buffers=buffers, extra={"vad": [vad]}) as script:
        await script.until(events.AgentHeard)
        began = len(script.transport.heard)
        await script.passes(800, VOICE)
        last_voice = script.session.now_ms()
        latency = (await script.until(events.TurnCompleted, count=2)).latency
    assert latency is not None
    first_sound = script.transport.heard[began][0] - script.transport.delay_ms
    assert abs(last_voice + latency.total_ms - first_sound) <= 32 + 20
    assert latency.endpointing_ms == pytest.approx(400, abs=60)
    assert latency.llm_first_token_ms + latency.tts_first_audio_ms == pytest.approx(150, abs=5)


@on_virtual_time
async def test_sentences_are_told_one_by_one_and_the_ledger_has_the_text_as_it_was_written():
    vendor = Vendor()
    async with led(vendor) as script:
        await greeted(script, vendor)
        for piece in (" We", " open at", " eight. ", "And", " close", " at five.\n"):
            vendor.send(AgentTranscript(piece, "a"))
        vendor.send(sound("a"), ResponseEnded("a"))
        await script.until(events.AgentHeard, count=2)
    said = [e.text for e in script.all(events.AgentText) if e.turn == 1]
    assert said == ["We open at eight.", "And close at five."]
    assert script.agent_lines[1] == "We open at eight. And close at five."


@pytest.mark.parametrize("first", ["text", "audio"])
@on_virtual_time
async def test_text_may_come_before_or_after_the_audio(first: str):
    vendor = Vendor()
    async with led(vendor) as script:
        await greeted(script, vendor)
        pair = [AgentTranscript("We open at eight.", "a"), sound("a")]
        vendor.send(*turn_of("c1"), *(pair if first == "text" else pair[::-1]), ResponseEnded("a"))
        await script.until(events.AgentHeard, count=2)
    assert script.agent_lines[1] == "We open at eight."
    assert script.all(events.TurnCompleted)[1].latency is not None


@on_virtual_time
async def test_text_without_audio_was_never_heard():
    vendor = Vendor()
    async with led(vendor) as script:
        await greeted(script, vendor)
        vendor.send(*turn_of(), AgentTranscript("Not a sound.", "a"), ResponseEnded("a"))
        heard = await script.until(events.AgentHeard, count=2)
    assert (heard.text, heard.unheard) == ("", "Not a sound.")


@on_virtual_time
async def test_a_response_of_several_items_is_one_reply():
    vendor = Vendor()
    async with led(vendor) as script:
        await greeted(script, vendor)
        vendor.send(*turn_of(), AgentTranscript("First.", "a"), sound("a", 400))
        vendor.send(*says("b", "Second.", 400))
        await script.until(events.AgentHeard, count=2)
        await script.passes(500)
    assert script.agent_lines == ["Good morning to you.", "First. Second."]
    assert script.session.reason is not None


# --- transcripts ----------------------------------------------------------------------------------


@on_virtual_time
async def test_a_transcript_may_come_when_the_answer_is_under_way():
    vendor = Vendor()
    async with led(vendor) as script:
        await greeted(script, vendor)
        vendor.send(*turn_of("c1"), AgentTranscript("Yes.", "a"), sound("a"), ResponseEnded("a"))
        await script.passes(200)
        vendor.send(CallerTranscript("Are you", False, "c1"))
        vendor.send(CallerTranscript("Are you open?", True, "c1"))
        done = await script.until(events.TurnCompleted, count=2)
    assert (done.turn, done.caller, done.agent) == (1, "Are you open?", "Yes.")
    assert texts(script) == [(1, "Are you open?")]
    assert texts(script, final=False) == [(1, "Are you")]


@on_virtual_time
async def test_a_transcript_that_comes_too_late_still_names_its_turn():
    vendor = Vendor()
    async with led(vendor) as script:
        await greeted(script, vendor)
        vendor.send(*turn_of("c1"), *says("a", "One.", 200))
        await script.until(events.TurnCompleted, count=2)
        vendor.send(*turn_of("c2"), *says("b", "Two.", 200))
        vendor.send(CallerTranscript("second", True, "c2"), CallerTranscript("first", True, "c1"))
        await script.until(events.TurnCompleted, count=3)
    assert texts(script) == [(2, "second"), (1, "first")]
    assert [t.caller for t in script.all(events.TurnCompleted)] == ["", "", "second"]


@on_virtual_time
async def test_a_vendor_that_is_silent_about_the_callers_voice_still_makes_turns():
    vendor = Vendor()
    async with led(vendor) as script:
        await greeted(script, vendor)
        vendor.send(CallerTranscript("hello", True), *says("a", "One.", 200))
        await script.until(events.AgentHeard, count=2)
        vendor.send(AgentTranscript("Two.", "b"), sound("b", 400))
        vendor.send(CallerTranscript("again", True), ResponseEnded("b"))
        await script.until(events.AgentHeard, count=3)
    turns = script.all(events.TurnCompleted)[1:]
    assert [(t.turn, t.caller, t.agent) for t in turns] == [
        (1, "hello", "One."),
        (2, "again", "Two."),
    ]


# --- interruptions --------------------------------------------------------------------------------


@both_wires
@on_virtual_time
async def test_the_vendor_forgets_exactly_what_was_not_heard(buffers: bool):
    vendor = Vendor()
    async with led(vendor, buffers=buffers) as script:
        await greeted(script, vendor)
        before = script.transport.heard_ms()
        vendor.send(*turn_of(), AgentTranscript("One two three four.", "a"), sound("a", 1000))
        vendor.send(AgentTranscript("Five six seven eight.", "b"), sound("b", 1000))
        vendor.send(AgentTranscript("Never.", "c"), sound("c", 1000), ResponseEnded("c"))
        await script.passes(1500)
        vendor.send(CallerSpeaking(True))
        heard = await script.until(events.AgentHeard, count=2)
        await script.passes(100)
    cuts = {cut.item: cut.heard_ms for cut in vendor.all(Truncate)}
    assert cuts["a"] == 1000
    assert 0 < cuts["b"] < 1000
    assert cuts["c"] == 0
    assert sum(cuts.values()) == heard.heard_ms
    assert heard.heard_ms == pytest.approx(script.transport.heard_ms() - before, abs=60)
    assert heard.text.startswith("One two three four. Five")
    assert "Never" in heard.unheard
    assert heard.interrupted


@on_virtual_time
async def test_what_is_left_of_a_cut_response_is_not_heard_but_the_next_one_is():
    vendor = Vendor()
    async with led(vendor) as script:
        await greeted(script, vendor)
        vendor.send(*turn_of(), AgentTranscript("Cut here.", "a"), sound("a", 1000))
        await script.passes(300)
        vendor.send(CallerSpeaking(True), sound("a", 1000), *says("late", "Late item."))
        vendor.send(CallerSpeaking(False), *says("b", "The answer.", 300))
        await script.until(events.AgentHeard, count=3)
    assert script.agent_lines[2] == "The answer."
    assert [t.turn for t in script.all(events.TurnCompleted)] == [0, 1, 2]
    assert Truncate("late", 0) in vendor.got
    assert "Late item." not in [e.text for e in script.all(events.AgentText)]


@on_virtual_time
async def test_a_caller_who_goes_on_before_the_answer_gets_one_to_all_of_it():
    vendor = Vendor()
    async with led(vendor) as script:
        await greeted(script, vendor)
        vendor.send(*turn_of("c1"))
        await script.passes(100)
        vendor.send(CallerSpeaking(True, "c2"), ResponseEnded(""), CallerSpeaking(False, "c2"))
        vendor.send(*says("a", "Both answered.", 300))
        await script.until(events.AgentHeard, count=3)
    assert script.agent_lines[1:] == ["", "Both answered."]
    assert not script.all(events.Notice)


@on_virtual_time
async def test_an_agent_that_may_not_be_interrupted_hears_the_caller_afterwards():
    yaml = AGENT.replace("OPTIONS", "") + "turn: {interruption: {enabled: false}}\n"
    vendor = Vendor()
    async with led(vendor, yaml) as script:
        vendor.send(*says("greeting", "Good morning to you.", 1000))
        await script.passes(100)
        before = len(vendor.audio)
        await script.passes(500, VOICE)
        assert len(vendor.audio) == before, "the vendor was distracted"
        await script.until(events.AgentHeard)
        await script.passes(100)
    assert script.agent_lines == ["Good morning to you."]
    assert not script.transport.cleared
    held = b"".join(audio.payload for audio in vendor.audio)
    assert VOICE * 25 in held


@on_virtual_time
async def test_a_node_may_forbid_interruptions():
    vendor = Vendor()
    async with led(vendor, GRAPH) as script:
        await greeted(script, vendor, "Hello.")
        vendor.send(*turn_of(), ToolCall("1", "terms", {}), ResponseEnded(""))
        await script.passes(100)
        vendor.send(*says("a", "These are the terms.", 1000))
        await script.passes(300)
        vendor.send(CallerSpeaking(True))
        await script.until(events.AgentHeard, count=2)
    assert script.agent_lines[1] == "These are the terms."
    assert not vendor.all(Truncate)


# --- tools and the graph --------------------------------------------------------------------------


class LookUp:
    def __init__(self, delay_s: float) -> None:
        self._delay_s = delay_s

    async def run(self, arguments: Mapping[str, Any], variables: Mapping[str, Any]) -> str:
        await asyncio.sleep(self._delay_s)
        return f"four tables {dict(arguments)}"


def tool(delay_s: float = 0.0) -> Tool:
    return Tool(ToolSpec("look_up", "Look up."), LookUp(delay_s), timeout_ms=30_000)


TOOL_AGENT = """
agent:
  graph_inline:
    nodes:
      - {id: start, type: startCall, data: {prompt: Help., greeting: Hello., tools: [look_up]}}
      - {id: done, type: endCall, data: {prompt: Say goodbye.}}
    edges: [{id: e, source: start, target: done, label: Wrap up, data: {condition: Done}}]
topology: {mode: realtime, provider: scripted}
tools: [{name: look_up, http: {url: "http://127.0.0.1:9/"}}]
"""


@on_virtual_time
async def test_a_tool_and_the_answer_made_of_it_are_one_reply():
    vendor = Vendor()
    async with led(vendor, TOOL_AGENT, tools=[tool()]) as script:
        await greeted(script, vendor, "Hello.")
        vendor.send(*turn_of(), AgentTranscript("Let me look.", "a"), sound("a", 300))
        vendor.send(ToolCall("1", "look_up", {"day": "today"}), ResponseEnded("a"))
        await script.passes(1000)
        assert vendor.got[-1] == ToolResult("1", "four tables {'day': 'today'}", respond=True)
        vendor.send(*says("b", "There are four.", 300))
        await script.until(events.AgentHeard, count=2)
    assert script.agent_lines[1] == "Let me look. There are four."
    assert [t.turn for t in script.all(events.TurnCompleted)] == [0, 1]
    assert [t.result for t in script.all(events.ToolEnded)] == ["four tables {'day': 'today'}"]


@on_virtual_time
async def test_a_response_that_only_calls_a_tool_has_a_latency_when_it_speaks():
    vendor = Vendor()
    async with led(vendor, TOOL_AGENT, tools=[tool(delay_s=0.5)]) as script:
        await greeted(script, vendor, "Hello.")
        vendor.send(*turn_of(), ToolCall("1", "look_up", {}), ResponseEnded(""))
        await script.passes(1000)
        vendor.send(*says("b", "There are four.", 300))
        completed = await script.until(events.TurnCompleted, count=2)
    assert completed.latency is not None
    assert completed.latency.llm_first_sentence_ms >= 500


@on_virtual_time
async def test_a_tool_is_stopped_by_an_interruption_and_the_vendor_is_told():
    vendor = Vendor()
    async with led(vendor, TOOL_AGENT, tools=[tool(delay_s=20)]) as script:
        await greeted(script, vendor, "Hello.")
        vendor.send(*turn_of(), ToolCall("1", "look_up", {}), ResponseEnded(""))
        await script.passes(500)
        vendor.send(*turn_of(), *says("b", "As you like.", 300))
        await script.until(events.AgentHeard, count=3)
    (result,) = vendor.all(ToolResult)
    assert result.call_id == "1"
    assert "Not finished" in result.result
    assert not result.respond
    assert script.agent_lines[-1] == "As you like."
    (stopped,) = script.all(events.ToolEnded)
    assert not stopped.ok


@on_virtual_time
async def test_a_model_that_calls_tools_for_ever_is_stopped():
    vendor = Vendor()
    async with led(vendor, TOOL_AGENT, tools=[tool()]) as script:
        await greeted(script, vendor, "Hello.")
        vendor.send(*turn_of())
        for number in range(MAX_ROUNDS):
            vendor.send(ToolCall(str(number), "look_up", {}), ResponseEnded(""))
            await script.passes(40)
        await script.until(events.AgentHeard, count=2)
    assert [r.respond for r in vendor.all(ToolResult)] == [True] * (MAX_ROUNDS - 1) + [False]


@both_wires
@on_virtual_time
async def test_the_call_ends_when_the_goodbye_has_been_heard(buffers: bool):
    vendor = Vendor()
    async with led(vendor, GRAPH, buffers=buffers) as script:
        await greeted(script, vendor, "Hello.")
        vendor.send(*turn_of(), ToolCall("1", "wrap_up", {}), ResponseEnded(""))
        await script.passes(100)
        update, result = vendor.got[-2:]
        assert isinstance(update, Update)
        assert "Say goodbye." in update.instructions
        assert update.tools == []
        assert isinstance(result, ToolResult)
        assert result.respond
        assert "Goodbye, and thank you." in result.result
        before = script.transport.heard_ms()
        vendor.send(*says("a", "Goodbye, and thank you.", 900))
        over = await script.until(events.CallEnded)
    assert over.reason == ended.AGENT_ENDED
    assert script.transport.heard_ms() - before == pytest.approx(900, abs=20)
    assert script.agent_lines[-1] == "Goodbye, and thank you."


@on_virtual_time
async def test_a_caller_who_speaks_into_the_goodbye_is_not_hung_up_on():
    vendor = Vendor()
    async with led(vendor, GRAPH) as script:
        await greeted(script, vendor, "Hello.")
        vendor.send(*turn_of(), ToolCall("1", "wrap_up", {}), ResponseEnded(""))
        await script.passes(100)
        vendor.send(*says("a", "Goodbye, and thank you.", 900))
        await script.passes(400)
        vendor.send(*turn_of(), *says("b", "Of course.", 300))
        await script.until(events.AgentHeard, count=3)
        await script.passes(2000)
        assert script.ended is None
    assert "Help." in vendor.all(Update)[-1].instructions
    assert [e.node for e in script.all(events.NodeEntered)] == ["start", "done", "start"]


@on_virtual_time
async def test_a_transfer_waits_for_its_announcement():
    vendor = Vendor()
    async with led(vendor, GRAPH) as script:
        await greeted(script, vendor, "Hello.")
        vendor.send(*turn_of(), ToolCall("1", "pass", {}), ResponseEnded(""))
        await script.passes(100)
        vendor.send(ToolCall("2", "transfer_to_desk", {}), ResponseEnded(""))
        await script.passes(100)
        assert "One second please." in vendor.all(ToolResult)[-1].result
        assert script.ended is None
        vendor.send(*says("a", "One second please.", 500))
        over = await script.until(events.CallEnded)
    assert (over.reason, over.detail) == (ended.AGENT_TRANSFERRED, "desk")


@on_virtual_time
async def test_tokens_and_audio_of_both_ways_are_told_at_the_end():
    vendor = Vendor()
    async with led(vendor) as script:
        vendor.send(Usage(10, 5, 2))
        await greeted(script, vendor)
        vendor.send(Usage(30, 9, 4))
        await script.passes(400)
        lasted_ms = script.session.now_ms()
    heard, session = script.all(events.UsageCounted)
    assert (heard.kind, heard.characters, heard.audio_ms) == ("heard", 20, 600)
    assert (session.kind, session.provider) == ("realtime", "realtime.0")
    assert (session.input_tokens, session.output_tokens, session.cached_tokens) == (30, 9, 4)
    assert abs(session.audio_ms - 600 - lasted_ms) <= 40


# --- keys, typing, a caller who is quiet ----------------------------------------------------------


@on_virtual_time
async def test_keys_are_gathered_to_a_number():
    vendor = Vendor()
    async with led(vendor) as script:
        await greeted(script, vendor)
        for digit in "42":
            script.session.receive_digit(digit)
            await script.passes(400)
        assert not vendor.all(Say)
        await script.passes(1300)
        assert vendor.got[-1] == Say("[keypad: 4 2]")
        vendor.send(*says("a", "Forty two.", 200))
        await script.until(events.AgentHeard, count=2)
        script.session.receive_digit("7")
        script.session.receive_digit("#")
        await script.passes(40)
        assert vendor.got[-1] == Say("[keypad: 7 #]")
    assert texts(script) == [(1, "[keypad: 4 2]"), (2, "[keypad: 7 #]")]
    assert [e.digit for e in script.all(events.DigitPressed)] == ["4", "2", "7", "#"]


@on_virtual_time
async def test_typed_text_interrupts_and_is_answered():
    vendor = Vendor()
    async with led(vendor) as script:
        vendor.send(*says("greeting", "Good morning to you.", 2000))
        await script.passes(500)
        script.session.receive_text("What are your hours?")
        await script.passes(40)
        assert [type(item) for item in vendor.got] == [Truncate, Say]
        vendor.send(*says("a", "Eight to five.", 300))
        await script.until(events.AgentHeard, count=2)
    assert script.agent_lines[1] == "Eight to five."
    (said,) = [e for e in script.all(events.CallerText) if e.final]
    assert said.typed
    assert script.all(events.TurnCompleted)[1].caller == "What are your hours?"


@on_virtual_time
async def test_lines_typed_quickly_get_one_answer_or_two():
    vendor = Vendor()
    async with led(vendor) as script:
        await greeted(script, vendor)
        script.session.receive_text("One?")
        script.session.receive_text("Two?")
        await script.passes(40)
        vendor.send(*says("a", "Both.", 300), *says("b", "And more.", 300))
        await script.until(events.AgentHeard, count=4)
        await script.passes(8000)
        assert script.ended is None
    assert script.agent_lines[1:4] == ["", "Both.", "And more."]


@on_virtual_time
async def test_a_quiet_caller_is_asked_by_the_model_and_then_left():
    yaml = scripted() + "turn: {idle: {after: 3s, say: [Still there?], times: 2}}\n"
    async with call(yaml) as script:
        over = await script.until(events.CallEnded, within_ms=60_000)
    assert over.reason == ended.CALLER_IDLE
    assert script.agent_lines == ["Good morning to you.", "Still there?", "Still there?"]


@on_virtual_time
async def test_an_agent_without_a_greeting_speaks_first_all_the_same():
    vendor = Vendor()
    async with led(vendor, GRAPH.replace("greeting: Hello.", "")) as script:
        await script.passes(40)
        assert vendor.got == [Speak()]
        vendor.send(*says("a", "Hi.", 200))
        await script.until(events.AgentHeard)
    assert script.agent_lines == ["Hi."]


# --- trouble --------------------------------------------------------------------------------------


@on_virtual_time
async def test_a_vendor_that_never_answers_is_asked_again_and_then_named():
    yaml = AGENT.replace("OPTIONS", "") + "turn: {deadlines: {llm: {first: 2s, gap: 1s}}}\n"
    async with led(Vendor(), yaml) as script:
        over = await script.until(events.CallEnded)
    assert over.reason == ended.PROVIDER_FAILED
    assert over.detail == "realtime realtime.0: silent for 2000 ms"
    assert over.at_ms == pytest.approx(4000 + 300 + 2000, abs=40)


@on_virtual_time
async def test_the_providers_own_timeout_comes_first():
    yaml = scripted("fail: hang").replace("scripted,", "scripted, timeout: 700ms,")
    async with call(yaml) as script:
        over = await script.until(events.CallEnded)
    assert over.detail == "realtime topology: silent for 700 ms"


@on_virtual_time
async def test_a_vendor_that_falls_silent_in_mid_answer_ends_the_call():
    vendor = Vendor()
    async with led(vendor) as script:
        await greeted(script, vendor)
        vendor.send(*turn_of(), AgentTranscript("Well", "a"), sound("a", 100))
        over = await script.until(events.CallEnded)
    assert (over.reason, over.detail) == (
        ended.PROVIDER_FAILED,
        "realtime realtime.0: silent for 4000 ms",
    )


@on_virtual_time
async def test_a_quiet_line_is_no_failure():
    vendor = Vendor()
    async with led(vendor) as script:
        await greeted(script, vendor)
        await script.passes(11_000)
        assert script.ended is None


@on_virtual_time
async def test_a_response_without_anything_is_an_answer():
    vendor = Vendor()
    async with led(vendor) as script:
        await greeted(script, vendor)
        vendor.send(*turn_of(), ResponseEnded(""))
        await script.until(events.AgentHeard, count=2)
        await script.passes(8000)
        assert script.ended is None


@pytest.mark.parametrize("fault", ["refuse", "hang", "half_dead", "close", "garbage"])
@on_virtual_time
async def test_every_fault_of_the_drill_ends_the_call_politely(fault: str):
    async with call(scripted(f"fail: {fault}")) as script:
        over = await script.until(events.CallEnded, within_ms=30_000)
    assert over.reason == ended.PROVIDER_FAILED
    assert over.detail.startswith("realtime ")
    assert script.transport.hung_up == ended.PROVIDER_FAILED
