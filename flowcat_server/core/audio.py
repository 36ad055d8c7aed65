"""Audio formats, G.711 and streaming conversion between formats.

All PCM is signed 16-bit little-endian mono. Durations are integer milliseconds.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from math import gcd
from typing import Literal, Protocol

import numpy as np
import soxr

from flowcat_server.core.rates import Downsampler, RatioResampler, Upsampler

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


MAX_RATIO = 6
"""Rates in the ratio of two numbers up to this are converted without delay."""
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


def swap_bytes(pcm: bytes) -> bytes:
    """PCM16 in the other byte order; half a sample at the end is dropped."""
    return audioop.byteswap(pcm[: len(pcm) & ~1], 2)


PCM_BYTES = 2
"""Of a sample of PCM16."""
level: Callable[[bytes, int], int] = audioop.rms
"""``level(pcm, PCM_BYTES)`` is `rms` where it is wanted for every frame of every call."""


def rms(pcm: bytes) -> int:
    """Root mean square of PCM16, 0 to 32768."""
    return audioop.rms(pcm, PCM_BYTES)


class Resampler(Protocol):
    """Changes the sample rate of a PCM16 stream."""

    def feed(self, pcm: bytes) -> bytes:
        """The next piece."""

    def flush(self) -> bytes:
        """What was held back; the object is then ready for a new stream."""


class Transcoder:
    """Converts a stream from one format to another; keeps its state between calls.

    Between rates in a simple ratio every sample comes out at once, so that live audio is not
    delayed; between others the resampler may hold back a tenth of a second, which
    `flush` returns.
    """

    __slots__ = ("_decodes", "_odd", "_pcm", "_resampler", "_same", "source", "target")

    def __init__(self, source: AudioFormat, target: AudioFormat, *, live: bool = True) -> None:
        """Begin a stream; one that is not `live` keeps every sample in its place instead."""
        self.source, self.target = source, target
        self._resampler = _resampler(source.sample_rate, target.sample_rate, live=live)
        self._same = source == target
        self._decodes = (
            source.encoding == "mulaw" and target.encoding == "pcm16" and self._resampler is None
        )
        """All there is to do is to decode mu-law: most of the calls from telephones."""
        self._pcm = source.encoding == "pcm16"
        self._odd = b""

    def feed(self, payload: bytes) -> bytes:
        """The next piece of the stream, converted."""
        if self._decodes:
            return audioop.ulaw2lin(payload, PCM_BYTES)
        if self._pcm and (self._odd or len(payload) & 1):
            # Vendors may cut a PCM stream in the middle of a sample.
            payload = self._odd + payload
            whole = len(payload) & ~1
            payload, self._odd = payload[:whole], payload[whole:]
        if self._same:
            return payload
        pcm = decode(payload, self.source.encoding)
        if self._resampler is not None and pcm:
            pcm = self._resampler.feed(pcm)
        return encode(pcm, self.target.encoding)

    def flush(self) -> bytes:
        """What was held back; the object is then ready for a new stream."""
        self._odd = b""
        if self._resampler is None:
            return b""
        return encode(self._resampler.flush(), self.target.encoding)


class _Soxr:
    """Any two rates, by the SoX resampler."""

    def __init__(self, source: int, target: int) -> None:
        self._rates = source, target
        self._stream: soxr.ResampleStream | None = None
        """Between two streams of audio there is none: it takes some 60 KB."""

    def feed(self, pcm: bytes) -> bytes:
        if self._stream is None:
            self._stream = soxr.ResampleStream(*self._rates, 1, dtype="int16", quality="MQ")
        chunk = self._stream.resample_chunk(np.frombuffer(pcm, dtype=np.int16))
        return bytes(chunk.tobytes())

    def flush(self) -> bytes:
        if self._stream is None:
            return b""
        chunk = self._stream.resample_chunk(np.zeros(0, dtype=np.int16), last=True)
        self._stream = None
        return bytes(chunk.tobytes())


def _resampler(source: int, target: int, *, live: bool) -> Resampler | None:
    if source == target:
        return None
    if not live:
        return _Soxr(source, target)
    if target % source == 0:
        return Upsampler(target // source)
    if source % target == 0:
        return Downsampler(source // target)
    common = gcd(source, target)
    if max(source, target) // common <= MAX_RATIO:
        return RatioResampler(target // common, source // common)
    return _Soxr(source, target)
