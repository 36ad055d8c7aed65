from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import stat
import subprocess
import sys
import time
import wave
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from flowcat_server.core import ended
from flowcat_server.core import events as ev
from flowcat_server.errors import RecordsError
from flowcat_server.records import database, wav
from flowcat_server.records.models import CallRow, Usage
from flowcat_server.records.store import Store
from flowcat_server.records.writer import Rows

START = 1_763_800_000_000
LATENCY = ev.Latency(400, 90, 210, 40, 120, 15)


def row(call_id: str, at: int = START, **more: str) -> CallRow:
    return CallRow(call_id, agent="clinic", channel="twilio", accepted_at=at, **more)


def turn(number: int, at_ms: int, caller: str = "hello", agent: str = "hi") -> ev.TurnCompleted:
    return ev.TurnCompleted(
        at_ms, number, caller, agent, at_ms - 900, latency=LATENCY, node="start"
    )


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    store = await Store.open(directory=tmp_path)
    yield store
    await store.close()


def rows_of(path: Path, query: str) -> list[tuple[object, ...]]:
    connection = sqlite3.connect(path / "calls.sqlite")
    try:
        return connection.execute(query).fetchall()
    finally:
        connection.close()


def bytes_of(path: Path) -> bytes:
    return b"".join(file.read_bytes() for file in path.glob("calls.sqlite*"))


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - looks at a file, which sets no event
            await asyncio.sleep(0.005)


async def test_a_call_is_there_from_the_moment_it_is_accepted(store: Store, tmp_path: Path) -> None:
    await store.call_accepted(row("a1", from_number="+44"))

    assert rows_of(tmp_path, "select id, from_number, ended_at from calls") == [("a1", "+44", None)]


async def test_who_waits_for_a_write_does_not_wait_for_what_comes_after(store: Store) -> None:
    talker = await store.call_accepted(row("a1"))
    flusher, turns = store._flusher, 0
    transaction = flusher._transaction

    async def while_they_talk(batch: Rows) -> None:
        nonlocal turns
        await transaction(batch)
        if turns < 1_000:
            turns += 1
            talker.on_event(turn(turns, 1_000 * turns))

    flusher._transaction = while_they_talk  # type: ignore[method-assign]
    talker.on_event(turn(0, 0))
    assert await flusher.written(5_000)
    assert turns < 10


async def test_a_whole_call_comes_back(store: Store) -> None:
    writer = await store.call_accepted(row("a1"))
    for event in (
        ev.CallStarted(0, "a1", "clinic", "twilio"),
        ev.NodeEntered(1, "start", "Greeting"),
        ev.AgentText(5, 0, "Hello, Bright Dental."),
        ev.AgentHeard(1500, 0, "Hello, Bright", " Dental.", True, 800, "mark"),
        ev.TurnCompleted(1500, 0, "", "Hello, Bright", 5, interrupted=True, node="start"),
        ev.CallerText(2500, 1, "what are", final=False),
        ev.CallerText(2600, 1, "What are your hours?", final=True),
        ev.ToolStarted(2700, "t1", "hours", {"day": "monday"}),
        ev.ToolEnded(2800, "t1", "hours", "9 to 5", ok=True, duration_ms=100),
        ev.Variables(2850, {"name": "Jo", "_memory": 1}),
        ev.AgentHeard(5000, 1, "Nine to five.", heard_ms=1900, source="mark"),
        turn(1, 5000, "What are your hours?", "Nine to five."),
        ev.DigitPressed(5100, "7"),
        ev.CallEnded(6000, ended.AGENT_ENDED, "goodbye heard", {"done": True}),
    ):
        writer.on_event(event)
    assert await store.call_ended("a1")

    call = await store.get_call("a1")
    assert call is not None
    assert call.summary.ended_reason == "agent.ended"
    assert call.summary.ended_at == START + 6000
    assert call.summary.duration_ms == 6000
    assert (call.summary.turns, call.summary.interruptions) == (2, 1)
    assert call.summary.latency_ms == LATENCY.total_ms
    greeting, answer = call.turns
    assert (greeting["agent"], greeting["unheard"], greeting["heard_ms"]) == (
        "Hello, Bright", " Dental.", 800,
    )  # fmt: skip
    assert greeting["total_ms"] is None
    assert answer["caller"] == "What are your hours?"
    assert answer["total_ms"] == 875
    parts = [answer[f"{part}_ms"] for part in LATENCY.parts()]
    assert parts == [400, 90, 210, 40, 120, 15]
    (tool,) = call.tool_calls
    assert (tool["arguments"], tool["result"], tool["ok"], tool["duration_ms"]) == (
        {"day": "monday"}, "9 to 5", True, 100,
    )  # fmt: skip
    assert call.variables == {"name": "Jo", "done": True}
    names = [event["name"] for event in call.events]
    assert names.count("caller_text") == 1, "interim transcripts are not kept"
    assert next(e for e in call.events if e["name"] == "digit_pressed")["data"] == {"digit": "*"}
    assert call.to_dict()["accepted_at"].endswith("Z")


async def test_a_finished_turn_is_written_at_once(store: Store, tmp_path: Path) -> None:
    writer = await store.call_accepted(row("a1"))
    store._flusher._delay = 30  # so that only urgency can explain what follows
    writer.on_event(ev.NodeEntered(1, "start", "Greeting"))
    writer.on_event(turn(1, 900))

    await until(lambda: rows_of(tmp_path, "select turn from turns"))
    assert rows_of(tmp_path, "select turn, caller from turns") == [(1, "hello")]
    assert rows_of(tmp_path, "select name from events") == [("node_entered",)]


async def test_what_was_said_before_the_end_is_a_turn(store: Store) -> None:
    writer = await store.call_accepted(row("a1"))
    writer.on_event(turn(1, 1000))
    writer.on_event(ev.CallerText(2000, 2, "and another thing", final=True))
    writer.on_event(ev.AgentHeard(3000, 2, "Yes", " of course", True, 300))
    await store.call_ended("a1", ev.CallEnded(3100, ended.CALLER_HUNG_UP))

    call = await store.get_call("a1")
    assert call is not None
    assert [(t["turn"], t["caller"], t["agent"]) for t in call.turns] == [
        (1, "hello", "hi"),
        (2, "and another thing", "Yes"),
    ]


async def test_a_transcript_that_comes_after_its_turn_is_entered_there(store: Store) -> None:
    writer = await store.call_accepted(row("a1"))
    writer.on_event(turn(1, 3000, caller=""))
    writer.on_event(turn(2, 6000, caller="in time"))
    writer.on_event(ev.CallerText(6100, 1, "too late", final=True))
    writer.on_event(ev.CallerText(6200, 2, "again", final=True))
    await store.call_ended("a1", ev.CallEnded(7000, ended.CALLER_HUNG_UP))

    call = await store.get_call("a1")
    assert call is not None
    assert [t["caller"] for t in call.turns] == ["too late", "in time"]


async def test_usage_is_kept(store: Store) -> None:
    writer = await store.call_accepted(row("a1"))
    writer.on_usage(Usage("llm", "openai", "gpt", input_tokens=120, output_tokens=7))
    await store.call_ended("a1", ev.CallEnded(10, ended.CALLER_HUNG_UP))

    call = await store.get_call("a1")
    assert call is not None
    assert call.usage[0]["input_tokens"] == 120


async def test_usage_that_the_call_tells_is_kept(store: Store) -> None:
    writer = await store.call_accepted(row("a1"))
    writer.on_event(ev.UsageCounted(9, "llm", "openai/gpt/mini", input_tokens=120))
    writer.on_event(ev.UsageCounted(9, "heard", "", characters=33, audio_ms=2100))
    await store.call_ended("a1", ev.CallEnded(10, ended.CALLER_HUNG_UP))

    call = await store.get_call("a1")
    assert call is not None
    model, heard = call.usage
    assert (model["provider"], model["model"], model["input_tokens"]) == ("openai", "gpt/mini", 120)
    assert (heard["kind"], heard["characters"], heard["audio_ms"]) == ("heard", 33, 2100)


async def test_card_numbers_never_reach_the_file(tmp_path: Path) -> None:
    store = await Store.open(directory=tmp_path)
    writer = await store.call_accepted(row("a1"))
    said = "my card is 4242 4242 4242 4242"
    writer.on_event(ev.CallerText(10, 1, said, final=True))
    writer.on_event(ev.ToolStarted(11, "t", "pay", {"card": said}))
    writer.on_event(ev.ToolEnded(12, "t", "pay", said))
    writer.on_event(ev.Variables(13, {"card": "4242424242424242"}))
    writer.on_event(ev.Notice(14, "info", "x", said))
    writer.on_event(turn(1, 20, said, said))
    writer.on_event(ev.CallEnded(30, ended.AGENT_ENDED, said, {"card": said}))
    await store.call_ended("a1")
    await store.close()

    written = bytes_of(tmp_path)
    assert b"4242 4242" not in written
    assert b"42424242" not in written
    assert written.count(b"[card number]") >= 7


async def test_without_transcript_nothing_said_is_stored(tmp_path: Path) -> None:
    store = await Store.open(directory=tmp_path, transcript=False)
    writer = await store.call_accepted(row("a1"))
    writer.on_event(ev.CallerText(10, 1, "my secret", final=True))
    writer.on_event(ev.AgentText(11, 1, "your secret"))
    writer.on_event(turn(1, 20, "my secret", "your secret"))
    await store.call_ended("a1", ev.CallEnded(30, ended.AGENT_ENDED))
    call = await store.get_call("a1")
    await store.close()

    assert call is not None
    assert call.turns[0]["total_ms"] == 875
    assert b"secret" not in (tmp_path / "calls.sqlite").read_bytes()


async def test_calls_are_listed_newest_first_in_pages(store: Store) -> None:
    for number in range(7):
        await store.call_accepted(row(f"c{number}", START + number // 2))

    first = await store.list_calls(limit=3)
    second = await store.list_calls(limit=3, before=first[-1].id)
    third = await store.list_calls(limit=3, before=second[-1].id)

    ids = [call.id for page in (first, second, third) for call in page]
    assert ids == ["c6", "c5", "c4", "c3", "c2", "c1", "c0"]
    assert await store.list_calls(before="nobody") == []


async def test_ids_are_found_by_their_beginning(store: Store) -> None:
    for call_id in ("abc", "abcd", "ab_x"):
        await store.call_accepted(row(call_id))

    assert await store.find("abc") == ["abc"]
    assert await store.find("abcd") == ["abcd"]
    assert sorted(await store.find("ab")) == ["ab_x", "abc", "abcd"]
    assert await store.find("ab_") == ["ab_x"]
    assert await store.find("%") == []


async def test_deleting_removes_rows_and_files(store: Store, tmp_path: Path) -> None:
    name = store.new_recording("a1", START)
    path = tmp_path / name
    path.parent.mkdir()
    path.write_bytes(b"12345")
    writer = await store.call_accepted(row("a1", recording=name))
    writer.on_event(turn(1, 5, "unforgettable words"))
    assert (await store.delete_call("a1")).calls == 0, "a live call is left alone"
    await store.call_ended("a1", ev.CallEnded(9, ended.CALLER_HUNG_UP))

    deleted = await store.delete_call("a1")

    assert (deleted.calls, deleted.files, deleted.size) == (1, 1, 5)
    assert not path.parent.exists()
    for table in ("calls", "turns", "events", "tool_calls", "usage"):
        assert rows_of(tmp_path, f"select count(*) from {table}") == [(0,)]
    written = bytes_of(tmp_path)
    assert b"unforgettable" not in written


async def test_retention_deletes_what_is_older(store: Store) -> None:
    for call_id, at in (("old", START), ("new", START + 5000)):
        await store.call_accepted(row(call_id, at))
        await store.call_ended(call_id, ev.CallEnded(1000, ended.CALLER_HUNG_UP))
    await store.call_accepted(row("live", START))

    deleted = await store.sweep(now=START + 12_000, keep_ms=8_000)

    assert deleted.calls == 1
    assert {call.id for call in await store.list_calls()} == {"new", "live"}


async def test_a_recording_cannot_lead_out_of_the_directory(store: Store, tmp_path: Path) -> None:
    victim = tmp_path.parent / "victim.wav"
    victim.write_bytes(b"x")
    await store.call_accepted(row("a1", recording="../victim.wav"))
    await store.call_ended("a1", ev.CallEnded(1, ended.CALLER_HUNG_UP))

    assert store.recording_path((await store.list_calls())[0]) is None
    await store.delete_call("a1")
    assert victim.exists()


async def test_an_id_that_is_no_file_name_is_refused(store: Store) -> None:
    with pytest.raises(RecordsError, match="not a call id"):
        await store.call_accepted(row("../x"))


async def test_a_full_queue_drops_decoration_first_and_turns_never(store: Store) -> None:
    writer = await store.call_accepted(row("a1"))
    for at_ms in range(2_000):
        writer.on_event(ev.CallerSpeaking(at_ms, True))
    for at_ms in range(2_000):
        writer.on_event(ev.NodeEntered(at_ms, "n", "n"))
    for number in range(50):
        writer.on_event(turn(number, 3_000 + number))
    await store.call_ended("a1", ev.CallEnded(9_000, ended.CALLER_HUNG_UP))

    call = await store.get_call("a1")
    assert call is not None
    names = [event["name"] for event in call.events]
    assert names.count("caller_speaking") == 500
    assert names.count("node_entered") == 500
    assert len(call.turns) == 50
    assert call.dropped_events == 3_000


async def test_the_database_comes_back(store: Store, tmp_path: Path) -> None:
    blocker = sqlite3.connect(tmp_path / "calls.sqlite", isolation_level=None)
    writer = await store.call_accepted(row("a1"))
    async with store._engine.connect() as connection:  # do not wait seconds for the lock
        await connection.exec_driver_sql("PRAGMA busy_timeout=10")
    blocker.execute("BEGIN IMMEDIATE")
    writer.on_event(turn(1, 5))
    assert not await store.call_ended("a1", ev.CallEnded(9, ended.CALLER_HUNG_UP), timeout_ms=50)
    await until(lambda: not store.writable)
    blocker.execute("ROLLBACK")
    blocker.close()

    assert await store._flusher.written(5_000)
    assert store.writable
    call = await store.get_call("a1")
    assert call is not None
    assert len(call.turns) == 1
    assert call.summary.ended_reason == ended.CALLER_HUNG_UP


async def test_a_row_the_database_refuses_costs_only_itself(tmp_path: Path) -> None:
    refused: list[int] = []
    store = await Store.open(directory=tmp_path, on_dropped=refused.append)
    one = await store.call_accepted(row("a1"))
    two = await store.call_accepted(row("a2"))
    one.on_event(ev.TurnCompleted(2**70, 1, "too late for SQLite", "", 0))
    one.on_event(turn(2, 6))
    two.on_event(turn(1, 5))
    await store.call_ended("a1", ev.CallEnded(9, ended.CALLER_HUNG_UP))
    first, second = await store.get_call("a1"), await store.get_call("a2")
    await store.close()

    assert refused == [1]
    assert first is not None
    assert second is not None
    assert [t["turn"] for t in first.turns] == [2]
    assert len(second.turns) == 1


async def test_other_processes_calls_are_left_alone_while_they_live(tmp_path: Path) -> None:
    one = await Store.open(directory=tmp_path)
    two = await Store.open(directory=tmp_path)
    await one.call_accepted(row("a1"))

    assert await two.close_orphans() == []
    await one.close()
    assert await two.close_orphans() == ["a1"], "its owner closed without ending it"
    await two.close()


async def test_a_silent_process_on_another_machine_is_dead_after_a_while(tmp_path: Path) -> None:
    one = await Store.open(directory=tmp_path / "here")
    other = await Store.open(
        f"sqlite:///{tmp_path}/here/calls.sqlite", directory=tmp_path / "there"
    )
    await other.call_accepted(row("a1"))
    now = time.time_ns() // 1_000_000

    assert await one.close_orphans(now + 60_000) == []
    assert await one.close_orphans(now + 120_000) == ["a1"]
    await other.close()
    await one.close()


KILLED = """
import asyncio, os, sys
from flowcat_server.core import events as ev
from flowcat_server.records.models import CallRow
from flowcat_server.records.store import Store

async def main():
    store = await Store.open(directory=sys.argv[1], webhook=True)
    writer = await store.call_accepted(CallRow("k1", "clinic", "twilio", 1_763_800_000_000))
    for n in range(3):
        writer.on_event(ev.TurnCompleted(n * 1000 + 900, n, f"q{n}", f"a{n}", n * 1000))
        await store._flusher.written(5000)
    writer.on_event(ev.NodeEntered(4200, "book", "Book"))
    await store._flusher.written(5000)
    print("ready", flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""


async def test_kill_9_in_mid_call_loses_no_finished_turn(tmp_path: Path) -> None:
    child = subprocess.Popen(  # noqa: ASYNC220
        [sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    assert await asyncio.to_thread(child.stdout.readline) == "ready\n"
    store = await Store.open(directory=tmp_path, webhook=True)
    assert await store.close_orphans() == [], "it still lives"
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    child.stdout.close()

    assert await store.close_orphans() == ["k1"]
    call = await store.get_call("k1")
    due = await store.webhooks_due()
    assert await store.close_orphans() == []
    await store.close()

    assert call is not None
    assert [t["caller"] for t in call.turns] == ["q0", "q1", "q2"]
    assert call.summary.ended_reason == "server.killed"
    assert call.summary.ended_at == START + 4200
    assert due == ["k1"]
    assert list((tmp_path / ".instances").iterdir()) == []


async def test_an_orphans_recording_is_made_whole(tmp_path: Path) -> None:
    one = await Store.open(directory=tmp_path)
    name = one.new_recording("a1", START)
    path = tmp_path / name
    path.parent.mkdir()
    path.write_bytes(wav.header(8000, 2, 0) + bytes(4 * 8000 * 7 + 3))
    writer = await one.call_accepted(row("a1", recording=name))
    writer.on_event(ev.NodeEntered(4_000, "n", "n"))
    await one.close()
    two = await Store.open(directory=tmp_path)
    await two.close_orphans()
    (call,) = await two.list_calls()
    await two.close()

    assert call.duration_ms == 7_000, "the recording shows that it still lived"
    with wave.open(str(path)) as file:
        assert file.getnframes() == 8000 * 7


async def test_a_newer_database_is_refused(tmp_path: Path) -> None:
    await (await Store.open(directory=tmp_path)).close()
    connection = sqlite3.connect(tmp_path / "calls.sqlite")
    connection.execute("update schema_version set version = 99")
    connection.commit()
    connection.close()

    with pytest.raises(RecordsError, match="newer version"):
        await Store.open(directory=tmp_path)


async def test_an_older_database_is_brought_forward(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await Store.open(directory=tmp_path)
    await store.call_accepted(row("a1"))
    await store.close()
    now = database.SCHEMA_VERSION
    monkeypatch.setattr(database, "SCHEMA_VERSION", now + 2)
    monkeypatch.setattr(
        database,
        "MIGRATIONS",
        {
            now + 1: ["ALTER TABLE calls ADD COLUMN mood TEXT"],
            now + 2: ["UPDATE calls SET mood = 'fine'"],
        },
    )

    with pytest.raises(RecordsError, match="start the server once"):
        await Store.open(directory=tmp_path, read_only=True)
    store = await Store.open(directory=tmp_path)
    await store.close()

    assert rows_of(tmp_path, "select mood from calls") == [("fine",)]
    assert rows_of(tmp_path, "select version from schema_version") == [(now + 2,)]


async def test_a_database_of_the_first_version_is_brought_forward(tmp_path: Path) -> None:
    store = await Store.open(directory=tmp_path)
    await store.call_accepted(row("a1"))
    await store.close()
    connection = sqlite3.connect(tmp_path / "calls.sqlite")
    for column in ("status", "dialled_at", "answered_by"):
        connection.execute(f"ALTER TABLE calls DROP COLUMN {column}")
    connection.execute("UPDATE schema_version SET version = 1")
    connection.commit()
    connection.close()

    store = await Store.open(directory=tmp_path)
    (call,) = await store.list_calls()
    await store.close()

    assert (call.direction, call.status, call.answered_by) == ("inbound", "answered", "")


async def test_several_processes_may_start_at_once(tmp_path: Path) -> None:
    stores = await asyncio.gather(*(Store.open(directory=tmp_path) for _ in range(5)))
    for store in stores:
        await store.close()

    current = database.SCHEMA_VERSION
    assert rows_of(tmp_path, "select version from schema_version") == [(current,)]


async def test_reading_changes_nothing(store: Store, tmp_path: Path) -> None:
    await store.call_accepted(row("a1"))
    reader = await Store.open(directory=tmp_path, read_only=True)

    assert [call.id for call in await reader.list_calls()] == ["a1"]
    with pytest.raises(RecordsError, match="reading only"):
        await reader.call_accepted(row("a2"))
    await reader.close()


async def test_reading_what_is_not_there_creates_nothing(tmp_path: Path) -> None:
    with pytest.raises(RecordsError, match="no records database"):
        await Store.open(directory=tmp_path / "calls", read_only=True)
    assert not (tmp_path / "calls").exists()


async def test_records_are_private(tmp_path: Path) -> None:
    store = await Store.open(directory=tmp_path / "calls")
    await store.call_accepted(row("a1"))
    modes = {
        path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "calls").iterdir()
    }
    await store.close()

    assert stat.S_IMODE((tmp_path / "calls").stat().st_mode) == 0o700
    assert modes["calls.sqlite"] == modes["calls.sqlite-wal"] == 0o600


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "postgresql://u:hunter2@127.0.0.1:1/x",
            r"records database postgresql\+asyncpg://u:\*\*\*@",
        ),
        ("nonsense://x", "cannot be used"),
        ("sqlite:////proc/nowhere/x.sqlite", "cannot be written"),
    ],
)
async def test_a_database_that_cannot_be_used_is_named(
    tmp_path: Path, name: str, message: str
) -> None:
    if "postgresql" in name:
        pytest.importorskip("asyncpg")
    with pytest.raises(RecordsError, match=message) as caught:
        await Store.open(name, directory=tmp_path)
    assert "hunter2" not in str(caught.value)
