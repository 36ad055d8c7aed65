"""What came: how late each packet was for its own timestamp, and whether it is what was said."""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench.webrtc import voice
from bench.webrtc.caller import TICKS, Caller
from flowcat_server.transports.webrtc import opus

RATE = 48_000
"""Of the timestamps (RFC 7587 section 4.1)."""
HOP_S = voice.HOP / 16_000
HOPS_A_PACKET = round(0.020 / HOP_S)
MOST_S = 1.0
"""An echo is looked for up to so much later."""
SPOKEN = 300
"""RMS of a hop in which somebody speaks."""
PART = round(1 / HOP_S)
LEAST_SPOKEN = 0.5
"""Share of a part in which somebody speaks, so that it can be compared."""
PIECE = 640
_STAMP = struct.Struct("qq")
_SEQ_AND_TIME = struct.Struct("!HI")

Media = list[tuple[bytes, bytes]]
Loudness = NDArray[np.float64]


@dataclass(frozen=True)
class Stream:
    """One call's packets."""

    late: NDArray[np.float64]
    """Seconds, for the earliest packet 0: what a listener without a buffer would miss."""
    lost: int
    """Sequence numbers that did not come."""
    skipped: int
    """Pieces of 20 ms that were not sent: the timestamp goes on, the sequence number does not."""
    at: NDArray[np.float64]
    """When each would have come, had it not been late; seconds of the real-time clock."""


def read(media: Media) -> Stream:
    """Measure the packets of one call."""
    if not media:
        nothing = np.zeros(0)
        return Stream(nothing, 0, 0, nothing)
    came = np.array([seconds + ns * 1e-9 for seconds, ns in (_STAMP.unpack(t) for t, _ in media)])
    pairs = [_SEQ_AND_TIME.unpack_from(packet, 2) for _, packet in media]
    seq = np.array([pair[0] for pair in pairs], dtype=np.int64)
    ticks = np.array([pair[1] for pair in pairs], dtype=np.int64)
    steps = np.diff(seq) + 32_768 & 0xFFFF
    number = np.concatenate(([0], np.cumsum(steps - 32_768)))
    clock = np.concatenate(([0], np.cumsum((np.diff(ticks) + 2**31 & 0xFFFFFFFF) - 2**31)))
    offset = came - clock / RATE
    start = offset.min()
    count = int(number.max() - number.min()) + 1
    pieces = int(clock.max() - clock.min()) // TICKS + 1
    return Stream(offset - start, count - len(np.unique(number)), pieces - count,
                  start + clock / RATE)  # fmt: skip


@dataclass(frozen=True)
class Echo:
    """What a decoder made of one call's packets."""

    likeness: float
    """Correlation of the loudness of a second with that of what was said, at the best delay."""
    delay_ms: float
    """From sending a packet to the arrival of the one in which its sound comes back."""
    spoke: float
    """Share of the time in which somebody spoke."""


def echo(caller: Caller, stream: Stream, said: voice.Voice, real_s: float) -> Echo:
    """Decode what came, and look for what was said in each second of it.

    `real_s` is what the real-time clock is ahead of the monotonic one.
    """
    heard = voice.loudness(_sound(caller, stream))
    if caller.kept is None or not heard.any():
        return Echo(0, 0, 0)
    number, sent_s = caller.kept
    hop = (caller.first + number) * HOPS_A_PACKET
    hop += round((stream.at[0] - real_s - sent_s) / HOP_S)
    found = []
    for start in range(0, len(heard) - PART, PART):
        part = heard[start : start + PART]
        if np.mean(part > SPOKEN) > LEAST_SPOKEN:
            found.append(_look_for(part, said.loudness, hop + start))
    if not found:
        return Echo(0, 0, float(np.mean(heard > SPOKEN)))
    likeness, delay = np.median(np.array(found), axis=0)
    return Echo(float(likeness), float(delay) * HOP_S * 1000, float(np.mean(heard > SPOKEN)))


def _sound(caller: Caller, stream: Stream) -> bytes:
    """PCM16 at 16 kHz, each packet where its timestamp puts it."""
    decoder = opus.Decoder(16_000)
    places = np.rint((stream.at - stream.at[0]) / 0.020).astype(int)
    pcm = bytearray((int(places.max()) + 1) * PIECE)
    for place, (_, packet) in zip(places, caller.line.media, strict=True):
        piece = decoder.decode(caller.decrypt(packet))
        if place >= 0:
            pcm[place * PIECE : place * PIECE + len(piece)] = piece
    return bytes(pcm)


def _look_for(part: Loudness, said: Loudness, hop: int) -> tuple[float, int]:
    """How much a part is like what was said, and how many hops before it that was."""
    alike = [
        _alike(said[np.arange(hop - delay, hop - delay + len(part)) % len(said)], part)
        for delay in range(round(MOST_S / HOP_S))
    ]
    best = int(np.argmax(alike))
    return alike[best], best


def _alike(first: Loudness, second: Loudness) -> float:
    if not first.std() or not second.std():
        return 0.0
    return float(np.corrcoef(first, second)[0, 1])
