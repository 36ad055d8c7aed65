"""What a call reports as its latency is what the far end measures.

The far ends are on virtual time, behind the real transports: a carrier's media socket with
Twilio's messages, with and without marks, and a WebRTC connection with its packets of 20 ms.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import WSMessage, WSMsgType

from flowcat_server.carriers import twilio
from flowcat_server.core import ended, events
from flowcat_server.core.audio import MULAW_8K, PCM_8K, Transcoder
from flowcat_server.core.carrier import Account, Request, Started
from flowcat_server.core.events import CallEvent
from flowcat_server.core.interfaces import Transport
from flowcat_server.pipeline import CallLine
from flowcat_server.session import Session
from flowcat_server.transports.pacer import Pacer
from flowcat_server.transports.webrtc.outbound import Outbound
from flowcat_server.transports.webrtc.pacer import Pacer as Beat
from flowcat_server.transports.webrtc.transport import WebRtcTransport
from flowcat_server.transports.websocket import WebSocketTransport
from tests import virtual
from tests.callscript import SILENCE, VOICE, loaded, parts

YAML = """
agent: {prompt: Be kind.}
turn: {speculation: false}
topology:
  vad: {provider: scripted}
  stt: {provider: scripted, options: {lines: [hello there], loop: true, delay_ms: 80}}
  llm: {provider: scripted, options: {replies: ["", Well. That is a question.], loop: true, first_token_ms: 130}}
  tts: {provider: scripted, options: {first_audio_ms: 110, ms_per_char: 50}}
"""  # noqa: E501
FRAME_MS = 20
AGREES_MS = 5 + FRAME_MS
START = json.dumps({"event": "start", "streamSid": "MZ1", "start": {"callSid": "CA1"}})


def now_ms() -> int:
    return round(asyncio.get_running_loop().time() * 1000)


class FarEnd:
    """The caller's own clock: when their last voiced sample left, when sound came back."""

    def __init__(self) -> None:
        self.last_voice_ms = 0
        self.sound_ms: list[int] = []
        """When packets with sound arrived."""

    def waited_ms(self) -> int:
        """From the last voiced sample to the first sound after it."""
        return next(at for at in self.sound_ms if at > self.last_voice_ms) - self.last_voice_ms

    def receive(self, sound: bool) -> None:
        if sound:
            self.sound_ms.append(now_ms())


class Socket:
    """A carrier at the other end of a WebSocket: plays what it is sent, answers marks or not."""

    def __init__(self, far: FarEnd, *, marks: bool) -> None:
        self.arriving: asyncio.Queue[WSMessage] = asyncio.Queue()
        self._far = far
        self._marks = marks
        self._end = 0

    def arrive(self, message: dict[str, Any]) -> None:
        self.arriving.put_nowait(WSMessage(WSMsgType.TEXT, json.dumps(message).encode(), None))

    async def receive(self) -> WSMessage:
        return await self.arriving.get()

    def divert(self, take: Callable[[bytes, bool], None]) -> bool:
        return False

    def unsent(self) -> int:
        return 0

    def post(self, text: str) -> int:
        message = json.loads(text)
        if message["event"] == "media":
            audio = b64decode(message["media"]["payload"])
            self._far.receive(any(byte not in (0x7F, 0xFF) for byte in audio))
            self._end = max(self._end, now_ms()) + len(audio) // 8
        elif message["event"] == "mark" and self._marks:
            answer = {"event": "mark", "streamSid": "MZ1", "mark": message["mark"]}
            delay_s = max(0, self._end - now_ms()) / 1000
            asyncio.get_running_loop().call_later(delay_s, self.arrive, answer)
        return 0

    async def close(self, *, code: int) -> bool:
        return True


Send = Callable[[bytes], None]
Begin = Callable[[Session], None]
Wire = tuple[Transport, Begin, Send, Callable[[], Awaitable[None]]]


def carrier(far: FarEnd, *, marks: bool) -> Wire:
    socket = Socket(far, marks=marks)
    stream = twilio.CARRIER.open(Account(), Request("GET", "wss://a.example/ws"))
    started = stream.feed(START)
    assert isinstance(started, Started)
    transport = WebSocketTransport(socket, stream, started, Pacer())  # type: ignore[arg-type]
    to_wire = Transcoder(PCM_8K, MULAW_8K)

    def begin(session: Session) -> None:
        session.own(session.spawn("serve", transport.serve()))

    def send(pcm: bytes) -> None:
        payload = b64encode(to_wire.feed(pcm)).decode()
        socket.arrive({"event": "media", "streamSid": "MZ1", "media": {"payload": payload}})

    async def close() -> None: ...

    return transport, begin, send, close


class Peer:
    """Both ends of a connected peer connection without the network between them."""

    rtt_ms = 0

    def __init__(self, far: FarEnd, transport: WebRtcTransport) -> None:
        self._far = far
        self._out = Outbound(transport.say)
        self._out.configure("pcmu")
        self._beat = Beat(clock=asyncio.get_running_loop().time)

    def start(self) -> None:
        self._beat.add(self)

    def beat(self, number: int) -> None:
        self._far.receive(any(byte not in (0x7F, 0xFF) for byte in self._out.packet()))

    def failed(self) -> None:
        raise AssertionError

    async def close(self) -> None:
        self._beat.discard(self)


def webrtc(far: FarEnd) -> Wire:
    transport = WebRtcTransport("pc", spawn=lambda work: work.close(), on_end=lambda _: None)
    peer = Peer(far, transport)
    transport.use(peer)  # type: ignore[arg-type]
    transport.peer_connected(peer)  # type: ignore[arg-type]
    to_wire = Transcoder(PCM_8K, transport.input_format)
    return (
        transport,
        lambda session: peer.start(),
        lambda pcm: transport.heard(to_wire.feed(pcm)),
        peer.close,
    )


WIRES: dict[str, Callable[[FarEnd], Wire]] = {
    "twilio": lambda far: carrier(far, marks=True),
    "carrier without marks": lambda far: carrier(far, marks=False),
    "webrtc": webrtc,
}


@asynccontextmanager
async def call(wire: str, far: FarEnd) -> AsyncIterator[tuple[Send, list[CallEvent]]]:
    shared = await parts(loaded(YAML))
    transport, begin, send, close = WIRES[wire](far)
    found: list[CallEvent] = []

    def build(session: Session) -> CallLine:
        line = CallLine(session, shared, transport)
        begin(session)
        return line

    session = Session(
        "call-1",
        transport,
        build,
        agent_name="test",
        channel="test",
        max_call_ms=600_000,
        media_timeout_ms=60_000,
    )
    session.subscribe(found.append)
    task = asyncio.create_task(session.run())
    try:
        yield send, found
    finally:
        session.end(ended.CALLER_HUNG_UP)
        await close()
        with contextlib.suppress(asyncio.CancelledError):
            await task


@pytest.mark.parametrize("wire", WIRES)
def test_the_far_end_waits_as_long_as_the_call_says(wire: str):
    async def converse() -> None:
        far = FarEnd()
        async with call(wire, far) as (send, found):

            async def passes(ms: int, sound: bytes) -> None:
                for _ in range(ms // FRAME_MS):
                    send(sound)
                    if sound is VOICE:
                        far.last_voice_ms = now_ms()
                    await asyncio.sleep(FRAME_MS / 1000)

            answered = 0
            # Voice detection decides by 32 ms of sound: speech ends where such a piece does.
            await passes(1600, SILENCE)
            for length_ms in (640, 800, 1120, 960, 1280, 640):
                await passes(length_ms, VOICE)
                waited = len(found)
                await passes(4800, SILENCE)
                (turn,) = [
                    event
                    for event in found[waited:]
                    if isinstance(event, events.TurnCompleted) and event.latency is not None
                ]
                assert turn.latency is not None
                assert abs(far.waited_ms() - turn.latency.total_ms) <= AGREES_MS
                assert turn.latency.llm_first_token_ms == pytest.approx(130, abs=2)
                assert turn.latency.tts_first_audio_ms == pytest.approx(110, abs=2)
                answered += 1
            assert answered == 6

    virtual.run(converse())
