"""One side of a recording: pieces with wire positions become samples with file positions."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from flowcat_server.core.audio import AudioFormat, Transcoder

Samples = npt.NDArray[np.int16]

SLACK_MS = 2
"""A piece that begins this close to the end of the last one goes on where that ended."""

TOGETHER = 5
"""Pieces that are resampled at once. soxr keeps room for as much as it was ever given at once:
for a second of 16 kHz it is 170 KB, for a tenth 30."""


class Track:
    """Collects the audio of one side until it is written.

    Args:
        source: Format of the payloads.
        sample_rate: Of the file; all positions count its samples.
    """

    def __init__(self, source: AudioFormat, sample_rate: int) -> None:
        self.fresh = False
        """Audio came since this was last set to False."""
        self.end = 0
        """Behind the last sample that came."""
        self.written = 0
        """Behind the last sample that was given to be written."""
        self._source = source
        self._rate = sample_rate
        self._transcoder = Transcoder(source, AudioFormat("pcm16", sample_rate), live=False)
        # Positions are often rounded to a millisecond, which must not become a click.
        self._slack = sample_rate * SLACK_MS // 1000
        self._parts: list[bytes] = []
        self._next = -1
        """Where the next piece of the run begins; -1: no run."""
        self._came = 0
        """Samples of the run that came, at the source's rate."""
        self._start = 0
        """Where the run began."""
        self._decoded = 0
        """Behind the last decoded sample of the run."""
        self._waiting: list[tuple[int, Samples]] = []

    def add(self, position: int, payload: bytes, limit: int) -> bool:
        """Take a piece; False when it does not begin between 0 and `limit` ."""
        if not 0 <= position < limit:
            return False
        if self._next < 0 or abs(position - self._next) > self._slack:
            self.settle()
            self._start = self._decoded = position
            self._came = 0
        self._parts.append(payload)
        self._came += len(payload) // self._source.sample_bytes
        self._next = self._start + self._came * self._rate // self._source.sample_rate
        self.end = max(self.end, self._next)
        self.fresh = True
        return True

    def gather(self) -> None:
        """Decode what came; a resampler may hold the last milliseconds back."""
        parts = self._parts
        for at in range(0, len(parts), TOGETHER):
            self._keep(self._transcoder.feed(b"".join(parts[at : at + TOGETHER])))
        parts.clear()

    def settle(self) -> None:
        """End the run: decode what came and what a resampler holds back."""
        self.gather()
        if self._next >= 0:
            self._keep(self._transcoder.flush())
            self._next = -1

    def _keep(self, pcm: bytes) -> None:
        samples = np.frombuffer(pcm[: len(pcm) & ~1], dtype=np.int16)
        if len(samples):
            self._waiting.append((self._decoded, samples))
            self._decoded += len(samples)

    def cut(self, position: int) -> None:
        """Forget what waits at or behind `position`."""
        self._waiting = [
            (start, samples[: position - start])
            for start, samples in self._waiting
            if start < position
        ]
        self.end = min(self.end, max(position, self.written))

    def take_before(self, end: int) -> Iterator[tuple[int, Samples]]:
        """Remove and return what lies before `end`, in the order it came."""
        rest: list[tuple[int, Samples]] = []
        for start, samples in self._waiting:
            size = end - start
            if size <= 0:
                rest.append((start, samples))
                continue
            if size < len(samples):
                rest.append((end, samples[size:]))
                samples = samples[:size]  # noqa: PLW2901
            self.written = max(self.written, start + len(samples))
            yield start, samples
        self._waiting = rest
