"""A whole call with a model that judges the caller's pauses as the script says."""

from __future__ import annotations

import pytest

from flowcat_server.core import events
from tests.callscript import VOICE, Script, call
from tests.virtual import on_virtual_time

AGENT = """
agent: {prompt: Help., greeting: Hello.}
topology:
  vad: {provider: scripted}
  turn: {provider: scripted, options: {OPTIONS}}
  stt: {provider: scripted, options: {lines: [I see., And now this.], delay_ms: 60}}
  llm: {provider: scripted, options: {replies: [Yes.]}}
  tts: {provider: scripted}
turn: {endpointing: {min_delay: 320ms, max_delay: 1200ms}}
"""


async def waited_ms(options: str, more: str = "", gap_ms: int = 0) -> tuple[int, Script]:
    """How long after the caller's last sound their turn ended."""
    async with call(AGENT.replace("OPTIONS", options) + more) as script:
        await script.until(events.AgentHeard)
        await script.passes(600, VOICE)
        if gap_ms:
            await script.passes(gap_ms)
            await script.passes(600, VOICE)
        ended = await script.until(events.TurnCompleted, count=2)
    assert ended.latency is not None
    return ended.latency.endpointing_ms + ended.latency.stt_tail_ms, script


@pytest.mark.parametrize(
    ("options", "gap_ms", "expected"),
    [
        pytest.param("finished: [true]", 0, 320, id="finished"),
        pytest.param("finished: [false]", 0, 1200, id="not finished"),
        pytest.param("finished: [false], delay_ms: 200", 0, 1200, id="judged within the wait"),
        pytest.param("finished: [false], delay_ms: 600", 0, 320, id="judged too late"),
        pytest.param("finished: [false, true]", 500, 320, id="the last pause counts"),
        pytest.param("fail: hang", 0, 320, id="a model that hangs"),
        pytest.param("fail: refuse", 0, 320, id="a model that fails"),
    ],
)
@on_virtual_time
async def test_who_sounds_unfinished_is_waited_for(options: str, gap_ms: int, expected: int):
    waited, script = await waited_ms(options, gap_ms=gap_ms)
    assert waited == pytest.approx(expected, abs=40)
    assert len([text for text in script.all(events.CallerText) if text.final]) == 1


@on_virtual_time
async def test_a_failing_model_is_told_of_once():
    _, script = await waited_ms("fail: refuse", gap_ms=200)
    assert [notice.code for notice in script.all(events.Notice)] == ["turn_failed"]


@on_virtual_time
async def test_fixed_endpointing_asks_no_model():
    more = "  endpointing: {mode: fixed, min_delay: 320ms}\n"
    yaml = "turn:\n" + more
    head = AGENT.split("turn: {endpointing", maxsplit=1)[0].replace("OPTIONS", "finished: [false]")
    async with call(head + yaml) as script:
        await script.until(events.AgentHeard)
        await script.passes(600, VOICE)
        ended = await script.until(events.TurnCompleted, count=2)
    assert ended.latency is not None
    assert ended.latency.endpointing_ms == pytest.approx(320, abs=40)
