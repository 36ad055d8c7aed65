from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest

from flowcat_server.core.audio import MULAW_8K, decode, rms
from flowcat_server.errors import ProviderUnavailable
from flowcat_server.providers.tts.scripted import PROVIDER
from tests.fakes.settings import settings


async def speak(text, audio=MULAW_8K, **options):
    tts = PROVIDER.create(settings(PROVIDER, **options))
    async with tts.open(audio) as voice, aclosing(voice.synthesize(text)) as stream:
        return [speech async for speech in stream]


@pytest.mark.parametrize("audio", PROVIDER.create(settings(PROVIDER)).formats, ids=str)
async def test_audio_lasts_as_long_as_its_letters_and_is_heard(audio):
    pieces = await speak("hello to you", audio, ms_per_char=50)
    whole = b"".join(piece.audio for piece in pieces)
    assert audio.duration_ms(len(whole)) == 13 * 50
    assert [piece.words[0].text for piece in pieces] == ["hello", "to", "you"]
    for piece in pieces:
        assert rms(decode(piece.audio, audio.encoding)) > 2000


async def test_word_times_say_where_the_bursts_are():
    pieces = await speak("hello to you", ms_per_char=50)
    pcm = decode(b"".join(piece.audio for piece in pieces), "mulaw")
    for word in (piece.words[0] for piece in pieces):
        assert rms(pcm[word.start_ms * 16 : word.end_ms * 16]) > 4000
        assert rms(pcm[word.end_ms * 16 : (word.end_ms + 50) * 16]) < 50


async def test_the_same_text_gives_the_same_bytes():
    assert await speak("one two three") == await speak("one two three")


async def test_it_can_be_slower_than_real_time():
    loop = asyncio.get_running_loop()
    began = loop.time()
    await speak("abcd", ms_per_char=4, realtime_factor=2.0, first_audio_ms=10)
    assert loop.time() - began >= 0.010 + 2 * 0.020 - 0.003


async def test_it_hangs_up_after_the_first_word():
    tts = PROVIDER.create(settings(PROVIDER, fail="close", fail_times=1))
    async with tts.open(MULAW_8K) as voice:
        async with aclosing(voice.synthesize("one two")) as stream:
            assert (await anext(stream)).words[0].text == "one"
            with pytest.raises(ProviderUnavailable):
                await anext(stream)
        async with aclosing(voice.synthesize("one two")) as stream:
            assert len([speech async for speech in stream]) == 2
