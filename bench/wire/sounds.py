"""What callers sound like: mu-law files, made once."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from flowcat_server.core.audio import encode

RATE = 8000
SECONDS = 8
PITCH_HZ = 130
SYLLABLES_HZ = 4
LOUD = 9000


def steady(directory: Path) -> Path:
    """A hum without pauses: what stands for speech where loudness alone is looked at."""
    return _write(directory / "steady.ulaw", _hum())


def syllables(directory: Path) -> Path:
    """The same in syllables: loud and soft four times a second, over the noise of a room."""
    time = np.arange(RATE * SECONDS) / RATE
    swell = 0.55 - 0.45 * np.cos(2 * np.pi * SYLLABLES_HZ * time)
    noise = np.random.default_rng(1).normal(0, 30, len(time))
    return _write(directory / "syllables.ulaw", _hum() * swell + noise)


def _hum() -> np.ndarray:
    """A vowel: harmonics of a wandering pitch under two formants."""
    time = np.arange(RATE * SECONDS) / RATE
    phase = 2 * np.pi * np.cumsum(PITCH_HZ * (1 + 0.08 * np.sin(2 * np.pi * 0.7 * time))) / RATE
    total = np.zeros(len(time))
    for harmonic in range(1, 24):
        hertz = harmonic * PITCH_HZ
        weight = sum(np.exp(-(((hertz - formant) / 160) ** 2)) for formant in (600, 1200, 2500))
        total += (0.02 + weight) * np.sin(harmonic * phase)
    return total / np.abs(total).max() * LOUD


def _write(path: Path, samples: np.ndarray) -> Path:
    path.write_bytes(encode(samples.astype("<i2").tobytes(), "mulaw"))
    return path
