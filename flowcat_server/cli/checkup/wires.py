"""The media socket as a wire of messages: a WebSocket, or a TCP connection with frames."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from dataclasses import dataclass
from typing import Protocol

import aiohttp

from flowcat_server.carriers.audiosocket import Frames
from flowcat_server.core.carrier import Message

MAX_MESSAGE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Closed:
    """The other end has gone."""

    code: int = 1006
    """1006: without saying so (RFC 6455 section 7.1.5)."""
    reason: str = ""


class Wire(Protocol):
    """Messages both ways."""

    trips_ms: list[int]
    """How long there and back, for each ping that was answered."""
    pings: int
    """How many were sent."""

    async def send(self, message: Message) -> None:
        """Send one; nothing happens when it is over."""

    async def receive(self) -> Message | Closed | None:
        """The next one; None: a ping was answered."""

    async def ping(self) -> None:
        """Begin to measure there and back, where that can be done."""

    async def close(self) -> None:
        """Close it."""


class WebSocketWire:
    """A WebSocket."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        """Take a socket that is open; it must not answer pings by itself."""
        self._socket = socket
        self._pinged: deque[float] = deque(maxlen=64)
        self.trips_ms: list[int] = []
        self.pings = 0

    async def send(self, message: Message) -> None:
        """Send one; nothing happens when it is over."""
        with contextlib.suppress(ConnectionError, aiohttp.ClientError):
            if isinstance(message, str):
                await self._socket.send_str(message)
            else:
                await self._socket.send_bytes(message)

    async def receive(self) -> Message | Closed | None:
        """The next text or binary message; None: a ping was answered."""
        while True:
            message = await self._socket.receive()
            match message.type:
                case aiohttp.WSMsgType.TEXT | aiohttp.WSMsgType.BINARY:
                    data: Message = message.data
                    return data
                case aiohttp.WSMsgType.PING:
                    await self._socket.pong(message.data)
                case aiohttp.WSMsgType.PONG:
                    if self._pinged:
                        taken = time.monotonic() - self._pinged.popleft()
                        self.trips_ms.append(int(taken * 1000))
                        return None
                case aiohttp.WSMsgType.CLOSE:
                    await self._socket.close()
                    return Closed(int(message.data or 1005), message.extra or "")
                case _:
                    return Closed(self._socket.close_code or 1006)

    async def ping(self) -> None:
        """Begin to measure there and back."""
        with contextlib.suppress(ConnectionError, aiohttp.ClientError):
            await self._socket.ping()
            self._pinged.append(time.monotonic())
            self.pings += 1

    async def close(self) -> None:
        """Close it, politely."""
        await self._socket.close()


class TcpWire:
    """A TCP connection with AudioSocket's frames."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._frames = Frames()
        self._waiting: deque[bytes] = deque()
        self.trips_ms: list[int] = []
        self.pings = 0

    async def send(self, message: Message) -> None:
        """Send a frame; nothing happens when it is over."""
        with contextlib.suppress(ConnectionError):
            self._writer.write(message if isinstance(message, bytes) else message.encode())
            await self._writer.drain()

    async def receive(self) -> Message | Closed | None:
        """The next frame."""
        while not self._waiting:
            try:
                data = await self._reader.read(4096)
            except ConnectionError:
                data = b""
            if not data:
                return Closed()
            self._waiting += self._frames.cut(data)
        return self._waiting.popleft()

    async def ping(self) -> None:
        """Nothing there answers pings."""

    async def close(self) -> None:
        """Close it."""
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()
