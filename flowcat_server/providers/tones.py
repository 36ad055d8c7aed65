"""Audible stand-ins for speech: one tone burst per word, of a length its letters decide.

Deterministic and cheap: bursts are computed once per length and format and kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np

from flowcat_server.core.audio import (
    ALAW_8K,
    MULAW_8K,
    PCM_8K,
    PCM_16K,
    PCM_24K,
    PCM_48K,
    AudioFormat,
    encode,
)
from flowcat_server.core.interfaces import Speech, Word

FORMATS: tuple[AudioFormat, ...] = (MULAW_8K, PCM_16K, PCM_8K, PCM_24K, PCM_48K, ALAW_8K)
LONGEST_WORD_MS = 3000
AMPLITUDE = 8000
RAMP_MS = 4
"""Bursts begin and end softly: a click would be mistaken for a fault of the audio path."""


@lru_cache(maxsize=512)
def burst(audio: AudioFormat, tone_hz: int, ms: int) -> bytes:
    """`ms` milliseconds of a tone."""
    count = audio.bytes_for(ms) // audio.sample_bytes
    samples = np.sin(np.arange(count) * (2 * np.pi * tone_hz / audio.sample_rate)) * AMPLITUDE
    ramp = min(audio.sample_rate * RAMP_MS // 1000, count // 2)
    if ramp:
        slope = np.linspace(0.0, 1.0, ramp, endpoint=False)
        samples[:ramp] *= slope
        samples[-ramp:] *= slope[::-1]
    return encode(samples.astype("<i2").tobytes(), audio.encoding)


def speak(text: str, audio: AudioFormat, *, ms_per_char: int, tone_hz: int) -> Iterator[Speech]:
    """One `Speech` per word: a burst as long as its letters, then a gap as long as one letter."""
    at_ms = 0
    gap = audio.silence(ms_per_char)
    for word in text.split():
        ms = min(len(word) * ms_per_char, LONGEST_WORD_MS)
        yield Speech(burst(audio, tone_hz, ms) + gap, (Word(word, at_ms, at_ms + ms),))
        at_ms += ms + ms_per_char
