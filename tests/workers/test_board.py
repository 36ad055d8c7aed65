"""What workers know together: exact with many processes at once, and after one of them died."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from flowcat_server.errors import SharedStateError
from flowcat_server.workers.board import ARRIVING_S, SILENT_S, Board
from tests.fakes.doors import Clock

FORK = multiprocessing.get_context("fork")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "board.sqlite"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def board(path: Path, clock: Clock) -> Iterator[Board]:
    with Board(path, clock) as opened:
        yield opened


def join(board: Board, *pids: int) -> list[int]:
    runs = [board.join(number, pid) for number, pid in enumerate(pids, 1)]
    for run in runs:
        board.ready(run, ready=True)
    return runs


# --- many processes -------------------------------------------------------------------------------

LIMIT = 20
PROCESSES = 4
ROUNDS = 150


def _take_and_give_back(path: Path, number: int, most: multiprocessing.Queue[int]) -> None:
    with Board(path) as board:
        run = board.join(number, os.getpid())
        held: list[int] = []
        seen = 0
        for step in range(ROUNDS):
            place = board.take(run, LIMIT)
            if place is not None:
                held.append(place)
            seen = max(seen, board.used)
            if held and (place is None or step % 3 == 0):
                board.give_back(held.pop(), run)
        most.put(seen)
        for place in held:
            board.give_back(place, run)


def test_no_burst_of_processes_takes_more_places_than_there_are(path: Path):
    Board(path).close()
    most: multiprocessing.Queue[int] = FORK.Queue()
    workers = [
        FORK.Process(target=_take_and_give_back, args=(path, number, most))
        for number in range(PROCESSES)
    ]
    for worker in workers:
        worker.start()
    seen = [most.get(timeout=30) for _ in workers]
    for worker in workers:
        worker.join(30)
        assert worker.exitcode == 0
    assert max(seen) == LIMIT
    with Board(path) as board:
        assert board.used == 0


def _consume(path: Path, found: multiprocessing.Queue[int]) -> None:
    with Board(path) as board:
        firsts = [
            board.first("tokens", f"t{n}", 60, limit=1000, forget_oldest=False) for n in range(100)
        ]
    found.put(sum(firsts))


def test_a_token_is_new_to_one_process_only(path: Path):
    Board(path).close()
    found: multiprocessing.Queue[int] = FORK.Queue()
    workers = [FORK.Process(target=_consume, args=(path, found)) for _ in range(PROCESSES)]
    for worker in workers:
        worker.start()
    assert sum(found.get(timeout=30) for _ in workers) == 100
    for worker in workers:
        worker.join(30)


def _take_for_ever(path: Path) -> None:
    with Board(path) as board:
        run = board.join(2, os.getpid())
        while True:
            place = board.take(run, 1_000_000)
            assert place is not None
            board.begun(place, f"call {place}")


def test_the_places_of_a_process_that_was_killed_in_mid_change_are_free(path: Path):
    with Board(path) as board:
        (mine,) = join(board, os.getpid())
        assert board.take(mine, 10) is not None
    victim = FORK.Process(target=_take_for_ever, args=(path,))
    victim.start()
    time.sleep(0.3)
    assert victim.pid is not None
    os.kill(victim.pid, signal.SIGKILL)
    victim.join(10)
    with Board(path) as board:
        taken = board.used - 1
        assert taken > 0
        assert board.bury(victim.pid) == taken
        assert board.used == 1
        assert board.live() == []


# --- where a call goes ----------------------------------------------------------------------------


def test_a_call_stays_with_equals_and_goes_to_the_least_loaded(board: Board):
    first, second = join(board, 11, 12)
    assert [board.place_call(first)[0] for _ in range(4)] == [first, second, first, second]
    assert board.place_call(second)[0] == second
    assert [member.load for member in board.members()] == [2, 3]


def test_a_connection_counts_until_it_has_its_place_and_then_the_place_does(board: Board):
    first, _ = join(board, 11, 12)
    _, arriving = board.place_call(first)
    place = board.take(first, 10, arriving)
    assert place is not None
    assert board.members()[0].load == 1
    board.give_back(place, first)
    assert board.members()[0].load == 0


def test_a_connection_that_came_to_nothing_is_forgotten(board: Board, clock: Clock):
    first, second = join(board, 11, 12)
    board.place_call(first)
    _, arriving = board.place_call(first)
    board.arrived(arriving)
    assert [member.load for member in board.members()] == [1, 0]
    clock.now += ARRIVING_S + 1
    assert board.place_call(second)[0] == second
    assert [member.load for member in board.members()] == [0, 1]


def test_a_worker_that_is_not_ready_is_given_nothing(board: Board):
    (first,) = join(board, 11)
    board.join(2, 12)
    assert {board.place_call(first)[0] for _ in range(3)} == {first}


def test_a_worker_that_hangs_is_given_nothing(board: Board, clock: Clock):
    first, second = join(board, 11, 12)
    clock.now += SILENT_S + 1
    board.beat(first)
    assert {board.place_call(first)[0] for _ in range(3)} == {first}
    assert board.hung(SILENT_S) == [12]
    board.beat(second)
    assert board.place_call(first)[0] == second


def test_a_worker_that_does_not_keep_up_comes_last(board: Board):
    first, second = join(board, 11, 12)
    board.beat(first, overloaded=True)
    assert {board.place_call(first)[0] for _ in range(4)} == {second}
    board.beat(second, overloaded=True)
    assert board.place_call(first)[0] == first
    board.beat(first)
    assert board.members()[0].overloaded is False


# --- trouble --------------------------------------------------------------------------------------


def test_what_could_not_be_written_is_written_later(path: Path, board: Board):
    (mine,) = join(board, os.getpid())
    place, kept = board.take(mine, 10), board.take(mine, 10)
    assert place is not None
    assert kept is not None
    with sqlite3.connect(path, isolation_level=None) as stuck:
        stuck.execute("BEGIN IMMEDIATE")
        board._connection.execute("PRAGMA busy_timeout=10")
        board.give_back(place, mine)
        board.begun(kept, "call")
        with pytest.raises(SharedStateError, match="locked"):
            board.take(mine, 10)
        assert board.used == 2
        stuck.execute("ROLLBACK")
    stuck.close()
    board.beat(mine)
    assert board.used == 1
    assert board.live() == ["call"]


# --- waiting calls --------------------------------------------------------------------------------


def test_a_waiting_call_has_one_place_and_goes_to_one_worker(board: Board):
    first, second = join(board, 11, 12)
    place = board.take(first, 1)
    assert place is not None
    board.put("call", place, b"details", 60)
    assert board.take(second, 1) is None
    found = board.pop("call", second)
    assert found is not None
    assert (found.place, found.details) == (place, b"details")
    assert board.pop("call", first) is None
    board.give_back(place, first)  # the one that took the place has no say any more
    assert board.used == 1
    board.give_back(place, second)
    assert board.used == 0


def test_a_waiting_call_outlives_the_worker_that_answered_it(board: Board):
    first, second = join(board, 11, 12)
    place = board.take(first, 1)
    assert place is not None
    board.put("call", place, b"", 60)
    assert board.bury(11) == 0
    assert board.pop("call", second) is not None


def test_a_call_that_two_workers_were_told_of_has_one_place(board: Board):
    first, second = join(board, 11, 12)
    for run in (first, second):
        place = board.take(run, 2)
        assert place is not None
        board.put("call", place, b"", 60)
    assert board.used == 1
    found = board.pop("call", first)
    assert found is not None
    board.give_back(found.place, first)
    assert board.used == 0


def test_a_call_that_never_came_gives_its_place_back(board: Board, clock: Clock):
    first, second = join(board, 11, 12)
    place = board.take(first, 1)
    assert place is not None
    board.put("call", place, b"", 60)
    assert board.waiting == 1
    clock.now += 61
    assert board.waiting == 0
    assert board.used == 0
    assert board.pop("call", second) is None
    assert board.take(second, 1) is not None


# --- memories and metrics -------------------------------------------------------------------------


def test_what_was_seen_is_forgotten_after_its_time(board: Board, clock: Clock):
    def first(key: str) -> bool:
        return board.first("tokens", key, 10, limit=3, forget_oldest=False)

    assert [first(key) for key in "abca"] == [True, True, True, False]
    assert not first("d"), "a full memory accepts nothing new"
    clock.now += 11
    assert first("a")
    assert first("d")


def test_a_full_memory_of_webhooks_forgets_the_oldest(board: Board):
    def first(key: str) -> bool:
        return board.first("webhooks", key, 10, limit=3, forget_oldest=True)

    assert all(first(key) for key in "abcd")
    assert not first("d")
    assert not first("c")


def test_so_many_calls_begin_within_a_minute_whoever_begins_them(path: Path, clock: Clock):
    with Board(path, clock) as one, Board(path, clock) as other:
        assert [board.begin(3, 60) for board in (one, other, one)] == [0, 0, 0]
        clock.now += 20
        assert [board.begin(3, 60) for board in (one, other)] == [40, 40]
        clock.now += 40
        assert [board.begin(3, 60) for board in (other, one, other, one)] == [0, 0, 0, 60]
        assert one.begin(0, 60) == 60


def test_what_was_shown_of_a_run_is_kept_when_it_is_over(board: Board):
    first, second = join(board, 11, 12)
    assert board.shown({first: "one", second: "two"}) == {}
    board.bury(12, restarted=True)
    assert board.restarts == 1
    assert board.shown({first: "one"}) == {second: "two"}
    board.sum_up([second], "all that is over")
    assert board.shown({first: "one"}) == {0: "all that is over"}
    board.sum_up([second], "twice")
    assert board.shown({first: "one"}) == {0: "all that is over"}
