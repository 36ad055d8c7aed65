"""The parts of the capacity benchmark that can be wrong without anybody noticing."""

from __future__ import annotations

import argparse
import json
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from bench.wire import native, plot, report
from bench.wire.point import Point, read
from bench.wire.running import Running
from bench.wire.search import most
from bench.wire.subjects import ANSWER_BYTES, SUBJECTS

ROOT = Path(__file__).resolve().parents[2]
SPREAD = {"count": 100, "p50": 400, "p90": 900, "p95": 1000, "p99": 5000, "p999": 9000, "max": 9500}
GOOD: dict[str, Any] = {
    "calls": 10, "seconds": 4, "aborted": False, "live": 10, "refused": 0, "refusal": "",
    "closed": 0, "frames_sent": 2000, "frames_back": 2000, "doubled": 0, "broken": 0,
    "unreadable": 0, "messages": 2000, "marks": 0, "clears": 0, "questions": 0, "answered": 0,
    "incomplete": 0, "stray": 0, "cpu_s": 0.1, "rss_kb": 50_000, "latency": SPREAD,
    "own_lateness": {**SPREAD, "p99": 300}, "handshake": None, "first_audio": None,
    "answer": None, "lateness": None,
}  # fmt: skip
ANSWERED = {"questions": 5, "answered": 5, "answer": SPREAD, "lateness": {**SPREAD, "p99": 0}}


def subject(name: str) -> Any:
    return next(each for each in SUBJECTS if each.name == name)


# --- a point ------------------------------------------------------------------------------------


def test_a_good_point_is_held():
    point = read(GOOD)
    assert point.held
    assert not point.noisy
    assert point.latency is not None
    assert point.latency.p99 == 5.0
    assert point.us_per_frame == pytest.approx(50)
    assert point.core == pytest.approx(0.025)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"frames_back": 1999}, "1 lost"),
        ({"doubled": 2}, "2 doubled"),
        ({"unreadable": 1}, "1 unreadable"),
        ({"closed": 1}, "1 closed"),
        ({"refused": 3, "refusal": "HTTP/1.1 503"}, "HTTP/1.1 503"),
        ({"live": 9}, "1 calls not up"),
        ({"aborted": True}, "given up"),
        ({"latency": {**SPREAD, "p99": 20_001}}, "echo p99 20.0 ms"),
        ({"latency": None, "frames_back": 0}, "no echo"),
        ({**ANSWERED, "answered": 4}, "1 unanswered"),
        ({**ANSWERED, "incomplete": 1}, "1 incomplete"),
        ({**ANSWERED, "answer": {**SPREAD, "p99": 41_000}}, "answer p99 41.0 ms"),
        ({**ANSWERED, "lateness": {**SPREAD, "p99": 21_000}}, "output p99 21.0 ms"),
    ],
)
def test_every_fault_is_named(change: dict[str, Any], fault: str):
    assert fault in read({**GOOD, **change}).faults


def test_agents_are_judged_by_their_answers_and_not_by_echoes():
    assert read({**GOOD, **ANSWERED, "frames_back": 0, "latency": None}).held


def test_a_generator_that_is_late_itself_says_so():
    assert read({**GOOD, "own_lateness": SPREAD}).noisy


# --- the search ---------------------------------------------------------------------------------


@dataclass
class Held:
    held: bool
    hopeless: bool = False


def found(capacity: int, start: int, limit: int = 3000) -> tuple[int, int]:
    tried = list(most(lambda calls: Held(calls <= capacity), start, limit))
    return max((calls for calls, result in tried if result.held), default=0), len(tried)


@pytest.mark.parametrize("capacity", [1, 7, 25, 160, 333, 1500])
@pytest.mark.parametrize("start", [8, 100, 800])
def test_the_capacity_is_found_to_a_few_percent_with_few_tries(capacity: int, start: int):
    calls, tries = found(capacity, start)
    assert capacity - max(1, capacity * 0.05) <= calls <= capacity
    assert tries <= 24


def test_more_than_the_limit_is_never_tried():
    assert found(10_000, 100, limit=500)[0] == 500


def test_nothing_held_is_found_out():
    assert found(0, 100)[0] == 0


def test_one_disturbance_does_not_decide_but_a_hopeless_point_is_not_repeated():
    tries: list[int] = []

    def measure(calls: int, hopeless: bool) -> Held:
        tries.append(calls)
        return Held(calls <= 50 or tries.count(calls) > 1, hopeless)

    assert max(c for c, r in most(lambda calls: measure(calls, False), 50, 60) if r.held) == 60
    tries.clear()
    calls = max(c for c, r in most(lambda calls: measure(calls, True), 50, 60) if r.held)
    assert calls < 60


# --- the table ----------------------------------------------------------------------------------


def measured(name: str, *calls: int, **change: Any) -> report.Measured:
    points = tuple(read({**GOOD, "calls": n, "live": n, **change}) for n in calls)
    return report.Measured(name, f"**{name}** & co", points, None, 0)


def test_the_table_shows_the_best_held_point_and_the_ratio():
    bad: Point = read({**GOOD, "calls": 900, "live": 900, "frames_back": 0})
    ours = measured("ours", 100, 200)
    results = [
        measured("aiohttp", 400),
        report.Measured("ours", "ours", (*ours.points, bad), None, 0),
    ]
    text = report.page(results, argparse.Namespace(seconds=8, nice=0))
    assert "| ours | 200 | 0.50 |" in text
    assert "provisional" not in text
    noisy = report.page(
        [measured("c", 9, own_lateness=SPREAD)], argparse.Namespace(seconds=8, nice=-5)
    )
    assert "| 9 \\* |" in noisy
    assert "provisional" in noisy


def test_the_table_replaces_only_what_is_between_the_marks(tmp_path: Path):
    page = tmp_path / "page.md"
    page.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n")
    report.write(page, "new")
    assert page.read_text() == f"before\n{report.BEGIN}\n\nnew\n\n{report.END}\nafter\n"


def test_the_page_has_room_for_every_table():
    page = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    for mark in (report.BEGIN, report.END, "<!-- measured: routing -->"):
        assert page.count(mark) == 1


def test_the_picture_is_well_formed_and_has_a_bar_for_each():
    root = ElementTree.fromstring(plot.capacity([measured("ours", 200), measured("c", 800)]))
    bars = root.findall("{http://www.w3.org/2000/svg}rect")
    widths = [int(bar.attrib["width"]) for bar in bars]
    assert widths[1] == pytest.approx(4 * widths[0], rel=0.02)


def test_the_answers_length_is_that_of_the_agents_words():
    text = "Certainly, we are open from nine to five on every weekday."
    assert text in (ROOT / "bench" / "wire" / "agent.yaml").read_text()
    assert sum((len(word) + 1) * 60 * 8 for word in text.split()) == ANSWER_BYTES


# --- programs and servers -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    directory = tmp_path_factory.mktemp("native")
    return lambda name: native.program(name, directory)


@pytest.mark.parametrize("name", list(native.PROGRAMS))
def test_the_programs_build_without_a_warning(name: str, built: Callable[[str], Path]):
    assert {"-Wall", "-Wextra", "-Werror"} < set(native.FLAGS)
    program = built(name)
    assert program.is_file()
    assert built(name) == program, "a second time it is kept"


def test_a_compiler_that_fails_is_told_of(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("CC", "false")
    with pytest.raises(native.NoCompiler):
        native.program("echo", tmp_path)


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--port", "1", "--calls", "0", "--seconds", "1"],
        ["--port", "1", "--calls", "1", "--seconds", "1", "--mode", "sing"],
        ["--port", "1", "--calls", "1", "--seconds", "1", "--host", "example"],
    ],
    ids=["none", "no calls", "unknown mode", "not an address"],
)
def test_the_generator_refuses_what_makes_no_sense(
    arguments: list[str], built: Callable[[str], Path]
):
    done = subprocess.run(
        [str(built("load")), *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "usage" in done.stderr


def test_a_server_that_is_not_there_is_a_fault(built: Callable[[str], Path]):
    command = [str(built("load")), "--port", "1", "--calls", "2", "--seconds", "1", "--settle", "0"]
    command.append("--keep-going")
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    point = read(json.loads(done.stdout))
    assert "2 refused" in point.faults
    assert any("Connection refused" in fault for fault in point.faults)


@pytest.mark.e2e
@pytest.mark.parametrize("name", ["c", "aiohttp", "socket", "queues", "ours"])
def test_five_calls_are_echoed_without_a_loss(name: str):
    with Running(subject(name)) as server:
        point = server.measure(5, 2, "--settle", "1")
        assert server.rss_kb() > 1000
    assert point.frames == pytest.approx(5 * 2 * 50, abs=50)
    assert [fault for fault in point.faults if "p99" not in fault] == []
    assert point.latency is not None
    assert point.latency.p50 < 20


@pytest.mark.e2e
def test_five_agents_answer_to_their_last_word():
    with Running(subject("ours-agents")) as server:
        point = server.measure(5, 13)
    assert [fault for fault in point.faults if "p99" not in fault] == []
    assert point.answer is not None
    assert point.answer.count >= 8
    assert point.answer.p50 < 40
    assert point.lateness is not None
    assert point.lateness.count >= 6 * ANSWER_BYTES // 160
