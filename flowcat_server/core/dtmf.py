"""The keys of a telephone as sound: made, and heard (ITU-T Q.23 and Q.24).

A key is two tones at once, one of four low and one of four high ones. To be told from speech, both
have to stand out in their group, to be about as loud as each other, to hold most of the sound's
energy, and to have no overtones, and all that for as long as a person presses a key.
"""

from __future__ import annotations

import re
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from flowcat_server.core.audio import PCM_8K, AudioFormat, Transcoder, encode, rms

LOW_HZ = (697, 770, 852, 941)
HIGH_HZ = (1209, 1336, 1477, 1633)
LAYOUT = ("123A", "456B", "789C", "*0#D")
"""ITU-T Q.23: rows by their low tone, columns by their high one."""
WAIT = "w"
"""Not a key: half a second of silence, as most carriers write it."""
MOST_KEYS = 32
"""Keys and pauses that are sent at once."""
_KEYS = re.compile(rf"[0-9*#A-Da-dwW]{{1,{MOST_KEYS}}}")

# --- sending --------------------------------------------------------------------------------------

TONE_MS = 100
GAP_MS = 100
WAIT_MS = 500
LOW_DBM0 = -9.0
HIGH_DBM0 = -7.0
"""Levels of the two tones; the high ones lose more on their way."""
FULL_SCALE_DBM0 = 3.17
"""What a sine at full scale is in G.711."""
RAMP_MS = 3
"""A tone begins and ends softly: a click has all frequencies."""


class KeyPresses(str):
    """What a transcript shows of keys that are sent; a text of the model's is never one."""

    __slots__ = ("audible", "keys")
    keys: str
    audible: bool
    """They are sent as sound."""

    def __new__(cls, keys: str, *, audible: bool = True) -> KeyPresses:
        """The transcript's text of keys that `parse_keys` has read."""
        presses = super().__new__(cls, f"[keys: {' '.join(keys)}]")
        presses.keys, presses.audible = keys, audible
        return presses


def parse_keys(text: str) -> str:
    """Keys as they are sent, without the spaces and dashes that people put between them.

    Raises:
        ValueError: There are none, too many, or some that no telephone has.
    """
    keys = re.sub(r"[\s.,-]", "", text)
    if not _KEYS.fullmatch(keys):
        raise ValueError(
            f"keys are 1 to {MOST_KEYS} of 0-9, *, #, A-D, and w for a pause of half a second"
        )
    return keys.upper().replace("W", WAIT)


def duration_ms(keys: str) -> int:
    """How long keys take."""
    return sum(WAIT_MS if key == WAIT else TONE_MS + GAP_MS for key in keys)


def tones(keys: str, audio: AudioFormat) -> bytes:
    """Keys as sound, with the pause behind each."""
    parts = [
        audio.silence(WAIT_MS) if key == WAIT else _tone(key, audio) + audio.silence(GAP_MS)
        for key in keys
    ]
    return b"".join(parts)


@lru_cache(maxsize=64)
def _tone(key: str, audio: AudioFormat) -> bytes:
    row = next(number for number, keys in enumerate(LAYOUT) if key in keys)
    low, high = LOW_HZ[row], HIGH_HZ[LAYOUT[row].index(key)]
    seconds = np.arange(audio.sample_rate * TONE_MS // 1000) / audio.sample_rate
    wave = sum(
        32767 * 10 ** ((level - FULL_SCALE_DBM0) / 20) * np.sin(2 * np.pi * hertz * seconds)
        for hertz, level in ((low, LOW_DBM0), (high, HIGH_DBM0))
    )
    soft = np.minimum(1, np.minimum(seconds, seconds[::-1]) * 1000 / RAMP_MS)
    return encode((wave * soft).astype("<i2").tobytes(), audio.encoding)


# --- hearing --------------------------------------------------------------------------------------

RATE = 8000
WINDOW = 104
"""Samples that are looked at together: 13 ms, so that a tone may be 1.8 % off and two neighbours
are still told apart."""
HOP = 52
PRESSED = 4
"""Windows in a row that make a key: of a tone of 40 ms, which counts, as many are certain; of one
of 23 ms, which does not, there is one."""
RELEASED = 5
"""Windows without it that end a key: a dropout of 10 ms does not, a pause of 40 ms does."""
LEAST_RMS = 250
"""What is quieter is not looked at; about -39 dBm0 for each tone."""
LEAST_SHARE = 0.5
"""Of a window's energy that is in the two tones: of tones that are 1.8 % off it is 0.6 or more,
with noise 10 dB below them."""
STANDS_OUT = 4.0
"""So much stronger than any other of its group is each of the tones (6 dB)."""
LEAST_MEAN_SHARE = 0.57
"""The same over all windows of a key."""
MOST_LOW = 7.0
"""The low tone is at most 8.5 dB louder, ..."""
MOST_HIGH = 6.3
"""... and the high one at most 8 dB; Q.24 has 8 and 4 where tones are without noise."""
LOOSE = 2.0
"""In a single window noise may double such a ratio; over all windows of a key it holds."""
MOST_OVERTONE = 0.1
"""So weak are the overtones (10 dB): of the low tone the second, since the first lies among the
high tones, of the high one the first."""


def _bank() -> NDArray[np.float64]:
    """Columns that make of a window the cosine and sine parts at each frequency (Goertzel's sums).

    The tones, then their overtones.
    """
    overtones = [3 * hertz for hertz in LOW_HZ] + [2 * hertz for hertz in HIGH_HZ]
    hertz = np.array([*LOW_HZ, *HIGH_HZ, *overtones])
    angles = 2 * np.pi * np.outer(np.arange(WINDOW), hertz) / RATE
    return np.concatenate((np.cos(angles), np.sin(angles)), axis=1)


_BANK = _bank()
_TONES = len(LOW_HZ) + len(HIGH_HZ)


class KeyListener:
    """Hears the keys in one stream of sound. Synchronous, and cheap while nothing is loud."""

    __slots__ = (
        "_energy",
        "_high",
        "_low",
        "_maybe",
        "_misses",
        "_pressed",
        "_rest",
        "_run",
        "_transcoder",
    )

    def __init__(self, audio: AudioFormat) -> None:
        """Begin a stream in a format."""
        self._transcoder = None if audio == PCM_8K else Transcoder(audio, PCM_8K)
        self._rest = b""
        """PCM16 that has not been looked at to its end."""
        self._pressed = ""
        """The key that was told last, until it is let go."""
        self._misses = 0
        """Windows in a row without it."""
        self._maybe = ""
        """What the last windows held, `_run` of them, and the energy of them and of their tones."""
        self._run = 0
        self._low = self._high = self._energy = 0.0

    def feed(self, payload: bytes) -> str:
        """The next piece of the stream, any length; the keys that were heard in it."""
        pcm = payload if self._transcoder is None else self._transcoder.feed(payload)
        if not self._pressed and not self._maybe and rms(pcm) < LEAST_RMS:
            self._rest = pcm[-2 * WINDOW :]  # a key may begin within what is quiet as a whole
            return ""
        pcm = self._rest + pcm
        count = (len(pcm) // 2 - WINDOW) // HOP + 1
        if count < 1:
            self._rest = pcm
            return ""
        self._rest = pcm[2 * HOP * count :]
        samples = np.frombuffer(pcm, dtype="<i2", count=(count - 1) * HOP + WINDOW)
        return self._look(samples.astype(np.float64), count)

    def _look(self, samples: NDArray[np.float64], count: int) -> str:
        windows = np.lib.stride_tricks.sliding_window_view(samples, WINDOW)[::HOP]
        energy = np.einsum("ij,ij->i", windows, windows)
        parts = windows @ _BANK
        bins = _BANK.shape[1] // 2
        # A sine that fills the window gives all of its energy.
        power = (parts[:, :bins] ** 2 + parts[:, bins:] ** 2) * (2 / WINDOW)
        heard = ""
        for number in range(count):
            heard += self._window(power[number].tolist(), float(energy[number]))
        return heard

    def _window(self, power: list[float], energy: float) -> str:
        key, low, high = _key(power, energy)
        if self._pressed:
            self._misses = 0 if key == self._pressed else self._misses + 1
            if self._misses >= RELEASED:
                self._pressed = ""
        if key != self._maybe:
            self._maybe, self._run = key, 0
            self._low = self._high = self._energy = 0.0
        self._run += 1
        self._low += low
        self._high += high
        self._energy += energy
        if self._pressed or not key or self._run < PRESSED:
            return ""
        if (
            self._low > MOST_LOW * self._high
            or self._high > MOST_HIGH * self._low
            or self._low + self._high < LEAST_MEAN_SHARE * self._energy
        ):
            return ""
        self._pressed, self._misses = key, 0
        return key


def _key(power: list[float], energy: float) -> tuple[str, float, float]:
    """The key that a window may hold, and the energy of its tones; an empty one: none."""
    if energy < LEAST_RMS * LEAST_RMS * WINDOW:
        return _NOTHING
    lows, highs = power[: len(LOW_HZ)], power[len(LOW_HZ) : _TONES]
    low, high = max(lows), max(highs)
    row, column = lows.index(low), highs.index(high)
    if (
        low + high < LEAST_SHARE * energy
        or low > LOOSE * MOST_LOW * high
        or high > LOOSE * MOST_HIGH * low
        or _second(lows, row) * STANDS_OUT > low
        or _second(highs, column) * STANDS_OUT > high
        or power[_TONES + row] > MOST_OVERTONE * low
        or power[_TONES + len(LOW_HZ) + column] > MOST_OVERTONE * high
    ):
        return _NOTHING
    return LAYOUT[row][column], low, high


_NOTHING = ("", 0.0, 0.0)


def _second(group: list[float], first: int) -> float:
    return max(value for number, value in enumerate(group) if number != first)
