from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowcat_server.core.audio import MULAW_8K, PCM_16K, AudioFormat
from flowcat_server.core.interfaces import Speech
from flowcat_server.errors import (
    AssetError,
    ConfigError,
    ProviderProtocol,
    ProviderUnavailable,
)
from flowcat_server.providers.tts._piper_process import PiperProcess, read_message
from flowcat_server.providers.tts._wire import HEADER, Kind, WireError, pack, unpack_header
from flowcat_server.providers.tts.piper import (
    NATIVE,
    PROVIDER,
    Cache,
    Kept,
    Piper,
    PiperOptions,
    PiperVoice,
)
from tests.fakes.settings import settings

CHILD = (sys.executable, str(Path(__file__).parents[2] / "fakes" / "piper_child.py"))


async def setup() -> Mapping[str, Any]:
    return {}


async def spoken(voice: PiperVoice, text: str) -> list[Speech]:
    return [speech async for speech in voice.synthesize(text)]


Start = Callable[..., Awaitable[tuple[Piper, PiperProcess]]]


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    started: list[Piper] = []

    async def begin(backoff: tuple[float, ...] = (0.0,)) -> tuple[Piper, PiperProcess]:
        process = PiperProcess(setup, CHILD, backoff)
        piper = Piper(PiperOptions(), process)
        started.append(piper)
        await piper.start()
        return piper, process

    yield begin
    for piper in started:
        await piper.close()


async def test_sound_and_words_arrive_in_the_calls_format(start: Start) -> None:
    piper, _ = await start()
    async with piper.open(NATIVE) as voice:
        speeches = await spoken(voice, "hello there")
    assert b"".join(s.audio for s in speeches) == b"\x01\x00" * 5 + b"\x02\x00" * 6
    assert [(w.text, w.start_ms) for s in speeches for w in s.words] == [
        ("hello", 0),
        ("there", 100),
    ]


async def test_words_are_those_that_were_written(start: Start) -> None:
    piper, _ = await start()
    async with piper.open(NATIVE) as voice:
        speeches = await spoken(voice, "It's **$25** 😀 today.")
    words = [(w.text, w.start_ms, w.end_ms) for s in speeches for w in s.words]
    # The process says "It's 25 dollars today." at 100 ms a word.
    assert words == [
        ("It's", 0, 90),
        ("**$25**", 100, 290),
        ("😀", 290, 290),
        ("today.", 300, 390),
    ]


async def test_letters_that_are_not_said_are_a_moment_of_silence(start: Start) -> None:
    piper, _ = await start()
    async with piper.open(MULAW_8K) as voice:
        assert await spoken(voice, "<br>") == [Speech(MULAW_8K.silence(20))]


async def test_sound_is_resampled(start: Start) -> None:
    piper, _ = await start()
    text = "word " * 200
    async with piper.open(MULAW_8K) as voice:
        speeches = await spoken(voice, text)
    size = sum(len(s.audio) for s in speeches)
    assert size == pytest.approx(len(text.strip()) * 8000 / 22050, abs=2)


async def test_requests_side_by_side_do_not_mix(start: Start) -> None:
    piper, _ = await start()
    async with piper.open(NATIVE) as voice:
        texts = ["a" * n for n in range(1, 30)]
        results = await asyncio.gather(*(spoken(voice, text) for text in texts))
    assert [sum(len(s.audio) for s in speeches) for speeches in results] == [
        2 * n for n in range(1, 30)
    ]


async def test_a_text_with_nothing_to_say_gives_no_sound_and_no_error(start: Start) -> None:
    piper, _ = await start()
    async with piper.open(NATIVE) as voice:
        assert await spoken(voice, "*** 😀") == []


async def test_no_sound_for_a_text_that_can_be_said_is_an_error(start: Start) -> None:
    piper, _ = await start()
    async with piper.open(NATIVE) as voice:
        with pytest.raises(ProviderProtocol, match="no sound"):
            await spoken(voice, "mute")


async def test_a_refused_text_is_an_error_of_its_own(start: Start) -> None:
    piper, _ = await start()
    async with piper.open(NATIVE) as voice:
        with pytest.raises(ProviderProtocol, match="cannot say that"):
            await spoken(voice, "fail")
        assert await spoken(voice, "go on")


async def test_closing_the_generator_cancels_the_request(start: Start) -> None:
    piper, _ = await start()
    async with piper.open(NATIVE) as voice:
        generator = voice.synthesize("hang")
        await anext(generator)
        await generator.aclose()  # type: ignore[attr-defined]
        cancelled = await spoken(voice, "cancelled")
    assert b"".join(s.audio for s in cancelled) == b"\x01\x00"


async def test_a_dead_process_fails_what_it_was_saying_and_is_replaced(start: Start) -> None:
    piper, process = await start()
    first = process.pid
    async with piper.open(NATIVE) as voice:
        hanging = voice.synthesize("hang")
        await anext(hanging)
        with pytest.raises(ProviderUnavailable) as raised:
            await spoken(voice, "die")
        assert raised.value.retryable
        with pytest.raises(ProviderUnavailable):
            await anext(hanging)
        async with asyncio.timeout(10):
            while process.pid in (None, first):  # noqa: ASYNC110 - no event for tests alone
                await asyncio.sleep(0.005)
        assert await spoken(voice, "hello")


async def test_while_a_restart_is_delayed_requests_fail_at_once(start: Start) -> None:
    piper, _ = await start(backoff=(60.0,))
    async with piper.open(NATIVE) as voice:
        with pytest.raises(ProviderUnavailable):
            await spoken(voice, "die")
        async with asyncio.timeout(1):
            with pytest.raises(ProviderUnavailable, match="not running"):
                await spoken(voice, "hello")


async def test_a_process_that_cannot_load_fails_the_start_with_its_reason() -> None:
    process = PiperProcess(setup, (*CHILD, "refuse"), (60.0,))
    with pytest.raises(ProviderUnavailable, match="no such model"):
        await Piper(PiperOptions(), process).start()


async def test_a_wrong_file_fails_the_start() -> None:
    async def wrong() -> Mapping[str, Any]:
        raise AssetError("not the file that was tested")

    process = PiperProcess(wrong, CHILD, (60.0,))
    with pytest.raises(AssetError, match="not the file"):
        await Piper(PiperOptions(), process).start()


async def test_closing_ends_the_process(start: Start) -> None:
    piper, process = await start()
    pid = process.pid
    assert pid is not None
    await piper.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    async with piper.open(NATIVE) as voice:
        with pytest.raises(ProviderUnavailable):
            await spoken(voice, "hello")


async def test_closing_while_it_loads_fails_who_waits_for_it() -> None:
    loading = asyncio.Event()

    async def endless() -> Mapping[str, Any]:
        loading.set()
        await asyncio.Event().wait()
        return {}

    piper = Piper(PiperOptions(), PiperProcess(endless, CHILD, (0.0,)))
    starting = asyncio.create_task(piper.start())
    await loading.wait()
    async with piper.open(NATIVE) as voice:
        waiting = asyncio.create_task(spoken(voice, "hello"))
        await asyncio.sleep(0)
        await piper.close()
        for task in (starting, waiting):
            with pytest.raises(ProviderUnavailable, match="shutting down"):
                await task


async def test_prepared_texts_need_no_process(start: Start) -> None:
    piper, process = await start()
    await piper.prepare(["hello there", "hello there", "", "mute"])
    async with piper.open(NATIVE) as voice:
        before = await spoken(voice, "hello there")
        await process.close()
        again = await spoken(voice, "hello there")
    assert again == before
    assert [w.text for s in again for w in s.words] == ["hello", "there"]


async def test_a_voice_opens_only_in_formats_on_offer(start: Start) -> None:
    piper, _ = await start()
    with pytest.raises(ValueError, match="does not speak"):
        async with piper.open(AudioFormat("pcm16", 11025)):
            pass


def test_the_cache_forgets_what_was_used_longest_ago() -> None:
    cache = Cache(10)
    for text in ("a", "b"):
        assert cache.put(text, Kept(b"12345", ()))
    assert cache.get("a") is not None
    assert cache.put("c", Kept(b"12", ()))
    assert ("a" in cache, "b" in cache, "c" in cache) == (True, False, True)
    assert not cache.put("long", Kept(bytes(11), ()))
    assert cache.put("a", Kept(b"1234567", ()))
    assert len(cache) == 2


@pytest.mark.parametrize(
    "given_", [{"voice": "amy"}, {"language": "de"}], ids=["voice", "language"]
)
def test_what_is_not_bundled_is_a_configuration_error(given_: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="en_US-joe-medium"):
        PROVIDER.create(settings(PROVIDER, **given_))  # type: ignore[arg-type]


class Bytes:
    """A pipe that holds these bytes."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    async def readexactly(self, n: int, /) -> bytes:
        head, self._content = self._content[:n], self._content[n:]
        if len(head) < n:
            raise asyncio.IncompleteReadError(head, n)
        return head


@given(st.binary(max_size=64))
async def test_any_bytes_are_messages_an_end_or_a_wire_error(content: bytes) -> None:
    reader = Bytes(content)
    try:
        while await read_message(reader) is not None:
            pass
    except WireError:
        pass


@given(st.sampled_from(Kind), st.integers(0, 2**32 - 1), st.binary(max_size=50))
async def test_what_is_packed_is_read(kind: Kind, request_: int, payload: bytes) -> None:
    assert await read_message(Bytes(pack(kind, request_, payload))) == (kind, request_, payload)
    assert await read_message(Bytes(pack(kind, request_, payload)[:-1])) is None


def test_a_payload_beyond_the_limit_is_refused() -> None:
    with pytest.raises(WireError, match="payload"):
        unpack_header(HEADER.pack(1 << 30, Kind.AUDIO, 1))


# --- with the voice itself --------------------------------------------------------------------


@pytest.fixture
async def piper() -> AsyncIterator[Piper]:
    piper = Piper(PiperOptions())
    await piper.start()
    yield piper
    await piper.close()


LONG = (
    "We are open Monday to Friday from eight in the morning to five in the afternoon, "
    "and on Saturdays until two."
)


@pytest.mark.models
async def test_first_sound_comes_long_before_the_last(piper: Piper) -> None:
    loop = asyncio.get_running_loop()
    async with piper.open(MULAW_8K) as voice:
        begun, first, size = loop.time(), 0.0, 0
        async for speech in voice.synthesize(LONG):
            first = first or loop.time() - begun
            size += len(speech.audio)
        whole = loop.time() - begun
    assert first < 0.6 * whole
    assert 4500 < MULAW_8K.duration_ms(size) < 8000


@pytest.mark.models
async def test_words_follow_each_other_within_the_sound(piper: Piper) -> None:
    async with piper.open(PCM_16K) as voice:
        speeches = await spoken(voice, LONG + " See you at 8:30.")
    words = [word for speech in speeches for word in speech.words]
    assert [w.text for w in words] == (LONG + " See you at 8:30.").split()
    edges = [edge for w in words for edge in (w.start_ms, w.end_ms)]
    assert edges == sorted(edges)
    length = PCM_16K.duration_ms(sum(len(s.audio) for s in speeches))
    assert length - 700 < words[-1].end_ms <= length
    by_text = {w.text: w for w in words}
    # A comma is a pause of its own, after the word.
    assert by_text["and"].start_ms - by_text["afternoon,"].end_ms >= 100


@pytest.mark.models
async def test_cancelled_utterances_make_room_at_once(piper: Piper) -> None:
    loop = asyncio.get_running_loop()

    async def first_sound(text: str) -> float:
        begun = loop.time()
        generator = voice.synthesize(text)
        await anext(generator)
        await generator.aclose()  # type: ignore[attr-defined]
        return loop.time() - begun

    async with piper.open(MULAW_8K) as voice:
        alone = max([await first_sound("Sure.") for _ in range(5)])
        # Four texts of a minute for two threads: three seconds of work each.
        long_ones = [voice.synthesize(LONG * 10) for _ in range(4)]
        for generator in long_ones:
            await anext(generator)
        for generator in long_ones:
            await generator.aclose()  # type: ignore[attr-defined]
        assert await first_sound("Sure.") < 3 * alone + 0.25


@pytest.mark.models
async def test_a_short_text_overtakes_long_ones_that_are_being_heard(piper: Piper) -> None:
    async with piper.open(MULAW_8K) as voice:
        long_ones = [asyncio.create_task(spoken(voice, LONG * 3)) for _ in range(4)]
        await asyncio.sleep(0.01)
        await spoken(voice, "Sure.")
        assert not any(task.done() for task in long_ones)
        for task in long_ones:
            task.cancel()
        await asyncio.wait(long_ones)


@pytest.mark.models
async def test_a_killed_process_is_replaced_and_speaks_again(piper: Piper) -> None:
    process = piper._process
    pid = process.pid
    assert pid is not None
    async with piper.open(MULAW_8K) as voice:
        generator = voice.synthesize(LONG)
        await anext(generator)
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(ProviderUnavailable):
            async for _ in generator:
                pass
        # It waits for the new process, which is loading.
        async with asyncio.timeout(20):
            while process._down:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            assert await spoken(voice, "Hello again.")
        assert process.pid not in (None, pid)


@pytest.mark.models
async def test_signals_to_the_group_do_not_end_the_process(piper: Piper) -> None:
    pid = piper._process.pid
    assert pid is not None
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(pid, number)
    async with piper.open(MULAW_8K) as voice:
        assert await spoken(voice, "Still here.")
    assert piper._process.pid == pid


@pytest.mark.models
def test_the_process_ends_with_the_server() -> None:
    """Whatever happens to the server, its end of the pipe closes."""
    import subprocess

    from flowcat_server.providers.tts._piper_process import COMMAND, _environment

    child = subprocess.Popen(COMMAND, stdin=subprocess.PIPE, env=_environment())
    assert child.stdin is not None
    child.stdin.close()
    assert child.wait(timeout=20) == 0


@pytest.mark.models
async def test_the_server_never_loads_the_gpl_package(piper: Piper) -> None:
    async with piper.open(MULAW_8K) as voice:
        await spoken(voice, "Sure.")
    loaded = [name for name in sys.modules if re.match(r"piper(\.|$)", name)]
    assert not loaded
