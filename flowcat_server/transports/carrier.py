"""A call over a carrier's media socket, whatever the socket is: speech out, events in.

Speech is sent as `Sending` says. Where the carrier buffers, it is sent ahead of the caller's ear,
followed by marks, and cleared when the caller speaks. Where it does not, it is sent at the pace at
which it sounds, by one clock for all calls. In both cases what is sent next depends only on how
far what was sent reaches beyond now, so that a late tick is made up for and none is sent twice.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from typing import Protocol

import structlog

from flowcat_server.core import ended
from flowcat_server.core.carrier import (
    CarrierStream,
    Digit,
    Flow,
    Ignored,
    MarkPlayed,
    Message,
    Refuse,
    Reply,
    Started,
    Stopped,
)
from flowcat_server.core.dtmf import WAIT
from flowcat_server.core.interfaces import CallSink, PlayoutSource
from flowcat_server.transports.media_socket import CLOSE_TIMEOUT_S
from flowcat_server.transports.pacer import STOP, TICK_MS, Pacer

log = structlog.get_logger()

GATHER_MS = 200
"""With at least this much sent ahead, there is time to wait for a whole chunk."""
HURRY_MS = 100
"""With less than this sent ahead, new speech is sent at once and not on the next tick."""
MARK_EVERY_MS = 500
MARK_AFTER_MS = 60
"""Speech that trickles in is not marked after each morsel, but every so often, and when nothing
more has come for a moment."""
REST_MS = 40
"""A rest too short for the carrier's messages waits this long for more, then silence fills it."""
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
NEVER_MS = 1 << 62
LINGER_S = 1.5
"""How long a carrier that closes the socket itself is given for it."""


class Socket(Protocol):
    """What messages are sent on."""

    def post(self, message: Message) -> int:
        """Send one, without waiting; raises `ConnectionError` if the peer is gone.

        Returns `unsent`.
        """

    def unsent(self) -> int:
        """Bytes that were posted and that the network has not taken yet."""


class CarrierTransport(ABC):
    """One call over a carrier's media socket. Owned by whoever runs `serve`."""

    __slots__ = (
        "_ahead_ms",
        "_chunk",
        "_close_code",
        "_closing",
        "_due_ms",
        "_faults",
        "_first_chunk",
        "_full",
        "_gone",
        "_hurry_ms",
        "_left",
        "_marked_ms",
        "_messages",
        "_most",
        "_outbox",
        "_over",
        "_pacer",
        "_paused",
        "_post",
        "_rest",
        "_rest_since_ms",
        "_sending",
        "_shaped",
        "_silence",
        "_silence_byte",
        "_sink",
        "_source",
        "_stream",
        "_talking",
        "_unit",
        "_unmarked_ms",
        "_unsent",
        "_waiter",
        "buffers",
        "delay_ms",
        "input_format",
        "output_format",
        "target",
    )

    def __init__(
        self, socket: Socket, stream: CarrierStream, started: Started, pacer: Pacer
    ) -> None:
        """Take over a stream that has started.

        Args:
            socket: Where messages are sent.
            stream: What was said on the socket so far.
            started: Its first event; its formats are ones we can read.
            pacer: The clock of all media sockets.
        """
        heard, spoken = started.input_format, started.output_format
        if heard is None or spoken is None:
            raise ValueError("the stream's format is not known")
        sending = started.sending
        self.input_format = heard
        self.output_format = spoken
        self.buffers = sending.forgets
        self.delay_ms = sending.delay_ms
        self.target = ""
        """To whom the call is being passed on."""
        self._post, self._unsent = socket.post, socket.unsent
        self._stream = stream
        self._pacer = pacer
        self._sink: CallSink | None = None
        self._source: PlayoutSource | None = None
        self._full = False
        """The socket had no room when it was last looked at."""
        self._outbox: list[tuple[Message, bool]] = []
        """What the socket has no room for, and whether it is speech or about speech: a clear drops
        that."""
        self._gone = False
        """The carrier has closed."""
        self._waiter: asyncio.Future[None] | None = None
        """Waits for it."""
        self._sending = sending
        self._ahead_ms = sending.ahead_ms
        self._hurry_ms = min(HURRY_MS, sending.ahead_ms)
        self._unit = max(1, sending.unit, spoken.sample_bytes if sending.unit > 1 else 1)
        self._shaped = sending.unit > 1 or sending.least > 0
        self._most = max(self._unit, sending.most - sending.most % self._unit)
        self._chunk = self._whole(spoken.bytes_for(sending.chunk_ms))
        self._first_chunk = self._whole(spoken.bytes_for(sending.first_ms))
        self._silence = spoken.silence(TICK_MS) if sending.fills else b""
        self._silence_byte = spoken.silence(1)[:1]
        self._talking = False
        self._left = False
        """Speech that has come waits to be sent."""
        self._due_ms = NEVER_MS
        """The time of the call at which the pacer comes."""
        self._marked_ms = -MARK_EVERY_MS
        self._unmarked_ms: int | None = None
        """When speech was last sent that has no mark behind it yet."""
        self._rest = 0
        self._rest_since_ms = 0
        """Speech too short to be sent by itself, and since when there has been so much of it."""
        self._paused = False
        self._closing = False
        self._over = False
        """The far end is gone, or nothing it says is heard any more."""
        self._close_code = 1000
        self._faults = 0
        self._messages = 0

    # --- what the kind of socket decides ----------------------------------------------------

    @abstractmethod
    async def serve(self) -> None:
        """Read the socket until it ends."""

    @abstractmethod
    async def _close(self, code: int) -> None:
        """Close the socket."""

    # --- speech -----------------------------------------------------------------------------

    def attach(self, sink: CallSink, source: PlayoutSource) -> None:
        self._sink, self._source = sink, source
        for message in self._stream.accept():
            self._send(message, speech=False)
        if self._silence:
            self._hurry()

    def wake(self) -> None:
        source, sink = self._source, self._sink
        if source is None or sink is None or self._silence:
            return  # a carrier that is sent something on every tick is sent it on the tick
        now = sink.now_ms()
        lead = source.lead_ms(now)
        if not lead:
            self._talking = self._left
        in_time = self._talking and lead >= self._hurry_ms
        after_ms = 0 if in_time else self._pump(source, now, lead)
        if after_ms >= 0 and now + after_ms < self._due_ms:
            self._due_ms = now + after_ms
            self._pacer.add(self, after_ms)

    def pump(self) -> int:
        """Send speech up to the lead; called by the pacer when there is any."""
        source, sink = self._source, self._sink
        if source is None or sink is None:
            return STOP
        now = sink.now_ms()
        after_ms = self._pump(source, now, source.lead_ms(now))
        self._due_ms = NEVER_MS if after_ms < 0 else now + after_ms
        return after_ms

    def _pump(self, source: PlayoutSource, now: int, lead: int) -> int:
        """Send what is due; returns when there will be more, as `Paced.pump` does."""
        if self._closing or self._over:
            return STOP
        if self._outbox:
            self._send_waiting()
        if self._paused:
            return 0 if self._outbox or self._silence else STOP  # `Flow` wakes it
        spoke = False
        after_ms = STOP
        queued = source.queued()
        while queued and lead < self._ahead_ms:
            size = self._chunk if self._talking else self._first_chunk
            if self._talking and queued < size and lead >= GATHER_MS:
                after_ms = lead - GATHER_MS + 1
                break
            if self._shaped and queued < size and not (size := self._now(queued, now)):
                after_ms = self._rest_since_ms + REST_MS - now
                break
            audio = source.pull(now, size)
            self._speak(audio)
            self._talking = spoke = True
            queued -= len(audio)
            lead = source.lead_ms(now)
        else:
            if queued:
                after_ms = lead - self._ahead_ms + 1
        self._left = queued > 0
        self._talking = self._left or lead > 0
        if spoke and self._sending.marks:
            self._unmarked_ms = now
        if not queued and self._unmarked_ms is not None:
            due = min(self._marked_ms + MARK_EVERY_MS, self._unmarked_ms + MARK_AFTER_MS)
            after_ms = due - now
            if after_ms <= 0:
                after_ms = STOP
                self._mark(source, now)
        if self._silence:
            if not spoke and lead < TICK_MS:
                self._send(self._stream.audio(self._silence), speech=True)
            return 0
        return 0 if self._outbox else after_ms

    def _speak(self, audio: bytes) -> None:
        """Send audio in messages that the carrier takes."""
        if self._shaped:
            self._rest = 0
            short = max(self._sending.least - len(audio), -len(audio) % self._unit)
            if short > 0:
                audio += self._silence_byte * short
        size = len(audio)
        if size <= self._most:
            self._send(self._stream.audio(audio), speech=True)
            return
        for start in range(0, size, self._most):
            self._send(self._stream.audio(audio[start : start + self._most]), speech=True)

    def _whole(self, size: int) -> int:
        """A size that makes a message, or several."""
        return max(size - size % self._unit, self._sending.least, self._unit)

    def _now(self, queued: int, now: int) -> int:
        """How much of what is queued can be sent now: whole messages, or a rest that waited."""
        whole = queued - queued % self._unit
        if whole and whole >= self._sending.least:
            return whole
        if queued != self._rest:
            self._rest, self._rest_since_ms = queued, now
        if now - self._rest_since_ms < REST_MS:
            return 0
        return queued

    def _mark(self, source: PlayoutSource, now: int) -> None:
        """Ask to be told when all that was sent has been played."""
        self._unmarked_ms = None
        self._marked_ms = now
        mark = source.take_mark()
        if mark is not None and (message := self._stream.mark(mark)) is not None:
            self._send(message, speech=True)

    def failed(self) -> None:
        """Sending raised: a fault of ours, which ends this call only."""
        self._due_ms = NEVER_MS
        self._lost(ended.SERVER_ERROR)

    def clear(self) -> None:
        # What has not left yet must not follow the clear; answers that are owed stay.
        self._outbox = [entry for entry in self._outbox if not entry[1]]
        self._talking = self._left = False
        self._paused = False  # what made the buffer full is forgotten; if it is not, we are told
        self._rest = 0
        self._marked_ms = -MARK_EVERY_MS
        self._unmarked_ms = None
        if not self._silence and not self._outbox:
            self._off_the_clock()
        if self._gone:
            return
        message = self._stream.clear()
        if message is not None:
            self._send(message, speech=False)

    def send_keys(self, keys: str) -> bool:
        """Send keys to the far end; False: it cannot be done on the socket."""
        messages = self._stream.dtmf(keys.replace(WAIT, ""))
        if not messages or self._over or WAIT in keys:
            return False  # a pause between keys: whoever can tell the carrier of it does
        for message in messages:
            self._send(message, speech=False)
        return True

    # --- the end ----------------------------------------------------------------------------

    async def wait_connected(self) -> None:
        """The socket is open already."""
        return

    async def hang_up(self, reason: str) -> None:
        if self._closing:
            return
        self._closing = True
        self._off_the_clock()
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT_S + 0.5):
                await self._say_goodbye(reason)
                await self._close(self._close_code)
        except TimeoutError:
            log.warning("carrier_close_timeout")

    async def _say_goodbye(self, reason: str) -> None:
        try:
            self._post_owed()
            if self._gone:
                return
            for message in self._stream.end(reason, self.target):
                self._post(message)
            if self._sending.lingers:
                self._waiter = asyncio.get_running_loop().create_future()
                async with asyncio.timeout(LINGER_S):
                    await self._waiter
                self._post_owed()
        except (ConnectionError, TimeoutError):
            pass  # it is gone, or will not go: it is closed all the same

    def _post_owed(self) -> None:
        """Post what the protocol demands of what waits, and forget the speech."""
        owed = [message for message, speech in self._outbox if not speech]
        self._outbox.clear()
        for message in owed:
            self._post(message)

    # --- what comes in ----------------------------------------------------------------------

    def _received(self, data: str | bytes, binary: bool) -> None:
        """Take one message; `_over` tells whether it was the last."""
        if self._over:
            return
        self._messages += 1
        if not self._messages % 256 and self._floods():
            self._lost(ended.CARRIER_PROTOCOL)
            return
        sink = self._sink
        if sink is None:
            return
        fed = self._stream.feed(data, binary)
        if type(fed) is bytes:
            sink.receive_audio(fed)
            return
        self._take(sink, fed)

    def _take(self, sink: CallSink, fed: object) -> None:
        match fed:
            case MarkPlayed(name):
                sink.receive_mark(name)
                if self._due_ms < NEVER_MS:  # how far speech reaches is known better now
                    self._hurry()
            case Digit(digit):
                sink.receive_digit(digit)
            case Flow(paused):
                self._paused = paused
                if not paused:
                    self._talking = False
                    self.wake()
            case Reply(message, event):
                self._send(message, speech=False)
                if event is not None:
                    self._take(sink, event)
            case Stopped():
                self._leaves()
                self._lost(ended.CALLER_HUNG_UP)
            case Refuse(reason, code):
                log.warning("carrier_refused", reason=reason)
                self._close_code = code
                self._lost(ended.CARRIER_PROTOCOL)
            case Ignored(reason, fault=True):
                self._forgive(reason)
            case _:
                pass

    def _forgive(self, reason: str) -> None:
        self._faults += 1
        if self._faults == 1:
            log.warning("carrier_message_ignored", reason=reason)
        if self._faults > MAX_FAULTS:
            self._lost(ended.CARRIER_PROTOCOL)

    def _floods(self) -> bool:
        sink = self._sink
        if sink is None or self._messages < MAX_BURST + sink.now_ms() * MAX_PER_S // 1000:
            return False
        log.warning("carrier_flood", messages=self._messages)
        return True

    # --- what leaves ------------------------------------------------------------------------

    def _send(self, message: Message, *, speech: bool) -> None:
        if not self._outbox and not (self._full and self._unsent() > MAX_UNSENT_BYTES):
            try:
                self._full = self._post(message) > MAX_UNSENT_BYTES
            except ConnectionError:
                self._lost(ended.CARRIER_CLOSED)
            return
        if len(self._outbox) >= MAX_UNSENT:
            self._lost(ended.CARRIER_CLOSED)
            return
        self._outbox.append((message, speech))
        self._hurry()

    def _send_waiting(self) -> None:
        """What the socket had no room for, as far as it has now."""
        outbox = self._outbox
        try:
            while outbox and self._unsent() <= MAX_UNSENT_BYTES:
                self._post(outbox.pop(0)[0])
        except ConnectionError:
            self._lost(ended.CARRIER_CLOSED)

    def _hurry(self) -> None:
        """Have the pacer come on the next tick."""
        self._due_ms = 0
        self._pacer.add(self)

    def _off_the_clock(self) -> None:
        self._due_ms = NEVER_MS
        self._pacer.remove(self)

    def _leaves(self) -> None:
        """The carrier has closed."""
        self._gone = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _lost(self, reason: str) -> None:
        if not self._over and self._sink is not None:
            self._over = True
            self._sink.lost(reason)
