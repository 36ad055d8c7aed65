from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowcat_server.providers.vad._chunks import CHUNK, CHUNK_MS, Chunker
from flowcat_server.providers.vad._gate import Gate, level_db

RNG = np.random.default_rng(7)


def noise(level: float, chunks: int = 1) -> list[bytes]:
    """Chunks of white noise at `level` dBFS."""
    amplitude = 32768 * 10 ** (level / 20)
    samples = RNG.normal(0, amplitude, (chunks, CHUNK // 2))
    return [bytes(row.astype("<i2").tobytes()) for row in samples]


def gate(hangover: int = 2) -> Gate:
    return Gate(minimum=-62, above=4, hangover=hangover)


def test_level_of_full_scale_and_of_silence() -> None:
    assert level_db(b"\x00\x80" * 256) == pytest.approx(0)
    assert level_db(bytes(CHUNK)) == -96


def test_digital_silence_keeps_it_closed() -> None:
    closed = gate()
    assert not any(closed.feed(bytes(CHUNK)) for _ in range(100))


def test_speech_opens_it_at_once_and_it_closes_after_its_hangover() -> None:
    opened = gate(hangover=2)
    assert opened.feed(noise(-30)[0])
    assert [opened.feed(bytes(CHUNK)) for _ in range(4)] == [True, True, False, False]


def test_what_is_near_the_lines_own_noise_does_not_open_it() -> None:
    used = gate(hangover=0)
    for chunk in noise(-45, 1000):
        used.feed(chunk)
    assert used.floor == pytest.approx(-45, abs=2)
    assert sum(used.feed(chunk) for chunk in noise(-45, 200)) < 10
    assert used.feed(noise(-35)[0])


def test_a_long_sentence_does_not_become_the_floor() -> None:
    used = gate(hangover=0)
    for chunk in noise(-55, 600):
        used.feed(chunk)
    assert all(used.feed(chunk) for chunk in noise(-25, 6000 // CHUNK_MS))


@given(st.lists(st.integers(0, 700), max_size=30))
def test_chunks_are_exact_however_the_sound_is_cut(sizes: list[int]) -> None:
    """Every sample comes out once, in order, and every chunk's time is its own."""
    sound = np.arange(sum(sizes), dtype="<i2").tobytes()
    chunker, out, at = Chunker(), [], 0
    for size in sizes:
        piece = sound[2 * at : 2 * (at + size)]
        at += size
        # The time of the piece's end in eighths of a millisecond, floored as a transport does.
        for chunk, end_ms in chunker.feed(piece, at // 8):
            out.append(chunk)
            assert abs(end_ms - len(out) * CHUNK_MS) <= 1
    whole = len(sound) // CHUNK * CHUNK
    assert b"".join(out) == sound[:whole]


def test_times_are_exact_for_packets_of_20_ms() -> None:
    chunker = Chunker()
    ends = [end for i in range(1, 81) for _, end in chunker.feed(bytes(320), 20 * i)]
    assert ends == list(range(32, 1601, 32))
