"""A whole short call on a media socket: what is heard, how long it takes, how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import math
import struct
import time
from collections import deque
from collections.abc import Callable
from types import TracebackType

from flowcat_server.cli.checkup.plan import Plan, Told, Wrong
from flowcat_server.cli.checkup.refused import draining, full
from flowcat_server.cli.checkup.wires import Closed, Wire
from flowcat_server.cli.far_side.model import FarStream, Heard, Unexpected
from flowcat_server.core.audio import PCM_8K, Transcoder, decode, rms
from flowcat_server.core.carrier import Message

LOUD = 100
"""RMS of PCM16 that is no silence and no comfort noise."""
SLOW_MS, HELD_MS = 300, 1000
"""There and back: worth a word; a proxy holds messages back."""
LONG_BYTES = 32 * 1024
"""A message as long as any that a carrier sends."""
PING_S, PONG_S = 0.25, 2.0
PLAYED_S = 10.0
"""The agent may finish what it says, so that its marks come back."""
QUIET_S, PATIENCE_S = 0.5, 30.0
"""The caller speaks when the agent has been quiet for so long, or talks on."""
KEY = "#"
_TONE_HZ, _TONE_MS, _TONE_LEVEL = 440, 400, 8000


class Caller:
    """The caller of one call. Its tasks live as long as the ``async with`` block."""

    def __init__(self, plan: Plan, wire: Wire, stream: FarStream) -> None:
        """Sit down; nothing is sent yet."""
        self._plan, self._wire, self._stream = plan, wire, stream
        self._stack = contextlib.AsyncExitStack()
        self._news = asyncio.Event()
        self._to_say = bytearray()
        self._marks: deque[tuple[float, str]] = deque()
        self._begun = time.monotonic()
        self._played = 0.0
        """When all that came will have been heard."""
        self._first_ms: int | None = None
        self._loud_ms: int | None = None
        self._heard_ms = 0
        self._marked = self._cleared = 0
        self._ending = False
        self._fault = ""
        self.closed: Closed | None = None

    async def __aenter__(self) -> Caller:
        for message in self._stream.start():
            await self._wire.send(message)
        tasks = await self._stack.enter_async_context(asyncio.TaskGroup())
        for name, work in (("doctor-listen", self._listen()), ("doctor-speak", self._speak())):
            self._stack.callback(tasks.create_task(work, name=name).cancel)
        self._stack.push_async_callback(self._hang_up_wire)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._stack.aclose()

    async def _hang_up_wire(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._plan.close_s):
                await self._wire.close()

    # --- the call ---------------------------------------------------------------------------

    async def greeting(self) -> Told:
        """Something is heard. Raises `Wrong`."""
        plan = self._plan
        if plan.echo:
            self._say(_tone())
        await self._until(self._is_loud, plan.greeting_s)
        if not self._is_loud():
            raise self._silence()
        what = "our own tone comes back" if plan.echo else "the agent speaks"
        return Told(f"{what} after {self._loud_ms} ms")

    async def conversation(self) -> Told:
        """Marks, a key, a long message, and something said. Raises `Wrong`."""
        plan, stream = self._plan, self._stream
        done = []
        if (key := stream.key(KEY)) is not None:
            await self._wire.send(key)
            done.append("a key sent")
        if (message := stream.unknown(LONG_BYTES)) is not None:
            await self._long(message)
            done.append("a long message sent")
        if plan.speech and not plan.echo:
            done.append(f"answered after {await self._asked()} ms")
        left = self._begun + plan.hold_s - time.monotonic()
        await self._until(lambda: False, left)
        if not plan.echo:  # which goes on for as long as anything is said
            await self._until(lambda: not self._marks and self._played < time.monotonic(), PLAYED_S)
        if self._fault:
            raise Wrong(
                f"the server said {self._fault}",
                "something changes messages on their way, or this is a fault of flowcat-server",
            )
        if self._cut_off():
            raise self._cut()
        return self._talked(done)

    async def _long(self, message: Message) -> None:
        """A ping behind a long message is answered if that got through. Raises `Wrong`."""
        wire = self._wire
        await wire.send(message)
        await wire.ping()
        pings = wire.pings
        await self._until(lambda: len(wire.trips_ms) >= pings, PONG_S)
        if self._cut_off() and len(wire.trips_ms) < pings:
            raise Wrong(
                f"a message of {LONG_BYTES // 1024} kB ended the call",
                "raise the limit on WebSocket messages of what is before the server to 64 kB",
            )

    async def _asked(self) -> int:
        """Say the speech when the agent is silent; returns how long the answer took."""
        plan = self._plan
        await self._until(lambda: self._played + QUIET_S < time.monotonic(), PATIENCE_S)
        self._say(plan.speech)
        await self._until(lambda: not self._to_say, plan.greeting_s + len(plan.speech) / 16_000)
        self._loud_ms, asked = None, time.monotonic()
        await self._until(self._is_loud, plan.greeting_s)
        if not self._is_loud():
            raise Wrong(
                f"what was said is not answered within {plan.greeting_s:.0f} s",
                "look at the server's log for what became of it (stt, llm, tts)",
            )
        return int((time.monotonic() - asked) * 1000)

    def _talked(self, done: list[str]) -> Told:
        done.insert(0, f"{self._heard_ms / 1000:.1f} s heard")
        if self._marked:
            done.append(f"{self._marked} mark{'s' * (self._marked > 1)} given back")
        if self._cleared:
            done.append("speech taken back")
        if self._ending:
            done.append("the agent hung up")
        told = Told("")
        trips = self._wire.trips_ms
        if trips:
            longest = max(trips)
            done.append(f"{longest} ms there and back at most")
            if longest > HELD_MS:
                raise Wrong(
                    f"messages take {longest} ms there and back: something holds them back",
                    "turn off buffering in the proxy (nginx: proxy_buffering off)",
                )
            if longest > SLOW_MS:
                told.warnings.append(
                    Wrong(
                        f"messages take {longest} ms there and back",
                        "callers hear the agent that much later: bring the server, or the proxy, "
                        "nearer to the carrier",
                    )
                )
        told.detail = ", ".join(done)
        return told

    async def hang_up(self) -> Told:
        """The caller hangs up, and the server lets go."""
        messages = [] if self.closed or self._ending else self._stream.stop()
        for message in messages:
            await self._wire.send(message)
        if not messages:
            return Told("the socket is closed")
        await self._until(lambda: self._ending, self._plan.close_s)
        told = Told("the server lets go")
        if self.closed is None and not self._ending:
            told.detail = "the caller has hung up"
            told.warnings.append(
                Wrong(
                    f"the server has not closed the socket after {self._plan.close_s:.0f} s",
                    "a proxy holds it open: look at its time-outs",
                )
            )
        return told

    async def turned_away(self) -> Told:
        """A socket without a token has to be refused. Raises `Wrong`."""
        await self._until(lambda: False, self._plan.greeting_s)
        if self.closed is None or self.closed.code == 1006:
            raise self._silence()
        return Told("messages arrive; the socket is refused without a token, as it should be")

    def _is_loud(self) -> bool:
        """Something else than silence was heard."""
        return self._loud_ms is not None

    def _cut_off(self) -> bool:
        """The socket was closed, and the agent has not hung up."""
        return self.closed is not None and not self._ending

    # --- what went wrong --------------------------------------------------------------------

    def _silence(self) -> Wrong:
        """Nothing was heard."""
        plan = self._plan
        if self._fault:
            return Wrong(
                f"the server said {self._fault}",
                "something changes messages on their way, or this is a fault of flowcat-server",
            )
        if self.closed is not None:
            return self._cut()
        if self._first_ms is not None:
            return Wrong(
                f"only silence is heard within {plan.greeting_s:.0f} s",
                "look at the server's log: the agent has nothing to say, or its voice (tts) fails",
            )
        if not self._wire.trips_ms and plan.line.carrier.over == "websocket":
            return Wrong(
                f"the media socket is open, but nothing comes through it within "
                f"{plan.greeting_s:.0f} s, not even the answer to a ping",
                "something buffers it: turn off buffering in the proxy (nginx: proxy_buffering "
                "off), or its inspection of WebSockets",
            )
        return Wrong(
            f"no greeting within {plan.greeting_s:.0f} s, though messages get through",
            "look at the server's log: the model or the voice (llm, tts) fails or is slow; "
            "agent.greeting is spoken without asking a model",
        )

    def _cut(self) -> Wrong:
        """The other end closed the socket."""
        plan, closed = self._plan, self.closed or Closed()
        after = time.monotonic() - self._begun
        line = plan.line
        if line.carrier.over == "tcp":
            return Wrong(
                f"the connection was closed after {after:.1f} s",
                "add this address to carriers.audiosocket.allow_from, or look at the server's log "
                "(it may be full: limits.max_calls)",
            )
        match closed.code, closed.reason:
            case 1013, "draining":
                return draining()
            case 1013, _:
                return full()
            case 1008, "refused":
                return self._no_token()
            case 1008, "no usable start" if "?" in plan.side.path(plan.call):
                return Wrong(
                    "the media socket arrives without the query of its address, which names the "
                    "call",
                    "have the proxy pass the address on as it is (nginx: $request_uri)",
                )
            case 1008, "no usable start":
                return Wrong(
                    "the server could not read the first message of the media socket",
                    "something changes messages on their way: look at what is before the server",
                )
            case 1009, _:
                return Wrong(
                    "a message was too long for what is before the server",
                    "raise its limit on WebSocket messages to 64 kB",
                )
            case 1011, _:
                return Wrong("the server failed inside", "look at its log")
            case 1006, _:
                return Wrong(
                    f"the media socket was cut off after {after:.1f} s, without a word",
                    "a time-out of the proxy (nginx: proxy_read_timeout 1h), or the server died: "
                    "look at its log",
                )
        return Wrong(
            f"the server closed the socket after {after:.1f} s ({closed.code} {closed.reason!r})",
            "look at its log for the end of the call",
        )

    def _no_token(self) -> Wrong:
        """The token of the webhook's answer was not taken."""
        match self._plan.line.carrier.ticket_in:
            case "query":
                lost = "the proxy strips the query of the media socket's address"
                what = "have it pass the address on as it is (nginx: $request_uri)"
            case "path":
                lost = "the proxy changes the path of the media socket's address"
                what = "have it pass the address on as it is"
            case _:
                lost = "the server does not know the token that its own answer gave"
                what = ""
        several = "send webhook and media socket to the same server: each knows only its own tokens"
        return Wrong(
            f"{lost}: its token is refused" if what else lost,
            f"{what}; with several servers, {several}" if what else several,
        )

    # --- inside -----------------------------------------------------------------------------

    async def _until(self, condition: Callable[[], bool], seconds: float) -> None:
        """Wait for something that is heard, for the end, or for the time to pass."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, seconds)):
                while not condition() and self.closed is None:
                    self._news.clear()
                    await self._news.wait()

    async def _listen(self) -> None:
        while self.closed is None:
            message = await self._wire.receive()
            if isinstance(message, Closed):
                self.closed = message
            elif message is not None:
                try:
                    await self._hear(self._stream.hear(message))
                except Unexpected as error:
                    self._fault = self._fault or str(error)
            self._news.set()

    async def _hear(self, heard: Heard) -> None:
        now = time.monotonic()
        for answer in heard.answers:
            await self._wire.send(answer)
        self._ending = self._ending or heard.ending
        if heard.audio:
            audio = self._stream.hears
            ms = audio.duration_ms(len(heard.audio))
            self._heard_ms += ms
            self._played = max(now, self._played) + ms / 1000
            self._first_ms = self._first_ms or int((now - self._begun) * 1000)
            if self._loud_ms is None and rms(decode(heard.audio, audio.encoding)) > LOUD:
                self._loud_ms = int((now - self._begun) * 1000)
        if heard.mark:
            self._marks.append((max(now, self._played), heard.mark))
        if heard.cleared:
            self._cleared += 1
            self._played = now
            self._marks = deque((now, name) for _, name in self._marks)

    async def _speak(self) -> None:
        """20 ms of audio (or what the carrier sends at once) at its time, and marks at theirs."""
        stream = self._stream
        frame_s = stream.chunk_ms / 1000
        size = stream.says.bytes_for(stream.chunk_ms)
        silence = stream.says.silence(stream.chunk_ms)
        number, next_ping = 0, 0.0
        while self.closed is None:
            now = time.monotonic()
            while self._marks and self._marks[0][0] <= now:
                message = stream.played(self._marks.popleft()[1])
                if message is not None:
                    self._marked += 1
                    await self._wire.send(message)
                    self._news.set()
            if now >= next_ping:
                next_ping = now + PING_S
                await self._wire.ping()
            frame = bytes(self._to_say[:size])
            if frame:
                del self._to_say[:size]
                self._news.set()
            await self._wire.send(stream.say(frame + silence[len(frame) :]))
            number += 1
            await asyncio.sleep(self._begun + number * frame_s - time.monotonic())

    def _say(self, pcm: bytes) -> None:
        """Say PCM16 of 8 kHz."""
        turned = Transcoder(PCM_8K, self._stream.says, live=False)
        self._to_say += turned.feed(pcm) + turned.flush()


def _tone() -> bytes:
    count = PCM_8K.sample_rate * _TONE_MS // 1000
    step = 2 * math.pi * _TONE_HZ / PCM_8K.sample_rate
    samples = (int(_TONE_LEVEL * math.sin(step * at)) for at in range(count))
    return struct.pack(f"<{count}h", *samples)
