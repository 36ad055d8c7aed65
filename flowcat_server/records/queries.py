"""What is read from the records database, and what is deleted from it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Select, and_, case, delete, func, or_, select, update
from sqlalchemy.engine import RowMapping
from sqlalchemy.ext.asyncio import AsyncConnection

from flowcat_server.core import ended
from flowcat_server.records.models import (
    CallRecord,
    CallSummary,
    calls,
    events,
    instances,
    tool_calls,
    turns,
    usage,
)


def _summary(row: RowMapping) -> CallSummary:
    latency = row["latency_ms"]
    return CallSummary(
        id=row["id"],
        agent=row["agent"],
        channel=row["channel"],
        from_number=row["from_number"],
        to_number=row["to_number"],
        external_id=row["external_id"],
        accepted_at=row["accepted_at"],
        ended_at=row["ended_at"],
        ended_reason=row["ended_reason"],
        ended_detail=row["ended_detail"],
        recording=row["recording"],
        turns=row["turns"],
        interruptions=int(row["interruptions"]),
        latency_ms=None if latency is None else round(latency),
        dialled_at=row["dialled_at"],
        progress=row["status"],
        answered_by=row["answered_by"],
    )


async def list_calls(
    connection: AsyncConnection, limit: int, before: str | None
) -> list[CallSummary]:
    """The newest calls, newest first; `before` is the id of the last call of the page before."""
    page = select(calls.c.id).order_by(calls.c.accepted_at.desc(), calls.c.id.desc()).limit(limit)
    if before is not None:
        last = (
            await connection.execute(select(calls.c.accepted_at).where(calls.c.id == before))
        ).scalar_one_or_none()
        if last is None:
            return []
        page = page.where(
            or_(
                calls.c.accepted_at < last,
                and_(calls.c.accepted_at == last, calls.c.id < before),
            )
        )
    wanted = (await connection.execute(page)).scalars().all()
    found = await _by_ids(connection, wanted)
    return [found[call_id] for call_id in wanted if call_id in found]


async def _by_ids(connection: AsyncConnection, ids: Sequence[str]) -> dict[str, CallSummary]:
    if not ids:
        return {}
    result = await connection.execute(_summaries_of(ids))
    return {row["id"]: _summary(row) for row in result.mappings()}


def _summaries_of(ids: Sequence[str]) -> Select[Any]:
    """Counting only the turns of these calls, not of the whole table."""
    counted = (
        select(
            turns.c.call_id,
            func.count().label("turns"),
            func.sum(case((turns.c.interrupted, 1), else_=0)).label("interruptions"),
            func.avg(turns.c.total_ms).label("latency_ms"),
        )
        .where(turns.c.call_id.in_(ids))
        .group_by(turns.c.call_id)
        .subquery()
    )
    return (
        select(
            calls,
            func.coalesce(counted.c.turns, 0).label("turns"),
            func.coalesce(counted.c.interruptions, 0).label("interruptions"),
            counted.c.latency_ms,
        )
        .outerjoin(counted, counted.c.call_id == calls.c.id)
        .where(calls.c.id.in_(ids))
    )


async def get_call(connection: AsyncConnection, call_id: str) -> CallRecord | None:
    """Everything of one call."""
    summary = (await _by_ids(connection, [call_id])).get(call_id)
    if summary is None:
        return None
    row = (
        await connection.execute(
            select(calls.c.variables, calls.c.dropped_events).where(calls.c.id == call_id)
        )
    ).one()
    parts = {}
    for table in (turns, tool_calls, events, usage):
        columns = [column for column in table.c if column.name not in {"call_id", "seq"}]
        result = await connection.execute(
            select(*columns).where(table.c.call_id == call_id).order_by(table.c.seq)
        )
        parts[table.name] = [dict(found) for found in result.mappings()]
    return CallRecord(
        summary=summary,
        variables=row.variables,
        dropped_events=row.dropped_events,
        **parts,
    )


async def find(connection: AsyncConnection, prefix: str, limit: int) -> list[str]:
    """Ids that begin with `prefix`, newest first; an exact id comes alone."""
    exact = select(calls.c.id).where(calls.c.id == prefix)
    if (await connection.execute(exact)).scalar_one_or_none() is not None:
        return [prefix]
    like = (
        select(calls.c.id)
        .where(calls.c.id.startswith(prefix, autoescape=True))
        .order_by(calls.c.accepted_at.desc())
        .limit(limit)
    )
    return list((await connection.execute(like)).scalars())


async def ended_before(connection: AsyncConnection, at: int, limit: int) -> list[str]:
    """Ids of calls that ended before `at` (milliseconds since 1970), oldest first."""
    query = select(calls.c.id).where(calls.c.ended_at < at).order_by(calls.c.ended_at).limit(limit)
    return list((await connection.execute(query)).scalars())


async def delete_calls(connection: AsyncConnection, ids: Sequence[str]) -> dict[str, str]:
    """Delete calls that have ended; returns id and recording of each that was deleted."""
    query = (
        select(calls.c.id, calls.c.recording)
        .where(calls.c.id.in_(ids))
        .where(calls.c.ended_at.is_not(None))
    )
    found = {row.id: row.recording for row in await connection.execute(query)}
    if found:
        for table in (turns, tool_calls, events, usage):
            await connection.execute(delete(table).where(table.c.call_id.in_(found)))
        await connection.execute(delete(calls).where(calls.c.id.in_(found)))
    return found


async def open_calls(connection: AsyncConnection) -> list[tuple[str, str, int, str, int | None]]:
    """Calls without an end: id, owner, when accepted, recording, when the owner was last seen."""
    query = (
        select(
            calls.c.id, calls.c.owner, calls.c.accepted_at, calls.c.recording, instances.c.seen_at
        )
        .outerjoin(instances, instances.c.id == calls.c.owner)
        .where(calls.c.ended_at.is_(None))
    )
    return [tuple(row) for row in await connection.execute(query)]


async def last_event_ms(connection: AsyncConnection, call_id: str) -> int:
    """When the last thing that is known of the call happened, in the call's time."""
    latest = 0
    for table, column in (
        (turns, turns.c.ended_ms),
        (events, events.c.at_ms),
        (tool_calls, tool_calls.c.started_ms + func.coalesce(tool_calls.c.duration_ms, 0)),
    ):
        query = select(func.max(column)).where(table.c.call_id == call_id)
        latest = max(latest, (await connection.execute(query)).scalar_one() or 0)
    return latest


async def close_orphan(
    connection: AsyncConnection, call_id: str, ended_at: int, webhook: str
) -> bool:
    """Give a call that nobody will end its end; False when somebody else did."""
    result = await connection.execute(
        update(calls)
        .where(calls.c.id == call_id)
        .where(calls.c.ended_at.is_(None))
        .values(ended_at=ended_at, ended_reason=ended.SERVER_KILLED, webhook=webhook)
    )
    return bool(result.rowcount)
