"""What the workers of one server know together: places, waiting calls, used tokens, their load.

A SQLite file in a private directory of memory (``/dev/shm``), open in every worker. Each change is
one transaction of some 30 us, so a count is exact whoever changes it; a worker that is killed in
the middle of one leaves nothing half done, because the next to come rolls it back
(https://sqlite.org/wal.html). Nothing here outlives the server: durability is switched off.

A *run* is one life of a worker's process; run 0 is nobody. Times are those of `time.monotonic`,
which all processes of a Linux machine share (clock_gettime(2)).
"""

from __future__ import annotations

import sqlite3
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from flowcat_server.errors import SharedStateError

log = structlog.get_logger()

BUSY_S = 0.25
"""So long the event loop waits for another worker's transaction, at most. One takes some 30 us; a
worker that was stopped in the middle of one is killed in the end."""
ARRIVING_S = 30.0
"""A connection that was given to a worker counts as its load for so long, until it has a place."""
SILENT_S = 3.0
"""A worker that has not said for so long that it lives is given no calls; see `Board.beat`."""
MAX_OWED = 10_000
"""Changes that could not be written and are tried again; more are forgotten."""
_PURGE_EVERY = 100
"""Entries of a memory between two looks at what is too old."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS workers (
    run INTEGER PRIMARY KEY AUTOINCREMENT, number INTEGER NOT NULL, pid INTEGER NOT NULL,
    ready INTEGER NOT NULL DEFAULT 0, seen REAL NOT NULL,
    overloaded INTEGER NOT NULL DEFAULT 0, moved INTEGER NOT NULL DEFAULT 0);
CREATE TABLE IF NOT EXISTS restarts (number INTEGER PRIMARY KEY, count INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS places (
    place INTEGER PRIMARY KEY AUTOINCREMENT, run INTEGER NOT NULL, call_id TEXT UNIQUE);
CREATE INDEX IF NOT EXISTS places_of_run ON places (run);
CREATE TABLE IF NOT EXISTS waiting (
    key TEXT PRIMARY KEY, place INTEGER NOT NULL, details BLOB NOT NULL, until REAL NOT NULL);
CREATE TABLE IF NOT EXISTS arriving (
    id INTEGER PRIMARY KEY AUTOINCREMENT, run INTEGER NOT NULL, until REAL NOT NULL);
CREATE TABLE IF NOT EXISTS begun (at REAL NOT NULL);
CREATE TABLE IF NOT EXISTS tokens (
    id INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT UNIQUE NOT NULL, until REAL NOT NULL);
CREATE TABLE IF NOT EXISTS webhooks (
    id INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT UNIQUE NOT NULL, until REAL NOT NULL);
CREATE TABLE IF NOT EXISTS metrics (run INTEGER PRIMARY KEY, text TEXT NOT NULL);
"""


@dataclass(frozen=True, slots=True)
class Member:
    """A worker that lives."""

    run: int
    number: int
    """1 and up; that of a dead worker is its successor's."""
    pid: int
    ready: bool
    load: int
    """Its calls, and the connections on their way to becoming one."""
    moved: int
    """Connections that it was given by other workers."""
    overloaded: bool = False
    """Its event loop does not keep up."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """A call that has a place and no worker yet."""

    place: int
    details: bytes


class Board:
    """One process's view. Used on one thread; never across a fork."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        """Open it, and create what is not there yet.

        Raises:
            SharedStateError: The file cannot be used.
        """
        self._clock = clock
        self._owed: deque[tuple[str, tuple[object, ...]]] = deque(maxlen=MAX_OWED)
        try:
            self._connection = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None)
            for pragma in ("journal_mode=WAL", "synchronous=OFF", "wal_autocheckpoint=200"):
                self._connection.execute(f"PRAGMA {pragma}")
            self._connection.executescript(_SCHEMA)
        except sqlite3.Error as error:
            raise SharedStateError(f"the workers' board {path}: {error}") from error

    def close(self) -> None:
        """Let go of the file."""
        self._connection.close()

    def __enter__(self) -> Board:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @contextmanager
    def _change(self) -> Iterator[Callable[..., sqlite3.Cursor]]:
        """A transaction of this process alone."""
        execute = self._connection.execute
        try:
            execute("BEGIN IMMEDIATE")
            yield execute
            execute("COMMIT")
        except sqlite3.Error as error:
            raise SharedStateError(f"the workers' board: {error}") from error
        finally:
            if self._connection.in_transaction:
                self._connection.rollback()

    def _note(self, statement: str, *values: object) -> None:
        """Write what nobody waits for; if that fails, again with the next `beat`.

        A call must not end, and a place not be lost, because memory is full or a worker that was
        stopped holds the file.
        """
        if not self._write(statement, values):
            self._owed.append((statement, values))

    def _write(self, statement: str, values: tuple[object, ...]) -> bool:
        try:
            with self._change() as execute:
                execute(statement, values)
        except SharedStateError as error:
            log.error("board_not_written", error=str(error))  # noqa: TRY400 - no fault of ours
            return False
        return True

    def _read(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        try:
            return self._connection.execute(query, values).fetchall()
        except sqlite3.Error as error:
            raise SharedStateError(f"the workers' board: {error}") from error

    # --- workers ----------------------------------------------------------------------------

    def join(self, number: int, pid: int) -> int:
        """A worker's process began; returns its run."""
        with self._change() as execute:
            joined = execute(
                "INSERT INTO workers (number, pid, seen) VALUES (?, ?, ?)",
                (number, pid, self._clock()),
            )
            return int(joined.lastrowid or 0)

    def ready(self, run: int, *, ready: bool) -> None:
        """Whether it is given calls from now on."""
        self._note(
            "UPDATE workers SET ready = ?, seen = ? WHERE run = ?", ready, self._clock(), run
        )

    def beat(self, run: int, *, overloaded: bool = False) -> None:
        """Its event loop runs, and whether it keeps up; to be said every second."""
        while self._owed:
            if not self._write(*self._owed[0]):
                return  # each attempt may take `BUSY_S`, in which no audio flows
            self._owed.popleft()
        self._write(
            "UPDATE workers SET seen = ?, overloaded = ? WHERE run = ?",
            (self._clock(), overloaded, run),
        )

    def hung(self, after_s: float) -> list[int]:
        """Processes of workers that took calls and have not said for so long that they live."""
        late = self._clock() - after_s
        return [
            int(pid)
            for (pid,) in self._read("SELECT pid FROM workers WHERE ready AND seen < ?", late)
        ]

    def bury(self, pid: int, *, restarted: bool = False) -> int:
        """A worker's process ended: what it held is free. Returns how many calls it had."""
        with self._change() as execute:
            found = execute("SELECT run, number FROM workers WHERE pid = ?", (pid,)).fetchone()
            if found is None:
                return 0
            run, number = found
            execute("DELETE FROM workers WHERE run = ?", (run,))
            execute("DELETE FROM arriving WHERE run = ?", (run,))
            if restarted:
                execute(
                    "INSERT INTO restarts VALUES (?, 1) "
                    "ON CONFLICT (number) DO UPDATE SET count = count + 1",
                    (number,),
                )
            return int(execute("DELETE FROM places WHERE run = ?", (run,)).rowcount)

    def members(self) -> list[Member]:
        """The workers that live, by number."""
        rows = self._read(
            "SELECT run, number, pid, ready, "
            "(SELECT count(*) FROM places WHERE places.run = workers.run) + "
            "(SELECT count(*) FROM arriving WHERE arriving.run = workers.run), moved, overloaded "
            "FROM workers ORDER BY number"
        )
        return [
            Member(int(run), int(number), int(pid), bool(ready), int(load), int(moved), bool(busy))
            for run, number, pid, ready, load, moved, busy in rows
        ]

    @property
    def restarts(self) -> int:
        """How often a worker was started again."""
        return self._number("SELECT coalesce(sum(count), 0) FROM restarts")

    def _number(self, query: str, *values: object) -> int:
        return int(self._read(query, *values)[0][0])

    # --- where a call goes ------------------------------------------------------------------

    def place_call(self, run: int) -> tuple[int, int]:
        """Choose who serves a connection that will be a call: the ready worker with least load.

        One whose loop does not keep up comes last.

        Returns its run, which is `run` itself unless another has less, and the number under which
        the connection counts as load until `arrived`.
        """
        with self._change() as execute:
            execute("DELETE FROM arriving WHERE until < ?", (self._clock(),))
            chosen = execute(
                "SELECT run FROM workers WHERE (ready AND seen >= ?) OR run = ? "
                "ORDER BY overloaded, "
                "(SELECT count(*) FROM places WHERE places.run = workers.run) + "
                "(SELECT count(*) FROM arriving WHERE arriving.run = workers.run), "
                "run != ?, number LIMIT 1",
                (self._clock() - SILENT_S, run, run),
            ).fetchone()
            best = int(chosen[0]) if chosen else run
            until = self._clock() + ARRIVING_S
            arriving = execute("INSERT INTO arriving (run, until) VALUES (?, ?)", (best, until))
            return best, int(arriving.lastrowid or 0)

    def arrived(self, arriving: int) -> None:
        """The connection has its place, or has gone."""
        self._note("DELETE FROM arriving WHERE id = ?", arriving)

    def stays(self, arriving: int, run: int) -> None:
        """The connection could not be given away."""
        self._note("UPDATE arriving SET run = ? WHERE id = ?", run, arriving)

    def took(self, run: int) -> None:
        """A worker took a connection that another gave it."""
        self._note("UPDATE workers SET moved = moved + 1 WHERE run = ?", run)

    # --- places -----------------------------------------------------------------------------

    def take(self, run: int, limit: int, arriving: int = 0) -> int | None:
        """A place for a call of this run; None where `limit` are in use.

        Args:
            run: Whose call.
            limit: Places that there are.
            arriving: The connection that has its place now, as in `arrived`.
        """
        with self._change() as execute:
            self._forget_waiting(execute)
            (used,) = execute("SELECT count(*) FROM places").fetchone()
            if used >= limit:
                return None
            if arriving:
                execute("DELETE FROM arriving WHERE id = ?", (arriving,))
            return int(execute("INSERT INTO places (run) VALUES (?)", (run,)).lastrowid or 0)

    def begun(self, place: int, call_id: str) -> None:
        """The place is used by this call."""
        self._note("UPDATE places SET call_id = ? WHERE place = ?", call_id, place)

    def give_back(self, place: int, run: int) -> None:
        """Free a place of this run; one that has become another's stays."""
        self._note("DELETE FROM places WHERE place = ? AND run = ?", place, run)

    @property
    def used(self) -> int:
        """Places in use."""
        return self._number("SELECT count(*) FROM places") - self._number(
            "SELECT count(*) FROM waiting WHERE until < ?", self._clock()
        )

    def live(self) -> list[str]:
        """Ids of all live calls."""
        found = self._read("SELECT call_id FROM places WHERE call_id IS NOT NULL")
        return [str(call_id) for (call_id,) in found]

    def owner(self, call_id: str) -> int:
        """The run that has this live call; 0: none has."""
        found = self._read("SELECT run FROM places WHERE call_id = ?", call_id)
        return int(found[0][0]) if found else 0

    # --- waiting calls ----------------------------------------------------------------------

    def put(self, key: str, place: int, details: bytes, lasts_s: float) -> None:
        """A call was announced: its place is nobody's until it is popped, or `lasts_s` over."""
        with self._change() as execute:
            # Announced before, perhaps to another worker: that place is free again.
            execute(
                "DELETE FROM places WHERE place IN (SELECT place FROM waiting WHERE key = ?) "
                "AND place != ?",
                (key, place),
            )
            execute("UPDATE places SET run = 0 WHERE place = ?", (place,))
            execute(
                "INSERT OR REPLACE INTO waiting VALUES (?, ?, ?, ?)",
                (key, place, details, self._clock() + lasts_s),
            )

    def pop(self, key: str, run: int, arriving: int = 0) -> Waiting | None:
        """The announced call comes to this run, if nobody else has it; its place comes too."""
        with self._change() as execute:
            self._forget_waiting(execute)
            found = execute("SELECT place, details FROM waiting WHERE key = ?", (key,)).fetchone()
            if found is None:
                return None
            execute("DELETE FROM waiting WHERE key = ?", (key,))
            execute("UPDATE places SET run = ? WHERE place = ?", (run, found[0]))
            if arriving:
                execute("DELETE FROM arriving WHERE id = ?", (arriving,))
            return Waiting(int(found[0]), bytes(found[1]))

    @property
    def waiting(self) -> int:
        """Announced calls whose socket may still come."""
        return self._number("SELECT count(*) FROM waiting WHERE until >= ?", self._clock())

    def _forget_waiting(self, execute: Callable[..., sqlite3.Cursor]) -> None:
        late = (self._clock(),)
        execute(
            "DELETE FROM places WHERE place IN (SELECT place FROM waiting WHERE until < ?)", late
        )
        execute("DELETE FROM waiting WHERE until < ?", late)

    # --- calls that we make -----------------------------------------------------------------

    def begin(self, limit: int, within_s: float) -> float:
        """Count something of which `limit` may begin within a time.

        Returns 0, or how many seconds it is until the next may; then nothing was counted.
        """
        now = self._clock()
        with self._change() as execute:
            execute("DELETE FROM begun WHERE at <= ?", (now - within_s,))
            count, oldest = execute("SELECT count(*), min(at) FROM begun").fetchone()
            if count >= limit:
                return float(oldest) + within_s - now if count else within_s
            execute("INSERT INTO begun VALUES (?)", (now,))
            return 0.0

    # --- memories ---------------------------------------------------------------------------

    def first(
        self, table: str, key: str, lifetime_s: float, *, limit: int, forget_oldest: bool
    ) -> bool:
        """True the first time that any worker asks; see `flowcat_server.routes.tokens.Once`.

        Args:
            table: ``tokens`` or ``webhooks``.
            key: What was seen.
            lifetime_s: How long it is remembered.
            limit: How many are remembered.
            forget_oldest: At the limit the oldest is forgotten, else nothing new is accepted.
        """
        now = self._clock()
        with self._change() as execute:
            oldest, newest = execute(f"SELECT min(id), max(id) FROM {table}").fetchone()  # noqa: S608 - one of two
            held = newest - oldest + 1 if newest else 0
            if held >= limit or (newest or 0) % _PURGE_EVERY == 0:
                execute(f"DELETE FROM {table} WHERE until < ?", (now,))  # noqa: S608
                if forget_oldest and held >= limit:
                    execute(f"DELETE FROM {table} WHERE id <= ?", (newest - limit + 1,))  # noqa: S608
                (held,) = execute(f"SELECT count(*) FROM {table}").fetchone()  # noqa: S608
            seen = execute(f"SELECT until FROM {table} WHERE key = ?", (key,)).fetchone()  # noqa: S608
            if seen is not None and seen[0] < now:
                execute(f"DELETE FROM {table} WHERE key = ?", (key,))  # noqa: S608
            elif seen is not None or held >= limit:
                return False
            execute(
                f"INSERT INTO {table} (key, until) VALUES (?, ?)",  # noqa: S608
                (key, now + lifetime_s),
            )
            return True

    # --- metrics ----------------------------------------------------------------------------

    def shown(self, texts: Mapping[int, str]) -> dict[int, str]:
        """Keep what is shown of each run; returns what was shown last of all other runs.

        What has once been counted stays counted when a worker dies or is silent: a sum that fell
        would look to Prometheus like a restart of the whole server.
        """
        with self._change() as execute:
            kept = execute("SELECT run, text FROM metrics").fetchall()
            for run, text in texts.items():
                execute("INSERT OR REPLACE INTO metrics VALUES (?, ?)", (run, text))
        return {int(run): str(text) for run, text in kept if run not in texts}

    def sum_up(self, runs: Collection[int], text: str) -> None:
        """Keep one text, that of run 0, in place of those of runs that are over."""
        with self._change() as execute:
            these = f"FROM metrics WHERE run IN ({','.join('?' * len(runs))})"
            (found,) = execute(f"SELECT count(*) {these}", tuple(runs)).fetchone()
            if found == len(runs):  # else another worker did it meanwhile
                execute(f"DELETE {these}", tuple(runs))
                execute("INSERT INTO metrics VALUES (0, ?)", (text,))
