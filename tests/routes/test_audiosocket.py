"""AudioSocket over a real TCP connection."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from flowcat_server.carriers.audiosocket import HEADER, Frames
from flowcat_server.core import ended
from flowcat_server.errors import ConfigError
from flowcat_server.providers.http import Http
from flowcat_server.routes import audiosocket
from flowcat_server.routes.audiosocket import AudioSocketListener
from flowcat_server.routes.expected import CarrierCalls
from flowcat_server.routes.lines import lines
from flowcat_server.transports.pacer import Pacer
from tests.callscript import loaded
from tests.fakes.audiosocket import listening, serving
from tests.fakes.doors import ECHO, doors

UUID = bytes.fromhex("00112233445566778899aabbccddeeff")
CALL = "00112233-4455-6677-8899-aabbccddeeff"


def framed(kind: int, body: bytes = b"") -> bytes:
    return HEADER.pack(kind, len(body)) + body


class Switch:
    """Asterisk's end of the connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self._frames = Frames()

    async def send(self, *frames: bytes) -> None:
        self.writer.write(b"".join(frames))
        await self.writer.drain()

    async def start(self, kind: int = 0x10, size: int = 320) -> None:
        await self.send(framed(1, UUID), framed(kind, bytes(size)))

    async def frames(self, count: int, within_s: float = 5.0) -> list[bytes]:
        found: list[bytes] = []
        async with asyncio.timeout(within_s):
            while len(found) < count:
                data = await self.reader.read(4096)
                if not data:
                    break
                found += self._frames.cut(data)
        return found

    async def closed(self, within_s: float = 5.0) -> list[bytes]:
        """Everything until the server closes."""
        found: list[bytes] = []
        async with asyncio.timeout(within_s):
            with suppress(ConnectionError):
                while data := await self.reader.read(4096):
                    found += self._frames.cut(data)
        return found


@asynccontextmanager
async def connected(address: tuple[str, int]) -> AsyncIterator[Switch]:
    reader, writer = await asyncio.open_connection(*address)
    try:
        yield Switch(reader, writer)
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


@pytest.mark.parametrize(("kind", "size"), [(0x10, 320), (0x12, 640)], ids=["8k", "16k"])
async def test_a_whole_call(tmp_path: Path, kind: int, size: int):
    async with doors(tmp_path, ECHO) as house, listening(house) as address:
        async with connected(address) as switch:
            await switch.start(kind, size)
            await house.settled(1)
            (session,) = house.calls.live.values()
            speech = [bytes([n, n + 1]) * (size // 2) for n in range(1, 21)]
            heard: list[bytes] = []
            for frame in speech:
                await switch.send(framed(kind, frame))
                heard += await switch.frames(1)
            heard += await switch.frames(10)
            assert {(each[0], len(each)) for each in heard} == {(kind, size + 3)}
            spoken = [each[3:] for each in heard if any(each[3:])]
            assert spoken == speech
            await switch.send(framed(3, b"5"), framed(0))
            await switch.closed()
        await house.settled(0)
        assert session.reason == ended.CALLER_HUNG_UP
        assert (session.frames_in, session.frames_out) == (20, 20)
        record = await house.store.get_call(session.id)
        assert record is not None
        assert (record.summary.channel, record.summary.external_id) == ("audiosocket", CALL)


async def test_silence_keeps_the_connection_alive(tmp_path: Path):
    async with doors(tmp_path, ECHO) as house, listening(house) as address:
        async with connected(address) as switch:
            await switch.start()
            frames = await switch.frames(25, within_s=2)
            assert set(frames) == {framed(0x10, bytes(320))}
        await house.settled(0)


async def test_our_end_hangs_up_the_channel(tmp_path: Path):
    async with doors(tmp_path, ECHO) as house, listening(house) as address:
        async with connected(address) as switch:
            await switch.start()
            await house.settled(1)
            (session,) = house.calls.live.values()
            session.end(ended.AGENT_ENDED)
            assert (await switch.closed())[-1] == framed(0)
        await house.settled(0)


async def test_when_full_the_channel_is_hung_up(tmp_path: Path):
    yaml = ECHO + "limits: {max_calls: 1}\n"
    async with doors(tmp_path, yaml) as house, listening(house) as address:
        async with connected(address) as first, connected(address) as second:
            await first.start()
            await house.settled(1)
            await second.start()
            assert await second.closed() == [framed(0)]
        await house.settled(0)


@pytest.mark.parametrize(
    "sent",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 4,
        framed(0x10, bytes(320)),
        framed(1, b"short"),
        framed(0),
        framed(0x42, bytes(1000)) * 30,
    ],
    ids=["http", "nameless", "short", "hang-up", "much"],
)
async def test_what_is_no_call_is_closed_and_spends_nothing(
    tmp_path: Path, sent: bytes, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(audiosocket, "START_TIMEOUT_MS", 200)
    async with doors(tmp_path, ECHO) as house, listening(house) as address:
        async with connected(address) as switch:
            with suppress(ConnectionError):
                await switch.send(sent)
            assert await switch.closed() == []
        assert house.calls.count == 0


async def test_only_allowed_addresses_may_connect(tmp_path: Path):
    yaml = ECHO + "carriers: {audiosocket: {allow_from: 192.0.2.0/24}}\n"
    async with doors(tmp_path, ECHO) as house, listening(house, yaml) as address:
        async with connected(address) as switch:
            with suppress(ConnectionError):
                await switch.start()
            assert await switch.closed() == []
        assert house.calls.count == 0


async def test_silent_connections_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(audiosocket, "MAX_WAITING", 3)
    async with doors(tmp_path, ECHO) as house, listening(house) as address:
        waiting = [await asyncio.open_connection(*address) for _ in range(3)]
        await asyncio.sleep(0.05)
        async with connected(address) as switch:
            assert await switch.closed() == []
        for _, writer in waiting:
            writer.close()
        await asyncio.sleep(0.05)
        async with connected(address) as switch:
            await switch.start()
            await house.settled(1)


async def test_an_address_in_use_is_a_clear_error(tmp_path: Path):
    async with doors(tmp_path, ECHO) as house, listening(house) as (host, port):
        line = next(each for each in lines(loaded(ECHO).config) if each.carrier.over == "tcp")
        other = AudioSocketListener(line, CarrierCalls(house.calls, house.tokens, Http()), Pacer())
        with pytest.raises(ConfigError, match=r"carriers\.audiosocket\.bind: cannot listen"):
            await other.open(f"{host}:{port}")


async def test_a_connection_that_somebody_else_accepted_is_a_call_too(tmp_path: Path):
    async with doors(tmp_path, ECHO) as house, serving(house) as listener:
        with socket.create_server(("127.0.0.1", 0)) as accepting:
            async with connected(accepting.getsockname()[:2]) as switch:
                taken, _ = accepting.accept()
                taken.setblocking(False)
                await listener.take(taken)
                await switch.start()
                await switch.send(framed(0x10, b"\x01\x02" * 160))
                heard = await switch.frames(10)
                assert framed(0x10, b"\x01\x02" * 160) in heard
        await house.settled(0)
