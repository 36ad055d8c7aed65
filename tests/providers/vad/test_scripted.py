from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from flowcat_server.core.audio import PCM_8K
from flowcat_server.providers import tones
from flowcat_server.providers.vad.scripted import PROVIDER
from tests.fakes.settings import settings


def judge(pcm: bytes, cuts: list[int], **options):
    """Feed `pcm` in pieces of the given sizes; each piece carries the time of its end."""
    vad = PROVIDER.create(settings(PROVIDER, **options))
    seen: list[tuple[int, float]] = []
    stream = vad.open(lambda at_ms, probability: seen.append((at_ms, probability)))
    done = 0
    for cut in [*cuts, len(pcm)]:
        piece = pcm[done : done + cut]
        done += len(piece)
        if piece:
            stream.feed(piece, PCM_8K.duration_ms(done))
    stream.close()
    return seen


def test_a_tone_is_voice_and_silence_is_not():
    pcm = PCM_8K.silence(96) + tones.burst(PCM_8K, 440, 96) + PCM_8K.silence(64)
    assert judge(pcm, [320] * 20) == [(32 * (n + 1), 1.0 if 3 <= n < 6 else 0.0) for n in range(8)]


def test_the_threshold_decides():
    pcm = tones.burst(PCM_8K, 440, 32)
    assert judge(pcm, [], threshold=4000) == [(32, 1.0)]
    assert judge(pcm, [], threshold=9000) == [(32, 0.0)]


@given(st.lists(st.integers(1, 200).map(lambda n: n * 16), max_size=30))
def test_cuts_change_nothing(cuts):
    pcm = PCM_8K.silence(50) + tones.burst(PCM_8K, 300, 200) + PCM_8K.silence(70)
    assert judge(pcm, cuts) == judge(pcm, [])


def test_a_closed_stream_says_nothing_more():
    seen = []
    stream = PROVIDER.create(settings(PROVIDER)).open(lambda *chunk: seen.append(chunk))
    stream.feed(PCM_8K.silence(20), 20)
    stream.close()
    stream.feed(PCM_8K.silence(20), 40)
    assert seen == []
