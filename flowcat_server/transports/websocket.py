"""A carrier's media WebSocket: messages in, speech out ahead of time, marks and clear."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

import structlog
from aiohttp import WSMsgType, web

from flowcat_server.core import ended
from flowcat_server.core.audio import AudioFormat
from flowcat_server.core.carrier import (
    CarrierStream,
    Digit,
    Ignored,
    MarkPlayed,
    Started,
    Stopped,
)
from flowcat_server.core.interfaces import CallSink, PlayoutSource
from flowcat_server.transports.pacer import Pacer

log = structlog.get_logger()

MAX_MESSAGE_BYTES = 64 * 1024
FIRST_CHUNK_MS = 40
"""The first message of a reply is small, so that it leaves at once."""
CHUNK_MS = 100
LEAD_MS = 400
"""How far ahead of the caller's ear the carrier is sent speech. A stall of our loop up to this
long is inaudible; a barge-in clears it."""
CARRIER_DELAY_MS = 60
"""From our socket to the caller's ear, until marks correct it."""
MAX_FAULTS = 500
"""Unreadable messages that a call may send before it is ended."""
MAX_UNSENT = 256
"""Messages waiting for a slow socket; beyond this the peer is considered gone."""
CLOSE_TIMEOUT_S = 2.0


class WebSocketTransport:
    """One call over a carrier's media socket. Owned by the request handler that runs `serve`."""

    buffers = True
    delay_ms = CARRIER_DELAY_MS

    def __init__(
        self,
        socket: web.WebSocketResponse,
        stream: CarrierStream,
        audio: AudioFormat,
        pacer: Pacer,
    ) -> None:
        self.input_format = audio
        self.output_format = audio
        self._socket = socket
        self._stream = stream
        self._pacer = pacer
        self._sink: CallSink | None = None
        self._source: PlayoutSource | None = None
        self._outbox: deque[str] = deque()
        self._news: asyncio.Future[None] | None = None
        self._chunk = audio.bytes_for(CHUNK_MS)
        self._first_chunk = audio.bytes_for(FIRST_CHUNK_MS)
        self._talking = False
        self._closing = False
        self._faults = 0

    def attach(self, sink: CallSink, source: PlayoutSource) -> None:
        self._sink, self._source = sink, source

    def wake(self) -> None:
        if not self._talking and self.pump():
            self._pacer.add(self)

    def pump(self) -> bool:
        """Send speech up to the lead; called by the pacer while there is any."""
        source, sink = self._source, self._sink
        if source is None or sink is None or self._closing:
            return False
        now = sink.now_ms()
        while source.queued():
            lead = source.lead_ms(now)
            if lead >= LEAD_MS:
                self._talking = True
                return True
            size = self._chunk if self._talking else self._first_chunk
            if self._talking and source.queued() < size and lead > 2 * CHUNK_MS:
                return True  # no hurry: let a whole chunk gather
            self._send(self._stream.audio(source.pull(now, size)))
            self._talking = True
        mark = source.take_mark()
        if mark is not None:
            self._send(self._stream.mark(mark))
        self._talking = source.lead_ms(now) > 0
        return self._talking

    def clear(self) -> None:
        # What has not left yet must not follow the clear.
        self._outbox.clear()
        self._talking = False
        self._pacer.remove(self)
        self._send(self._stream.clear())

    async def wait_connected(self) -> None:
        """The socket is open already."""

    async def hang_up(self, reason: str) -> None:
        del reason
        self._closing = True
        self._pacer.remove(self)
        self._wake_sender()
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await self._socket.close()
        except TimeoutError:
            log.warning("carrier_close_timeout")

    async def serve(self) -> None:
        """Read the socket until it ends; run by the request's own task, beside `send_all`."""
        receive = self._socket.receive
        while True:
            message = await receive()
            if message.type is WSMsgType.TEXT or message.type is WSMsgType.BINARY:
                if not self._take(message.data):
                    return
            elif message.type in (WSMsgType.CLOSE, WSMsgType.CLOSING, WSMsgType.CLOSED):
                self._lost(ended.CALLER_HUNG_UP)
                return
            elif message.type is WSMsgType.ERROR:
                self._lost(ended.CARRIER_CLOSED)
                return

    async def send_all(self) -> None:
        """Write what `pump` and `clear` queued, in order, until the socket is closing."""
        while not self._closing:
            if not self._outbox:
                self._news = asyncio.get_running_loop().create_future()
                try:
                    await self._news
                finally:
                    self._news = None
                continue
            try:
                await self._socket.send_str(self._outbox.popleft())
            except (ConnectionError, RuntimeError):  # aiohttp raises both on a closed socket
                self._lost(ended.CARRIER_CLOSED)
                return

    def _take(self, data: str | bytes) -> bool:
        sink = self._sink
        if sink is None:
            return True
        fed = self._stream.feed(data)
        if type(fed) is bytes:
            sink.receive_audio(fed)
            return True
        match fed:
            case MarkPlayed(name):
                sink.receive_mark(name)
            case Digit(digit):
                sink.receive_digit(digit)
            case Stopped():
                self._lost(ended.CALLER_HUNG_UP)
                return False
            case Ignored(reason, fault=True):
                self._faults += 1
                if self._faults == 1:
                    log.warning("carrier_message_ignored", reason=reason)
                if self._faults > MAX_FAULTS:
                    self._lost(ended.CARRIER_PROTOCOL)
                    return False
            case _:
                pass
        return True

    def _send(self, message: str) -> None:
        if len(self._outbox) >= MAX_UNSENT:
            self._lost(ended.CARRIER_CLOSED)
            return
        self._outbox.append(message)
        self._wake_sender()

    def _wake_sender(self) -> None:
        if self._news is not None and not self._news.done():
            self._news.set_result(None)

    def _lost(self, reason: str) -> None:
        if self._sink is not None:
            self._sink.lost(reason)


async def read_start(
    socket: web.WebSocketResponse, stream: CarrierStream, timeout_ms: int
) -> Started | None:
    """Wait for the stream's start message; None if it does not come in time or the peer leaves.

    Media and other messages before it are dropped and do not extend the wait.
    """
    accept: Callable[[str | bytes], object] = stream.feed
    try:
        async with asyncio.timeout(timeout_ms / 1000):
            while True:
                message = await socket.receive()
                if message.type not in (WSMsgType.TEXT, WSMsgType.BINARY):
                    return None
                fed = accept(message.data)
                if isinstance(fed, Started):
                    return fed
    except TimeoutError:
        return None
