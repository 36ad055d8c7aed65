"""Keeps silence away from the voice-activity model: most of a call is silence."""

from __future__ import annotations

from math import log10

from flowcat_server.core.audio import PCM_BYTES, level

SILENCE_DB = -96.0
_FLOOR_LOW, _FLOOR_START = -75.0, -60.0
_RISE_DB = 0.032
"""Per chunk: a decibel a second, so that a long sentence does not become the floor."""
_FALL = 0.3
"""Share of the way down per chunk."""


def level_db(pcm: bytes) -> float:
    """Level of PCM16 in dBFS."""
    power = level(pcm, PCM_BYTES)
    return 20 * log10(power / 32768) if power else SILENCE_DB


class Gate:
    """Open while a chunk stands out of the line's own noise, and a little longer."""

    __slots__ = ("_above", "_floor", "_hangover", "_left", "_minimum")

    def __init__(self, minimum: float, above: float, hangover: int) -> None:
        """`minimum` in dBFS, `above` in dB over the noise, `hangover` in chunks."""
        self._minimum, self._above, self._hangover = minimum, above, hangover
        self._floor = _FLOOR_START
        self._left = 0

    @property
    def floor(self) -> float:
        """What is taken for the line's noise, dBFS."""
        return self._floor

    def feed(self, pcm: bytes) -> bool:
        """Whether this chunk is worth a look."""
        loudness = level_db(pcm)
        if loudness > self._minimum and loudness > self._floor + self._above:
            self._left = self._hangover + 1
        elif self._left:
            self._left -= 1
        if loudness < self._floor:
            self._floor = max(_FLOOR_LOW, self._floor + _FALL * (loudness - self._floor))
        else:
            self._floor += _RISE_DB
        return self._left > 0
