"""The log-mel spectrogram that Whisper was trained on.

25 ms Hann windows every 10 ms of 16 kHz sound, 80 bands on Slaney's mel scale with equal areas,
base-10 logarithm, 8 decades of range, shifted to about -1 to 1.
Source: the reference implementation, https://github.com/openai/whisper (audio.py); mel scale:
Slaney, Auditory Toolbox, Interval Research 1998-010.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt

SAMPLE_RATE = 16000
"""Hertz."""
WINDOW, HOP = 400, 160
"""Samples."""
BANDS = 80

Floats = npt.NDArray[np.float32]

_LINEAR_HZ = 200 / 3
"""Width of a mel below 1 kHz."""
_KNEE_HZ = 1000.0
_KNEE_MEL = _KNEE_HZ / _LINEAR_HZ
_LOG_STEP = np.log(6.4) / 27
"""27 mels from 1 kHz to 6.4 kHz."""


def _mel_to_hz(mels: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    above = _KNEE_HZ * np.exp(_LOG_STEP * (mels - _KNEE_MEL))
    return np.where(mels < _KNEE_MEL, mels * _LINEAR_HZ, above)


@cache
def filterbank() -> Floats:
    """Weights of shape (201 frequencies, 80 bands)."""
    top = SAMPLE_RATE / 2
    top_mel = _KNEE_MEL + np.log(top / _KNEE_HZ) / _LOG_STEP
    corners = _mel_to_hz(np.linspace(0, top_mel, BANDS + 2))
    frequencies = np.linspace(0, top, WINDOW // 2 + 1)
    low, middle, high = corners[:-2], corners[1:-1], corners[2:]
    rising = (frequencies[:, None] - low) / (middle - low)
    falling = (high - frequencies[:, None]) / (high - middle)
    triangles = np.maximum(0, np.minimum(rising, falling))
    weights: Floats = (triangles * (2 / (high - low))).astype(np.float32)
    return weights


@cache
def _hann() -> Floats:
    # Periodic, as in a filter bank; numpy's own is symmetric.
    window: Floats = np.hanning(WINDOW + 1)[:-1].astype(np.float32)
    return window


def log_mel(samples: Floats, frames: int) -> Floats:
    """Spectrogram of shape (80, `frames`) of `samples` (-1 to 1) followed by silence.

    Sound beyond `frames` is left out. The silence is not computed: it is the floor.
    """
    samples = samples[: frames * HOP]
    sounding = min(frames, (len(samples) + WINDOW // 2) // HOP + 1)
    if len(samples) <= WINDOW:
        samples = np.pad(samples, (0, WINDOW + 1 - len(samples)))
    half = WINDOW // 2
    # Frames are centred; the first one sees the beginning mirrored, the last ones silence.
    padded = np.concatenate((samples[half:0:-1], samples, np.zeros(WINDOW + HOP, np.float32)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::HOP][:sounding]
    spectrum = np.fft.rfft(windows * _hann(), axis=1)
    power = spectrum.real**2 + spectrum.imag**2
    logs = np.log10(np.maximum(power.astype(np.float32) @ filterbank(), np.float32(1e-10)))
    floor = np.float32(logs.max() - 8.0)
    out = np.full((BANDS, frames), max(floor, np.float32(-10.0)), dtype=np.float32)
    out[:, : len(logs)] = np.maximum(logs, floor).T
    out += np.float32(4.0)
    out *= np.float32(0.25)
    return out
