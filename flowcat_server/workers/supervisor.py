"""The process that starts workers, starts dead ones again, and stops them all.

It forks: workers share what was imported and the agent file as it was read at the start, so that
one that is started again serves the same agent as the others. To be safe to fork it has no
thread, no event loop and no database connection; it waits in `select` for signals.

The first worker starts alone. When it serves, the others follow: a mistake in the agent file is
told once, and models come from the page cache for all but the first.
"""

from __future__ import annotations

import os
import selectors
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from flowcat_server.config.load import Loaded
from flowcat_server.errors import SharedStateError
from flowcat_server.workers.board import Board
from flowcat_server.workers.team import Seat, Team, found

log = structlog.get_logger()

FIRST_DELAY_S = 0.5
MOST_DELAY_S = 30.0
"""A worker that dies is started again after this, doubled each time that it dies young."""
OLD_S = 60.0
"""A worker that has lived so long did not die of its start."""
POLL_S = 0.1
"""How often the board is asked whether the first workers serve."""
HUNG_S = 30.0
"""A worker whose event loop has stood still for so long is killed: its calls are dead already."""
LOOK_S = 5.0
"""How often that is looked for."""
KILL_S = 30.0
"""After the second signal: longer than a worker takes to end its calls."""
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)


def supervise(loaded: Loaded, workers: int, work: Callable[[Seat], int]) -> int:
    """Serve with so many workers until told to stop.

    Returns the exit code; in the process of a worker, what its `work` returns.

    Raises:
        ConfigError: An address cannot be listened on.
    """
    supervisor = os.getpid()
    team = found(loaded, workers)
    try:
        return Supervisor(team, work).run()
    finally:
        if os.getpid() == supervisor:
            team.close()


class _Child(Exception):
    """Raised in a new process: its way out of the supervisor's code."""

    def __init__(self, seat: Seat) -> None:
        self.seat = seat


@dataclass(slots=True)
class _Post:
    """A worker's post, filled or about to be."""

    number: int
    pid: int = 0
    begun_at: float = 0.0
    served: bool = False
    """Some worker of this post has served."""
    young_deaths: int = 0
    restart_at: float | None = None


class Supervisor:
    """Runs a team; `run` returns the exit code, in the supervisor and in each worker."""

    def __init__(self, team: Team, work: Callable[[Seat], int]) -> None:
        """Create it; nothing is started.

        Args:
            team: What the workers inherit.
            work: A worker's whole life; returns its exit code.
        """
        self._team = team
        self._work = work
        self._posts = [_Post(number) for number in range(1, team.size + 1)]
        self._signals: list[int] = []
        self._kill_at: float | None = None
        self._failed: int | None = None
        self._looked_at = time.monotonic()
        self._unburied: set[int] = set()
        """Dead processes whose places could not be freed yet."""

    def run(self) -> int:
        """Start, restart, stop. Returns when every worker has ended.

        In a worker's process it returns what `work` returns, or raises what it raises.
        """
        self._wake, wakes = socket.socketpair()
        self._lifeline, self._held = os.pipe()
        for end in (self._wake, wakes):
            end.setblocking(False)
        before = {number: signal.getsignal(number) for number in _SIGNALS}
        signal.set_wakeup_fd(wakes.fileno(), warn_on_full_buffer=False)
        for number in _SIGNALS:
            signal.signal(number, self._on_signal)
        try:
            return self._supervise()
        except _Child as child:
            seat = child.seat
        finally:
            signal.set_wakeup_fd(-1)
            for number, handler in before.items():
                signal.signal(number, handler)
            self._wake.close()
            wakes.close()
            os.close(self._held)
        # What came since the fork is for this process to obey.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        return self._work(seat)

    def _on_signal(self, number: int, frame: object) -> None:
        del frame
        if number != signal.SIGCHLD:
            self._signals.append(number)

    # --- the loop ---------------------------------------------------------------------------

    def _supervise(self) -> int:
        obeyed = 0
        with Board(self._team.board):
            pass  # two processes cannot make a new file's journal at the same time
        self._start(self._posts[0])
        with selectors.DefaultSelector() as selector:
            selector.register(self._wake, selectors.EVENT_READ)
            while True:
                self._reap()
                while obeyed < len(self._signals):
                    obeyed += 1
                    self._stop(again=obeyed > 1)
                if not any(post.pid for post in self._posts) and self._stopping:
                    return self._code()
                if not self._stopping:
                    self._start_others()
                self._kill_hung()
                selector.select(self._wait_s())
                self._drain_wakes()

    @property
    def _stopping(self) -> bool:
        return bool(self._signals) or self._failed is not None

    def _code(self) -> int:
        if self._failed is not None:
            return self._failed
        return 130 if self._signals[0] == signal.SIGINT else 0

    def _wait_s(self) -> float | None:
        now = time.monotonic()
        if self._kill_at is not None:
            return max(0.0, self._kill_at - now)
        if not self._stopping and not all(post.served for post in self._posts):
            return POLL_S
        if self._stopping:
            return LOOK_S
        due = [post.restart_at for post in self._posts if post.restart_at is not None]
        return max(0.0, min([*due, now + LOOK_S]) - now)

    def _drain_wakes(self) -> None:
        try:
            while self._wake.recv(4096):
                pass
        except BlockingIOError:
            return

    # --- starting ---------------------------------------------------------------------------

    def _start_others(self) -> None:
        if not all(post.served for post in self._posts):
            self._ask_board(self._see_who_serves)
            if self._posts[0].served and not any(post.pid for post in self._posts[1:]):
                for post in self._posts[1:]:
                    if post.restart_at is None:
                        self._start(post)
            if all(post.served for post in self._posts):
                log.info("workers_ready", workers=len(self._posts))
        now = time.monotonic()
        for post in self._posts:
            if post.restart_at is not None and post.restart_at <= now:
                self._start(post)

    def _see_who_serves(self, board: Board) -> None:
        ready = {member.pid for member in board.members() if member.ready}
        for post in self._posts:
            post.served = post.served or post.pid in ready

    def _kill_hung(self) -> None:
        now = time.monotonic()
        slept, self._looked_at = now - self._looked_at > 2 * LOOK_S, now
        if not slept:  # else all of us were stopped, and they have not had time to say a word
            self._ask_board(self._kill_silent)

    def _kill_silent(self, board: Board) -> None:
        hung = set(board.hung(HUNG_S))
        for post in self._posts:
            if post.pid in hung:
                log.error("worker_hung", worker=post.number, pid=post.pid, silent_s=HUNG_S)
                os.kill(post.pid, signal.SIGKILL)
        for pid in list(self._unburied):
            board.bury(pid)
            self._unburied.discard(pid)

    def _ask_board(self, work: Callable[[Board], None]) -> None:
        """Do something with the board, or not, when a stuck worker holds it or it is gone."""
        try:
            with Board(self._team.board) as board:
                work(board)
        except SharedStateError as error:
            log.error("board_out_of_reach", error=str(error))  # noqa: TRY400 - tried again later

    def _start(self, post: _Post) -> None:
        """Fork; raises `_Child` in the new process."""
        post.restart_at = None
        # A signal between the fork and the worker's own handlers must not be lost.
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        pid = os.fork()
        if pid == 0:
            # Ctrl-C on a terminal goes to its whole group: the supervisor alone obeys it.
            os.setpgid(0, 0)
            first = not any(each.served for each in self._posts) and post.number == 1
            raise _Child(Seat(self._team, post.number, self._lifeline, first))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        post.pid, post.begun_at = pid, time.monotonic()

    # --- deaths -----------------------------------------------------------------------------

    def _reap(self) -> None:
        if self._kill_at is not None and time.monotonic() >= self._kill_at:
            log.error("workers_killed", after_s=KILL_S)
            self._kill_at = None
            self._signal_all(signal.SIGKILL)
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            post = next((each for each in self._posts if each.pid == pid), None)
            if post is not None:
                self._bury(post, status)

    def _bury(self, post: _Post, status: int) -> None:
        pid, post.pid = post.pid, 0
        self._unburied.add(pid)
        calls, others = 0, list[int]()

        def bury(board: Board) -> None:
            nonlocal calls, others
            members = board.members()
            post.served = post.served or any(m.pid == pid and m.ready for m in members)
            others = [m.number for m in members if m.ready and m.pid != pid]
            calls = board.bury(pid, restarted=post.served and not self._stopping)
            self._unburied.discard(pid)

        self._ask_board(bury)
        passed = self._team.post.pass_on(post.number, others)
        code = os.waitstatus_to_exitcode(status)
        how = {"signal": signal.Signals(-code).name} if code < 0 else {"exit_code": code}
        if self._stopping:
            log.info("worker_stopped", worker=post.number, pid=pid, **how)
            return
        if not post.served:
            log.error("worker_did_not_start", worker=post.number, pid=pid, **how)
            self._failed = code if code > 0 else 1
            self._kill_at = time.monotonic() + KILL_S
            self._signal_all(signal.SIGTERM)
            return
        delay_s = self._delay(post)
        post.restart_at = time.monotonic() + delay_s
        log.error(
            "worker_died",
            worker=post.number,
            pid=pid,
            **how,
            calls_lost=calls,
            connections_passed_on=passed,
            restart_in_s=delay_s,
        )

    def _delay(self, post: _Post) -> float:
        lived_s = time.monotonic() - post.begun_at
        post.young_deaths = 0 if lived_s >= OLD_S else post.young_deaths + 1
        return min(MOST_DELAY_S, FIRST_DELAY_S * float(2 ** min(10, max(0, post.young_deaths - 1))))

    # --- the end ----------------------------------------------------------------------------

    def _stop(self, *, again: bool) -> None:
        """First: live calls may finish. Second: they end now, and workers that do not are killed.

        What a worker is sent is the same both times; it counts for itself.
        """
        log.info("workers_ending_calls" if again else "workers_draining", workers=self._living)
        if again and self._kill_at is None:
            self._kill_at = time.monotonic() + KILL_S
        self._signal_all(signal.SIGTERM)

    @property
    def _living(self) -> int:
        return sum(bool(post.pid) for post in self._posts)

    def _signal_all(self, number: signal.Signals) -> None:
        for post in self._posts:
            if post.pid:
                os.kill(post.pid, number)
