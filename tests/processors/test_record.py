"""The recording: both sides where they sounded, nothing that was cut off."""

from __future__ import annotations

import pytest

from flowcat_server.core import events
from tests import virtual
from tests.callscript import VOICE, call

YAML = """
agent: {prompt: Be kind., greeting: "Good morning to you, and welcome to our office."}
topology:
  vad: {provider: scripted}
  stt: {provider: scripted, options: {lines: [wait]}}
  llm: {provider: scripted, options: {replies: [Yes.]}}
  tts: {provider: scripted, options: {ms_per_char: 50}}
"""
PER_MS = 8


class Tape:
    """Two sides, in milliseconds of the call at which there was sound."""

    sample_rate = 8000

    def __init__(self) -> None:
        self.callers: list[tuple[int, int]] = []
        self.agents: list[tuple[int, int]] = []

    def caller(self, position: int, payload: bytes) -> None:
        self.callers.append((position // PER_MS, len(payload) // 2 // PER_MS))

    def agent(self, position: int, payload: bytes) -> None:
        self.agents.append((position // PER_MS, len(payload) // 2 // PER_MS))

    def agent_cleared(self, position: int) -> None:
        cut = position // PER_MS
        self.agents = [(at, min(ms, cut - at)) for at, ms in self.agents if at < cut]

    def agent_ms(self) -> int:
        return sum(ms for _, ms in self.agents)


@pytest.mark.parametrize("buffers", [True, False], ids=["carrier", "browser"])
def test_what_an_interruption_cut_off_is_not_recorded(buffers: bool):
    async def main() -> None:
        tape = Tape()
        async with call(YAML, buffers=buffers, recorder=tape) as script:
            await script.passes(600)
            await script.passes(1200, VOICE)
            heard = script.all(events.AgentHeard)[0]
            assert heard.interrupted
            assert tape.agent_ms() == pytest.approx(heard.heard_ms, abs=60)
            assert tape.agent_ms() == pytest.approx(script.transport.heard_ms(), abs=60)

    virtual.run(main())


def test_the_caller_is_recorded_without_a_gap():
    async def main() -> None:
        tape = Tape()
        async with call(YAML, recorder=tape) as script:
            await script.passes(1000)
        starts = [at for at, _ in tape.callers[1:]]
        assert {b - a for a, b in zip(starts, starts[1:], strict=False)} == {20}
        assert {ms for _, ms in tape.callers} == {20}

    virtual.run(main())
