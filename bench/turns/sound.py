"""Arithmetic on sound: 16 kHz mono float32, 1.0 is full scale, times are samples."""

from __future__ import annotations

import wave
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soxr
from numpy.typing import NDArray

RATE = 16_000
SPEECH_DB = -20.0
"""Level of ordinary speech in dBFS (active level, as ITU-T P.56 means it, roughly)."""
FRAME = RATE // 100
"""10 ms: the grain in which speech is told from silence when labels are made."""
BELOW_PEAK_DB = 32.0
"""What is so far below the loudest 10 ms of a clean clip is not speech."""

Sound = NDArray[np.float32]


def samples(ms: int) -> int:
    """Samples in `ms` milliseconds."""
    return RATE * ms // 1000


def milliseconds(count: int) -> int:
    """Whole milliseconds in `count` samples, rounded down."""
    return count * 1000 // RATE


def silence(ms: int) -> Sound:
    return np.zeros(samples(ms), np.float32)


def from_pcm(pcm: bytes, rate: int) -> Sound:
    """PCM16 at any rate."""
    values = np.frombuffer(pcm, "<i2").astype(np.float32) / 32768
    if rate != RATE:
        values = soxr.resample(values, rate, RATE)
    return np.asarray(values, np.float32)


def to_pcm(sound: Sound) -> bytes:
    return np.clip(np.rint(sound * 32767), -32768, 32767).astype("<i2").tobytes()


def frame_levels(sound: Sound) -> NDArray[np.float64]:
    """Level of every 10 ms, dBFS."""
    whole = len(sound) // FRAME * FRAME
    power = np.mean(sound[:whole].reshape(-1, FRAME).astype(np.float64) ** 2, axis=1)
    return np.asarray(10 * np.log10(np.maximum(power, 1e-12)))


def bounds(sound: Sound) -> tuple[int, int]:
    """First and last sample of the speech in a clean clip, to 10 ms."""
    levels = frame_levels(sound)
    if not len(levels):
        return 0, 0
    loud = np.flatnonzero(levels > levels.max() - BELOW_PEAK_DB)
    return int(loud[0]) * FRAME, (int(loud[-1]) + 1) * FRAME


def bounds_in_room(sound: Sound) -> tuple[int, int]:
    """The same for a recording with a room's noise: levels are taken over 50 ms, speech stands
    8 dB out of the quietest twelfth of them and lasts 50 ms."""
    power = np.convolve(10 ** (frame_levels(sound) / 10), np.ones(5) / 5, "same")
    levels = 10 * np.log10(power)
    threshold = max(np.percentile(levels, 8) + 8, levels.max() - BELOW_PEAK_DB)
    edges = np.diff(np.concatenate(([0], (levels > threshold).astype(int), [0])))
    starts, ends = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)
    long = ends - starts >= 5
    return int(starts[long][0]) * FRAME, int(ends[long][-1]) * FRAME


def trim(sound: Sound) -> Sound:
    """A clean clip from its first to its last speech sample."""
    start, end = bounds(sound)
    return sound[start:end]


def level_db(sound: Sound) -> float:
    """Level of what sounds in a clip: pauses do not count."""
    levels = frame_levels(sound)
    if not len(levels):
        return -120.0
    active = levels[levels > levels.max() - BELOW_PEAK_DB]
    return float(10 * np.log10(np.mean(10 ** (active / 10))))


def at_level(sound: Sound, db: float) -> Sound:
    """The same sound at an active level; clipped where it must be."""
    gain = np.float32(10 ** ((db - level_db(sound)) / 20))
    return np.asarray(np.clip(sound * gain, -1, 1), np.float32)


def faster(sound: Sound, factor: float) -> Sound:
    """Played faster: shorter, and higher in pitch and formants, as a smaller speaker sounds."""
    return np.asarray(soxr.resample(sound, factor * RATE, RATE), np.float32)


def fade(sound: Sound, ms: int = 5) -> Sound:
    """No click at either end."""
    ramp = np.linspace(0, 1, min(samples(ms), len(sound) // 2), dtype=np.float32)
    out = sound.copy()
    out[: len(ramp)] *= ramp
    out[len(out) - len(ramp) :] *= ramp[::-1]
    return out


def place(parts: Sequence[tuple[int, Sound]], length: int = 0) -> Sound:
    """Sounds added up, each from its own sample on."""
    end = max([length, *(at + len(sound) for at, sound in parts)])
    out = np.zeros(end, np.float32)
    for at, sound in parts:
        out[at : at + len(sound)] += sound
    return np.clip(out, -1, 1)


def read_wav(path: Path) -> Sound:
    """A mono PCM16 WAV file."""
    with wave.open(str(path)) as file:
        if (file.getnchannels(), file.getsampwidth()) != (1, 2):
            raise ValueError(f"{path}: not mono PCM16")
        return from_pcm(file.readframes(file.getnframes()), file.getframerate())


def write_wav(path: Path, sound: Sound) -> None:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(to_pcm(sound))
