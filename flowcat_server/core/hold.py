"""What a caller hears who waits: a sound that is repeated until there is something to say.

It is no speech: it stands in no transcript, cannot be interrupted, and makes way at once. It is
sent like speech all the same, so that a far end which buffers is sent it ahead.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from flowcat_server.core.audio import AudioFormat, Transcoder, encode

MOST_MS = 60_000
"""Of a sound; what is longer is repeated from there."""
PERIOD_MS = 6000
NOTES_HZ = (392.0, 493.88)
"""Two soft notes at the beginning of each period (G4, B4), then silence: a sign that the line is
open, and nothing that anybody owns."""
NOTE_MS = 260
LEVEL = 0.045
"""Of full scale, about -24 dBm0: speech is much louder."""


@lru_cache(maxsize=16)
def waiting_tone(audio: AudioFormat) -> bytes:
    """The built-in sound, one period of it."""
    rate = audio.sample_rate
    wave = np.zeros(rate * PERIOD_MS // 1000)
    size = rate * NOTE_MS // 1000
    seconds = np.arange(size) / rate
    shape = np.minimum(1, seconds / 0.02) * np.exp(-seconds / 0.12)
    for number, hertz in enumerate(NOTES_HZ):
        start = number * size
        wave[start : start + size] = 32767 * LEVEL * shape * np.sin(2 * np.pi * hertz * seconds)
    return encode(wave.astype("<i2").tobytes(), audio.encoding)


def sound_of(pcm: bytes, source: AudioFormat, audio: AudioFormat) -> bytes:
    """A sound in a call's format, cut to whole periods of at most `MOST_MS`."""
    transcoder = Transcoder(source, audio, live=False)
    sound = transcoder.feed(pcm[: source.bytes_for(MOST_MS)]) + transcoder.flush()
    return sound[: len(sound) - len(sound) % audio.sample_bytes]


class HoldSound:
    """A sound that is repeated, and how far ahead of the caller's ear it has been sent. Pure."""

    __slots__ = ("_audio", "_ends_ms", "_next", "_sound")

    def __init__(self, sound: bytes, audio: AudioFormat) -> None:
        """Begin with the sound's beginning.

        Args:
            sound: One period; not empty.
            audio: Its format.
        """
        self._sound = sound
        self._audio = audio
        self._next = 0
        self._ends_ms = 0

    @property
    def ends_ms(self) -> int:
        """When the last sample that was sent so far ends, were it heard as it is sent."""
        return self._ends_ms

    def queued(self) -> int:
        """Bytes that could be sent at once."""
        return len(self._sound)

    def lead_ms(self, now_ms: int) -> int:
        """How far what was sent reaches beyond now."""
        return max(0, self._ends_ms - now_ms)

    def pull(self, now_ms: int, size: int) -> bytes:
        """The next `size` bytes, which count as sent."""
        taken = b""
        while len(taken) < size:
            piece = self._sound[self._next : self._next + size - len(taken)]
            self._next = (self._next + len(piece)) % len(self._sound)
            taken += piece
        self._ends_ms = max(self._ends_ms, now_ms) + self._audio.duration_ms(size)
        return taken

    def cut(self, now_ms: int) -> bool:
        """Nothing of it is heard from now on; says whether some had been sent ahead."""
        ahead = self._ends_ms > now_ms
        self._ends_ms = min(self._ends_ms, now_ms)
        return ahead
