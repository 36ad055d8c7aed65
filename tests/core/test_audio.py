"""Formats and streaming conversion."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowcat_server.core.audio import (
    ALAW_8K,
    MULAW_8K,
    PCM_8K,
    PCM_16K,
    PCM_24K,
    PCM_48K,
    AudioFormat,
    Transcoder,
    decode,
    encode,
    rms,
)
from flowcat_server.providers import tones

FORMATS = (MULAW_8K, ALAW_8K, PCM_8K, PCM_16K, PCM_24K, PCM_48K)


@pytest.mark.parametrize("audio", FORMATS, ids=str)
def test_milliseconds_and_bytes_agree(audio: AudioFormat):
    assert audio.duration_ms(audio.bytes_for(1230)) == 1230
    assert len(audio.silence(20)) == audio.bytes_for(20)
    assert rms(decode(audio.silence(20), audio.encoding)) <= 8


@pytest.mark.parametrize("encoding", ["mulaw", "alaw"])
def test_every_g711_byte_survives_a_round_trip(encoding: str):
    for value in range(256):
        byte = bytes([value])
        pcm = decode(byte, encoding)  # type: ignore[arg-type]
        again = decode(encode(pcm, encoding), encoding)  # type: ignore[arg-type]
        assert again == pcm


@pytest.mark.parametrize(("source", "target"), list(itertools.product(FORMATS, FORMATS)), ids=str)
def test_length_and_loudness_survive_conversion(source: AudioFormat, target: AudioFormat):
    tone = tones.burst(source, 440, 1000)
    transcoder = Transcoder(source, target)
    out = b"".join(transcoder.feed(tone[at : at + 333]) for at in range(0, len(tone), 333))
    out += transcoder.flush()
    assert abs(target.duration_ms(len(out)) - 1000) <= 6
    before = rms(decode(tone, source.encoding))
    after = rms(decode(out, target.encoding))
    assert abs(after - before) < 0.06 * before


@given(st.lists(st.integers(1, 9), max_size=60))
def test_samples_cut_in_two_are_put_together(sizes: list[int]):
    data = bytes(range(200)) * 2
    transcoder = Transcoder(PCM_8K, PCM_8K)
    out, at = b"", 0
    for size in sizes:
        piece = transcoder.feed(data[at : at + size])
        at += len(data[at : at + size])
        assert len(piece) % 2 == 0
        out += piece
    assert out == data[: at - at % 2]


def test_the_same_format_is_passed_through_untouched():
    payload = bytes(160)
    assert Transcoder(MULAW_8K, MULAW_8K).feed(payload) is payload
