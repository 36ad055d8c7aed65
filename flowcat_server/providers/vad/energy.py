"""Voice activity from loudness alone: needs no package, for quiet lines.

The line's noise is the quietest half second of the last two (minimum statistics: Martin, IEEE
Trans. Speech and Audio Processing 9(5), 2001). What stands `above_noise` decibels over it is
voice with probability one half; twice as much is certain. Any loud sound is voice to it: keys,
coughs, music. `silero` knows better.
"""

from __future__ import annotations

from collections.abc import Callable
from math import exp

from pydantic import Field

from flowcat_server.core.audio import PCM_8K
from flowcat_server.providers.registry import Options, Provider, Settings
from flowcat_server.providers.vad._chunks import CHUNK_MS, Chunker
from flowcat_server.providers.vad._gate import level_db

_WINDOW = 500 // CHUNK_MS
"""Chunks of one minimum."""
_WINDOWS = 4
_SMOOTHING = 0.6
"""Share of the new chunk in the level that is judged: a click of one chunk is damped."""
_FLOOR_LOW, _FLOOR_HIGH = -70.0, -25.0
_BIAS_DB = 2.0
"""The minimum of noise lies below its mean."""
_STEEPNESS = 0.6
"""Of the probability, per decibel."""


class EnergyOptions(Options):
    """When a sound is taken for a voice."""

    above_noise: float = Field(9.0, ge=3, le=40)
    """dB over the line's noise at which the probability is 0.5."""
    minimum: float = Field(-45.0, ge=-80, le=0)
    """dBFS; what is quieter is never a voice."""


class Loudness:
    """Turns chunks into probabilities."""

    __slots__ = ("_count", "_minima", "_minimum", "_options", "_smooth")

    def __init__(self, options: EnergyOptions) -> None:
        self._options = options
        # The first words must not be taken for noise, so the line begins as a quiet one.
        self._minima = [_FLOOR_LOW] * _WINDOWS
        self._minimum = 0.0
        self._smooth = _FLOOR_LOW
        self._count = 0

    @property
    def floor(self) -> float:
        """What is taken for the line's noise, dBFS."""
        return min(_FLOOR_HIGH, max(_FLOOR_LOW, min(*self._minima, self._minimum) + _BIAS_DB))

    def feed(self, chunk: bytes) -> float:
        """Probability that `chunk` holds a voice."""
        level = max(level_db(chunk), _FLOOR_LOW)
        self._smooth += _SMOOTHING * (level - self._smooth)
        self._minimum = min(self._minimum, self._smooth)
        self._count += 1
        if self._count == _WINDOW:
            self._minima = [*self._minima[1:], self._minimum]
            self._minimum, self._count = 0.0, 0
        if self._smooth < self._options.minimum:
            return 0.0
        over = self._smooth - self.floor - self._options.above_noise
        return 1 / (1 + exp(-_STEEPNESS * max(-50.0, min(50.0, over))))


class EnergyStream:
    """The voice activity of one call."""

    chunk_ms = CHUNK_MS

    def __init__(self, on_chunk: Callable[[int, float], None], options: EnergyOptions) -> None:
        self._on_chunk = on_chunk
        self._chunker = Chunker()
        self._loudness = Loudness(options)
        self._closed = False

    def feed(self, pcm: bytes, at_ms: int) -> None:
        """Take sound that ends at `at_ms`; calls `on_chunk` before it returns."""
        for chunk, end_ms in self._chunker.feed(pcm, at_ms):
            if self._closed:
                return
            self._on_chunk(end_ms, self._loudness.feed(chunk))

    def close(self) -> None:
        """No more calls back."""
        self._closed = True


class Energy:
    """Nothing is shared between its streams."""

    format = PCM_8K

    def __init__(self, options: EnergyOptions) -> None:
        self._options = options

    async def start(self) -> None:
        """Nothing to load."""

    def open(self, on_chunk: Callable[[int, float], None]) -> EnergyStream:
        """Start a stream."""
        return EnergyStream(on_chunk, self._options)

    async def close(self) -> None:
        """Nothing to stop."""


def create(settings: Settings) -> Energy:
    """Make the provider."""
    return Energy(settings.options)


PROVIDER = Provider(
    create=create,
    options=EnergyOptions,
    local=True,
    status="built-in",
    title="Loudness over the line's own noise; no package needed",
)
