"""Changing the sample rate by a simple ratio, piece by piece, with the length kept exactly.

For live audio: every 20 ms in gives 20 ms out at once (a general streaming resampler gathers a
tenth of a second first). A windowed-sinc low-pass (Hamming) on either side.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

_HALF_WIDTH: Final = 16
"""Zero crossings of the filter on either side; delays by that many samples of the lower rate."""
_PASS: Final = 0.45
"""Of the lower rate: 3,600 Hz at 8 kHz, the telephone band (ITU-T G.712)."""


def _low_pass(factor: int) -> NDArray[np.float64]:
    """Symmetric, so that to correlate is to convolve, which numpy does in more steps."""
    half = _HALF_WIDTH * factor
    at = np.arange(-half, half + 1)
    cutoff = 2 * _PASS / factor
    taps = np.sinc(at * cutoff) * np.hamming(2 * half + 1)
    return np.asarray(taps / taps.sum())


class Upsampler:
    """PCM16 at `factor` times the rate."""

    def __init__(self, factor: int) -> None:
        self._factor = factor
        self._taps = _low_pass(factor) * factor
        self._past = np.zeros(len(self._taps) - 1)

    def feed(self, pcm: bytes) -> bytes:
        """Exactly `factor` times as many samples."""
        samples = np.frombuffer(pcm, dtype="<i2")
        spread = np.zeros(len(samples) * self._factor)
        spread[:: self._factor] = samples
        line = np.concatenate((self._past, spread))
        self._past = line[len(line) - len(self._past) :]
        return _pcm(np.correlate(line, self._taps, "valid"))

    def flush(self) -> bytes:
        """Nothing of use is held back; ready for a new stream."""
        self._past = np.zeros(len(self._taps) - 1)
        return b""


class Downsampler:
    """PCM16 at one `factor`-th of the rate."""

    def __init__(self, factor: int) -> None:
        self._factor = factor
        self._taps = _low_pass(factor)
        self._past = np.zeros(len(self._taps) - 1)
        self._odd = b""

    def feed(self, pcm: bytes) -> bytes:
        """One `factor`-th of the samples; those beyond a multiple of it wait for more."""
        pcm = self._odd + pcm
        whole = len(pcm) - len(pcm) % (2 * self._factor)
        self._odd = pcm[whole:]
        line = np.concatenate((self._past, np.frombuffer(pcm[:whole], dtype="<i2")))
        self._past = line[len(line) - len(self._past) :]
        if not whole:
            return b""
        return _pcm(np.correlate(line, self._taps, "valid")[:: self._factor])

    def flush(self) -> bytes:
        """Nothing of use is held back; ready for a new stream."""
        self._past = np.zeros(len(self._taps) - 1)
        self._odd = b""
        return b""


class RatioResampler:
    """PCM16 at `up` : `down` times the rate, such as 3 : 2 from 16 kHz to 24 kHz."""

    def __init__(self, up: int, down: int) -> None:
        """The two have no common factor."""
        self._up, self._down = up, down
        self._taps = _low_pass(max(up, down)) * up
        self._past = np.zeros(len(self._taps) - 1)
        self._odd = b""

    def feed(self, pcm: bytes) -> bytes:
        """Samples beyond a multiple of `down` wait for more."""
        pcm = self._odd + pcm
        whole = len(pcm) - len(pcm) % (2 * self._down)
        self._odd = pcm[whole:]
        if not whole:
            return b""
        samples = np.frombuffer(pcm[:whole], dtype="<i2")
        spread = np.zeros(len(samples) * self._up)
        spread[:: self._up] = samples
        line = np.concatenate((self._past, spread))
        self._past = line[len(line) - len(self._past) :]
        return _pcm(np.correlate(line, self._taps, "valid")[:: self._down])

    def flush(self) -> bytes:
        """Nothing of use is held back; ready for a new stream."""
        self._past = np.zeros(len(self._taps) - 1)
        self._odd = b""
        return b""


def _pcm(samples: NDArray[np.float64]) -> bytes:
    # A third of what np.clip takes; of 20 ms that is what counts.
    whole = np.rint(samples)
    np.minimum(whole, 32_767, out=whole)
    np.maximum(whole, -32_768, out=whole)
    return whole.astype("<i2").tobytes()
