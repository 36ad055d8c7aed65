"""What a process keeps of its calls' turns: a line in the log, and the latency budget."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import structlog

from flowcat_server.agents import Agents
from flowcat_server.calls import Calls, Incoming
from flowcat_server.core import ended
from flowcat_server.core.budget import ENOUGH
from flowcat_server.core.events import CallEvent, TurnCompleted
from flowcat_server.metrics import Metrics
from flowcat_server.records.models import CallRow
from tests import virtual
from tests.callscript import SILENCE, VOICE, LoopbackTransport, loaded, parts

YAML = """
agent: {prompt: Be kind.}
observability: {budget: {first_audio_p95: BUDGET}}
limits: {max_call: 1h}
turn: {speculation: false}
topology:
  vad: {provider: scripted}
  stt: {provider: scripted, options: {lines: [hello there], loop: true, delay_ms: 80}}
  llm: {provider: scripted, options: {replies: [Yes.], loop: true, first_token_ms: 900}}
  tts: {provider: scripted, options: {first_audio_ms: 100, ms_per_char: 50}}
"""
PARTS = ("endpointing", "stt_tail", "llm_first_token", "llm_first_sentence", "tts_first_audio",
         "send")  # fmt: skip


class Shelf:
    """Records in memory: what was told of the calls."""

    directory = Path()

    def __init__(self) -> None:
        self.told: list[CallEvent] = []

    async def call_accepted(self, row: CallRow) -> Shelf:
        return self

    def on_event(self, event: CallEvent) -> None:
        self.told.append(event)

    async def call_ended(self, call_id: str) -> None: ...


async def converse(budget: str, turns: int) -> tuple[list[TurnCompleted], str]:
    """A call of so many turns; they, and the metrics afterwards."""
    shelf, metrics, transport = Shelf(), Metrics(), LoopbackTransport(buffers=False)
    shared = await parts(loaded(YAML.replace("BUDGET", budget)))
    async with asyncio.TaskGroup() as tasks:
        calls = Calls(Agents(shared), shelf, None, metrics, tasks)  # type: ignore[arg-type]
        call_id, task = calls.start(calls.reserve(), transport, Incoming("loopback"))
        await asyncio.sleep(0.02)

        def answered() -> int:
            return sum(type(e) is TurnCompleted and e.turn > 0 for e in shelf.told)

        async def passes(sound: bytes) -> None:
            transport.tick(sound)
            await asyncio.sleep(0.02)

        for turn in range(1, turns + 1):
            for _ in range(40):
                await passes(VOICE)
            while answered() < turn:
                await passes(SILENCE)
        await calls.hang_up(call_id, ended.OPERATOR_HUNG_UP)
        await task
    found = [e for e in shelf.told if isinstance(e, TurnCompleted) and e.latency]
    return found, metrics.render()[0].decode()


def run(budget: str, turns: int) -> tuple[list[TurnCompleted], str, list[Any]]:
    with structlog.testing.capture_logs() as logs:
        completed, metrics = virtual.run(converse(budget, turns))
    return completed, metrics, logs


def test_a_turn_is_logged_with_the_parts_of_its_latency_and_without_its_words():
    completed, _, logs = run("5s", 2)
    lines = [line for line in logs if line["event"] == "turn_completed" and line["total_ms"]]
    assert [line["turn"] for line in lines] == [turn.turn for turn in completed] == [1, 2]
    for line, turn in zip(lines, completed, strict=True):
        assert turn.latency is not None
        assert line["total_ms"] == turn.latency.total_ms
        assert {part: line[f"{part}_ms"] for part in PARTS} == turn.latency.parts()
        assert "hello" not in str(line)


def test_a_budget_that_is_exceeded_names_the_stage_in_the_log_and_in_the_metrics():
    completed, metrics, logs = run("800ms", ENOUGH + 1)
    totals = sorted(turn.latency.total_ms for turn in completed if turn.latency)
    assert totals[0] > 800
    # Two turns were complete with a percentile that means something; one line a minute is enough.
    assert 'flowcat_budget_exceeded_total{stage="llm_first_token"} 2.0' in metrics
    (line,) = [line for line in logs if line["event"] == "latency_over_budget"]
    assert (line["stage"], line["budget_ms"], line["stage_ms"]) == ("llm_first_token", 800, 900)
    assert line["p95_ms"] in totals


def test_a_budget_that_is_kept_says_nothing():
    _, metrics, logs = run("5s", ENOUGH)
    assert 'flowcat_budget_exceeded_total{stage="llm_first_token"} 0.0' in metrics
    assert not [line for line in logs if line["event"] == "latency_over_budget"]
