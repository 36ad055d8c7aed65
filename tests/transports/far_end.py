"""A socket and a session in memory, on virtual time, for tests of what is sent when."""

from __future__ import annotations

import asyncio
import json
from typing import Any, Self

from aiohttp import WSMessage, WSMsgType

from flowcat_server.core.audio import AudioFormat
from flowcat_server.core.carrier import CarrierStream, Started
from flowcat_server.core.playout import Playout
from flowcat_server.transports.carrier import MAX_UNSENT_BYTES
from flowcat_server.transports.media_socket import Take
from flowcat_server.transports.pacer import Pacer
from flowcat_server.transports.websocket import WebSocketTransport


def now_ms() -> int:
    return round(asyncio.get_running_loop().time() * 1000)


class FakeSocket:
    """The server's end of a WebSocket: a script of what arrives, a record of what leaves."""

    def __init__(self, *arriving: object) -> None:
        self.arriving: asyncio.Queue[WSMessage] = asyncio.Queue()
        self.sent: list[tuple[int, dict[str, Any]]] = []
        self.binary: list[tuple[int, bytes]] = []
        self.close_code: int | None = None
        self.closed_at: int | None = None
        self.blocked = False
        """While set, the network takes one message more and then none."""
        self._taken = 0
        self.broken: Exception | None = None
        self.diverts = False
        self.take: Take | None = None
        """What the connection gives messages to, if it `diverts`."""
        self.close_takes_s = 0.0
        for each in arriving:
            self.arrive(each)

    def arrive(self, data: object, kind: WSMsgType = WSMsgType.TEXT) -> None:
        text = data if isinstance(data, str | bytes) else json.dumps(data)
        body = text.encode() if isinstance(text, str) else text
        self.arriving.put_nowait(WSMessage(kind, body, None))

    def arrive_as(self, kind: WSMsgType, data: object = None) -> None:
        self.arriving.put_nowait(WSMessage(kind, data, None))

    async def receive(self) -> WSMessage:
        return await self.arriving.get()

    def divert(self, take: Take) -> bool:
        self.take = take
        return self.diverts

    def post(self, message: str | bytes) -> int:
        if self.broken is not None:
            raise self.broken
        self._taken += self.blocked
        if isinstance(message, str):
            self.sent.append((now_ms(), json.loads(message)))
        else:
            self.binary.append((now_ms(), message))
        return self.unsent()

    def unsent(self) -> int:
        return MAX_UNSENT_BYTES + 1 if self.blocked and self._taken else 0

    async def close(self, *, code: int = 1000) -> bool:
        self.close_code = code
        await asyncio.sleep(self.close_takes_s)
        self.closed_at = now_ms()
        return True


class Sink:
    """The session, as the transport sees it."""

    def __init__(self) -> None:
        self.began = now_ms()
        self.audio: list[bytes] = []
        self.digits: list[str] = []
        self.marks: list[str] = []
        self.reasons: list[str] = []
        self.playout: Playout | None = None

    def now_ms(self) -> int:
        return now_ms() - self.began

    def receive_audio(self, payload: bytes) -> None:
        self.audio.append(payload)

    def receive_digit(self, digit: str) -> None:
        self.digits.append(digit)

    def receive_text(self, text: str) -> None:
        raise AssertionError

    def receive_mark(self, name: str) -> None:
        self.marks.append(name)
        if self.playout is not None:
            self.playout.acknowledge(name, self.now_ms())

    def lost(self, reason: str) -> None:
        self.reasons.append(reason)


class FarLine:
    """A transport between a socket and a ledger. Each byte of speech tells its position."""

    lowest = 0
    """The least byte of speech; above 0, silence that is sent between it can be told from it."""

    def __init__(
        self, socket: FakeSocket, stream: CarrierStream, started: Started, audio: AudioFormat
    ) -> None:
        self.socket = socket
        self.pacer = Pacer()
        self.transport = WebSocketTransport(socket, stream, started, self.pacer)  # type: ignore[arg-type]
        self.sink = Sink()
        self.playout = Playout(
            audio, delay_ms=self.transport.delay_ms, marks=self.transport.buffers
        )
        self.sink.playout = self.playout
        self.transport.attach(self.sink, self.playout)
        self.began = now_ms()
        self.pushed = b""
        self._turn = 0
        self._per_ms = audio.sample_rate * audio.sample_bytes / 1000
        self._sample_bytes = audio.sample_bytes
        self._tasks = [asyncio.create_task(self.transport.serve())]

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.pacer.remove(self.transport)
        await asyncio.sleep(0.05)

    def begin(self) -> None:
        self._turn += 1
        self.playout.begin(self._turn)
        self.playout.add_piece(self._turn, "hello")

    def push(self, ms: float) -> None:
        """Speech of the reply that was begun."""
        size = round(ms * self._per_ms / self._sample_bytes) * self._sample_bytes
        audio = bytes((len(self.pushed) + n) % 251 + self.lowest for n in range(size))
        self.pushed += audio
        self.playout.push(self._turn, 0, audio, self.sink.now_ms())
        self.transport.wake()
