"""The records of all calls: what the server writes, the page shows and the command line lists.

One `Store` per process. Writing never happens on the audio path: a call's `CallWriter` takes its
events, the store's one writer task commits them. A call's row is committed before its pipeline
starts, a turn when it ends, so that a killed process loses no finished turn; `close_orphans`
gives the calls of dead processes their end.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Collection, Coroutine, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog
from sqlalchemy import delete, insert, select, text, update
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from flowcat_server.core.events import CallEnded
from flowcat_server.errors import RecordsError
from flowcat_server.records import database, files, queries
from flowcat_server.records.flusher import Flusher
from flowcat_server.records.instances import REFRESH_MS, Instance, forget, is_alive
from flowcat_server.records.models import CallRecord, CallRow, CallSummary, calls, instances
from flowcat_server.records.redact import Redactor
from flowcat_server.records.writer import CallWriter

log = structlog.get_logger()

ACCEPT_TIMEOUT_MS = 1_000
END_TIMEOUT_MS = 5_000
SWEEP_MS = 600_000
FIRST_SWEEP_MS = 60_000
_CHUNK = 200


@dataclass(slots=True)
class Deleted:
    """What a deletion removed."""

    calls: int = 0
    files: int = 0
    size: int = 0
    """Bytes of the files."""


class Store:
    """Open with `Store.open`, close with `close`."""

    def __init__(
        self,
        engine: AsyncEngine,
        directory: Path,
        instance: Instance | None,
        *,
        redact: Collection[str],
        transcript: bool,
        keep_ms: int | None,
        webhook: bool,
        on_dropped: Callable[[int], None],
        cleans: Callable[[], bool],
    ) -> None:
        self.directory = directory
        self._engine = engine
        self._instance = instance
        self._redactor = Redactor(redact)
        self._transcript = transcript
        self._keep_ms = keep_ms
        self._webhook = webhook
        self._on_dropped = on_dropped
        self._cleans = cleans
        self._writers: dict[str, CallWriter] = {}
        self._flusher = Flusher(engine, on_dropped=on_dropped)
        self._tasks: dict[str, asyncio.Task[None]] = {}

    @classmethod
    async def open(
        cls,
        database_name: str = "calls.sqlite",
        *,
        directory: Path | str = "calls",
        redact: Collection[str] = ("card_number", "dtmf"),
        transcript: bool = True,
        keep_ms: int | None = None,
        webhook: bool = False,
        read_only: bool = False,
        on_dropped: Callable[[int], None] = lambda count: None,
        cleans: Callable[[], bool] = lambda: True,
    ) -> Store:
        """Connect, bring the schema up to date, start the writer.

        Args:
            database_name: A URL (``postgresql://...``), or a file name relative to `directory`.
            directory: Where recordings are kept.
            redact: What is taken out before storage, see `flowcat_server.records.redact`.
            transcript: False: what people said is not stored.
            keep_ms: Calls older than this are deleted, with their files; None: kept for ever.
            webhook: Ends of calls wait in `webhooks_due` until `webhook_done`.
            read_only: For looking only; nothing is created, started or changed.
            on_dropped: Called with the number of events and rows that were lost.
            cleans: Whether this process deletes what is old and ends orphans, from time to time;
                of several that share the records one is enough.

        Raises:
            RecordsError: The database or the directory cannot be used.
        """
        directory = database.absolute(directory)
        url = database.database_url(database_name, directory)
        if not read_only:
            _make_private(directory)
        engine = database.create_engine(url, read_only=read_only)
        instance = None
        try:
            if read_only:
                await database.check(engine)
            else:
                await database.prepare(engine)
                instance = Instance(directory)
        except BaseException:
            await engine.dispose()
            raise
        store = cls(
            engine,
            directory,
            instance,
            redact=redact,
            transcript=transcript,
            keep_ms=keep_ms,
            webhook=webhook,
            on_dropped=on_dropped,
            cleans=cleans,
        )
        if instance is not None:
            await store._refresh()
            store._start("records-writer", store._flusher.run)
            store._start("records-housekeeping", store._housekeeping)
        return store

    async def close(self, timeout_ms: int = END_TIMEOUT_MS) -> None:
        """Write what is left, for at most `timeout_ms`, and disconnect."""
        if self._tasks and not await self._flusher.written(timeout_ms):
            lost = sum(writer.pending for writer in self._writers.values())
            log.error("records_lost_at_close", waiting=lost)
        tasks, self._tasks = list(self._tasks.values()), {}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._instance is not None:
            await self._leave(self._instance)
            self._instance = None
        await self._engine.dispose()

    def _start(self, name: str, run: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run one of the store's two tasks; one that breaks is reported and started again."""

        def done(task: asyncio.Task[None]) -> None:
            if task.cancelled() or self._tasks.get(name) is not task:
                return
            log.critical("records_task_broke", task=name, exc_info=task.exception())
            self._start(name, run)

        task = asyncio.create_task(run(), name=name)
        self._tasks[name] = task
        task.add_done_callback(done)

    async def _leave(self, instance: Instance) -> None:
        leaves_calls = True
        mine = select(calls.c.id).where(calls.c.owner == instance.id, calls.c.ended_at.is_(None))
        try:
            async with asyncio.timeout(2), self._engine.begin() as connection:
                leaves_calls = (await connection.execute(mine.limit(1))).first() is not None
                if not leaves_calls:
                    await connection.execute(delete(instances).where(instances.c.id == instance.id))
        except (SQLAlchemyError, OSError, TimeoutError) as error:
            log.warning("records_left_uncleanly", error=" ".join(str(error).split()))
        instance.close(leaves_calls=leaves_calls)

    # --- writing ------------------------------------------------------------------------------

    @property
    def writable(self) -> bool:
        """False while the database is away (calls go on, their records wait)."""
        return not self._flusher.failing

    def new_recording(self, call_id: str, accepted_at: int) -> str:
        """The name for `CallRow.recording`: relative to `directory`, a folder for each day."""
        return files.recording_name(call_id, accepted_at)

    async def call_accepted(self, row: CallRow, timeout_ms: int = ACCEPT_TIMEOUT_MS) -> CallWriter:
        """Make the call's row and wait until it is committed.

        When the database is away, the call goes on after `timeout_ms` and its row is written as
        soon as the database is back.
        """
        if self._instance is None:
            raise RecordsError("the records were opened for reading only")
        files.check_id(row.id)
        writer = CallWriter(
            row,
            self._instance.id,
            self._redactor,
            self._flusher.wake,
            transcript=self._transcript,
            webhook=self._webhook,
        )
        self._writers[row.id] = writer
        self._flusher.wake(writer, urgent=True)
        if not await self._flusher.written(timeout_ms):
            log.warning("record_late", waited_ms=timeout_ms)
        return writer

    def writer(self, call_id: str) -> CallWriter:
        """The writer of a live call. Raises KeyError for others."""
        return self._writers[call_id]

    async def call_ended(
        self, call_id: str, ended: CallEnded | None = None, timeout_ms: int = END_TIMEOUT_MS
    ) -> bool:
        """Wait until the call and its end are committed; forget its writer.

        `ended` is only needed when the event did not pass `CallWriter.on_event`. Returns False
        when the database was away for all of `timeout_ms`; the rows are still written later.
        """
        writer = self._writers.pop(call_id, None)
        if writer is None:
            return True
        if ended is not None:
            writer.on_event(ended)
        if writer.dropped:
            self._on_dropped(writer.dropped)
        return await self._flusher.written(timeout_ms)

    # --- reading ------------------------------------------------------------------------------

    async def list_calls(self, limit: int = 50, before: str | None = None) -> list[CallSummary]:
        """The newest calls, newest first; `before`: id of the last call of the page before."""
        async with self._engine.connect() as connection:
            return await queries.list_calls(connection, max(1, min(limit, 1_000)), before)

    async def get_call(self, call_id: str) -> CallRecord | None:
        """Everything of one call; None when there is no such call."""
        async with self._engine.connect() as connection:
            return await queries.get_call(connection, call_id)

    async def find(self, prefix: str, limit: int = 10) -> list[str]:
        """Ids that begin with `prefix`; an exact id comes alone."""
        async with self._engine.connect() as connection:
            return await queries.find(connection, prefix, limit)

    def recording_path(self, summary: CallSummary) -> Path | None:
        """The recording's file, if there is one here."""
        path = files.resolve(self.directory, summary.recording)
        return path if path is not None and path.is_file() else None

    # --- deleting -----------------------------------------------------------------------------

    async def delete_call(self, call_id: str) -> Deleted:
        """Remove rows and files of a call that has ended. A live call is left alone."""
        return await self.delete_calls([call_id])

    async def delete_calls(self, ids: Iterable[str]) -> Deleted:
        """As `delete_call`, for many."""
        wanted, total = list(ids), Deleted()
        for start in range(0, len(wanted), _CHUNK):
            async with self._engine.begin() as connection:
                removed = await queries.delete_calls(connection, wanted[start : start + _CHUNK])
            count, size = await asyncio.to_thread(files.remove, self.directory, removed.values())
            total.calls += len(removed)
            total.files += count
            total.size += size
        if total.calls and self._engine.dialect.name == "sqlite":
            # Deleted pages are zeroed in the log; this carries that into the file, now.
            async with self._engine.connect() as connection:
                await connection.execute(text("PRAGMA wal_checkpoint(TRUNCATE)"))
        return total

    async def older_than(self, at: int, limit: int = 10_000) -> list[str]:
        """Ids of calls that ended before `at` (milliseconds since 1970)."""
        async with self._engine.connect() as connection:
            return await queries.ended_before(connection, at, limit)

    async def sweep(self, now: int, keep_ms: int) -> Deleted:
        """Retention: delete what ended more than `keep_ms` before `now`."""
        total = await self.delete_calls(await self.older_than(now - keep_ms))
        if total.calls:
            log.info("records_swept", calls=total.calls, files=total.files, size=total.size)
        return total

    # --- orphans ------------------------------------------------------------------------------

    async def live(self) -> list[str]:
        """Ids of calls without an end, of all processes that write here, and of dead ones."""
        async with self._engine.connect() as connection:
            return [call[0] for call in await queries.open_calls(connection)]

    async def orphans(self, now: int | None = None) -> list[str]:
        """Ids of calls without an end whose process is dead."""
        return [call_id for call_id, *_ in (await self._orphans(now))[0]]

    async def _orphans(
        self, now: int | None
    ) -> tuple[list[tuple[str, str, int, str, int | None]], set[str]]:
        now = _now() if now is None else now
        async with self._engine.connect() as connection:
            unended = await queries.open_calls(connection)
        owners = {owner: seen_at or 0 for _, owner, _, _, seen_at in unended}
        me = self._instance.id if self._instance is not None else ""
        dead = {
            owner
            for owner, seen_at in owners.items()
            if owner != me and not is_alive(self.directory, owner, seen_at, now)
        }
        return [call for call in unended if call[1] in dead], dead

    async def close_orphans(self, now: int | None = None) -> list[str]:
        """End the calls of processes that died, and repair their recordings.

        Returns their ids. Calls of processes that still live (other workers, other machines) are
        left alone.
        """
        orphans, dead = await self._orphans(now)
        closed = []
        for call_id, _, accepted_at, recording, _ in orphans:
            if await self._close_orphan(call_id, accepted_at, recording):
                closed.append(call_id)
        if dead:
            async with self._engine.begin() as connection:
                await connection.execute(delete(instances).where(instances.c.id.in_(dead)))
            for owner in dead:
                forget(self.directory, owner)
        if closed:
            log.warning("orphaned_calls_closed", count=len(closed))
        return closed

    async def _close_orphan(self, call_id: str, accepted_at: int, recording: str) -> bool:
        recorded_ms = await asyncio.to_thread(files.repair, self.directory, recording)
        webhook = "pending" if self._webhook else ""
        async with self._engine.begin() as connection:
            last_ms = await queries.last_event_ms(connection, call_id)
            ended_at = accepted_at + max(last_ms, recorded_ms)
            return await queries.close_orphan(connection, call_id, ended_at, webhook)

    # --- webhooks -----------------------------------------------------------------------------

    async def webhooks_due(self, limit: int = 1_000) -> list[str]:
        """Ids of ended calls whose webhook was not delivered yet, oldest first."""
        query = (
            select(calls.c.id)
            .where(calls.c.webhook == "pending")
            .order_by(calls.c.ended_at)
            .limit(limit)
        )
        async with self._engine.connect() as connection:
            return list((await connection.execute(query)).scalars())

    async def webhook_done(self, call_id: str, state: str) -> None:
        """`state` is ``delivered`` or ``failed``."""
        async with self._engine.begin() as connection:
            await connection.execute(
                update(calls).where(calls.c.id == call_id).values(webhook=state)
            )

    # --- housekeeping -------------------------------------------------------------------------

    async def _refresh(self) -> None:
        if self._instance is None:
            return
        mine = instances.c.id == self._instance.id
        async with self._engine.begin() as connection:
            seen = await connection.execute(update(instances).where(mine).values(seen_at=_now()))
            if not seen.rowcount:
                await connection.execute(
                    insert(instances).values(id=self._instance.id, seen_at=_now())
                )

    async def _housekeeping(self) -> None:
        next_sweep = time.monotonic() + FIRST_SWEEP_MS / 1000
        while True:
            await asyncio.sleep(REFRESH_MS / 1000)
            try:
                async with asyncio.timeout(60):
                    await self._refresh()
                    if time.monotonic() >= next_sweep:
                        next_sweep += SWEEP_MS / 1000
                        if not self._cleans():
                            continue
                        await self.close_orphans()
                        if self._keep_ms:
                            await self.sweep(_now(), self._keep_ms)
            except (SQLAlchemyError, OSError, TimeoutError) as error:
                log.warning("records_housekeeping_failed", error=" ".join(str(error).split()))


def _now() -> int:
    return time.time_ns() // 1_000_000


def _make_private(directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not os.access(directory, os.W_OK | os.X_OK):
            raise PermissionError(13, "Permission denied")
    except OSError as error:
        raise RecordsError(f"records cannot be kept in {directory}: {error.strerror}") from error
