"""Changing rates piece by piece: nothing is held back, tones stay tones."""

from __future__ import annotations

import numpy as np
import pytest

from flowcat_server.core.audio import AudioFormat, Transcoder
from flowcat_server.core.rates import Downsampler, RatioResampler, Upsampler

RATES = [(8_000, 16_000), (8_000, 24_000), (16_000, 24_000), (24_000, 16_000), (48_000, 16_000)]


def tone(hertz: float, rate: int, ms: int, level: int = 10_000) -> bytes:
    at = np.arange(rate * ms // 1000) / rate
    return (level * np.sin(2 * np.pi * hertz * at)).astype("<i2").tobytes()


def level_at(pcm: bytes, rate: int, hertz: float) -> float:
    """Amplitude of one frequency in the settled middle."""
    samples = np.frombuffer(pcm, "<i2").astype(float)[rate // 10 : -rate // 10]
    at = np.arange(len(samples)) / rate
    return float(2 * abs(np.mean(samples * np.exp(-2j * np.pi * hertz * at))))


def convert(pcm: bytes, source: int, target: int, piece_ms: int = 20) -> tuple[bytes, set[int]]:
    transcoder = Transcoder(AudioFormat("pcm16", source), AudioFormat("pcm16", target))
    size = source * piece_ms // 1000 * 2
    pieces = [transcoder.feed(pcm[at : at + size]) for at in range(0, len(pcm), size)]
    return b"".join(pieces), {len(piece) for piece in pieces}


@pytest.mark.parametrize(("source", "target"), RATES)
def test_twenty_milliseconds_are_twenty_milliseconds(source: int, target: int):
    _, sizes = convert(tone(440, source, 500), source, target)
    assert sizes == {target // 50 * 2}


@pytest.mark.parametrize(("source", "target"), RATES)
@pytest.mark.parametrize("hertz", [200, 1_000, 3_000])
def test_speech_passes_unchanged(source: int, target: int, hertz: int):
    heard, _ = convert(tone(hertz, source, 1_000), source, target)
    assert level_at(heard, target, hertz) == pytest.approx(10_000, rel=0.02)


def test_what_the_lower_rate_cannot_hold_is_removed():
    heard, _ = convert(tone(11_000, 24_000, 1_000), 24_000, 16_000)
    assert level_at(heard, 16_000, 5_000) < 50


def test_no_image_of_a_tone_appears_above_it():
    heard, _ = convert(tone(3_000, 16_000, 1_000), 16_000, 24_000)
    assert level_at(heard, 24_000, 24_000 - 16_000 + 3_000) < 50


def test_pieces_of_any_size_give_the_same_sound():
    pcm = tone(700, 16_000, 200)
    whole = RatioResampler(3, 2).feed(pcm)
    resampler, parts, at = RatioResampler(3, 2), b"", 0
    for size in (2, 6, 10, 634, 4, len(pcm)):
        parts += resampler.feed(pcm[at : at + size])
        at += size
    assert parts == whole


@pytest.mark.parametrize("resampler", [Upsampler(2), Downsampler(2), RatioResampler(3, 2)])
def test_a_flushed_resampler_is_new(resampler: Upsampler | Downsampler | RatioResampler):
    pcm = tone(700, 16_000, 100)
    first = resampler.feed(pcm)
    assert resampler.flush() == b""
    assert resampler.feed(pcm) == first
