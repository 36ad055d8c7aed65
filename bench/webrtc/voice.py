"""What callers say: speech-like audio, encoded once as a browser encodes it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flowcat_server.transports.webrtc import opus

RATE = 48_000
FRAME = RATE // 50
SECONDS = 12
HOP = 80
"""Samples of 16 kHz, 5 ms, of which the loudness is compared."""
BROWSER_BITRATE = 32_000
"""What our answers ask for."""
SYLLABLE_S = 0.22
PITCH_HZ = 130
FORMANTS_HZ = (600, 1200, 2500)


@dataclass(frozen=True)
class Voice:
    """One packet each 20 ms, again from the front after the last."""

    packets: list[bytes]
    loudness: NDArray[np.float64]
    """RMS of each hop of what a decoder makes of them."""


def speak(talk_ms: int = 0, cycle_ms: int = 0) -> Voice:
    """Syllables without a rhythm, so that what comes back is found in what was said.

    Args:
        talk_ms: Of each cycle, the rest of which is the noise of a room.
        cycle_ms: 0: speech without pauses.
    """
    random = np.random.default_rng(1)
    time = np.arange(RATE * SECONDS) / RATE
    sound = _vowel(time) * _swell(time, random) + random.normal(0, 0.003, len(time))
    if cycle_ms:
        sound = np.where(
            time * 1000 % cycle_ms < talk_ms, sound, random.normal(0, 0.001, len(time))
        )
    pcm = (sound * 9_000).astype("<i2").tobytes()
    encoder = opus.Encoder(RATE, max_bitrate=BROWSER_BITRATE)
    packets = [encoder.encode(pcm[at : at + FRAME * 2]) for at in range(0, len(pcm), FRAME * 2)]
    decoder = opus.Decoder(16_000)
    return Voice(packets, loudness(b"".join(map(decoder.decode, packets))))


def loudness(pcm: bytes) -> NDArray[np.float64]:
    """RMS of each 5 ms of PCM16 at 16 kHz."""
    samples = np.frombuffer(pcm, dtype="<i2").astype(float)
    whole = len(samples) // HOP * HOP
    return np.asarray(np.sqrt(np.mean(samples[:whole].reshape(-1, HOP) ** 2, axis=1)))


def _vowel(time: NDArray[np.float64]) -> NDArray[np.float64]:
    phase = 2 * np.pi * np.cumsum(PITCH_HZ * (1 + 0.08 * np.sin(2 * np.pi * 0.7 * time))) / RATE
    total = np.zeros(len(time))
    for harmonic in range(1, 40):
        hertz = harmonic * PITCH_HZ
        weight = sum(np.exp(-(((hertz - formant) / 160) ** 2)) for formant in FORMANTS_HZ)
        total += (0.02 + weight) * np.sin(harmonic * phase)
    return np.asarray(total / np.abs(total).max())


def _swell(time: NDArray[np.float64], random: np.random.Generator) -> NDArray[np.float64]:
    """Between two points in time, as loud as chance has it; the end meets the beginning."""
    points = np.arange(0, SECONDS + SYLLABLE_S, SYLLABLE_S / 2)
    loud = random.uniform(0.3, 1.0, len(points))
    loud[1::2] = random.uniform(0.02, 0.1, len(loud[1::2]))
    return np.interp(time, points, loud)
