"""A carrier's media WebSocket: messages in, speech out ahead of time, marks and clear."""

from __future__ import annotations

import asyncio
import contextvars
from collections import deque
from functools import partial
from typing import TYPE_CHECKING

import structlog
from aiohttp import WebSocketError, WSMsgType

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
from flowcat_server.transports.media_socket import CLOSE_TIMEOUT_S, MediaSocket, Take
from flowcat_server.transports.pacer import Pacer

if TYPE_CHECKING:
    from aiohttp import WSMessage

log = structlog.get_logger()

FIRST_CHUNK_MS = 40
"""The first message of a reply is small, so that it leaves at once."""
CHUNK_MS = 100
LEAD_MS = 400
"""How far ahead of the caller's ear the carrier is sent speech, give or take a chunk. A stall of
our loop up to this long is inaudible; a barge-in clears it."""
GATHER_MS = 200
"""With at least this much sent ahead, there is time to wait for a whole chunk."""
HURRY_MS = 100
"""With less than this sent ahead, new speech is sent at once and not on the next tick."""
MARK_EVERY_MS = 500
MARK_AFTER_MS = 60
"""Speech that trickles in is not marked after each morsel, but every so often, and when nothing
more has come for a moment."""
CARRIER_DELAY_MS = 60
"""From our socket to the caller's ear, until marks correct it."""
MAX_FAULTS = 500
"""Unreadable messages that a call may send before it is ended."""
MAX_BURST = 4_000
MAX_PER_S = 200
"""Messages that a call may send: a backlog of 80 s of 20 ms frames, and four times real time."""
MAX_UNSENT_BYTES = 16 * 1024
"""With more than this on its way into the network, messages wait here, where they can be taken
back."""
MAX_UNSENT = 256
"""Messages waiting for a slow socket; beyond this the peer is considered gone."""
MAX_BYTES_BEFORE_START = 256 * 1024
"""What a socket may send before it has said which call it is; 10 s of audio is 140 kB."""
MESSAGE_COST_BYTES = 64
"""What any message counts for, however short."""


class WebSocketTransport:
    """One call over a carrier's media socket. Owned by the request handler that runs `serve`."""

    __slots__ = (
        "_chunk",
        "_closing",
        "_due_ms",
        "_faults",
        "_first_chunk",
        "_marked_ms",
        "_messages",
        "_outbox",
        "_over",
        "_pacer",
        "_sink",
        "_socket",
        "_source",
        "_stream",
        "_talking",
        "_unmarked_ms",
        "input_format",
        "output_format",
    )

    buffers = True
    delay_ms = CARRIER_DELAY_MS

    def __init__(
        self,
        socket: MediaSocket,
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
        self._chunk = audio.bytes_for(CHUNK_MS)
        self._first_chunk = audio.bytes_for(FIRST_CHUNK_MS)
        self._talking = False
        self._due_ms = 0
        """Before this time of the call there is nothing for the pacer to do."""
        self._marked_ms = -MARK_EVERY_MS
        self._unmarked_ms: int | None = None
        """When speech was last sent that has no mark behind it yet."""
        self._closing = False
        self._over = False
        """The far end is gone, or nothing it says is heard any more."""
        self._faults = 0
        self._messages = 0

    def attach(self, sink: CallSink, source: PlayoutSource) -> None:
        self._sink, self._source = sink, source

    def wake(self) -> None:
        source, sink = self._source, self._sink
        if source is None or sink is None:
            return
        now = sink.now_ms()
        lead = source.lead_ms(now)
        if self._talking and lead >= HURRY_MS:
            self._due_ms = 0  # the pacer comes in time
        elif self._pump(source, now, lead):
            self._pacer.add(self)

    def pump(self) -> bool:
        """Send speech up to the lead; called by the pacer while there is any."""
        source, sink = self._source, self._sink
        if source is None or sink is None:
            return False
        now = sink.now_ms()
        if now < self._due_ms and not self._outbox:
            return True
        return self._pump(source, now, source.lead_ms(now))

    def _pump(self, source: PlayoutSource, now: int, lead: int) -> bool:
        if self._closing or self._over:
            return False
        if self._outbox:
            self._send_waiting()
        queued = source.queued()
        enough = LEAD_MS
        while queued and lead < LEAD_MS:
            size = self._chunk if self._talking else self._first_chunk
            if self._talking and queued < size and lead >= GATHER_MS:
                enough = GATHER_MS
                break
            self._send(self._stream.audio(source.pull(now, size)))
            self._talking = True
            self._unmarked_ms = now
            queued, lead = source.queued(), source.lead_ms(now)
        self._talking = queued > 0 or lead > 0
        if queued:
            self._due_ms = now + lead - enough + 1
            return True
        if self._unmarked_ms is not None:
            self._mark(source, self._unmarked_ms, now)
        elif self._talking:
            self._due_ms = now + lead
        return self._talking or self._unmarked_ms is not None or bool(self._outbox)

    def _mark(self, source: PlayoutSource, sent_ms: int, now: int) -> None:
        """Ask to be told when all that was sent has been played, if it is time to."""
        due = min(self._marked_ms + MARK_EVERY_MS, sent_ms + MARK_AFTER_MS)
        if now < due:
            self._due_ms = due
            return
        self._due_ms = 0
        self._unmarked_ms = None
        self._marked_ms = now
        mark = source.take_mark()
        if mark is not None:
            self._send(self._stream.mark(mark))

    def failed(self) -> None:
        """Sending raised: a fault of ours, which ends this call only."""
        self._lost(ended.SERVER_ERROR)

    def clear(self) -> None:
        # What has not left yet must not follow the clear.
        self._outbox.clear()
        self._talking = False
        self._due_ms = 0
        self._marked_ms = -MARK_EVERY_MS
        self._unmarked_ms = None
        self._pacer.remove(self)
        self._send(self._stream.clear())

    async def wait_connected(self) -> None:
        """The socket is open already."""

    async def hang_up(self, reason: str) -> None:
        del reason
        self._closing = True
        self._pacer.remove(self)
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT_S + 0.5):
                await self._socket.close()
        except TimeoutError:
            log.warning("carrier_close_timeout")

    async def serve(self) -> None:
        """Read the socket until it ends; run by the request's own task."""
        socket = self._socket
        # The connection calls outside of any task: logs are to name the call all the same.
        context = contextvars.copy_context()
        take: Take = partial(context.run, self._take)  # type: ignore[call-arg]
        diverted = False
        while True:
            diverted = diverted or socket.divert(take)
            message = await socket.receive()
            if message.type is WSMsgType.TEXT or message.type is WSMsgType.BINARY:
                self._take(message.data)
                if self._over:
                    return
            else:
                self._ended(message)
                return

    def _ended(self, message: WSMessage) -> None:
        """The socket has come to its end, by a close, a break or a fault."""
        if message.type is WSMsgType.CLOSE:
            self._lost(ended.CALLER_HUNG_UP)
        elif isinstance(message.data, WebSocketError):  # RFC 6455 section 7.1.7
            self._lost(ended.CARRIER_PROTOCOL)
        elif isinstance(message.data, Exception) and not isinstance(message.data, OSError):
            log.error("carrier_message_failed", exc_info=message.data)
            self._lost(ended.SERVER_ERROR)
        else:
            self._lost(ended.CARRIER_CLOSED)

    def _floods(self) -> bool:
        sink = self._sink
        if sink is None or self._messages < MAX_BURST + sink.now_ms() * MAX_PER_S // 1000:
            return False
        log.warning("carrier_flood", messages=self._messages)
        return True

    def _take(self, data: str | bytes) -> None:
        """One message of the carrier's."""
        sink = self._sink
        if sink is None or self._over:
            return
        self._messages += 1
        if not self._messages % 256 and self._floods():
            self._lost(ended.CARRIER_PROTOCOL)
            return
        fed = self._stream.feed(data)
        if type(fed) is bytes:
            sink.receive_audio(fed)
            return
        match fed:
            case MarkPlayed(name):
                sink.receive_mark(name)
            case Digit(digit):
                sink.receive_digit(digit)
            case Stopped():
                self._lost(ended.CALLER_HUNG_UP)
            case Ignored(reason, fault=True):
                self._faults += 1
                if self._faults == 1:
                    log.warning("carrier_message_ignored", reason=reason)
                if self._faults > MAX_FAULTS:
                    self._lost(ended.CARRIER_PROTOCOL)
            case _:
                pass

    def _send(self, message: str) -> None:
        if self._outbox or self._socket.unsent() > MAX_UNSENT_BYTES:
            if len(self._outbox) >= MAX_UNSENT:
                self._lost(ended.CARRIER_CLOSED)
                return
            self._outbox.append(message)
            self._pacer.add(self)
            return
        try:
            self._socket.post(message)
        except ConnectionError:
            self._lost(ended.CARRIER_CLOSED)

    def _send_waiting(self) -> None:
        """What the socket had no room for, as far as it has now."""
        waiting, self._outbox = self._outbox, deque()
        while waiting and self._socket.unsent() <= MAX_UNSENT_BYTES:
            self._send(waiting.popleft())
        self._outbox = waiting

    def _lost(self, reason: str) -> None:
        if not self._over and self._sink is not None:
            self._over = True
            self._sink.lost(reason)


async def read_start(socket: MediaSocket, stream: CarrierStream, timeout_ms: int) -> Started | None:
    """Wait for the stream's start message; None if it does not come in time or the peer leaves.

    Media and other messages before it are dropped; they do not extend the wait, and are limited.
    """
    received = 0
    try:
        async with asyncio.timeout(timeout_ms / 1000):
            while received <= MAX_BYTES_BEFORE_START:
                message = await socket.receive()
                if message.type not in (WSMsgType.TEXT, WSMsgType.BINARY):
                    return None
                received += len(message.data) + MESSAGE_COST_BYTES
                fed = stream.feed(message.data)
                if isinstance(fed, Started):
                    return fed
    except TimeoutError:
        pass
    return None
