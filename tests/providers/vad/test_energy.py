from __future__ import annotations

import numpy as np
import pytest

from flowcat_server.providers.vad.energy import PROVIDER, Energy, EnergyOptions
from tests.fakes.settings import settings

RNG = np.random.default_rng(3)


def sound(*parts: tuple[float, int]) -> bytes:
    """Noise: (dBFS, milliseconds) one after the other."""
    return b"".join(
        RNG.normal(0, 32768 * 10 ** (level / 20), ms * 8).astype("<i2").tobytes()
        for level, ms in parts
    )


async def probabilities(pcm: bytes) -> list[tuple[int, float]]:
    vad = PROVIDER.create(settings(PROVIDER))
    assert isinstance(vad, Energy)
    await vad.start()
    heard: list[tuple[int, float]] = []
    stream = vad.open(lambda at_ms, probability: heard.append((at_ms, probability)))
    for begin in range(0, len(pcm), 320):
        piece = pcm[begin : begin + 320]
        stream.feed(piece, (begin + len(piece)) // 16)
    stream.close()
    stream.feed(pcm[:1600], 0)
    await vad.close()
    return heard


async def test_every_chunk_is_reported_with_its_time_and_none_after_close() -> None:
    heard = await probabilities(sound((-60, 1000)))
    assert [at for at, _ in heard] == list(range(32, 1000, 32))


@pytest.mark.parametrize("line", [-75, -60, -50, -42])
async def test_a_voice_over_the_lines_noise_is_heard(line: float) -> None:
    heard = await probabilities(sound((line, 3000), (-22, 600), (line, 1500)))
    onset = next(at for at, p in heard if p > 0.5 and at > 2900)
    assert 3000 <= onset <= 3100
    offset = next(at for at, p in heard if p < 0.5 and at > 3300)
    assert 3600 <= offset <= 3760


async def test_steady_noise_stops_being_a_voice() -> None:
    heard = await probabilities(sound((-70, 1000), (-38, 6000)))
    assert all(p < 0.5 for at, p in heard if at > 4500)


async def test_silence_is_never_a_voice() -> None:
    heard = await probabilities(bytes(32000))
    assert all(p == 0 for _, p in heard)


async def test_the_first_words_are_not_taken_for_noise() -> None:
    heard = await probabilities(sound((-22, 500)))
    assert all(p > 0.5 for _, p in heard[1:])


def test_options_are_bounded() -> None:
    with pytest.raises(ValueError, match="above_noise"):
        EnergyOptions(above_noise=0)
