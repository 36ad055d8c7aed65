"""Whole calls on virtual time: the wait depends on what the agent's node collects."""

from __future__ import annotations

import pytest

from flowcat_server.core import events
from tests.callscript import VOICE, call
from tests.virtual import on_virtual_time

AGENT = """
agent:
  graph_inline:
    nodes:
      - id: start
        type: startCall
        data:
          prompt: Ask.
          greeting: Which number can we reach you on?
          extraction_enabled: true
          extraction_variables: [{name: phone, type: phone, digits: 10}]
    edges: []
topology:
  vad: {provider: scripted}
  stt: {provider: scripted, options: {lines: ["LINE"], loop: true, delay_ms: 80}}
  llm: {provider: scripted, options: {replies: [Thank you.]}}
  tts: {provider: scripted}
turn: {endpointing: {min_delay: 400ms, number_delay: 1500ms}}
"""


@pytest.mark.parametrize(
    ("line", "turns"),
    [
        pytest.param("Two oh two, five", 1, id="a part of the number waits for the rest"),
        pytest.param("202 555 0142", 2, id="the complete number is answered at once"),
        pytest.param("Why do you need my number?", 2, id="and so is a question"),
    ],
)
@on_virtual_time
async def test_a_pause_inside_a_number_ends_no_turn(line: str, turns: int):
    async with call(AGENT.replace("LINE", line)) as script:
        await script.until(events.AgentHeard)
        await script.passes(600, VOICE)
        await script.passes(1000)
        await script.passes(600, VOICE)
        await script.passes(2400)
        ends = [event for event in script.all(events.CallerText) if event.final]
    assert len(ends) == turns


@on_virtual_time
async def test_a_number_that_is_known_is_waited_for_no_more():
    async with call(AGENT.replace("LINE", "At ten."), variables={"phone": "2025550142"}) as script:
        await script.until(events.AgentHeard)
        await script.passes(600, VOICE)
        await script.passes(700)
        assert [event.text for event in script.all(events.CallerText) if event.final] == ["At ten."]
