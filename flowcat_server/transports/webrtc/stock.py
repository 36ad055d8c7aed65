"""The media path without libopus: aiortc's own tracks, jitter buffer and codecs.

It costs about twice the CPU, a thread per call, some 80 ms more delay, and loses audio after
each lost packet; a server that cannot find libopus still takes calls.
"""

from __future__ import annotations

import asyncio
import fractions
import time
from typing import Any

import av
from aiortc.mediastreams import MediaStreamError, MediaStreamTrack

from flowcat_server.transports.webrtc.inbound import FORMAT as HEARD
from flowcat_server.transports.webrtc.inbound import Inbound
from flowcat_server.transports.webrtc.outbound import FORMAT, PIECE, Outbound

_SAMPLES = FORMAT.sample_rate // 50
_MAX_BEHIND_S = 0.2


class StockTrack(MediaStreamTrack):
    """The agent's audio as frames for aiortc's encoder, on absolute time."""

    kind = "audio"

    def __init__(self, outbound: Outbound) -> None:
        super().__init__()
        self._outbound = outbound
        self._origin = 0.0
        self._number = 0

    async def recv(self) -> av.AudioFrame:
        if self.readyState != "live":
            raise MediaStreamError
        now = time.monotonic()
        if not self._number:
            self._origin = now
        wait = self._origin + self._number * 0.020 - now
        if wait > 0:
            await asyncio.sleep(wait)
        elif wait < -_MAX_BEHIND_S:
            self._number -= int((wait + _MAX_BEHIND_S) / 0.020)
        frame = av.AudioFrame(format="s16", layout="mono", samples=_SAMPLES)
        frame.planes[0].update(self._outbound.pcm() or bytes(PIECE))
        frame.sample_rate = FORMAT.sample_rate
        frame.time_base = fractions.Fraction(1, FORMAT.sample_rate)
        frame.pts = self._number * _SAMPLES
        self._number += 1
        return frame


async def hear(track: MediaStreamTrack, inbound: Inbound) -> None:
    """Pass on what aiortc decodes, until the track ends."""
    resampler = av.AudioResampler(format="s16", layout="mono", rate=HEARD.sample_rate)
    while True:
        try:
            frame: Any = await track.recv()
        except MediaStreamError:
            return
        for piece in resampler.resample(frame):
            inbound.pcm(bytes(piece.planes[0])[: piece.samples * 2])
