"""Strangers at every door: what connects and says nothing, too much, or packed; bounded always."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from flowcat_server import carriers
from flowcat_server.routes import audiosocket, connections, telephony
from flowcat_server.transports.websocket import MAX_BYTES_BEFORE_START
from tests.fakes import genesys
from tests.fakes.audiosocket import listening
from tests.fakes.doors import ECHO, Doors, doors
from tests.fakes.peers import PEERS, SWITCHES, Peer, media, ring
from tests.routes.test_audiosocket import connected

SOCKETS: Mapping[str, Peer] = {peer.name: peer for peer in (*PEERS, *SWITCHES)}
EVERY = [name for name in carriers.names() if carriers.find(name).over == "websocket"]  # type: ignore[union-attr]
MANY = 150


@asynccontextmanager
async def house_of(tmp_path: Path, name: str) -> AsyncIterator[Doors]:
    yaml = genesys.YAML if name == "genesys" else SOCKETS[name].yaml
    async with doors(tmp_path, yaml) as house:
        yield house


@asynccontextmanager
async def stranger(house: Doors, name: str) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
    """A media socket that is open and has said nothing."""
    if name == "genesys":
        nonce = f"{time.monotonic_ns():032d}"
        headers, protocols = genesys.signed(house.clock.now, nonce=nonce), ()
    else:
        headers, protocols = dict(SOCKETS[name].socket_headers), SOCKETS[name].subprotocols
    url = f"{house.url}/telephony/ws/{name}"
    async with house.client.ws_connect(url, headers=headers, protocols=protocols) as socket:
        yield socket


# --- media sockets before they have named a call --------------------------------------------------


async def attack(socket: aiohttp.ClientWebSocketResponse, how: str) -> None:
    writer = socket._writer
    wire = writer.transport
    assert wire is not None
    match how:
        case "long text":
            await socket.send_str("x" * 1_000_000)
        case "long binary":
            await socket.send_bytes(bytes(1_000_000))
        case "packed":
            await writer.send_frame(b"x" * 1_000_000, aiohttp.WSMsgType.TEXT, compress=15)
        case "fragments without end":
            for n in range(100):
                wire.write(bytes([0 if n else 1]) + b"\xfe\x07\xd0\x00\x00\x00\x00" + b"x" * 2000)
        case "an announced terabyte":
            wire.write(b"\x81\xff" + (1 << 40).to_bytes(8, "big") + b"\x00\x00\x00\x00" + b"x" * 99)
        case "noise without end":
            for _ in range(1 + MAX_BYTES_BEFORE_START // 64):
                await socket.send_str("x")
        case "deep":
            for _ in range(10):
                await socket.send_str('{"event":' + "[" * 60_000)


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize(
    "how",
    [
        "long text", "long binary", "packed", "fragments without end", "an announced terabyte",
        "noise without end", "deep",
    ],
)  # fmt: skip
async def test_a_stranger_who_says_too_much_is_shown_out(tmp_path: Path, name: str, how: str):
    async with house_of(tmp_path, name) as house, stranger(house, name) as socket:
        begun = time.process_time()
        with contextlib.suppress(aiohttp.ClientError, ConnectionError):  # thrown out half way
            await attack(socket, how)
        async with asyncio.timeout(5):
            while not socket.closed:
                await socket.receive()
        assert time.process_time() - begun < 1.5
        assert house.calls.count == 0


@pytest.mark.parametrize("name", EVERY)
async def test_a_stranger_who_says_nothing_is_shown_out_in_time(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(telephony, "START_TIMEOUT_MS", 100)
    async with house_of(tmp_path, name) as house, stranger(house, name) as socket:
        async with asyncio.timeout(5):
            while not socket.closed:
                await socket.receive()
        assert house.calls.count == 0


UNPROVEN = [peer.name for peer in PEERS if not peer.socket_headers]
"""Their media sockets prove themselves by a token alone, so that anybody may open one."""


@pytest.mark.parametrize("name", UNPROVEN)
async def test_many_sockets_without_a_start_keep_nobody_out_for_long(tmp_path: Path, name: str):
    peer = SOCKETS[name]
    async with house_of(tmp_path, name) as house:
        call = peer.new_call()
        place = peer.place((await ring(house, peer, call)).text)
        outcomes: list[object] = await asyncio.gather(
            *(house.client.ws_connect(f"{house.url}/telephony/ws/{name}") for _ in range(MANY)),
            return_exceptions=True,
        )
        open_ones = [each for each in outcomes if isinstance(each, aiohttp.ClientWebSocketResponse)]
        refused = [each for each in outcomes if isinstance(each, aiohttp.WSServerHandshakeError)]
        assert len(open_ones) == telephony.MAX_WAITING_PER_ADDRESS
        assert len(open_ones) + len(refused) == MANY
        assert {error.status for error in refused} == {503}
        await asyncio.gather(*(socket.close() for socket in open_ones))
        async with media(house, peer, call, place) as leg:
            await leg.say(peer.frame)
            assert (await leg.hears(len(peer.frame)))[: len(peer.frame)] == peer.frame


# --- connections without a request ----------------------------------------------------------------


def server_of(house: Doors) -> tuple[str, int]:
    host, port = house.url.removeprefix("http://").split(":")
    return host, int(port)


async def is_closed(reader: asyncio.StreamReader, within_s: float) -> bool:
    try:
        async with asyncio.timeout(within_s):
            with contextlib.suppress(ConnectionError):
                await reader.read()
            return True
    except TimeoutError:
        return False


Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@asynccontextmanager
async def silent(address: tuple[str, int], count: int) -> AsyncIterator[list[Streams]]:
    """Connections that say nothing."""
    opened: list[Streams] = []
    try:
        for _ in range(count):
            opened.append(await asyncio.open_connection(*address))  # noqa: PERF401 - kept if one fails
        yield opened
    finally:
        for _, writer in opened:
            writer.close()
        for _, writer in opened:
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()


async def closed(opened: list[Streams], expected: int) -> list[bool]:
    """Which of them the server has closed, once it has closed so many."""
    reading = [asyncio.create_task(reader.read()) for reader, _ in opened]
    try:
        async with asyncio.timeout(30):
            while sum(task.done() for task in reading) < expected:  # noqa: ASYNC110 - a test looks from outside
                await asyncio.sleep(0.02)
        await asyncio.sleep(0.2)  # and no more
        return [task.done() for task in reading]
    finally:
        for task in reading:
            task.cancel()
        await asyncio.gather(*reading, return_exceptions=True)


@pytest.mark.parametrize("sent", [b"", b"G", b"GET / HTTP/1.1\r\nHost: x\r\nX-A: b\r\n"])
async def test_half_a_request_is_waited_for_a_limited_time(
    tmp_path: Path, sent: bytes, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(connections, "FIRST_REQUEST_S", 0.3)
    monkeypatch.setattr(connections, "LOOK_S", 0.05)
    async with doors(tmp_path) as house, house.call() as leg:
        reader, writer = await asyncio.open_connection(*server_of(house))
        writer.write(sent)
        assert not await is_closed(reader, 0.1)
        if sent:
            writer.write(sent[:1])  # more of it does not help
        assert await is_closed(reader, 5)
        writer.close()
        # A call, and a connection that has asked before, are left alone.
        await leg.say(b"\x01" * 160)
        assert await leg.hears(160) == b"\x01" * 160
        reader, writer = await asyncio.open_connection(*server_of(house))
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"200" in await reader.readline()
        await asyncio.sleep(0.5)
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        rest = await asyncio.wait_for(reader.readuntil(b"HTTP/1.1 200"), 5)
        assert rest.count(b"HTTP/1.1") == 1
        writer.close()


async def test_thousands_of_silent_connections_leave_room_for_calls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(connections, "MAX_SILENT", 100)
    monkeypatch.setattr(connections, "FIRST_REQUEST_S", 60.0)
    monkeypatch.setattr(connections, "LOOK_S", 0.05)
    async with doors(tmp_path) as house, silent(server_of(house), 2000) as opened:
        async with house.call() as leg:
            await leg.say(b"\x01" * 160)
            assert await leg.hears(160) == b"\x01" * 160
        gone = await closed(opened, 1900)
        assert sum(gone) == 1900
        assert gone == sorted(gone, reverse=True), "the newest stay"


# --- webhooks that are packed ---------------------------------------------------------------------

BOMB = gzip.compress(bytes(60_000_000))


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.name)
async def test_a_packed_webhook_is_not_unpacked(tmp_path: Path, peer: Peer):
    assert len(BOMB) < 64 * 1024
    async with doors(tmp_path, peer.yaml) as house:
        asked = peer.webhook(peer.new_call())
        headers = peer.sign(asked, house.public + asked.path, house.clock.now)
        url = f"{house.url}/telephony/answer/{peer.name}"
        packed = {
            **headers,
            "Content-Encoding": "gzip",
            "Content-Type": asked.content_type or "x/y",
        }
        begun = time.process_time()
        async with house.client.post(url, data=BOMB, headers=packed) as response:
            assert response.status in (400, 401, 403)
        assert time.process_time() - begun < 0.2
        assert house.calls.count == 0
        assert (await ring(house, peer, peer.new_call())).status == 200


# --- AudioSocket ----------------------------------------------------------------------------------


async def test_a_thousand_silent_tcp_connections_are_few(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(audiosocket, "START_TIMEOUT_MS", 60_000)
    async with doors(tmp_path, ECHO) as house, listening(house) as address:
        async with silent(address, 1000) as opened:
            gone = await closed(opened, 1000 - audiosocket.MAX_WAITING)
            assert sum(gone) == 1000 - audiosocket.MAX_WAITING
            assert gone == sorted(gone), "those that came first may wait"
        await asyncio.sleep(0.1)
        async with connected(address) as switch:
            await switch.start()
            await house.settled(1)


async def test_a_silent_tcp_connection_is_closed_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(audiosocket, "START_TIMEOUT_MS", 100)
    async with doors(tmp_path, ECHO) as house, listening(house) as address:
        reader, writer = await asyncio.open_connection(*address)
        assert await is_closed(reader, 5)
        writer.close()


async def test_a_frame_that_never_ends_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(audiosocket, "START_TIMEOUT_MS", 300)
    async with doors(tmp_path, ECHO) as house, listening(house) as address:
        reader, writer = await asyncio.open_connection(*address)
        writer.write(b"\x01\xff\xff")
        begun = time.process_time()
        for _ in range(20):
            writer.write(b"x" * 100)
            await asyncio.sleep(0.02)
        assert await is_closed(reader, 5)
        assert time.process_time() - begun < 0.5
        writer.close()
        assert house.calls.count == 0


def test_every_door_is_attacked_here():
    assert {*EVERY, "audiosocket"} == set(carriers.names())
    assert {*SOCKETS, "genesys"} == set(EVERY)
    proven = {name for name in EVERY if name not in UNPROVEN}
    assert proven == {"exotel", "asterisk", "freeswitch", "genesys"}


@pytest.mark.parametrize("name", ["exotel", "asterisk", "freeswitch", "genesys"])
async def test_where_the_handshake_has_to_prove_something_strangers_do_not_even_wait(
    tmp_path: Path, name: str
):
    async with house_of(tmp_path, name) as house:
        outcomes = await asyncio.gather(
            *(house.client.ws_connect(f"{house.url}/telephony/ws/{name}") for _ in range(200)),
            return_exceptions=True,
        )
        statuses = {
            each.status for each in outcomes if isinstance(each, aiohttp.WSServerHandshakeError)
        }
        assert statuses <= {401, 403}
        assert all(isinstance(each, aiohttp.WSServerHandshakeError) for each in outcomes)
