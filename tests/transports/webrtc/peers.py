"""Honest far ends for the WebRTC tests: stock aiortc clients, a session, tones."""

from __future__ import annotations

import asyncio
import contextlib
import fractions
import time
from collections.abc import AsyncIterator, Callable, Iterator

import av
import numpy as np
from aiortc import (
    RTCConfiguration,
    RTCPeerConnection,
    RTCSessionDescription,
)
from aiortc.mediastreams import MediaStreamError, MediaStreamTrack

from flowcat_server.transports.webrtc import Answer, Offers, WebRtcSettings

LOCAL = WebRtcSettings(bind_ips=("127.0.0.1",))


def tone(frequency: int, rate: int, ms: int, amplitude: int = 8000) -> bytes:
    t = np.arange(rate * ms // 1000) / rate
    return (amplitude * np.sin(2 * np.pi * frequency * t)).astype("<i2").tobytes()


def loudest(pcm: bytes, rate: int) -> int:
    """The strongest frequency, Hertz."""
    samples = np.frombuffer(pcm, dtype="<i2").astype(float)
    if not len(samples) or not samples.any():
        return 0
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return round(float(np.argmax(spectrum)) * rate / len(samples))


class Session:
    """What a transport reports to and takes audio from."""

    def __init__(self, speech: bytes = b"") -> None:
        self.heard = bytearray()
        self.pieces: set[int] = set()
        self.digits: list[str] = []
        self.reasons: list[str] = []
        self.speech = speech
        self.lost_event = asyncio.Event()
        self.pulls = 0

    def now_ms(self) -> int:
        return time.monotonic_ns() // 1_000_000

    def receive_audio(self, payload: bytes) -> None:
        self.pieces.add(len(payload))
        self.heard += payload

    def receive_digit(self, digit: str) -> None:
        self.digits.append(digit)

    def receive_text(self, text: str) -> None:
        raise AssertionError("not by this transport")

    def receive_mark(self, name: str) -> None:
        raise AssertionError("not by this transport")

    def lost(self, reason: str) -> None:
        self.reasons.append(reason)
        self.lost_event.set()

    def pull(self, now_ms: int, size: int) -> bytes:
        self.pulls += 1
        piece, self.speech = self.speech[:size], self.speech[size:]
        return piece

    def queued(self) -> int:
        return len(self.speech)

    def acknowledge(self, name: str, now_ms: int) -> None:
        raise AssertionError("not by this transport")


class Mouth(MediaStreamTrack):
    """Plays PCM16 at 16 kHz in real time, then silence."""

    kind = "audio"

    def __init__(self, pcm: bytes = b"") -> None:
        super().__init__()
        self.pcm = pcm
        self.sent = 0
        self._origin = 0.0
        self._number = 0

    async def recv(self) -> av.AudioFrame:
        if self.readyState != "live":
            raise MediaStreamError
        if not self._number:
            self._origin = time.monotonic()
        await asyncio.sleep(self._origin + self._number * 0.02 - time.monotonic())
        frame = av.AudioFrame(format="s16", layout="mono", samples=320)
        piece = self.pcm[self._number * 640 : (self._number + 1) * 640]
        frame.planes[0].update(piece.ljust(640, b"\0"))
        frame.sample_rate, frame.time_base = 16_000, fractions.Fraction(1, 16_000)
        frame.pts = self._number * 320
        self._number += 1
        self.sent += 320
        return frame


class Client:
    """A stock aiortc peer that offers, speaks and listens."""

    def __init__(self, mouth: Mouth | None = None) -> None:
        self.pc = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self.mouth = mouth or Mouth()
        self.pc.addTrack(self.mouth)
        self.ears = bytearray()
        """PCM16 mono 48 kHz."""
        self._listening: asyncio.Task[None] | None = None
        self.pc.on("track", self._track)

    def _track(self, track: MediaStreamTrack) -> None:
        self._listening = asyncio.get_running_loop().create_task(self._listen(track))

    async def _listen(self, track: MediaStreamTrack) -> None:
        with contextlib.suppress(MediaStreamError):
            while True:
                frame = await track.recv()
                samples = frame.to_ndarray().reshape(-1, len(frame.layout.channels))
                self.ears += samples[:, 0].astype("<i2").tobytes()

    async def offer(self) -> str:
        await self.pc.setLocalDescription(await self.pc.createOffer())
        return str(self.pc.localDescription.sdp)

    async def take(self, sdp: str) -> None:
        await self.pc.setRemoteDescription(RTCSessionDescription(sdp, "answer"))

    async def call(self, offers: Offers, **options: object) -> Answer:
        answer = await offers.accept(await self.offer(), **options)  # type: ignore[arg-type]
        await self.take(answer.sdp)
        return answer

    async def close(self) -> None:
        await self.pc.close()
        if self._listening is not None:
            self._listening.cancel()


@contextlib.asynccontextmanager
async def server(settings: WebRtcSettings = LOCAL, **options: object) -> AsyncIterator[Offers]:
    offers = Offers(settings, **options)  # type: ignore[arg-type]
    try:
        yield offers
    finally:
        await offers.close()


@contextlib.asynccontextmanager
async def client(mouth: Mouth | None = None) -> AsyncIterator[Client]:
    peer = Client(mouth)
    try:
        yield peer
    finally:
        await peer.close()


async def until(condition: Callable[[], object], timeout: float = 5.0) -> None:
    async with asyncio.timeout(timeout):
        while not condition():  # noqa: ASYNC110 - the state is someone else's
            await asyncio.sleep(0.005)


def windows(pcm: bytes, size: int) -> Iterator[bytes]:
    for start in range(0, len(pcm) - size + 1, size):
        yield pcm[start : start + size]
