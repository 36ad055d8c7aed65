"""Who owes the caller a sound, and what they hear meanwhile."""

from __future__ import annotations

import pytest

from flowcat_server.core import events
from flowcat_server.processors.dead_air import DeadAirProcessor, Debt
from tests import virtual
from tests.callscript import VOICE, Script, call
from tests.fakes.thinker import Step, Thinker

YAML = """
agent: {prompt: Be kind., greeting: Hello.}
turn: {dead_air: {filler: [One., Two.]}}
topology:
  vad: {provider: scripted}
  stt: {provider: scripted, options: {lines: ["TEXT"], delay_ms: STT}}
  llm: {provider: scripted}
  tts: {provider: scripted, options: {ms_per_char: 40, first_audio_ms: TTS}}
"""


def agent(*, text: str = "hello there", stt_ms: int = 50, tts_ms: int = 0) -> str:
    return YAML.replace("TEXT", text).replace("STT", str(stt_ms)).replace("TTS", str(tts_ms))


def watch(script: Script) -> DeadAirProcessor:
    assert script.session._line is not None
    (found,) = [p for p in script.session._line.processors if isinstance(p, DeadAirProcessor)]
    return found


def stage(debt: Debt | None) -> str:
    return debt.stage if debt is not None else ""


def owed(yaml: str, *steps: Step) -> list[str]:
    """Who owed a sound, every 20 ms from the caller's last one on, without repetition."""

    async def main() -> list[str]:
        found: list[str] = []
        async with call(yaml, extra={"llm": [Thinker(list(steps))]}) as script:
            await script.until(events.AgentHeard)
            await script.passes(800, VOICE)
            while len(script.agent_lines) < 2:
                await script.passes(20)
                found += [now for now in [stage(watch(script).debt())] if found[-1:] != [now]]
        return found

    return virtual.run(main())


def test_the_debt_passes_from_stage_to_stage():
    found = owed(agent(stt_ms=500, tts_ms=300), 0.3, "All right.")
    assert found[:5] == ["", "stt", "llm", "tts", ""]


def test_nobody_owes_a_sound_that_is_waited_for_on_purpose():
    found = owed(agent(text="i would like to um"), "Yes?")
    assert found[:3] == ["", "stt", ""], "the transcript is there, and the sentence may go on"


@pytest.mark.parametrize(
    ("text", "expected"),
    [("hello there", 1800), ("i would like to um", 2100)],
    ids=["a finished sentence", "a sentence that was waited for"],
)
def test_the_filler_comes_after_a_silence(text: str, expected: int):
    async def main() -> None:
        async with call(agent(text=text), extra={"llm": [Thinker([3.0, "Yes."])]}) as script:
            await script.until(events.AgentHeard)
            begun = len(script.transport.heard)
            await script.passes(800, VOICE)
            last = script.session.now_ms()
            await script.until(events.AgentHeard, count=2)
        waited = script.transport.heard[begun][0] - last
        assert waited == pytest.approx(expected + script.transport.delay_ms, abs=60)

    virtual.run(main())


def test_fillers_go_on_for_as_long_as_the_wait():
    async def main() -> None:
        yaml = agent().replace("turn: {", "turn: {deadlines: {llm: {first: 20s, gap: 20s}}, ")
        async with call(yaml, extra={"llm": [Thinker([7.0, "Yes."])]}) as script:
            await script.until(events.AgentHeard)
            await script.speaks()
            await script.until(events.AgentHeard, count=2)
        assert script.agent_lines[1] == "One. Two. One. Yes."

    virtual.run(main())


def test_an_answer_in_time_needs_no_filler():
    async def main() -> None:
        async with call(agent(), extra={"llm": [Thinker([1.2, "Yes."])]}) as script:
            await script.until(events.AgentHeard)
            await script.speaks()
            await script.until(events.AgentHeard, count=2)
        assert script.agent_lines[1] == "Yes."

    virtual.run(main())


def test_nobody_talks_over_a_caller_to_fill_a_silence():
    async def main() -> None:
        yaml = agent().replace("turn: {", "turn: {interruption: {enabled: false}, ")
        async with call(yaml, extra={"llm": [Thinker([6.0, "Yes."])]}) as script:
            await script.until(events.AgentHeard)
            await script.speaks(800, 1600)
            begun = len(script.transport.heard)
            await script.passes(1200, VOICE)
            assert len(script.transport.heard) == begun

    virtual.run(main())
