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
_STAMP = struct.Struct("qq")
_SEQ_AND_TIME = struct.Struct("!HI")

Media = list[tuple[bytes, bytes]]


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
    """Correlation of the loudness with that of what was said, at the best delay."""
    delay_ms: float
    """From sending a packet to the arrival of the one in which its sound comes back."""
    spoke: float
    """Share of the time in which somebody spoke."""


def echo(caller: Caller, stream: Stream, said: voice.Voice, real_s: float) -> Echo:
    """Decode what came, and look for what was said in it.

    `real_s` is what the real-time clock is ahead of the monotonic one.
    """
    decoder = opus.Decoder(16_000)
    pcm = b"".join(decoder.decode(caller.decrypt(packet)) for _, packet in caller.line.media)
    heard = voice.loudness(pcm)
    if caller.kept is None or not heard.any():
        return Echo(0, 0, 0)
    number, sent_s = caller.kept
    hop = (caller.first + number) * HOPS_A_PACKET
    ahead_s = stream.at[0] - real_s - sent_s
    likeness = [
        _alike(_part(said.loudness, hop + round(ahead_s / HOP_S) - delay, len(heard)), heard)
        for delay in range(round(MOST_S / HOP_S))
    ]
    best = int(np.argmax(likeness))
    return Echo(likeness[best], best * HOP_S * 1000, float(np.mean(heard > SPOKEN)))


def _part(cycle: NDArray[np.float64], start: int, length: int) -> NDArray[np.float64]:
    return cycle[np.arange(start, start + length) % len(cycle)]


def _alike(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    if not first.std() or not second.std():
        return 0.0
    return float(np.corrcoef(first, second)[0, 1])
