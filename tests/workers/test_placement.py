"""Two workers' doors in one process: requests reach the one that should serve them."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import uvloop
from aiohttp import web

from flowcat_server.core.carrier import CallStatus, Detected, DialOver, Report
from flowcat_server.routes.bodies import read_body
from flowcat_server.workers.board import Board
from flowcat_server.workers.placement import MAX_BODY_BYTES, Placement
from flowcat_server.workers.post import Post
from flowcat_server.workers.shared import ARRIVING
from flowcat_server.workers.team import Seat, Team, found
from flowcat_server.workers.worker import Worker
from tests.callscript import loaded

ECHO = """
topology: {mode: echo}
server: {bind: '127.0.0.1:0'}
carriers: {audiosocket: {bind: '127.0.0.1:0'}}
"""


on_both_loops = pytest.mark.parametrize(
    "loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"]
)
Loop = Callable[[], asyncio.AbstractEventLoop]


def run(loop: Loop, test: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(test)


@dataclass
class Desk:
    """One worker, and what it served."""

    worker: Worker
    served: list[str] = field(default_factory=list)
    told: list[tuple[str, Report]] = field(default_factory=list)

    def hear(self, carrier: str, report: Report) -> bool:
        self.told.append((carrier, report))
        return False

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Says who serves it, whence it came and with what; a socket echoes."""
        self.served.append(request.path)
        arriving = ARRIVING.get()
        if request.headers.get("Upgrade") == "websocket":
            socket = web.WebSocketResponse()
            await socket.prepare(request)
            self.worker.board.take(self.worker.run, 1000, arriving)
            async for message in socket:
                await socket.send_str(f"{self.worker.run} {message.data}")
            return socket
        body = await read_body(request, 200_000)
        return web.json_response(
            {
                "run": self.worker.run,
                "remote": request.remote,
                "query": request.query_string,
                "body": body.decode(),
                "cookie": request.cookies.get("c", ""),
            }
        )


@dataclass
class House:
    team: Team
    desks: list[Desk]
    url: str
    port: int


@asynccontextmanager
async def house() -> AsyncIterator[House]:
    team = found(loaded(ECHO), 2)
    os.set_inheritable(team.web[0].fileno(), False)
    async with AsyncExitStack() as stack:
        stack.callback(team.close)
        desks = []
        life, held = os.pipe()
        stack.callback(os.close, held)
        stack.callback(os.close, life)
        for number in (1, 2):
            lifeline = os.dup(life)
            stack.callback(os.close, lifeline)
            worker = Worker(Seat(team, number, lifeline, False), 1000)
            stack.callback(worker.close)
            desk = Desk(worker)
            desks.append(desk)
            app = web.Application(middlewares=[*worker.middlewares])
            app.router.add_route("*", "/{path:.*}", desk.answer)
            runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
            await runner.setup()
            stack.push_async_callback(runner.cleanup)
            await worker.open(runner, desk, Asterisk(desk), lambda: None, stack)  # type: ignore[arg-type]
        port = team.web[0].getsockname()[1]
        yield House(team, desks, f"http://127.0.0.1:{port}", port)


class Asterisk:
    """The door that takes connections which nobody has read from."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def take(self, connection: socket.socket) -> None:
        self._desk.served.append("audiosocket")
        self._desk.worker.board.take(self._desk.worker.run, 1000, ARRIVING.get())
        connection.setblocking(True)
        connection.sendall(b"%d" % self._desk.worker.run)
        connection.close()


@asynccontextmanager
async def lines(**options: Any) -> AsyncIterator[aiohttp.ClientSession]:
    connector = aiohttp.TCPConnector(limit=0, **options)
    async with aiohttp.ClientSession(connector=connector) as session:
        yield session


@on_both_loops
def test_media_sockets_go_round_whoever_accepts_them(loop: Loop):
    run(loop, dial_ten())


async def dial_ten() -> None:
    async with house() as two, lines() as session, AsyncExitStack() as stack:
        runs = []
        for _ in range(10):
            leg = await stack.enter_async_context(
                session.ws_connect(f"{two.url}/telephony/ws/twilio")
            )
            await leg.send_str("hello")
            served_by, word = (await leg.receive_str()).split()
            assert word == "hello"
            runs.append(int(served_by))
        assert sorted(runs) == [desk.worker.run for desk in two.desks for _ in range(5)]
        assert [member.load for member in two.desks[0].worker.board.members()] == [5, 5]
        for text in ("a" * 5000, "b", "c" * 100_000):
            await leg.send_str(text)
            assert (await leg.receive_str()).endswith(text)


async def test_a_socket_may_come_over_a_connection_that_served_other_requests():
    """As a reverse proxy's do: the call does not stay with whoever has the old connection."""
    async with house() as two, lines() as session, AsyncExitStack() as stack:
        runs = []
        for _ in range(6):
            proxied = await stack.enter_async_context(lines(limit_per_host=1))
            async with proxied.get(f"{two.url}/healthz") as response:
                await response.json()
            leg = await stack.enter_async_context(
                proxied.ws_connect(f"{two.url}/telephony/ws/twilio")
            )
            await leg.send_str("hello")
            runs.append((await leg.receive_str()).split()[0])
        assert sorted(runs) == ["1", "1", "1", "2", "2", "2"]
        del session


async def offer(session: aiohttp.ClientSession, two: House, **options: Any) -> dict[str, Any]:
    async with session.post(f"{two.url}/webrtc/offer?x=1", **options) as response:
        assert response.status == 200
        answer = await response.json()
        assert isinstance(answer, dict)
        return answer


@on_both_loops
def test_a_request_that_moves_arrives_whole_and_with_the_callers_address(loop: Loop):
    run(loop, send_offers())


async def send_offers() -> None:
    async with house() as two, lines() as session:
        owner = two.desks[1].worker
        peer = f"{owner.peer_prefix}abcdef"
        body = json.dumps({"pc_id": peer, "sdp": "v=0\r\n" * 2000})

        async def pieces() -> AsyncIterator[bytes]:
            for start in range(0, len(body), 1000):
                yield body[start : start + 1000].encode()

        for data in (body, pieces, body, pieces):
            answer = await offer(
                session,
                two,
                data=data if isinstance(data, str) else data(),
                headers={"Cookie": "c=d"},
            )
            assert answer["run"] == owner.run
            assert answer["body"] == body
            assert (answer["remote"], answer["query"]) == ("127.0.0.1", "x=1")
            assert answer["cookie"] == "d"


@pytest.mark.parametrize(
    "path",
    [
        "/webrtc/events/{peer}",
        "/webrtc/hangup/{peer}",
        "/api/calls/{call}",
        "/api/calls/{call}/hangup",
        "/telephony/status/twilio/out-{call}",
        "/telephony/answer/twilio/out-{call}",
        "/telephony/next/twilio/token/{mark}x.y",
    ],
)
async def test_requests_about_a_call_go_to_its_worker(path: str):
    async with house() as two, lines(force_close=True) as session:
        for desk in two.desks:
            board, me = desk.worker.board, desk.worker.run
            place = board.take(me, 10)
            assert place is not None
            call = f"{me:023x}"
            board.begun(place, call)
            url = two.url + path.format(
                peer=f"{desk.worker.peer_prefix}x", call=call, mark=desk.worker.mark
            )
            for _ in range(4):
                async with session.post(url, data=b"body") as response:
                    answer = await response.json()
                assert (answer["run"], answer["body"]) == (me, "body")


async def test_a_socket_that_only_one_worker_can_serve_goes_there():
    async with house() as two, lines() as session, AsyncExitStack() as stack:
        for desk in two.desks:
            place = desk.worker.board.take(desk.worker.run, 1000)
            assert place is not None
            call = f"{desk.worker.run:023x}"
            desk.worker.board.begun(place, call)
            for run_id in (f"out-{call}", f"{desk.worker.mark}c"):
                for _ in range(3):
                    leg = await stack.enter_async_context(
                        session.ws_connect(f"{two.url}/telephony/ws/twilio/{run_id}/token/x")
                    )
                    await leg.send_str("hello")
                    assert await leg.receive_str() == f"{desk.worker.run} hello"


async def test_a_request_about_a_call_that_is_over_is_answered_by_whoever_has_it():
    async with house() as two, lines(force_close=True) as session:
        for path in ("/webrtc/events/pc-at-99-x", "/api/calls/gone", "/webrtc/events/nonsense"):
            async with session.get(two.url + path) as response:
                assert (await response.json())["run"] in (1, 2)


async def raw(two: House, request: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", two.port)
    writer.write(request)
    async with asyncio.timeout(5):
        answer = await reader.read()
    writer.close()
    return answer


async def test_a_request_behind_one_that_moves_is_not_left_waiting():
    """It was read by the first worker; the connection closes, so that the client sends it again."""
    async with house() as two:
        for desk in two.desks:
            path = f"/webrtc/hangup/{desk.worker.peer_prefix}x"
            one = f"POST {path} HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nok".encode()
            last = one.replace(b"Host: h", b"Host: h\r\nConnection: close")
            answer = await raw(two, one + last)
            assert answer.count(b"HTTP/1.1 200") in (1, 2)
            assert answer.count(b'"body": "ok"') in (1, 2)


async def test_a_body_too_long_to_move_is_refused():
    async with house() as two, lines() as session:
        statuses = set()
        for desk in two.desks:
            url = f"{two.url}/webrtc/hangup/{desk.worker.peer_prefix}x"
            async with session.post(url, data=b"x" * (MAX_BODY_BYTES + 1)) as response:
                statuses.add(response.status)
        assert 413 in statuses


async def test_a_connection_stays_where_it_is_when_an_inbox_is_full(
    monkeypatch: pytest.MonkeyPatch,
):
    async with house() as two, lines() as session, AsyncExitStack() as stack:
        monkeypatch.setattr(two.team.post, "send", lambda *_: False)
        for _ in range(6):
            leg = await stack.enter_async_context(
                session.ws_connect(f"{two.url}/telephony/ws/twilio")
            )
            await leg.send_str("hello")
            assert (await leg.receive_str()).endswith("hello")
        assert sum(m.load for m in two.desks[0].worker.board.members()) == 6


@pytest.mark.parametrize(
    "report",
    [
        CallStatus("CA1", "completed"),
        Detected("CA1", "machine", greeting_over=True),
        DialOver(answered=False, why="busy", call_id="CA1"),
    ],
    ids=lambda report: type(report).__name__,
)
async def test_what_a_carrier_says_is_passed_on_to_all_others(report: Report):
    async with house() as two:
        first, second = two.desks
        first.worker.tell_others("twilio", report)
        await _until(lambda: second.told == [("twilio", report)])
        assert first.told == []


async def test_a_call_that_is_asked_for_again_is_asked_of_the_same_worker():
    async with house() as two, lines(force_close=True) as session:

        async def ask(key: str) -> int:
            headers = {"Idempotency-Key": key} if key else {}
            async with session.post(f"{two.url}/api/calls", data=b"{}", headers=headers) as told:
                return int((await told.json())["run"])

        keepers = [{await ask(f"key-{number}") for _ in range(4)} for number in range(12)]
        assert all(len(each) == 1 for each in keepers)
        assert set.union(*keepers) == {1, 2}, "no worker keeps them all"
        assert await ask("") in (1, 2)


async def test_a_call_is_not_announced_to_a_worker_that_does_not_keep_up():
    async with house() as two, lines(force_close=True) as session:
        first, second = (desk.worker for desk in two.desks)

        async def announce() -> int:
            async with session.post(f"{two.url}/telephony/answer/twilio", data=b"x=1") as told:
                return int((await told.json())["run"])

        for slow, free in ((first, second), (second, first)):
            for worker in (slow, free):
                worker.overload.overloaded = worker is slow  # what its own beats say
                worker.board.beat(worker.run, overloaded=worker is slow)
            assert {await announce() for _ in range(8)} == {free.run}


def test_what_one_worker_remembers_it_is_asked_for_when_another_dies(tmp_path: Path):
    with closing(Post(4)) as post, Board(tmp_path / "board.sqlite") as board:
        runs = [board.join(number, 100 + number) for number in range(1, 5)]
        for run in runs:
            board.ready(run, ready=True)
        placement = Placement(board, post, runs[0])
        keys = [f"key-{number}" for number in range(40)]
        before = {key: placement._keeper(key) for key in keys}
        assert set(before.values()) == set(runs)
        board.bury(102)
        after = {key: placement._keeper(key) for key in keys}
    for key in keys:
        assert after[key] == before[key] or before[key] == runs[1]
    assert runs[1] not in after.values()


async def test_asterisks_connections_go_round():
    async with house() as two:
        for _ in range(10):
            reader, writer = await asyncio.open_connection(
                *two.team.audiosocket[0].getsockname()[:2]
            )
            async with asyncio.timeout(5):
                assert await reader.read() in (b"1", b"2")
            writer.close()
        assert [len(desk.served) for desk in two.desks] == [5, 5]


async def test_one_worker_leads_and_the_end_of_a_call_is_told_to_it():
    async with house() as two:
        await _until(lambda: any(desk.worker.leading.is_set() for desk in two.desks))
        assert sum(desk.worker.leading.is_set() for desk in two.desks) == 1
        ends: list[int] = []
        ended = [
            desk.worker.report_ended(lambda number=number: ends.append(number))  # type: ignore[misc]
            for number, desk in enumerate(two.desks)
        ]
        ended[0]()
        await _until(lambda: sorted(ends) == [0, 1])


async def _until(wanted: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not wanted():  # noqa: ASYNC110 - looks from outside
            await asyncio.sleep(0.01)
