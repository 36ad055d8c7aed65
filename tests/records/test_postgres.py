"""The same records on a real PostgreSQL server, started for this module in its own folder."""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from flowcat_server.core import ended
from flowcat_server.core import events as ev
from flowcat_server.records.models import CallRow, Usage
from flowcat_server.records.store import Store

pytestmark = pytest.mark.e2e
pytest.importorskip("asyncpg")

START = 1_763_800_000_000


class Server:
    """A throw-away server; PostgreSQL refuses to run as root, so root lends it another user."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._data = folder / "data"
        self._user = "nobody" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        if os.geteuid() == 0:
            nobody = pwd.getpwnam(self._user)
            os.chown(folder, nobody.pw_uid, nobody.pw_gid)

    def run(self, *words: str) -> None:
        subprocess.run(
            words,
            cwd=self._folder,
            user=self._user if os.geteuid() == 0 else None,
            env={"PATH": os.environ["PATH"], "LC_ALL": "C", "HOME": str(self._folder)},
            check=True,
            stdout=subprocess.DEVNULL,
            timeout=50,
        )

    def create(self) -> None:
        self.run(
            "initdb", "-D", str(self._data), "-A", "trust", "-U", "flowcat", "-E", "UTF8", "-N"
        )

    def start(self) -> None:
        options = f"-p {self.port} -k {self._folder} -c listen_addresses=127.0.0.1 -c fsync=off"
        log = str(self._folder / "log")
        self.run("pg_ctl", "-D", str(self._data), "-o", options, "-l", log, "-w", "start")

    def stop(self) -> None:
        self.run("pg_ctl", "-D", str(self._data), "-m", "immediate", "-w", "stop")

    @property
    def url(self) -> str:
        return f"postgresql://flowcat@127.0.0.1:{self.port}/postgres"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    if not (shutil.which("initdb") and shutil.which("pg_ctl")):
        pytest.skip("PostgreSQL is not installed")
    # Not under pytest's folder: only its owner may enter that.
    with tempfile.TemporaryDirectory(prefix="flowcat-postgres-") as folder:
        server = Server(Path(folder))
        server.create()
        server.start()
        yield server
        server.stop()


async def test_a_call_on_postgresql(server: Server, tmp_path: Path) -> None:
    opened = await asyncio.gather(
        *(Store.open(server.url, directory=tmp_path, webhook=True) for _ in range(3))
    )
    store, *others = opened
    for other in others:
        await other.close()
    writer = await store.call_accepted(CallRow("p1", "clinic", "twilio", START, "+44"))
    for event in (
        ev.CallerText(5, 1, "caf\u00e9 \0 \ud800 4242 4242 4242 4242", final=True),
        ev.ToolStarted(7, "t", "pay", {"n": 1, "nul": "\0"}),
        ev.ToolEnded(9, "t", "pay", "ok", duration_ms=2),
        ev.TurnCompleted(900, 1, "hello", "hi", 0, latency=ev.Latency(1, 2, 3, 4, 5, 6)),
        ev.TurnCompleted(2**40, 2, "too large for the column", "", 0),
        ev.TurnCompleted(1900, 3, "and", "bye", 1000, interrupted=True),
        ev.CallEnded(2000, ended.AGENT_ENDED, variables={"name": "Jo"}),
    ):
        writer.on_event(event)
    writer.on_usage(Usage("llm", "openai", input_tokens=5))
    assert await store.call_ended("p1")

    call = await store.get_call("p1")
    (listed,) = await store.list_calls()
    assert call is not None
    assert listed == call.summary
    assert [(turn["turn"], turn["total_ms"]) for turn in call.turns] == [(1, 21), (3, None)]
    assert (listed.turns, listed.interruptions, listed.latency_ms) == (2, 1, 21)
    assert call.events[0]["data"]["text"] == "caf\u00e9  ? [card number]"
    assert call.tool_calls[0]["arguments"] == {"n": 1, "nul": ""}
    assert call.tool_calls[0]["ok"] is True
    assert call.variables == {"name": "Jo"}
    assert await store.webhooks_due() == ["p1"]
    assert await store.find("p") == ["p1"]
    assert (await store.sweep(START + 10_000, 1_000)).calls == 1
    assert await store.get_call("p1") is None
    await store.close()


async def test_the_server_may_go_and_come_back(server: Server, tmp_path: Path) -> None:
    store = await Store.open(server.url, directory=tmp_path)
    writer = await store.call_accepted(CallRow("p2", "clinic", "twilio", START))
    await asyncio.to_thread(server.stop)
    writer.on_event(ev.TurnCompleted(900, 1, "hello", "hi", 0))
    assert not await store.call_ended(
        "p2", ev.CallEnded(1000, ended.CALLER_HUNG_UP), timeout_ms=300
    )
    assert not store.writable
    await asyncio.to_thread(server.start)

    assert await store._flusher.written(20_000)
    call = await store.get_call("p2")
    assert call is not None
    assert [turn["caller"] for turn in call.turns] == ["hello"]
    assert call.summary.ended_reason == ended.CALLER_HUNG_UP
    await store.delete_call("p2")
    await store.close()


async def test_orphans_of_a_dead_store_are_closed(server: Server, tmp_path: Path) -> None:
    dead = await Store.open(server.url, directory=tmp_path)
    await dead.call_accepted(CallRow("p3", "clinic", "twilio", START))
    store = await Store.open(server.url, directory=tmp_path)
    assert await store.close_orphans() == []
    await dead.close()

    assert await store.close_orphans() == ["p3"]
    await store.delete_call("p3")
    await store.close()
