"""The one task that writes to the records database.

It gathers what all calls have to write into one small transaction, at most `DELAY_MS` after the
first of it came; finished turns and ends do not wait for that delay. A batch that fails because
the database is away is tried again until it is written, while the calls' own bounded queues drop
what is of little value. A batch that fails because of a row is taken apart: the calls are written
one by one, and what the database refuses is dropped, counted and logged.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

import structlog
from sqlalchemy import Executable, bindparam, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import (
    DataError,
    DBAPIError,
    IntegrityError,
    NotSupportedError,
    ProgrammingError,
    SQLAlchemyError,
    StatementError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.sql.schema import Table

from flowcat_server.records.models import calls, events, tool_calls, turns, usage
from flowcat_server.records.writer import CallWriter, Row, Rows

log = structlog.get_logger()

DELAY_MS = 200
BATCH = 400
"""Events of one transaction; about 10 ms of work for SQLite."""
STATEMENT_TIMEOUT_MS = 15_000
RETRY_MS = (200, 500, 1_000, 2_000, 5_000)

_change_call = (
    update(calls)
    .where(calls.c.id == bindparam("the_call"))
    .values(
        {
            name: bindparam(name)
            for name in ("accepted_at", "recording", "external_id", "status", "answered_by")
        }
    )
)

_end_call = (
    update(calls)
    .where(calls.c.id == bindparam("the_call"))
    .where(calls.c.ended_at.is_(None))
    .values(
        {
            name: bindparam(name)
            for name in (
                "ended_at",
                "ended_reason",
                "ended_detail",
                "variables",
                "dropped_events",
                "webhook",
            )
        }
    )
)
_end_tool = (
    update(tool_calls)
    .where(tool_calls.c.call_id == bindparam("the_call"))
    .where(tool_calls.c.seq == bindparam("the_seq"))
    .values({name: bindparam(name) for name in ("result", "ok", "duration_ms")})
)
_tell_turn = (
    update(turns)
    .where(turns.c.call_id == bindparam("the_call"))
    .where(turns.c.turn == bindparam("the_turn"))
    .where(turns.c.caller == "")
    .values(caller=bindparam("caller"))
)


class Flusher:
    """Writes for all calls of the process.

    Args:
        engine: The database.
        on_dropped: Called with how many rows were refused for good.
        delay_ms: How long a row may wait for others.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        *,
        on_dropped: Callable[[int], None] = lambda count: None,
        delay_ms: int = DELAY_MS,
    ) -> None:
        self._engine = engine
        self._on_dropped = on_dropped
        self._delay = delay_ms / 1000
        self._queue: deque[CallWriter] = deque()
        self._work = asyncio.Event()
        self._urgent = asyncio.Event()
        self._waiters: list[asyncio.Future[None]] = []
        self._inserts = {
            table.name: _insert(engine, table)
            for table in (calls, turns, tool_calls, events, usage)
        }
        self.failing = False
        """The last attempt to write failed: the database is away."""

    def wake(self, writer: CallWriter, urgent: bool) -> None:
        """`writer` has something to write."""
        if not writer.queued:
            writer.queued = True
            self._queue.append(writer)
            self._work.set()
        if urgent:
            self._urgent.set()

    async def written(self, timeout_ms: int) -> bool:
        """Wait until everything that was handed over so far is committed.

        Returns False when that took longer than `timeout_ms`; it will still be written later.
        """
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        self._work.set()
        self._urgent.set()
        try:
            async with asyncio.timeout(timeout_ms / 1000):
                await waiter
        except TimeoutError:
            return False
        return True

    async def run(self) -> None:
        """Write until cancelled."""
        while True:
            await self._work.wait()
            if not self._urgent.is_set():
                try:
                    async with asyncio.timeout(self._delay):
                        await self._urgent.wait()
                except TimeoutError:
                    pass
            self._work.clear()
            self._urgent.clear()
            await self._flush()

    async def _flush(self) -> None:
        # Calls that have something to write by now. What comes meanwhile is for the next time:
        # under load there is always more, and who waits would never be told.
        waiters, self._waiters = self._waiters, []
        due = len(self._queue)
        while due:
            parts, due = self._collect(due)
            await self._write(parts)
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    def _collect(self, due: int) -> tuple[list[Rows], int]:
        """One batch of the first `due` calls, oldest first, and how many of them are left."""
        parts: list[Rows] = []
        room = BATCH
        while due and room > 0:
            writer = self._queue[0]
            rows = writer.take(room)
            room -= max(1, len(rows))
            parts.append(rows)
            if not writer.pending:
                writer.queued = False
                self._queue.popleft()
                due -= 1
        return parts, due

    async def _write(self, parts: list[Rows]) -> None:
        batch = Rows()
        for part in parts:
            batch.add(part)
        attempt = 0
        while True:
            try:
                await self._transaction(batch)
            except (SQLAlchemyError, OSError, TimeoutError, ValueError, OverflowError) as error:
                if not _is_away(error):
                    await self._write_apart(parts, error)
                    return
                self._report(error, attempt)
                await asyncio.sleep(RETRY_MS[min(attempt, len(RETRY_MS) - 1)] / 1000)
                attempt += 1
            else:
                if self.failing:
                    self.failing = False
                    log.info("records_recovered", attempts=attempt + 1)
                return

    async def _write_apart(self, parts: list[Rows], error: Exception) -> None:
        if len(parts) > 1:
            for part in parts:
                await self._write([part])
            return
        rows = _singles(parts[0])
        if len(rows) > 1:
            for row in rows:
                await self._write([row])
            return
        self._on_dropped(1)
        log.error("record_refused", error=type(error).__name__, table=_table_of(parts[0]))

    def _report(self, error: Exception, attempt: int) -> None:
        self.failing = True
        if attempt in (0, 3) or attempt % 20 == 0:
            cause = error.orig if isinstance(error, DBAPIError) else error
            log.error(
                "records_not_written", error=" ".join(str(cause).split()), attempt=attempt + 1
            )

    async def _transaction(self, rows: Rows) -> None:
        async with (
            asyncio.timeout(STATEMENT_TIMEOUT_MS / 1000),
            self._engine.begin() as connection,
        ):
            for table in (calls, turns, tool_calls, events, usage):
                new: list[Row] = getattr(rows, table.name)
                if new:
                    await connection.execute(self._inserts[table.name], new)
            if rows.tools_ended:
                await connection.execute(_end_tool, rows.tools_ended)
            if rows.turns_told:
                await connection.execute(_tell_turn, rows.turns_told)
            if rows.changed:
                await connection.execute(_change_call, rows.changed)
            if rows.ended:
                await connection.execute(_end_call, rows.ended)


def _insert(engine: AsyncEngine, table: Table) -> Executable:
    """An insert that does nothing where the row exists: a batch may be written twice."""
    if engine.dialect.name == "sqlite":
        return sqlite.insert(table).on_conflict_do_nothing()
    if engine.dialect.name == "postgresql":
        return postgresql.insert(table).on_conflict_do_nothing()
    return table.insert()


def _is_away(error: Exception) -> bool:
    """Whether trying the same rows again may help."""
    if isinstance(error, DBAPIError):
        return error.connection_invalidated or not _blames_row(error)
    if isinstance(error, StatementError):
        return False
    return isinstance(error, OSError | TimeoutError | PoolTimeout)


def _blames_row(error: DBAPIError) -> bool:
    if isinstance(error, IntegrityError | DataError | ProgrammingError | NotSupportedError):
        return True
    state = getattr(error.orig, "sqlstate", None) or ""
    # SQLSTATE classes 22 (data exception) and 23 (constraint), PostgreSQL appendix A. asyncpg
    # checks values before it sends them, and says so with a ValueError.
    cause = getattr(error.orig, "__cause__", None)
    return state.startswith(("22", "23")) or isinstance(cause, ValueError)


def _singles(rows: Rows) -> list[Rows]:
    """Each row alone, in an order that satisfies the foreign keys."""
    singles = []
    for name in ("calls", "turns", "tool_calls", "events", "usage", "tools_ended", "turns_told",
                 "changed", "ended"):  # fmt: skip
        for row in getattr(rows, name):
            single = Rows()
            getattr(single, name).append(row)
            singles.append(single)
    return singles


def _table_of(rows: Rows) -> str:
    return next((name for name in rows.__slots__ if getattr(rows, name)), "")
