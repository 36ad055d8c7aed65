"""Audio formats, G.711 and streaming conversion between formats.

All PCM is signed 16-bit little-endian mono. Durations are integer milliseconds.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Literal

import numpy as np
import soxr

with warnings.catch_warnings():
    # Deprecated in Python 3.11 to 3.12; from 3.13 on the audioop-lts package carries it.
    warnings.simplefilter("ignore", DeprecationWarning)
    import audioop

Encoding = Literal["mulaw", "alaw", "pcm16"]


@dataclass(frozen=True, slots=True)
class AudioFormat:
    """How audio bytes are to be read."""

    encoding: Encoding
    sample_rate: int
    """Hertz."""

    @property
    def sample_bytes(self) -> int:
        """Bytes of one sample."""
        return 2 if self.encoding == "pcm16" else 1

    def bytes_for(self, ms: int) -> int:
        """Bytes that hold `ms` milliseconds, a whole number of samples."""
        return self.sample_rate * ms // 1000 * self.sample_bytes

    def duration_ms(self, size: int) -> int:
        """Whole milliseconds held by `size` bytes."""
        return size * 1000 // (self.sample_rate * self.sample_bytes)

    def silence(self, ms: int) -> bytes:
        """`ms` milliseconds of digital silence."""
        return SILENCE_BYTE[self.encoding] * self.bytes_for(ms)


SILENCE_BYTE: dict[str, bytes] = {"mulaw": b"\xff", "alaw": b"\xd5", "pcm16": b"\x00"}

MULAW_8K = AudioFormat("mulaw", 8000)
ALAW_8K = AudioFormat("alaw", 8000)
PCM_8K = AudioFormat("pcm16", 8000)
PCM_16K = AudioFormat("pcm16", 16000)
PCM_24K = AudioFormat("pcm16", 24000)
PCM_48K = AudioFormat("pcm16", 48000)


def decode(payload: bytes, encoding: Encoding) -> bytes:
    """G.711 (ITU-T G.711) or PCM bytes to PCM16 at the same rate."""
    if encoding == "mulaw":
        return audioop.ulaw2lin(payload, 2)
    if encoding == "alaw":
        return audioop.alaw2lin(payload, 2)
    return payload


def encode(pcm: bytes, encoding: Encoding) -> bytes:
    """PCM16 to G.711 (ITU-T G.711) or PCM bytes at the same rate."""
    if encoding == "mulaw":
        return audioop.lin2ulaw(pcm, 2)
    if encoding == "alaw":
        return audioop.lin2alaw(pcm, 2)
    return pcm


def rms(pcm: bytes) -> int:
    """Root mean square of PCM16, 0 to 32767."""
    return audioop.rms(pcm, 2)


class Transcoder:
    """Converts a stream from one format to another; keeps resampler state between calls.

    `feed` may return fewer or more milliseconds than it was given (the resampler holds a
    few samples back); `flush` returns the rest and makes the object ready for a new stream.
    """

    __slots__ = ("_odd", "_resampler", "source", "target")

    def __init__(self, source: AudioFormat, target: AudioFormat) -> None:
        self.source, self.target = source, target
        self._resampler: soxr.ResampleStream | None = None
        self._odd = b""

    def feed(self, payload: bytes) -> bytes:
        if self.source == self.target:
            return payload
        if self.source.encoding == "pcm16":
            # Vendors may cut a PCM stream in the middle of a sample.
            if self._odd:
                payload = self._odd + payload
            cut = len(payload) & 1
            self._odd = payload[-1:] if cut else b""
            if cut:
                payload = payload[:-1]
        pcm = decode(payload, self.source.encoding)
        if self.source.sample_rate != self.target.sample_rate and pcm:
            pcm = self._resample(pcm, last=False)
        return encode(pcm, self.target.encoding)

    def flush(self) -> bytes:
        self._odd = b""
        if self._resampler is None:
            return b""
        pcm = self._resample(b"", last=True)
        self._resampler = None
        return encode(pcm, self.target.encoding)

    def _resample(self, pcm: bytes, *, last: bool) -> bytes:
        if self._resampler is None:
            self._resampler = soxr.ResampleStream(
                self.source.sample_rate, self.target.sample_rate, 1, dtype="int16", quality="MQ"
            )
        samples = np.frombuffer(pcm, dtype=np.int16)
        return bytes(self._resampler.resample_chunk(samples, last=last).tobytes())
