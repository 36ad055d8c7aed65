"""How late the loop is, who held it, and that new calls are turned away while it does not keep up.

The stalls are real ones of 60 to 120 ms: what is under test is a thread that looks at another.
"""

from __future__ import annotations

import asyncio
import gc
import re
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import FrameType
from typing import Any

import pytest
import structlog

from flowcat_server import loop_watch
from flowcat_server.agents import Agents
from flowcat_server.calls import Calls, Incoming
from flowcat_server.core import ended
from flowcat_server.core.overload import ENOUGH, TICKS, Overload
from flowcat_server.errors import CallRefused
from flowcat_server.loop_watch import Collections, LoopWatch, describe
from flowcat_server.metrics import STALLS, Metrics
from tests.callscript import LoopbackTransport, loaded, parts
from tests.test_calls import Shelf
from tests.test_metrics import values
from tests.virtual import VirtualLoop, on_virtual_time

BLOCK_S = 0.08


@asynccontextmanager
async def watched(metrics: Metrics, **more: Any) -> AsyncIterator[LoopWatch]:
    watch = LoopWatch(metrics, **more)
    watch.start()
    try:
        await asyncio.sleep(0.05)
        yield watch
        await asyncio.sleep(0.03)
    finally:
        watch.close()


async def stalled_by(work: Callable[[], object]) -> tuple[dict[str, Any], dict[str, float]]:
    """The line that a stall leaves, and the metrics."""
    metrics = Metrics()
    with structlog.testing.capture_logs() as lines:
        async with watched(metrics):
            lines.clear()  # of a machine that has others to serve
            work()
    line = max((line for line in lines if line["event"] == "loop_stalled"), key=lambda x: x["ms"])
    return line, values(metrics)


def sleeps() -> None:
    time.sleep(BLOCK_S)


def computes() -> None:
    until = time.thread_time() + BLOCK_S
    while time.thread_time() < until:
        pass


def holds_the_interpreter() -> None:
    """One call in C that does not let another thread run, computed to be long enough."""
    until = time.thread_time() + BLOCK_S
    size = 22
    while time.thread_time() < until:
        size += 1
        re.match(r"(a+)+$", "a" * size + "b")


async def test_a_call_that_waits_is_found_where_it_waits():
    line, metrics = await stalled_by(sleeps)
    assert line["ms"] >= BLOCK_S * 1000 - 20
    assert line["cause"] in ("waiting", "starved")
    assert line["cpu_ms"] < BLOCK_S * 1000 / 2
    assert re.match(r"tests/test_loop_watch\.py:\d+ sleeps < ", line["stack"])
    assert metrics["flowcat_loop_stall_longest_seconds"] >= BLOCK_S - 0.02
    assert sum(metrics[f"flowcat_loop_stalls_total{{cause={cause}}}"] for cause in STALLS) >= 1


async def test_a_function_that_computes_is_named_and_its_processor_time_is_told():
    line, _ = await stalled_by(computes)
    assert line["cpu_ms"] >= BLOCK_S * 1000
    assert line["cause"] in ("computing", "starved")
    assert "computes" in line["stack"]


async def test_time_is_measured_also_while_nothing_else_can_run():
    line, _ = await stalled_by(holds_the_interpreter)
    assert line["ms"] >= BLOCK_S * 1000 - 20
    assert line["cpu_ms"] >= BLOCK_S * 1000
    assert line["stack"] == "" or "holds_the_interpreter" in line["stack"]


async def test_a_collection_is_told_apart_from_the_work_that_caused_it():
    litter: list[Any] = []
    for _ in range(400_000):
        litter.append([litter])
    line, metrics = await stalled_by(lambda: (gc.collect(), gc.collect()))
    litter.clear()
    assert line["gc_ms"] * 2 >= line["ms"]
    assert line["cause"] in ("collecting", "starved")
    assert metrics["flowcat_gc_collections_total{generation=2}"] == 2
    assert metrics["flowcat_gc_seconds_total{generation=2}"] * 1000 >= line["gc_ms"] - 1
    assert metrics["flowcat_gc_longest_seconds{generation=2}"] > 0


async def test_a_loop_that_turns_leaves_no_line_and_is_measured():
    metrics = Metrics()
    with structlog.testing.capture_logs() as lines:
        async with watched(metrics, stall_ms=1000):
            await asyncio.sleep(0.1)
    assert not lines
    assert values(metrics)["flowcat_loop_lag_seconds_count"] >= 4


async def test_many_stalls_make_one_line_which_counts_the_others(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(loop_watch, "LOG_EVERY_S", 0.25)
    metrics = Metrics()
    with structlog.testing.capture_logs() as lines:
        async with watched(metrics):
            for _ in range(4):
                time.sleep(BLOCK_S)  # noqa: ASYNC251 - the stall under test
                await asyncio.sleep(0.03)
    counted = sum(
        count for name, count in values(metrics).items() if name.startswith("flowcat_loop_stalls")
    )
    assert counted >= 4
    assert 2 <= len(lines) < counted
    assert lines[0]["unlogged"] == 0
    assert sum(line["unlogged"] for line in lines) + len(lines) <= counted


async def test_without_a_bound_lag_is_measured_and_nothing_logged():
    metrics = Metrics()
    with structlog.testing.capture_logs() as lines:
        async with watched(metrics, stall_ms=0):
            time.sleep(BLOCK_S)  # noqa: ASYNC251 - the stall under test
    assert not lines
    assert values(metrics)["flowcat_loop_lag_seconds_sum"] >= BLOCK_S - 0.02


@pytest.mark.parametrize(
    ("lag", "cpu", "collecting", "starved", "cause"),
    [
        (0.1, 0.09, 0.0, 0.0, "computing"),
        (0.1, 0.09, 0.06, 0.0, "collecting"),
        (0.1, 0.01, 0.0, 0.0, "waiting"),
        (0.1, 0.04, 0.04, 0.06, "starved"),
    ],
)
def test_half_of_the_time_decides(
    lag: float, cpu: float, collecting: float, starved: float, cause: str
):
    assert loop_watch._cause(lag, cpu, collecting, starved) == cause


def test_a_kernel_that_does_not_count_waiting_is_no_fault():
    assert loop_watch._waited(b"100 200 3\n", b"150 1000200 4\n") == 0.001
    assert loop_watch._waited(b"", b"") is None
    assert loop_watch._read(-1) == b""


def test_a_deep_stack_is_cut_and_foreign_frames_are_left_out():
    caught: list[str] = []

    def deep(left: int, frame: Callable[[], FrameType | None]) -> None:
        if left:
            deep(left - 1, frame)
        else:
            caught.append(describe(frame()))

    deep(30, sys._getframe)
    # Of these frames none is the server's: only the two innermost are shown.
    assert [part.split()[-1] for part in caught[0].split(" < ")] == ["deep", "deep"]
    assert describe(None) == ""


def test_collections_are_told_apart_by_generation():
    collections = Collections()
    for generation in (0, 0, 2):
        collections("start", {"generation": generation})
        collections("stop", {"generation": generation, "collected": 0})
    assert collections.count == [2, 0, 1]
    assert collections.total == pytest.approx(sum(collections.seconds))


# --- admission ----------------------------------------------------------------------------------

YAML = """
agent: {prompt: Be kind.}
topology:
  vad: {provider: scripted}
  stt: {provider: scripted}
  llm: {provider: scripted}
  tts: {provider: scripted}
"""


@on_virtual_time
async def test_new_calls_are_refused_while_the_loop_lags_and_live_ones_go_on():
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    behind = 0.0
    overload, metrics = Overload(100), Metrics()

    def clock() -> float:
        """The loop's, which a machine with too much to do reads later than it should."""
        return loop.time() + behind

    shared = await parts(loaded(YAML))
    with structlog.testing.capture_logs() as lines:
        async with asyncio.TaskGroup() as tasks:
            calls = Calls(Agents(shared), Shelf(), None, metrics, tasks, overload=overload)  # type: ignore[arg-type]
            watch = LoopWatch(metrics, overload, stall_ms=0, clock=clock)
            watch.start()
            call_id, task = calls.start(
                calls.reserve(), LoopbackTransport(buffers=False), Incoming("loopback")
            )
            await asyncio.sleep(1)
            for _ in range(ENOUGH):
                assert calls.closed_for == ""
                behind += 0.15
                await asyncio.sleep(0.02)
            await asyncio.sleep(0.02)
            assert calls.closed_for == "overloaded"
            with pytest.raises(CallRefused, match="overloaded"):
                calls.reserve()
            assert call_id in calls.live
            await asyncio.sleep(0.02 * TICKS)
            assert calls.closed_for == ""
            calls.reserve().release()
            await calls.hang_up(call_id, ended.OPERATOR_HUNG_UP)
            await task
            watch.close()
    assert values(metrics)["flowcat_calls_refused_total{reason=overloaded}"] == 1
    told = [line["event"] for line in lines if line["event"].startswith("overload")]
    assert told == ["overloaded", "overload_over"]


@on_virtual_time
async def test_a_server_without_a_call_takes_the_next_one_however_slow_it_is():
    overload = Overload(100)
    for _ in range(TICKS):
        overload.observe(500)
    shared = await parts(loaded(YAML))
    async with asyncio.TaskGroup() as tasks:
        calls = Calls(Agents(shared), Shelf(), None, Metrics(), tasks, overload=overload)  # type: ignore[arg-type]
        first = calls.reserve()
        with pytest.raises(CallRefused, match="overloaded"):
            calls.reserve()
        first.release()
        assert calls.closed_for == ""
