"""Calls that are passed on, put on hold and answered with keys, as callers hear them."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest

from flowcat_server.core import ended, events
from flowcat_server.core.audio import MULAW_8K, PCM_8K, decode
from flowcat_server.core.control import Comeback, Progress
from flowcat_server.core.dtmf import KeyListener, tones
from flowcat_server.core.graph import TRANSFER_FAILED, TransferTarget
from flowcat_server.core.hold import waiting_tone
from flowcat_server.core.interfaces import Message
from tests import virtual
from tests.callscript import FRAME_MS, SILENCE, Script, Switchboard, call

VOICES = """
  vad: {provider: scripted}
  stt: {provider: scripted, options: {lines: [hello there], loop: true, delay_ms: 80}}
  tts: {provider: scripted, options: {first_audio_ms: 100, ms_per_char: 50}}
"""


def agent(replies: str, *, node: str = "", more: str = "") -> str:
    return f"""
agent:
  graph_inline:
    nodes:
      - id: start
        type: startCall
        data:
          prompt: Be kind.
          greeting: Hello.
          tools: [send_keys]
          transfer_targets:
            - name: desk
              target_phone: "+15550123"
              say: I am passing you on.
              introduce: "A caller named {{{{name | nobody}}}} is waiting."
              failed: Nobody is there, sorry.
              {node}
    edges: []
topology:
  llm: {{provider: scripted, options: {{replies: {replies}, first_token_ms: 120}}}}
{VOICES}
{more}
"""


TRANSFERS = agent("[{tool: transfer_to_desk}, How else can I help?]")
both_wires = pytest.mark.parametrize("buffers", [True, False], ids=["carrier", "browser"])


def heard(script: Script, since_ms: int = 0) -> bytes:
    return b"".join(audio for at_ms, audio in script.transport.heard if at_ms >= since_ms)


def keys_in(pcm: bytes) -> str:
    listener, found = KeyListener(PCM_8K), ""
    for start in range(0, len(pcm), 320):
        found += listener.feed(pcm[start : start + 320])
    return found


def loudness(pcm: bytes) -> float:
    return float(np.abs(np.frombuffer(pcm, "<i2").astype(float)).max()) if pcm else 0.0


# --- passing on -----------------------------------------------------------------------------------


@virtual.on_virtual_time
async def test_a_call_is_passed_on_when_its_announcement_has_been_heard() -> None:
    board = Switchboard()
    async with call(TRANSFERS, control=board, variables={"name": "Ada"}) as script:
        await script.until(events.AgentHeard)
        await script.speaks()
        await script.until(events.AgentHeard, count=2)
        await script.passes(200)
        ((target, introduction, progress),) = board.transfers
        assert target.phone == "+15550123"
        assert introduction == "A caller named Ada is waiting."
        assert progress.node == "start"
        assert [message.text for message in progress.messages if message.role == "user"] == [
            "hello there"
        ]
    assert script.ended == ended.AGENT_TRANSFERRED
    assert script.agent_lines == ["Hello.", "I am passing you on."]


@virtual.on_virtual_time
async def test_a_caller_whose_transfer_fails_is_told_and_the_talk_goes_on() -> None:
    async with call(TRANSFERS, control=Switchboard("busy")) as script:
        await script.until(events.AgentHeard)
        await script.speaks()
        await script.until(events.AgentHeard, count=3)
        assert script.agent_lines[2] == "Nobody is there, sorry."
        notices = [event for event in script.all(events.Notice) if event.code == "transfer_failed"]
        assert [event.text for event in notices] == ["desk: busy"]
        await script.speaks()
        await script.until(events.AgentHeard, count=4)
        assert script.agent_lines[3] == "How else can I help?"
        assert script.ended is None


@virtual.on_virtual_time
async def test_a_failed_transfer_may_end_the_call_after_its_words() -> None:
    ends = agent("[{tool: transfer_to_desk}]", node="then: end")
    async with call(ends, control=Switchboard("no answer")) as script:
        await script.until(events.AgentHeard)
        await script.speaks()
        await script.until(events.AgentHeard, count=3)
        await script.passes(100)
    assert script.agent_lines[-1] == "Nobody is there, sorry."
    assert script.ended == ended.AGENT_ENDED


@virtual.on_virtual_time
async def test_a_call_that_comes_back_goes_on_where_it_was() -> None:
    target = TransferTarget("desk", "+15550123", failed="Nobody is there, {{name}}.")
    earlier = (Message("user", "a person please"), Message("assistant", "I am passing you on."))
    comeback = Comeback(Progress("start", {"name": "Ada"}, earlier), target)
    async with call(agent("[Of course.]"), comeback=comeback) as script:
        await script.until(events.AgentHeard)
        await script.speaks()
        await script.until(events.AgentHeard, count=2)
    assert script.agent_lines == ["Nobody is there, Ada.", "Of course."]


@virtual.on_virtual_time
async def test_a_browser_s_call_cannot_be_passed_on_and_says_so() -> None:
    async with call(TRANSFERS) as script:
        script.session.control = None
        await script.until(events.AgentHeard)
        await script.speaks()
        await script.until(events.AgentHeard, count=3)
        assert script.agent_lines[-1] == "Nobody is there, sorry."


# --- hold -----------------------------------------------------------------------------------------


@both_wires
@virtual.on_virtual_time
async def test_a_caller_on_hold_hears_the_sound_and_is_not_listened_to(buffers: bool) -> None:
    async with call(agent("[Yes.]"), buffers=buffers) as script:
        await script.until(events.AgentHeard)
        at_ms = script.session.now_ms()
        assert script.session.hold()
        assert not script.session.hold()
        await script.speaks(3000, 4000)
        sound = heard(script, at_ms)
        tone = waiting_tone(PCM_8K)
        assert PCM_8K.duration_ms(len(sound)) > 6500
        assert (sound * 2).find(tone[:3200]) >= 0
        assert not script.all(events.CallerText)
        assert len(script.agent_lines) == 1  # neither the model nor the idle clock speaks
        assert script.session.resume()
        assert not script.session.resume()
        await script.passes(600)
        assert loudness(heard(script, script.session.now_ms() - 200)) == 0
        await script.speaks()
        await script.until(events.AgentHeard, count=2)
        assert script.agent_lines == ["Hello.", "Yes."]
    assert all(event.turn < 2 for event in script.all(events.AgentSpeaking))


@both_wires
@virtual.on_virtual_time
async def test_the_sound_waits_for_what_is_being_said_and_makes_way_for_more(buffers: bool) -> None:
    long = agent("[Yes.]").replace("greeting: Hello.", f"greeting: {'Word after word. ' * 4}")
    board = Switchboard("busy")
    async with call(long, buffers=buffers, control=board) as script:
        await script.passes(1000)
        assert script.session.hold()
        await script.until(events.AgentHeard)
        assert script.all(events.AgentHeard)[0].interrupted is False
        await script.passes(2000)
        begun = script.session.now_ms()
        script.session.pass_on(TransferTarget("desk", "+1", failed="Sorry about that."))
        await script.until(events.AgentHeard, count=2)
        assert script.agent_lines[1] == "Sorry about that."
        assert script.all(events.AgentHeard)[1].interrupted is False
        if buffers:
            assert [at for at in script.transport.cleared if at >= begun]
        assert not script.session.resume()  # it was ended for the words


@virtual.on_virtual_time
async def test_a_long_tool_is_waited_for_with_the_sound() -> None:
    from flowcat_server.core.interfaces import ToolSpec
    from flowcat_server.tools.toolbox import Tool

    class Slow:
        async def run(self, arguments: Any, variables: Any) -> str:
            await asyncio.sleep(5)
            return "found"

    yaml = agent(
        "[{tool: look}, Here it is.]",
        more="hold: {tools_after: 1s}\nturn: {dead_air: {filler: []}}\n"
        "tools: [{name: look, python: 'json:dumps'}]\n",
    ).replace("tools: [send_keys]", "tools: [look]")
    tool = Tool(ToolSpec("look", "Looks."), Slow(), 10_000)
    async with call(yaml, tools=[tool]) as script:
        await script.until(events.AgentHeard)
        await script.speaks()
        await script.until(events.ToolStarted)
        began = script.session.now_ms()
        await script.until(events.ToolEnded)
        sound = heard(script, began + 900)
        assert 3000 < PCM_8K.duration_ms(len(sound)) < 4600
        assert loudness(sound) > 500
        await script.until(events.AgentHeard, count=2)
        assert script.agent_lines == ["Hello.", "Done."]


# --- keys -----------------------------------------------------------------------------------------


PRESSES = agent("[{tool: send_keys, arguments: {keys: '4 2#'}}, Thank you.]")


@both_wires
@virtual.on_virtual_time
async def test_keys_are_sent_as_sound_and_stand_in_the_transcript(buffers: bool) -> None:
    async with call(PRESSES, buffers=buffers) as script:
        await script.until(events.AgentHeard)
        since = script.session.now_ms()
        await script.speaks()
        await script.passes(2500)
        assert keys_in(heard(script, since)) == "42#"
        assert "[keys: 4 2 #]" in script.agent_lines
        assert "Sorry" not in " ".join(script.agent_lines)


@virtual.on_virtual_time
async def test_a_machine_that_talks_does_not_interrupt_keys() -> None:
    async with call(PRESSES.replace("4 2#", "1234567890")) as script:
        await script.until(events.AgentHeard)
        since = script.session.now_ms()
        await script.speaks()
        await script.speaks(3000, 2000)
        assert keys_in(heard(script, since)) == "1234567890"


@virtual.on_virtual_time
async def test_keys_that_the_carrier_sends_are_not_heard_but_told() -> None:
    board = Switchboard(takes_keys=True)
    async with call(PRESSES, control=board) as script:
        await script.until(events.AgentHeard)
        since = script.session.now_ms()
        await script.speaks()
        await script.passes(1500)
        assert board.keys == ["42#"]
        assert keys_in(heard(script, since)) == ""
        assert "[keys: 4 2 #]" in script.agent_lines


@virtual.on_virtual_time
async def test_keys_that_no_telephone_has_are_refused_to_the_model() -> None:
    board = Switchboard(takes_keys=True)
    async with call(PRESSES.replace("4 2#", "call +44 now"), control=board) as script:
        await script.until(events.AgentHeard)
        await script.speaks()
        await script.until(events.AgentHeard, count=2)
        assert board.keys == []
        assert script.agent_lines[-1] == "Done."


@virtual.on_virtual_time
async def test_a_model_that_writes_what_keys_look_like_says_it() -> None:
    async with call(agent("['[keys: 1 2 3]']")) as script:
        await script.until(events.AgentHeard)
        since = script.session.now_ms()
        await script.speaks()
        await script.until(events.AgentHeard, count=2)
        assert keys_in(heard(script, since)) == ""


@virtual.on_virtual_time
async def test_the_operator_s_keys_follow_what_is_being_said() -> None:
    long = agent("[Yes.]").replace("greeting: Hello.", f"greeting: {'Word after word. ' * 3}")
    async with call(long) as script:
        await script.passes(400)
        script.session.send_keys("7")
        await script.until(events.AgentHeard, count=2, within_ms=15_000)
        first, second = script.agent_lines
        assert "Word" in first
        assert second == "[keys: 7]"


@pytest.mark.parametrize("told", [False, True], ids=["heard", "the carrier tells too"])
@virtual.on_virtual_time
async def test_keys_are_heard_where_the_carrier_tells_of_none(told: bool) -> None:
    async with call(agent("[Thank you.]"), hears_keys=True) as script:
        await script.until(events.AgentHeard)
        for start in range(0, 3 * 3200, 320):
            sound = tones("42#", PCM_8K)[start : start + 320]
            await script.passes(FRAME_MS, sound)
        if told:
            script.session.receive_digit("9")
        await script.passes(200, SILENCE)
        await script.until(events.AgentHeard, count=2)
        assert [event.digit for event in script.all(events.DigitPressed)] == ["4", "2", "#"]
        assert "[keypad: 4 2 #]" in [event.text for event in script.all(events.CallerText)]


def test_the_waiting_tone_is_quiet_and_as_long_as_it_says() -> None:
    for audio in (PCM_8K, MULAW_8K):
        sound = waiting_tone(audio)
        assert audio.duration_ms(len(sound)) == 6000
        assert 300 < loudness(decode(sound, audio.encoding)) < 2000


def test_the_words_after_a_failure_have_a_default() -> None:
    assert TransferTarget("desk", "+1").failed == TRANSFER_FAILED
