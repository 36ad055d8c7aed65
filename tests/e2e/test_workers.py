"""Two workers on one port: real processes, real sockets, kill -9."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.e2e.conftest import Server, StartServer, launch, plain_environment
from tests.phone.line import Hangup, Phone
from tests.transports.webrtc.peers import client

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

AGENT = """
agent: {prompt: Be kind., greeting: "Hello, how can I help you today?"}
topology:
  vad: {provider: scripted}
  stt: {provider: scripted, options: {lines: [hello there], loop: true}}
  llm: {provider: scripted, options: {replies: [An answer.], loop: true}}
  tts: {provider: scripted, options: {ms_per_char: 20}}
records: {audio: none}
limits: {max_calls: 4}
"""
START_S = 40.0


def start(start_server: StartServer) -> Server:
    server = start_server(AGENT, "--workers", "2")
    wait_for(server, "workers_ready")
    return server


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with two workers, for tests that leave it as it was."""
    server = launch(tmp_path_factory.mktemp("two"), AGENT, "--workers", "2")
    wait_for(server, "workers_ready")
    yield server
    server.stop()


def wait_for(server: Server, event: str, times: int = 1) -> None:
    until = time.monotonic() + START_S
    while server.text().count(event) < times:
        assert time.monotonic() < until, server.text()
        time.sleep(0.05)


@asynccontextmanager
async def lines() -> AsyncIterator[aiohttp.ClientSession]:
    """A client that opens a connection for each request: the kernel picks who takes it."""
    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    async with aiohttp.ClientSession(connector=connector) as session:
        yield session


async def get(session: aiohttp.ClientSession, url: str) -> Any:
    async with session.get(url) as response:
        return await response.json()


async def loads(session: aiohttp.ClientSession, server: Server) -> list[int]:
    health = await get(session, f"{server.url}/healthz")
    return [worker["calls"] for worker in health["workers"]]


async def settle(session: aiohttp.ClientSession, server: Server, wanted: list[int]) -> None:
    async with asyncio.timeout(10):
        while await loads(session, server) != wanted:  # noqa: ASYNC110 - looks from outside
            await asyncio.sleep(0.05)


def sid(number: int) -> str:
    return f"CA{number:032d}"


async def dial(
    stack: AsyncExitStack, session: aiohttp.ClientSession, server: Server, number: int
) -> Phone | None:
    """A call; None: it heard busy."""
    try:
        return await stack.enter_async_context(Phone(session, server.url, call_sid=sid(number)))
    except Hangup:
        return None


async def talk(phone: Phone) -> None:
    await phone.hears_something()


def samples(text: str) -> dict[str, float]:
    return {
        f"{s.name}{s.labels or ''}": s.value
        for family in text_string_to_metric_families(text)
        for s in family.samples
    }


async def test_calls_are_spread_counted_exactly_and_one_server_to_whoever_asks(two: Server):
    server = two
    async with lines() as session, AsyncExitStack() as stack:
        await settle(session, server, [0, 0])
        dialled = await asyncio.gather(*(dial(stack, session, server, n) for n in range(8)))
        phones = [phone for phone in dialled if phone is not None]
        refused = samples(server.get("/metrics")[1])[
            "flowcat_calls_refused_total{'reason': 'full'}"
        ]
        assert len(phones) == 4, "max_calls is exact, whoever answers"
        await asyncio.gather(*(talk(phone) for phone in phones))
        assert await loads(session, server) == [2, 2]
        assert server.get("/readyz") == (503, '{"status": "full"}')

        for _ in range(6):
            listed = (await get(session, f"{server.url}/api/calls"))["calls"]
            live = [call for call in listed if call["live"]]
            assert len(live) == 4
            metrics = samples(server.get("/metrics")[1])
            assert metrics["flowcat_calls_active"] == 4
            assert metrics["flowcat_calls_refused_total{'reason': 'full'}"] == refused >= 4
            assert metrics["flowcat_worker_calls_active{'worker': '1'}"] == 2
            assert metrics["flowcat_workers"] == 2

        for call in live:
            url = f"{server.url}/api/calls/{call['id']}"
            async with session.delete(url) as response:
                assert response.status == 409
            async with session.post(f"{url}/hangup") as response:
                assert response.status == 204
        for phone in phones:
            await asyncio.wait_for(phone.hung_up.wait(), 5)
        await settle(session, server, [0, 0])
        metrics = samples(server.get("/metrics")[1])
        ended = "flowcat_calls_total{'channel': 'twilio', 'reason': 'operator.hung_up'}"
        assert metrics[ended] >= 4
        assert server.get("/readyz")[0] == 200


async def test_a_token_is_good_for_one_socket_of_all_workers(two: Server):
    server = two
    async with lines() as session:
        phone = Phone(session, server.url, call_sid=sid(1))
        ticket = await phone._ring()

        async def again() -> tuple[dict[str, str], str]:
            return ticket

        accepted = 0
        for _ in range(5):
            each = Phone(session, server.url, call_sid=sid(1))
            each._ring = again  # type: ignore[method-assign]
            async with each:
                try:
                    await each.hears_something(timeout_s=5)
                    accepted += 1
                except Hangup:
                    pass
        assert accepted == 1
        # The four that were refused fell on both workers.
        assert server.text().count("stream token used before") == 4


async def test_a_status_callback_ends_the_call_wherever_it_is(two: Server):
    server = two
    async with lines() as session, AsyncExitStack() as stack:
        await settle(session, server, [0, 0])
        phones = [await dial(stack, session, server, n) for n in range(4)]
        await settle(session, server, [2, 2])
        for number in range(4):
            form = {"CallSid": sid(number), "CallStatus": "completed"}
            async with session.post(f"{server.url}/telephony/status/twilio", data=form) as told:
                assert told.status == 204
        for phone in phones:
            assert phone is not None
            await asyncio.wait_for(phone.hung_up.wait(), 5)


async def test_a_browsers_requests_reach_the_worker_that_has_its_call(two: Server):
    server = two
    async with lines() as session, AsyncExitStack() as stack:
        answers = []
        for _ in range(4):
            caller = await stack.enter_async_context(client())
            offer = {"sdp": await caller.offer(), "type": "offer"}
            async with session.post(f"{server.url}/webrtc/offer", json=offer) as response:
                assert response.status == 200, await response.text()
                answers.append(await response.json())
            await caller.take(answers[-1]["sdp"])
        await settle(session, server, [2, 2])
        for answer in answers:
            for after in ("", "&after=0", "&after=0"):
                url = f"{server.url}/webrtc/events/{answer['pc_id']}?format=native{after}"
                async with session.ws_connect(url) as events:
                    hello = json.loads(await events.receive_str())
                    kinds = {hello["type"]}
                    while "call_started" not in kinds:
                        kinds.add(json.loads(await events.receive_str())["type"])
            async with session.post(f"{server.url}/webrtc/hangup/{answer['pc_id']}") as response:
                assert response.status == 204
        await settle(session, server, [0, 0])


async def test_a_killed_worker_loses_its_own_calls_alone_and_comes_back_and_all_drain_on_sigterm(
    start_server: StartServer,
):
    server = start(start_server)
    async with lines() as session, AsyncExitStack() as stack:
        phones = [await dial(stack, session, server, n) for n in range(4)]
        await settle(session, server, [2, 2])
        before = samples(server.get("/metrics")[1])
        os.kill(server.children()[0], signal.SIGKILL)
        wait_for(server, "worker_died")
        await settle(session, server, [0, 2])
        lost = [phone for phone in phones if phone is not None and phone.hung_up.is_set()]
        assert len(lost) == 2
        assert not server.text().count("worker_died") > 1
        wait_for(server, "server_ready", 3)

        listed = (await get(session, f"{server.url}/api/calls"))["calls"]
        assert sorted(call["ended_reason"] for call in listed) == [
            "", "", "server.killed", "server.killed",
        ]  # fmt: skip
        assert len([call for call in listed if call["live"]]) == 2
        after = samples(server.get("/metrics")[1])
        assert after["flowcat_worker_restarts_total"] == 1
        frames = "flowcat_audio_frames_total{'direction': 'in'}"
        assert after[frames] >= before[frames], "a counter never falls"
        # Its places are free, and the one that came back is given the next calls.
        assert await dial(stack, session, server, 5) is not None
        assert await dial(stack, session, server, 6) is not None
        assert await dial(stack, session, server, 7) is None
        await settle(session, server, [2, 2])

        server.process.send_signal(signal.SIGTERM)
        wait_for(server, "server_draining", 2)
        assert server.get("/readyz")[0] == 503
        live = [phone for phone in phones if phone is not None and phone not in lost]
        assert not any(phone.hung_up.is_set() for phone in live)
        assert server.process.poll() is None
    assert await asyncio.to_thread(server.process.wait, 15) == 0


async def test_workers_end_when_their_supervisor_is_killed(start_server: StartServer):
    server = start(start_server)
    pids = server.children()
    server.process.kill()
    server.process.wait(5)
    until = time.monotonic() + 10
    while any(_lives(pid) for pid in pids):
        assert time.monotonic() < until
        await asyncio.sleep(0.05)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_server_that_cannot_start_says_so_once(tmp_path: Path):
    file = tmp_path / "agent.yaml"
    file.write_text("agent: {prompt: hi}\ntopology: {llm: {provider: openai}}\n")
    done = subprocess.run(
        [sys.executable, "-m", "flowcat_server", "run", str(file), "--workers", "2",
         "--bind", "127.0.0.1:0", "--set", f"records.dir={tmp_path}"],
        capture_output=True, text=True, timeout=60, env=plain_environment(), check=False,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("no key for openai") == 1
