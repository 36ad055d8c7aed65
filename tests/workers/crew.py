"""A supervisor with workers that do nothing but live and die, as a program of its own."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

from flowcat_server import logs
from flowcat_server.workers import supervisor
from flowcat_server.workers.board import Board
from flowcat_server.workers.post import Post
from flowcat_server.workers.team import Seat, Team

supervisor.FIRST_DELAY_S = 0.1
supervisor.KILL_S = 0.5
supervisor.HUNG_S = 1.0
supervisor.LOOK_S = 0.2


def serve(seat: Seat) -> int:
    """Ready at once; 0 on SIGTERM."""
    ended: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: ended.append(number))
    print("begun", seat.number, os.getpid(), time.monotonic(), flush=True)
    with Board(seat.team.board) as board:
        run = board.join(seat.number, os.getpid())
        board.ready(run, ready=True)
        while not ended:
            time.sleep(0.05)
            board.beat(run)
    return 0


def hangs(seat: Seat) -> int:
    """Ready, then stuck, if it is the second one and the first of its kind."""
    stuck = seat.team.room / "stuck"
    if seat.number != 2 or stuck.exists():
        return serve(seat)
    stuck.touch()
    print("begun", seat.number, os.getpid(), time.monotonic(), flush=True)
    with Board(seat.team.board) as board:
        board.ready(board.join(seat.number, os.getpid()), ready=True)
    while True:
        time.sleep(1)


def dies(seat: Seat) -> int:
    """Ready, then dead, if it is the second one."""
    if seat.number != 2:
        return serve(seat)
    print("begun", seat.number, os.getpid(), time.monotonic(), flush=True)
    with Board(seat.team.board) as board:
        board.ready(board.join(seat.number, os.getpid()), ready=True)
    time.sleep(0.2)
    return 3


def stubborn(seat: Seat) -> int:
    """Does not hear SIGTERM."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print("begun", seat.number, os.getpid(), time.monotonic(), flush=True)
    with Board(seat.team.board) as board:
        run = board.join(seat.number, os.getpid())
        board.ready(run, ready=True)
        while True:
            time.sleep(0.2)
            board.beat(run)


def broken(seat: Seat) -> int:
    """Never ready."""
    print("begun", seat.number, os.getpid(), time.monotonic(), flush=True)
    return 7


if __name__ == "__main__":
    logs.configure()
    room = Path(sys.argv[2])
    team = Team(2, room, os.open(room, os.O_RDONLY), Post(2), [], [], "token", False, b"secret")
    work = {"serve": serve, "hangs": hangs, "dies": dies, "stubborn": stubborn, "broken": broken}[
        sys.argv[1]
    ]
    sys.exit(supervisor.Supervisor(team, work).run())
