"""aiortc as people use it: hears a caller as 16 kHz mono PCM, and says it back.

    python -m bench.webrtc.stock PORT

Nothing of aiortc is changed. The track that speaks gives 20 ms of what was heard on absolute time,
which saves aiortc the second conversion that a voice at another rate would need.
"""

from __future__ import annotations

import asyncio
import fractions
import gc
import sys
import time

import av
import uvloop
from aiohttp import web
from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import MediaStreamError, MediaStreamTrack

RATE = 16_000
PIECE = RATE // 50
MOST = RATE
"""Samples that wait to be said: what is older is dropped."""


class Mouth(MediaStreamTrack):
    """Says what it is given, and silence when there is nothing."""

    kind = "audio"

    def __init__(self) -> None:
        super().__init__()
        self._waiting = bytearray()
        self._began = 0.0
        self._pieces = 0

    def say(self, pcm: bytes) -> None:
        self._waiting += pcm
        if len(self._waiting) > 2 * MOST:
            del self._waiting[: -2 * MOST]

    async def recv(self) -> av.AudioFrame:
        if self.readyState != "live":
            raise MediaStreamError
        if not self._pieces:
            self._began = time.monotonic()
        wait = self._began + self._pieces * 0.020 - time.monotonic()
        if wait > 0:
            await asyncio.sleep(wait)
        frame = av.AudioFrame(format="s16", layout="mono", samples=PIECE)
        frame.planes[0].update(bytes(self._waiting[: 2 * PIECE]).ljust(2 * PIECE, b"\0"))
        del self._waiting[: 2 * PIECE]
        frame.sample_rate = RATE
        frame.time_base = fractions.Fraction(1, RATE)
        frame.pts = self._pieces * PIECE
        self._pieces += 1
        return frame


class Server:
    """All calls."""

    def __init__(self) -> None:
        self._calls: set[RTCPeerConnection] = set()
        self._listening: set[asyncio.Task[None]] = set()

    async def offer(self, request: web.Request) -> web.Response:
        body = await request.json()
        call = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self._calls.add(call)
        mouth = Mouth()

        @call.on("track")
        def heard(track: MediaStreamTrack) -> None:
            task = asyncio.get_running_loop().create_task(_listen(track, mouth))
            self._listening.add(task)
            task.add_done_callback(self._listening.discard)

        @call.on("connectionstatechange")
        async def changed() -> None:
            if call.connectionState in ("failed", "closed"):
                self._calls.discard(call)
                await call.close()

        await call.setRemoteDescription(RTCSessionDescription(body["sdp"], "offer"))
        call.addTrack(mouth)
        await call.setLocalDescription(await call.createAnswer())
        return web.json_response({"sdp": call.localDescription.sdp, "type": "answer"})


async def _listen(track: MediaStreamTrack, mouth: Mouth) -> None:
    resampler = av.AudioResampler(format="s16", layout="mono", rate=RATE)
    while True:
        try:
            frame = await track.recv()
        except MediaStreamError:
            return
        for piece in resampler.resample(frame):
            mouth.say(bytes(piece.planes[0])[: 2 * piece.samples])


async def application() -> web.Application:
    app = web.Application()
    app.router.add_post("/webrtc/offer", Server().offer)
    gc.collect()
    gc.freeze()
    return app


if __name__ == "__main__":
    web.run_app(
        application(),
        host="127.0.0.1",
        port=int(sys.argv[1]),
        access_log=None,
        print=lambda *_: None,
        loop=uvloop.new_event_loop(),
    )
