"""What is not speech, synthesized: each function is a seeded recipe, none is a recording.

They imitate the envelope and the spectrum of the thing they are named after (struck, filtered
noise; puffs of breath; harmonic tones), and are no substitute for recordings of it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from bench.turns.sound import RATE, Sound, at_level, fade, place, samples

Rng = np.random.Generator


def shaped(
    rng: Rng, count: int, gain: Callable[[NDArray[np.float64]], NDArray[np.float64]]
) -> Sound:
    """Noise with a spectrum: `gain` of frequency in hertz."""
    spectrum = np.fft.rfft(rng.standard_normal(count)) * gain(
        np.asarray(np.fft.rfftfreq(count, 1 / RATE), np.float64)
    )
    out = np.fft.irfft(spectrum, count)
    return np.asarray(out / max(1e-9, float(np.abs(out).max())), np.float32)


def _band(low: float, high: float, slope: float = 0.0) -> Callable[..., NDArray[np.float64]]:
    def gain(hz: NDArray[np.float64]) -> NDArray[np.float64]:
        inside = 1 / (1 + (low / np.maximum(hz, 1)) ** 4) / (1 + (hz / high) ** 4)
        return np.asarray(inside * np.maximum(hz, 20) ** slope)

    return gain


def _decay(count: int, attack_ms: float, decay_ms: float) -> NDArray[np.float64]:
    t = np.arange(count) * 1000 / RATE
    return np.asarray((1 - np.exp(-t / attack_ms)) * np.exp(-t / decay_ms))


def _burst(rng: Rng, ms: int, attack: float, decay: float, low: float, high: float) -> Sound:
    count = samples(ms)
    noise = shaped(rng, count, _band(low, high))
    return np.asarray(noise * _decay(count, attack, decay), np.float32)


def cough(rng: Rng) -> Sound:
    """One to three coughs: an explosion, a noisy middle, now and then a voiced end."""
    parts, at = [], 0
    for _ in range(int(rng.integers(1, 4))):
        explosion = _burst(rng, 350, 2, float(rng.uniform(40, 80)), 300, 4000)
        middle = _burst(rng, 350, 30, float(rng.uniform(60, 120)), 400, 1800)
        count = len(middle)
        pitch = rng.uniform(110, 220) * np.linspace(1.1, 0.8, count)
        voiced = _voiced(pitch, _OPEN) * _decay(count, 60, 60)
        share = rng.choice([0.0, 0.4])
        parts.append((at, (explosion + 0.6 * middle + share * voiced).astype(np.float32)))
        at += samples(int(rng.integers(280, 520)))
    return place(parts)


def slam(rng: Rng) -> Sound:
    """A door: a low thud, the latch, a short room."""
    thud = _burst(rng, 500, 1, float(rng.uniform(50, 110)), 40, 350)
    latch = _burst(rng, 200, 0.5, 15, 1000, 5000)
    room = _burst(rng, 600, 5, 150, 100, 1500)
    return place([(0, thud), (samples(int(rng.integers(10, 40))), 0.5 * latch), (160, 0.15 * room)])


def clap(rng: Rng) -> Sound:
    """Three to six claps."""
    parts, at = [], 0
    for _ in range(int(rng.integers(3, 7))):
        parts.append((at, _burst(rng, 150, 0.5, float(rng.uniform(8, 20)), 700, 3500)))
        at += samples(int(rng.integers(180, 320)))
    return place(parts)


def keyboard(rng: Rng) -> Sound:
    """Two to three seconds of typing."""
    parts, at = [], 0
    while at < samples(2500):
        loud = float(rng.uniform(0.4, 1.0))
        parts.append((at, loud * _burst(rng, 60, 0.3, 6, 1500, 6000)))
        release = at + samples(int(rng.integers(60, 110)))
        parts.append((release, 0.4 * loud * _burst(rng, 40, 0.3, 4, 2000, 6000)))
        at += samples(int(rng.integers(90, 260)))
    return place(parts)


def breath(rng: Rng) -> Sound:
    """In and out, into the microphone."""
    parts, at = [], 0
    for _ in range(2):
        count = samples(int(rng.integers(500, 900)))
        puff = shaped(rng, count, _band(250, 2500, -0.3)) * np.hanning(count)
        parts.append((at, puff.astype(np.float32)))
        at += count + samples(int(rng.integers(200, 500)))
    return place(parts)


def tap(rng: Rng) -> Sound:
    """A knock on the microphone or the table, two or three times."""
    parts, at = [], 0
    for _ in range(int(rng.integers(2, 4))):
        parts.append((at, _burst(rng, 120, 0.3, float(rng.uniform(10, 25)), 80, 900)))
        at += samples(int(rng.integers(150, 350)))
    return place(parts)


_ROWS, _COLUMNS = (697, 770, 852, 941), (1209, 1336, 1477)


def dtmf(rng: Rng) -> Sound:
    """Four keys in the band (ITU-T Q.23)."""
    parts, at = [], 0
    t = np.arange(samples(120)) / RATE
    for _ in range(4):
        low, high = rng.choice(_ROWS), rng.choice(_COLUMNS)
        tone = np.sin(2 * np.pi * low * t) + np.sin(2 * np.pi * high * t)
        parts.append((at, fade((0.4 * tone).astype(np.float32))))
        at += samples(260)
    return place(parts)


_CHORDS = ((0, 4, 7), (5, 9, 12), (7, 11, 14), (-3, 0, 4))


def music(rng: Rng) -> Sound:
    """Four seconds of hold music: plucked chords, a melody and a beat."""
    parts: list[tuple[int, Sound]] = []
    beat = samples(int(rng.integers(360, 560)))
    root = float(rng.uniform(180, 260))
    for step in range(samples(4000) // beat):
        chord = _CHORDS[step // 2 % 4]
        parts += [(step * beat, 0.25 * _pluck(root * 2 ** (note / 12), beat * 2)) for note in chord]
        melody = chord[int(rng.integers(0, 3))] + 12
        parts.append((step * beat, 0.35 * _pluck(root * 2 ** (melody / 12), beat)))
        parts.append((step * beat, 0.2 * _burst(rng, 100, 0.5, 20, 2000, 7000)))
    return place(parts)


def _pluck(hz: float, count: int) -> Sound:
    t = np.arange(count) / RATE
    tone = sum(np.sin(2 * np.pi * hz * k * t) * np.exp(-t * 2.5 * k) / k for k in range(1, 7))
    return fade(np.asarray(tone * 0.4, np.float32))


def chirp(rng: Rng) -> Sound:
    """Another telephone rings nearby."""
    t = np.arange(samples(1200)) / RATE
    sweep = rng.uniform(700, 1000) + 250 * np.sign(np.sin(2 * np.pi * 18 * t))
    return fade(np.asarray(0.5 * np.sin(2 * np.pi * np.cumsum(sweep) / RATE), np.float32), 20)


Formants = tuple[tuple[float, float, float], ...]
"""Frequency, width and gain of each resonance of a vocal tract."""
_NASAL: Formants = ((250, 80, 1.0), (1000, 200, 0.12), (2200, 300, 0.05))
_OPEN: Formants = ((550, 120, 1.0), (1300, 160, 0.5), (2500, 220, 0.2))


def _voiced(pitch: NDArray[np.float64], formants: Formants) -> Sound:
    """Harmonics of a pitch (hertz for each sample), shaped by a vocal tract."""
    phase, base = np.cumsum(pitch) / RATE, float(pitch.mean())
    out = np.zeros(len(pitch))
    for k in range(1, int(3800 / base)):
        gain = sum(g / (1 + ((base * k - at) / width) ** 2) for at, width, g in formants)
        out += gain * np.sin(2 * np.pi * k * phase)
    return np.asarray(out * np.hanning(len(pitch)) ** 0.5, np.float32)


def hum(rng: Rng) -> Sound:
    """ "Mhm": a nasal murmur, falling, then rising; a backchannel, not a noise."""
    base, parts, at = float(rng.uniform(95, 220)), [], 0
    for first, last in ((1.0, 0.9), (0.95, 1.3)):
        pitch = base * np.linspace(first, last, samples(int(rng.integers(150, 240))))
        parts.append((at, fade(_voiced(pitch, _NASAL), 15)))
        at += len(pitch) + samples(int(rng.integers(20, 70)))
    return at_level(place(parts), -20)


def throat(rng: Rng) -> Sound:
    """Clearing one's throat: two rough grunts, half voice and half noise."""
    base, parts, at = float(rng.uniform(90, 200)), [], 0
    for _ in range(2):
        count = samples(int(rng.integers(140, 260)))
        rough = np.repeat(rng.uniform(0.75, 1.25, count // 100 + 1), 100)[:count]
        noise = shaped(rng, count, _band(500, 2500)) * np.hanning(count)
        grunt = 0.6 * _voiced(base * rough, _OPEN) + 0.8 * noise
        parts.append((at, fade(np.asarray(grunt, np.float32))))
        at += count + samples(int(rng.integers(60, 160)))
    return at_level(place(parts), -20)


EVENTS: dict[str, Callable[[Rng], Sound]] = {
    "cough": cough,
    "throat": throat,
    "slam": slam,
    "clap": clap,
    "keyboard": keyboard,
    "breath": breath,
    "tap": tap,
    "dtmf": dtmf,
    "music": music,
    "ring": chirp,
}

LINES: dict[str, Callable[[Rng, int], Sound]] = {
    "white": lambda rng, count: shaped(rng, count, _band(60, 7500)),
    "pink": lambda rng, count: shaped(rng, count, _band(40, 7500, -0.5)),
    "car": lambda rng, count: shaped(rng, count, _band(30, 300, -0.5)),
}


def line(name: str, rng: Rng, ms: int, db: float) -> Sound:
    """Steady noise at a level in dBFS."""
    return at_level(LINES[name](rng, samples(ms)), db)


def babble(voices: list[Sound], rng: Rng, ms: int, db: float) -> Sound:
    """Several people at once, none of them to us."""
    count = samples(ms)
    parts = []
    for voice in voices:
        looped = np.tile(voice, count // max(1, len(voice)) + 2)
        at = int(rng.integers(0, len(voice)))
        parts.append((0, 0.3 * looped[at : at + count]))
    return at_level(place(parts, count), db)


FLOOR_GAIN = 10 ** (-66 / 20)
"""Root mean square of the hiss that every line has."""
