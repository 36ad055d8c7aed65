"""A call over AudioSocket: a TCP connection of framed messages."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from flowcat_server.core import ended
from flowcat_server.core.carrier import CarrierStream, Message, Refuse, Started, Stopped
from flowcat_server.transports.carrier import CarrierTransport
from flowcat_server.transports.pacer import Pacer

READ_BYTES = 16 * 1024


class Connection:
    """One TCP connection, read in whole frames."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        cut: Callable[[bytes], list[bytes]],
    ) -> None:
        """Take over a connection.

        Args:
            reader: What arrives.
            writer: What leaves.
            cut: Makes whole frames of what arrives.
        """
        self._reader = reader
        self._writer = writer
        self._cut = cut
        self.waiting: list[bytes] = []
        """Frames that came together with the one that began the call."""

    async def receive(self) -> list[bytes]:
        """The next frames, perhaps none yet; raises `ConnectionError` when there are no more."""
        data = await self._reader.read(READ_BYTES)
        if not data:
            raise ConnectionResetError("closed")
        return self._cut(data)

    def post(self, message: Message) -> int:
        """Send a frame; returns what is then `unsent`.

        Never waits; raises `ConnectionError` if the peer is gone.
        """
        assert isinstance(message, bytes)  # noqa: S101 - this wire has no text
        if self._writer.is_closing():
            raise ConnectionResetError("the connection is closed")
        self._writer.write(message)
        return self.unsent()

    def unsent(self) -> int:
        """Bytes that were written and that the network has not taken yet."""
        return self._writer.transport.get_write_buffer_size()

    async def close(self) -> None:
        """Close; a peer that does not read is not waited for."""
        self._writer.close()
        try:
            await self._writer.wait_closed()
        except (ConnectionError, OSError):
            pass  # it was gone already
        except asyncio.CancelledError:
            self._writer.transport.abort()
            raise


class AudioSocketTransport(CarrierTransport):
    """One call over a TCP connection."""

    __slots__ = ("_connection",)

    def __init__(
        self, connection: Connection, stream: CarrierStream, started: Started, pacer: Pacer
    ) -> None:
        super().__init__(connection, stream, started, pacer)
        self._connection = connection

    async def serve(self) -> None:
        """Read the connection until it ends."""
        connection = self._connection
        frames, connection.waiting = connection.waiting, []
        while True:
            for frame in frames:
                self._received(frame, binary=True)
                if self._over:
                    return
            try:
                frames = await connection.receive()
            except (ConnectionError, OSError):
                self._leaves()
                self._lost(ended.CARRIER_CLOSED)
                return

    async def _close(self, code: int) -> None:
        del code
        await self._connection.close()


async def read_start(
    connection: Connection, stream: CarrierStream, timeout_ms: int, limit: int
) -> Started | Refuse | None:
    """Wait until the call has named itself and is heard; None if that does not happen in time.

    Args:
        connection: A new one.
        stream: Its messages.
        timeout_ms: For everything.
        limit: Bytes that may come before.
    """
    received = 0
    try:
        async with asyncio.timeout(timeout_ms / 1000):
            while received <= limit:
                frames = await connection.receive()
                for number, frame in enumerate(frames):
                    received += len(frame)
                    fed = stream.feed(frame, binary=True)
                    if isinstance(fed, Started | Refuse):
                        connection.waiting = frames[number + 1 :]
                        return fed
                    if isinstance(fed, Stopped):
                        return None
    except (TimeoutError, ConnectionError, OSError):
        pass
    return None
