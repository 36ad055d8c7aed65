"""The supervisor, with real processes that have nothing to do."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from flowcat_server.workers.board import Board
from flowcat_server.workers.supervisor import Supervisor
from flowcat_server.workers.team import found
from tests.callscript import loaded

Crew = Callable[[str], "Watched"]
ROOT = Path(__file__).parent.parent.parent
ECHO = "{topology: {mode: echo}, server: {bind: '127.0.0.1:0'}}"


class Watched:
    """A supervisor's process, and what it and its workers said."""

    def __init__(self, work: str, room: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.workers.crew", work, str(room)],
            cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        self.lines.extend(iter(self.process.stdout.readline, ""))

    def begun(self) -> list[tuple[int, int, float]]:
        """Number, process and time of each worker that began."""
        words = [line.split() for line in list(self.lines) if line.startswith("begun")]
        return [(int(number), int(pid), float(at)) for _, number, pid, at in words]

    def until(self, wanted: Callable[[], bool], *, within_s: float = 20) -> None:
        limit = time.monotonic() + within_s
        while not wanted():
            assert time.monotonic() < limit, "".join(self.lines)
            time.sleep(0.02)

    def said(self, event: str) -> int:
        return sum(event in line for line in list(self.lines))

    def code(self) -> int:
        code = self.process.wait(20)
        self._reader.join(5)
        return code


@pytest.fixture
def crew(tmp_path: Path) -> Iterator[Crew]:
    running: list[Watched] = []

    def start(work: str) -> Watched:
        running.append(Watched(work, tmp_path))
        return running[-1]

    yield start
    for each in running:
        for _, pid, _ in each.begun():
            if each.process.poll() is None:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
        each.process.kill()
        each.process.wait(5)
        assert each.process.stdout is not None
        each._reader.join(5)
        each.process.stdout.close()


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)], ids=["term", "int"]
)
def test_a_signal_stops_all_workers(crew: Crew, number: signal.Signals, code: int):
    two = crew("serve")
    two.until(lambda: two.said("workers_ready") == 1)
    assert [number for number, *_ in two.begun()] == [1, 2]
    two.process.send_signal(number)
    assert two.code() == code
    assert two.said("worker_stopped") == 2
    assert len(two.begun()) == 2


def test_a_killed_worker_is_started_again_and_the_other_is_left_alone(crew: Crew):
    two = crew("serve")
    two.until(lambda: two.said("workers_ready") == 1)
    os.kill(two.begun()[0][1], signal.SIGKILL)
    two.until(lambda: len(two.begun()) == 3)
    assert two.begun()[2][0] == 1
    assert two.said("signal=SIGKILL") == 1
    two.process.terminate()
    assert two.code() == 0


def test_a_worker_that_dies_again_and_again_is_started_less_and_less_often(crew: Crew):
    two = crew("dies")
    two.until(lambda: len(two.begun()) >= 5)
    at = [begun for number, _, begun in two.begun() if number == 2]
    waits = [later - earlier - 0.2 for earlier, later in zip(at, at[1:], strict=False)]
    assert all(wait >= least for wait, least in zip(waits, (0.1, 0.2, 0.4), strict=False)), waits
    two.process.terminate()
    assert two.code() == 0


def test_a_worker_that_hangs_is_killed_and_started_again(crew: Crew):
    two = crew("hangs")
    two.until(lambda: len(two.begun()) == 3)
    assert [number for number, *_ in two.begun()] == [1, 2, 2]
    assert two.said("worker_hung") == 1
    two.process.terminate()
    assert two.code() == 0


def test_a_board_that_is_gone_ends_nothing(tmp_path: Path):
    with closing(found(loaded(ECHO), 2)) as team:
        supervisor = Supervisor(replace(team, room=tmp_path / "gone"), lambda seat: 0)
        asked: list[Board] = []
        supervisor._ask_board(asked.append)
        supervisor._kill_hung()
        assert asked == []


def test_workers_that_do_not_end_on_the_second_signal_are_killed(crew: Crew):
    two = crew("stubborn")
    two.until(lambda: two.said("workers_ready") == 1)
    two.process.terminate()
    two.until(lambda: two.said("workers_draining") == 1)
    time.sleep(0.7)
    assert two.process.poll() is None, "the first signal kills nobody"
    two.process.terminate()
    assert two.code() == 0
    assert two.said("workers_killed") == 1


def test_a_worker_that_cannot_start_ends_the_server_with_its_code(crew: Crew):
    two = crew("broken")
    assert two.code() == 7
    assert len(two.begun()) == 1
    assert two.said("worker_did_not_start") == 1
