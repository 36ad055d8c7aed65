"""A crowd at the doors of a real server: exactly so many get in, and those hear no glitch."""

from __future__ import annotations

import asyncio
import contextlib
import time
from pathlib import Path

import aiohttp
import pytest

from flowcat_server.cli.load.run import Plan, run
from tests.e2e.conftest import Server, StartServer

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120), pytest.mark.alone]

PLACES = 20
ECHO = (
    "topology: {mode: echo}\n"
    f"limits: {{max_calls: {PLACES}, when_full: {{say: All lines are busy.}}}}\n"
    "records: {audio: none}\n"
)
BUFFERED_S = 0.2
"""What a listener's jitter buffer makes up for."""


def test_of_twice_as_many_calls_at_once_exactly_the_places_are_taken(start_server: StartServer):
    server = start_server(ECHO)
    plan = Plan(server.url, calls=2 * PLACES, seconds=4.0, ramp=100_000.0, speech=b"")
    outcome = asyncio.run(run(plan))
    assert outcome.live == PLACES
    assert dict(outcome.lost) == {"busy": PLACES}
    measures = outcome.measures
    assert outcome.echoes
    assert measures.sent >= PLACES * 4.0 / 0.02 * 0.5, "the callers themselves were held up"
    assert measures.echoed == measures.sent, "frames were lost"
    assert measures.doubled == measures.unreadable == 0
    # A frame that is later than a buffer makes up for, and was not sent late, would be heard.
    assert max(measures.echo) < BUFFERED_S + max(measures.own, default=0.0)
    refused = 'flowcat_calls_refused_total{reason="full"}'
    assert f"{refused} {PLACES}.0" in server.get("/metrics")[1]
    # The places come back.
    deadline = time.monotonic() + 10
    while "flowcat_calls_active 0.0" not in server.get("/metrics")[1]:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    again = asyncio.run(run(Plan(server.url, PLACES, seconds=0.5, ramp=100_000.0, speech=b"")))
    assert (again.live, dict(again.lost)) == (PLACES, {})


def descriptors(server: Server) -> int:
    return len(list(Path(f"/proc/{server.process.pid}/fd").iterdir()))


async def silent_connections(server: Server, count: int) -> list[asyncio.StreamWriter]:
    writers = []
    for _ in range(count):
        _, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"GET /telephony/ws/twilio HTTP/1.1\r\nHost: x\r\n")
        writers.append(writer)
    return writers


async def silent_sockets(session: aiohttp.ClientSession, server: Server, count: int) -> int:
    """Opens media sockets that never start; how many were let in."""
    opened = await asyncio.gather(
        *(session.ws_connect(f"{server.url}/telephony/ws/twilio") for _ in range(count)),
        return_exceptions=True,
    )
    return sum(isinstance(each, aiohttp.ClientWebSocketResponse) for each in opened)


async def test_thousands_of_strangers_cost_little_and_are_gone_in_time(start_server: StartServer):
    token = "t" * 32
    server = start_server(ECHO, "--set", f"carriers.twilio.auth_token={token}")
    before_kb = server.rss_kb()
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:
        begun = time.monotonic()
        writers = await silent_connections(server, 3000)
        let_in = await silent_sockets(session, server, 1000)
        assert let_in == 32
        during_kb = server.rss_kb()
        assert during_kb - before_kb < 100_000, "a stranger costs more than 25 kB"
        while descriptors(server) > 100:
            assert time.monotonic() - begun < 30
            await asyncio.sleep(0.2)
        for writer in writers:
            with contextlib.suppress(ConnectionError):
                writer.close()
    outcome = await run(Plan(server.url, 1, seconds=0.5, ramp=100.0, speech=b"", auth_token=token))
    assert (outcome.live, dict(outcome.lost)) == (1, {})
