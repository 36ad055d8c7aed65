"""The media socket over a real connection: both ways of reading, and what is written."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

import aiohttp
import pytest
from aiohttp import WSMsgType, web

from flowcat_server.transports import media_socket
from flowcat_server.transports.media_socket import MediaSocket, frame

Serve = Callable[[MediaSocket], Awaitable[None]]


@asynccontextmanager
async def connected(
    serve: Serve, subprotocols: Sequence[str] = ()
) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
    """A client on a server whose handler runs `serve`."""

    async def handler(request: web.Request) -> web.StreamResponse:
        made = MediaSocket(subprotocols)
        await made.prepare(request)
        await serve(made)
        return made

    app = web.Application()
    app.router.add_get("/", handler)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        port = runner.addresses[0][1]
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(f"http://127.0.0.1:{port}/", protocols=subprotocols) as socket,
        ):
            yield socket
    finally:
        await runner.cleanup()


class Reader:
    """Diverts at once and notes what comes which way."""

    def __init__(self) -> None:
        self.diverted = False
        self.taken: list[tuple[bytes, bool]] = []
        self.received: list[WSMsgType] = []
        self.over = asyncio.Event()

    async def __call__(self, socket: MediaSocket) -> None:
        while True:
            self.diverted = self.diverted or socket.divert(self.take)
            message = await socket.receive()
            self.received.append(message.type)
            if message.type is WSMsgType.TEXT or message.type is WSMsgType.BINARY:
                self.take(message.data, message.type is WSMsgType.BINARY)
            else:
                self.over.set()
                return

    def take(self, data: bytes, binary: bool) -> None:
        self.taken.append((data, binary))


def test_this_aiohttp_is_built_as_expected():
    assert media_socket.DIVERTS


@pytest.mark.parametrize("diverts", [True, False])
async def test_messages_come_in_order_whichever_way(diverts: bool, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(media_socket, "DIVERTS", diverts)
    reader = Reader()
    async with connected(reader) as client:
        for number in range(100):
            await client.send_str(f'{{"number":{number}}}')
            await client.send_bytes(bytes([number]) * 160)
        await client.close()
        async with asyncio.timeout(5):
            await reader.over.wait()
    assert reader.taken[::2] == [(f'{{"number":{n}}}'.encode(), False) for n in range(100)]
    assert reader.taken[1::2] == [(bytes([n]) * 160, True) for n in range(100)]
    assert reader.diverted is diverts
    assert reader.received[-1] is WSMsgType.CLOSE
    if diverts:
        assert reader.received == [WSMsgType.CLOSE]


async def test_what_waits_already_is_had_from_receive_first():
    waited = asyncio.Event()
    taken: list[bytes] = []
    ways: list[str] = []

    def take(data: bytes, binary: bool) -> None:
        taken.append(data)

    async def serve(socket: MediaSocket) -> None:
        await waited.wait()
        await asyncio.sleep(0.05)
        assert not socket.divert(take)
        taken.append((await socket.receive()).data)
        ways.append("received")
        assert socket.divert(take)
        assert (await socket.receive()).type is WSMsgType.CLOSE

    async with connected(serve) as client:
        await client.send_str("first")
        waited.set()
        await asyncio.sleep(0.2)
        await client.send_str("second")
    assert (taken, ways) == ([b"first", b"second"], ["received"])


async def test_what_the_handshake_said_is_not_kept():
    kept: list[dict[str, str]] = []

    async def serve(socket: MediaSocket) -> None:
        assert socket._req is not None
        kept.append(dict(socket._req.headers))
        await socket.receive()

    async with connected(serve) as client:
        await client.close()
    assert kept == [{}]


async def test_a_long_message_is_an_error_either_way():
    reader = Reader()
    async with connected(reader) as client:
        await client.send_str("x" * (media_socket.MAX_MESSAGE_BYTES + 1))
        async with asyncio.timeout(5):
            await reader.over.wait()
    assert reader.taken == []
    assert reader.received == [WSMsgType.ERROR]


async def test_a_fault_of_who_takes_ends_this_connection_only():
    over = asyncio.Event()
    kinds: list[WSMsgType] = []

    def take(data: bytes, binary: bool) -> None:
        raise ValueError(data)

    async def serve(socket: MediaSocket) -> None:
        assert socket.divert(take)
        kinds.append((await socket.receive()).type)
        over.set()

    async with connected(serve) as client:
        await client.send_str("x")
        async with asyncio.timeout(5):
            await over.wait()
    assert kinds == [WSMsgType.ERROR]


@pytest.mark.parametrize("size", [0, 125, 126, 65_535, 65_536])
async def test_a_client_reads_what_is_posted(size: int):
    async def serve(socket: MediaSocket) -> None:
        socket.post("a" * size)
        socket.post(b"b" * size)
        await socket.receive()

    async with connected(serve) as client:
        assert await client.receive_str(timeout=5) == "a" * size
        assert await client.receive_bytes(timeout=5) == b"b" * size


def test_a_frame_is_final_and_unmasked():
    assert frame("hi") == b"\x81\x02hi"
    assert frame(b"hi") == b"\x82\x02hi"


@pytest.mark.parametrize("diverts", [True, False])
async def test_a_subprotocol_is_agreed_on(diverts: bool, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(media_socket, "DIVERTS", diverts)
    reader = Reader()
    async with connected(reader, ["audio.example"]) as client:
        assert client.protocol == "audio.example"
        await client.send_bytes(b"x")
        await client.close()
        async with asyncio.timeout(5):
            await reader.over.wait()
    assert reader.taken == [(b"x", True)]


async def test_posting_after_the_end_is_an_error_and_nothing_is_unsent():
    tried: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def serve(socket: MediaSocket) -> None:
        assert socket.unsent() == 0
        await socket.receive()
        await socket.close()
        await asyncio.sleep(0)
        try:
            socket.post("late")
            tried.set_result("sent")
        except ConnectionError:
            tried.set_result("refused")

    async with connected(serve) as client:
        await client.close()
        async with asyncio.timeout(5):
            assert await tried == "refused"
