from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest

from flowcat_server.core.audio import MULAW_8K, PCM_16K
from flowcat_server.core.interfaces import Audio, EndOfTurn, Pause, Resume, Transcript
from flowcat_server.errors import ProviderBusy, ProviderError, ProviderProtocol, ProviderRefused
from flowcat_server.providers import tones
from flowcat_server.providers.stt.scripted import PROVIDER
from tests.fakes.inbox import Inbox
from tests.fakes.settings import settings


async def hear(inbox, audio=MULAW_8K, **options):
    stt = PROVIDER.create(settings(PROVIDER, **options))
    async with aclosing(stt.transcribe(inbox, audio)) as stream:
        return [transcript async for transcript in stream]


async def run(*items, **options):
    inbox = Inbox(*items)
    inbox.end()
    return await hear(inbox, **options)


async def test_each_turn_hears_the_next_line_and_then_nothing():
    heard = []
    stt = PROVIDER.create(settings(PROVIDER, lines=["one", "two"]))
    inbox = Inbox(Pause(0))
    async with aclosing(stt.transcribe(inbox, MULAW_8K)) as stream:
        for number in range(3):
            heard.append(await anext(stream))
            inbox.put(EndOfTurn(), Pause(number + 1))
    assert heard == [
        Transcript("one", 0, True, 0),
        Transcript("two", 0, True, 1),
        Transcript("", 0, True, 2),
    ]


async def test_a_script_can_begin_again():
    items = [Pause(0), EndOfTurn(), Pause(1), EndOfTurn(), Pause(2)]
    stt = PROVIDER.create(settings(PROVIDER, lines=["one", "two"], loop=True))
    inbox = Inbox(items[0])
    texts = []
    async with aclosing(stt.transcribe(inbox, MULAW_8K)) as stream:
        for item in (*items[1:], EndOfTurn()):
            if isinstance(item, EndOfTurn):
                texts.append((await anext(stream)).text)
            inbox.put(item)
    assert texts == ["one", "two", "one"]


async def test_a_second_pause_of_a_turn_covers_the_same_line():
    stt = PROVIDER.create(settings(PROVIDER, lines=["one", "two"]))
    inbox = Inbox(Pause(0))
    async with aclosing(stt.transcribe(inbox, MULAW_8K)) as stream:
        first = await anext(stream)
        inbox.put(Resume(), Pause(1))
        second = await anext(stream)
    assert (first.text, first.pause) == ("one", 0)
    assert (second.text, second.pause) == ("one", 1)


async def test_a_turn_without_a_pause_costs_no_line():
    stt = PROVIDER.create(settings(PROVIDER, lines=["one", "two"]))
    inbox = Inbox(EndOfTurn(), Pause(7))
    async with aclosing(stt.transcribe(inbox, MULAW_8K)) as stream:
        assert await anext(stream) == Transcript("one", 0, True, 7)


async def test_an_answer_that_comes_too_late_for_its_turn_is_dropped():
    stt = PROVIDER.create(settings(PROVIDER, lines=["one", "two"], delay_ms=5))
    async with aclosing(stt.transcribe(Inbox(Pause(0), EndOfTurn(), Pause(1)), MULAW_8K)) as stream:
        assert await anext(stream) == Transcript("two", 0, True, 1)


async def test_a_pause_that_was_resumed_in_time_is_not_answered():
    assert await run(Pause(0), Resume(), lines=["one"], delay_ms=50) == []


async def test_the_answer_comes_after_the_delay():
    loop = asyncio.get_running_loop()
    stt = PROVIDER.create(settings(PROVIDER, lines=["one"], delay_ms=30))
    began = loop.time()
    async with aclosing(stt.transcribe(Inbox(Pause(0)), MULAW_8K)) as stream:
        await anext(stream)
    assert 0.028 <= loop.time() - began < 0.5


async def test_partials_follow_the_voice_and_not_the_silence():
    stt = PROVIDER.create(settings(PROVIDER, lines=["one two three"], partials=True))
    assert stt.caps.chunk_ms > 0
    voice = tones.burst(PCM_16K, 440, 300)
    inbox = Inbox(
        Audio(PCM_16K.silence(1000), 1000),
        Audio(voice, 1300),
        Audio(PCM_16K.silence(1000), 2300),
        Audio(voice, 2600),
    )
    inbox.put(Pause(0))
    async with aclosing(stt.transcribe(inbox, PCM_16K)) as stream:
        heard = [await anext(stream) for _ in range(3)]
    assert [(item.text, item.final) for item in heard] == [
        ("one", False),
        ("one two", False),
        ("one two three", True),
    ]


@pytest.mark.parametrize(
    ("fault", "error"),
    [("refuse", ProviderRefused), ("rate_limit", ProviderBusy), ("garbage", ProviderProtocol)],
)
async def test_faults_raise_what_the_real_ones_raise(fault, error):
    with pytest.raises(error):
        await hear(Inbox(Pause(0)), lines=["one"], fail=fault)


async def test_faults_begin_and_end_where_they_are_told_to():
    stt = PROVIDER.create(
        settings(PROVIDER, lines=["a", "b", "c"], fail="close", fail_after=1, fail_times=1)
    )
    outcomes = []
    for _ in range(3):
        try:
            async with aclosing(stt.transcribe(Inbox(Pause(0)), MULAW_8K)) as stream:
                outcomes.append((await anext(stream)).text)
        except ProviderError as error:
            outcomes.append(type(error).__name__)
    assert outcomes == ["a", "ProviderUnavailable", "a"]


@pytest.mark.parametrize("fault", ["hang", "half_dead"])
async def test_a_dead_listener_is_silent_until_it_is_closed(fault):
    stt = PROVIDER.create(settings(PROVIDER, lines=["one"], fail=fault))
    async with aclosing(stt.transcribe(Inbox(Pause(0)), MULAW_8K)) as stream:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                await anext(stream)
