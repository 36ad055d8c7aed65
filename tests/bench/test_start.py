"""The parts of the benchmarks of call start and of collection that can be wrong unnoticed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.gc import __main__ as collection
from bench.gc.server import POLICIES
from bench.start import __main__ as start
from bench.wire import native
from bench.wire.point import read as read_point
from bench.wire.running import Running
from bench.wire.subjects import DOOR, ROOT, Subject
from flowcat_server import server
from tests.bench.test_wire import GOOD as HELD

SPREAD = {"count": 100, "p50": 6000, "p90": 9000, "p95": 12_000, "p99": 20_000, "p999": 30_000,
          "max": 31_000}  # fmt: skip
GOOD: dict[str, Any] = {
    "rate": 50, "seconds": 4, "begun": 100, "refused": 0, "refusal": "", "closed": 0, "silent": 0,
    "unreadable": 0, "live": 12, "cpu_s": 0.6, "rss_kb": 90_000, "answered": SPREAD,
    "upgraded": SPREAD, "since_start": SPREAD, "first_audio": SPREAD,
    "own_lateness": {**SPREAD, "p99": 300},
}  # fmt: skip


def test_calls_that_all_heard_something_have_no_fault():
    seen = start.read(GOOD)
    assert seen.faults == ()
    assert seen.cost_ms == pytest.approx(6.0)
    assert start._good(seen)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"refused": 3, "refusal": "rejected"}, "3 refused"),
        ({"closed": 1}, "1 closed"),
        ({"silent": 2}, "2 silent"),
        ({"begun": 104}, "4 heard nothing"),
        ({"first_audio": None}, "100 heard nothing"),
    ],
)
def test_every_fault_is_named(change: dict[str, Any], fault: str):
    seen = start.read({**GOOD, **change})
    assert fault in seen.faults
    assert not start._good(seen)


def test_late_first_audio_misses_the_goal():
    assert not start._good(start.read({**GOOD, "first_audio": {**SPREAD, "p95": 150_001}}))


def test_the_tables_have_a_row_for_each_way_and_policy():
    seen = start.read(GOOD)
    text = start.table(dict.fromkeys(start.WAYS, seen), 50)
    assert text.count("6 / 12 / 20 / 31") == len(start.WAYS)
    assert "provisional" not in text
    counted = {
        "flowcat_gc_collections_total2": 1.0,
        "flowcat_gc_seconds_total2": 0.004,
        "flowcat_gc_longest_seconds2": 0.004,
    }
    run = collection.Run(read_point(HELD), seen, counted, 2048)
    text = collection.table(dict.fromkeys(POLICIES, run))
    assert text.count("| 0 / 0 / 1 | 1.0 | 0.0 / 0.0 / 4.0 | 2 |") == len(POLICIES)
    assert ", ".join(map(str, server.GC_THRESHOLDS)) in text


@pytest.mark.parametrize("marks", [(start.BEGIN, start.END), (collection.BEGIN, collection.END)])
def test_the_page_has_room_for_the_tables(marks: tuple[str, str]):
    page = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    assert [page.count(mark) for mark in marks] == [1, 1]


@pytest.mark.parametrize(
    "arguments",
    [[], ["--port", "1", "--seconds", "0"], ["--port", "1", "--seconds", "1", "--rate", "0"]],
    ids=["none", "no time", "no calls"],
)
def test_the_generator_refuses_what_makes_no_sense(arguments: list[str], tmp_path: Path):
    program = native.program("start", tmp_path)
    done = subprocess.run([str(program), *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "usage" in done.stderr


@pytest.mark.e2e
def test_calls_that_arrive_are_greeted():
    def command(port: int, directory: Path) -> list[str]:
        words = [sys.executable, "-m", "flowcat_server", "run", str(start.HERE / "agent.yaml")]
        words += ["--bind", f"127.0.0.1:{port}"]
        return [*words, "--set", f"records.dir={directory / 'calls'}"]

    with Running(Subject("start", "start", command, DOOR)) as running:
        seen = start.arrive(running, 10, 2, "--hold-ms", "300")
    assert seen.faults == ()
    assert seen.begun >= 20
