"""A TCP connection that carries a call: what is written without waiting, and to whom."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from flowcat_server.carriers import audiosocket as wire
from flowcat_server.core import ended
from flowcat_server.core.audio import PCM_8K
from flowcat_server.core.carrier import Account, Request, Started
from flowcat_server.core.playout import Playout
from flowcat_server.transports import carrier
from flowcat_server.transports.audiosocket import AudioSocketTransport, Connection
from flowcat_server.transports.pacer import Pacer
from tests.transports.far_end import Sink

CALL = wire.HEADER.pack(wire.CALL, 16) + bytes(range(16))
FRAME = wire.HEADER.pack(0x10, 320) + bytes(320)


@asynccontextmanager
async def connected() -> AsyncIterator[tuple[Connection, asyncio.StreamReader]]:
    """Our end of a connection, and what the other end reads if it cares to."""
    ours: asyncio.Future[Connection] = asyncio.get_running_loop().create_future()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ours.set_result(Connection(reader, writer, wire.Frames().cut))

    async with await asyncio.start_server(accept, "127.0.0.1", 0) as server:
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", server.sockets[0].getsockname()[1], limit=1024
        )
        connection = await ours
        try:
            yield connection, reader
        finally:
            await connection.close()
            writer.close()
            await writer.wait_closed()


def begun(connection: Connection) -> tuple[AudioSocketTransport, Sink]:
    stream = wire.CARRIER.open(Account(), Request("", ""))
    stream.feed(CALL, binary=True)
    started = stream.feed(FRAME, binary=True)
    assert isinstance(started, Started)
    transport, sink = AudioSocketTransport(connection, stream, started, Pacer()), Sink()
    transport.attach(sink, Playout(PCM_8K, delay_ms=60, marks=False))
    return transport, sink


async def test_what_is_posted_arrives_before_the_goodbye():
    async with connected() as (connection, reader):
        transport, _ = begun(connection)
        transport._send(FRAME, speech=True)
        await transport.hang_up(ended.AGENT_ENDED)
        async with asyncio.timeout(5):
            assert await reader.read() == FRAME + wire.HEADER.pack(wire.HANG_UP, 0)


async def test_posting_after_the_end_is_an_error():
    async with connected() as (connection, _):
        await connection.close()
        with pytest.raises(ConnectionError):
            connection.post(FRAME)


async def test_a_peer_that_reads_nothing_is_given_up_with_little_kept():
    async with connected() as (connection, _):
        transport, sink = begun(connection)
        large = FRAME * 100
        most = 0
        async with asyncio.timeout(30):
            while not sink.reasons:
                transport._send(large, speech=True)
                most = max(most, connection.unsent())
                await asyncio.sleep(0)
        assert sink.reasons == [ended.CARRIER_CLOSED]
        assert len(transport._outbox) <= carrier.MAX_UNSENT
        assert most <= carrier.MAX_UNSENT_BYTES + len(large)
        connection._writer.transport.abort()
