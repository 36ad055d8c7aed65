"""What every voice over a socket owes its caller, whoever the vendor is."""

from __future__ import annotations

import asyncio
import dataclasses
from contextlib import aclosing, asynccontextmanager

import pytest

from flowcat_server.core.audio import MULAW_8K, PCM_16K
from flowcat_server.errors import (
    ProviderBusy,
    ProviderProtocol,
    ProviderRefused,
    ProviderTimeout,
    ProviderUnavailable,
)
from flowcat_server.providers import sockets, websocket
from flowcat_server.providers.http import Http
from flowcat_server.providers.tts import cartesia, deepgram, elevenlabs
from tests.fakes.cartesia_server import CartesiaServer
from tests.fakes.deepgram_server import DeepgramServer
from tests.fakes.elevenlabs_server import ElevenLabsServer
from tests.fakes.settings import KEY, settings
from tests.fakes.vendor_server import until

VENDORS = {
    "deepgram": (deepgram.PROVIDER, DeepgramServer),
    "cartesia": (cartesia.PROVIDER, CartesiaServer),
    "elevenlabs": (elevenlabs.PROVIDER, ElevenLabsServer),
}
all_vendors = pytest.mark.parametrize("vendor", VENDORS)


@asynccontextmanager
async def speaking(vendor, trouble="", **kind):
    """A fake vendor and our provider for it."""
    provider, server_type = VENDORS[vendor]
    async with server_type(trouble, **kind) as server:
        http = Http()
        tts = provider.create(settings(provider, http=http, base_url=server.url))
        try:
            yield server, tts
        finally:
            await tts.close()
            await http.close()


def letters(text):
    return b"".join(word.encode() * 40 for word in text.split())


async def speak(voice, text):
    async with asyncio.timeout(5), aclosing(voice.synthesize(text)) as stream:
        return b"".join([speech.audio async for speech in stream])


@all_vendors
async def test_a_sentence_is_spoken_whole(vendor):
    async with speaking(vendor) as (_, tts), tts.open(MULAW_8K) as voice:
        assert await speak(voice, "one two three.") == letters("one two three.")


@all_vendors
async def test_the_socket_is_open_before_the_first_word_and_serves_many(vendor):
    async with speaking(vendor) as (server, tts), tts.open(MULAW_8K) as voice:
        assert server.open == 1
        for text in ("one", "two", "three"):
            assert await speak(voice, text) == letters(text)
        async with tts.open(MULAW_8K) as other:
            assert await speak(other, "four") == letters("four")
        assert server.connections == 1


@all_vendors
async def test_calls_speak_at_once_and_hear_only_themselves(vendor):
    texts = [f"call{n} says{n} words{n}" for n in range(23)]
    async with speaking(vendor) as (server, tts), tts.open(MULAW_8K) as voice:
        heard = await asyncio.gather(*(speak(voice, text) for text in texts))
        assert heard == [letters(text) for text in texts]
        assert len(tts.pool) == server.open
        slots = tts.endpoint(MULAW_8K).contexts
        assert server.connections <= -(-len(texts) // slots) + 1
        assert getattr(server, "most_contexts", 0) <= 5


@all_vendors
@pytest.mark.parametrize("trouble", ["", "slow_tail"])
async def test_nothing_of_a_cancelled_sentence_is_heard_in_the_next(vendor, trouble):
    async with speaking(vendor, trouble) as (_, tts), tts.open(MULAW_8K) as voice:
        for number in range(8):
            async with aclosing(voice.synthesize("never ever hear this again")) as stream:
                assert (await anext(stream)).audio == letters("never")
            text = f"clean{number} words{number}"
            assert await speak(voice, text) == letters(text)


@all_vendors
async def test_a_sentence_cancelled_before_its_first_sound_costs_nothing(vendor):
    async with speaking(vendor) as (_, tts), tts.open(MULAW_8K) as voice:
        for _ in range(8):
            task = asyncio.ensure_future(speak(voice, "never hear this"))
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait((task,))
            assert task.cancelled()
        assert await speak(voice, "clean") == letters("clean")


@all_vendors
async def test_what_cannot_be_spoken_is_not_sent(vendor):
    async with speaking(vendor) as (server, tts), tts.open(MULAW_8K) as voice:
        assert await speak(voice, " ... !") == b""
        assert server.received == []


@all_vendors
async def test_a_synthesis_without_a_sound_is_a_refusal(vendor):
    async with speaking(vendor, "silent") as (_, tts), tts.open(MULAW_8K) as voice:
        with pytest.raises(ProviderRefused, match="without audio"):
            await speak(voice, "one")


@pytest.mark.parametrize("vendor", ["cartesia", "elevenlabs"])
async def test_samples_that_were_cut_in_two_are_whole_again(vendor):
    async with speaking(vendor, "odd") as (_, tts), tts.open(PCM_16K) as voice:
        async with aclosing(voice.synthesize("one two")) as stream:
            pieces = [speech.audio async for speech in stream]
        assert all(len(piece) % 2 == 0 for piece in pieces)
        assert b"".join(pieces) == letters("one two")


@all_vendors
@pytest.mark.parametrize(
    ("trouble", "error"),
    [
        ("refuse", ProviderRefused),
        ("rate_limit", ProviderBusy),
        ("fault", ProviderUnavailable),
    ],
)
async def test_a_refused_connection_is_known_while_the_phone_rings(vendor, trouble, error):
    async with speaking(vendor, trouble) as (_, tts):
        with pytest.raises(error) as caught:
            async with tts.open(MULAW_8K):
                pytest.fail("opened")
        assert KEY not in str(caught.value)
        assert vendor != "deepgram" or f"{trouble} on purpose" in str(caught.value)
        assert len(tts.pool) == 0


@all_vendors
async def test_a_handshake_that_hangs_is_given_up_and_holds_nobody_else(vendor, monkeypatch):
    monkeypatch.setattr(websocket, "CONNECT_TIMEOUT_S", 0.05)
    async with speaking(vendor, "hang", times=1) as (_, tts):
        with pytest.raises(ProviderTimeout):
            async with tts.open(MULAW_8K):
                pytest.fail("opened")
        async with tts.open(MULAW_8K) as voice:
            assert await speak(voice, "one") == letters("one")


@all_vendors
async def test_a_half_dead_socket_is_dropped_with_its_sentence(vendor, monkeypatch):
    monkeypatch.setattr(sockets, "STALLED_S", 0.02)
    async with speaking(vendor, "half_dead", times=1) as (server, tts):
        async with tts.open(MULAW_8K) as voice:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05), aclosing(voice.synthesize("one")) as stream:
                    await anext(stream)
            assert await speak(voice, "two") == letters("two")
        assert server.connections == 2
        await until(lambda: server.open == 1)


@all_vendors
async def test_a_line_cut_in_the_middle_of_a_sentence_is_an_error(vendor):
    kind = {"trouble": "cut", "times": 1, "cut_after": 1}
    async with speaking(vendor, **kind) as (_, tts), tts.open(MULAW_8K) as voice:
        async with aclosing(voice.synthesize("one two three")) as stream:
            assert (await anext(stream)).audio == letters("one")
            with pytest.raises(ProviderUnavailable):
                _ = [await anext(stream) for _ in range(3)]
        assert await speak(voice, "four") == letters("four")


@all_vendors
async def test_an_idle_socket_that_died_is_replaced_unnoticed(vendor):
    async with speaking(vendor, "cut", times=1, cut_after=0) as (server, tts):
        async with tts.open(MULAW_8K) as voice:
            context = tts.pool.reserve(tts.endpoint(MULAW_8K))
            await context.release()
            assert await speak(voice, "one") == letters("one")
        assert server.connections == 2


@all_vendors
async def test_nonsense_is_an_error_and_the_socket_is_not_used_again(vendor):
    async with speaking(vendor, "garbage", times=1) as (_, tts), tts.open(MULAW_8K) as voice:
        with pytest.raises(ProviderProtocol):
            await speak(voice, "one")
        assert await speak(voice, "two") == letters("two")


@all_vendors
async def test_a_socket_nobody_uses_is_closed(vendor, monkeypatch):
    async with speaking(vendor) as (server, tts):
        idle = dataclasses.replace(tts.endpoint(MULAW_8K), idle_s=0.01)
        monkeypatch.setattr(tts, "endpoint", lambda audio: idle)
        async with tts.open(MULAW_8K) as voice:
            assert await speak(voice, "one") == letters("one")
        await until(lambda: server.open == 0 and len(tts.pool) == 0)
        async with tts.open(MULAW_8K) as voice:
            assert await speak(voice, "two") == letters("two")


@all_vendors
async def test_closing_the_provider_closes_every_socket(vendor):
    async with speaking(vendor) as (server, tts):
        async with tts.open(MULAW_8K) as voice:
            await asyncio.gather(*(speak(voice, "one two") for _ in range(7)))
        await tts.close()
        await until(lambda: server.open == 0)
        with pytest.raises(ProviderUnavailable, match="stopping"):
            async with tts.open(MULAW_8K):
                pytest.fail("opened")


async def test_a_voice_that_floods_us_is_cut_off(monkeypatch):
    monkeypatch.setattr(sockets, "MAX_KEPT_BYTES", 300)
    async with speaking("cartesia") as (_, tts), tts.open(MULAW_8K) as voice:
        async with aclosing(voice.synthesize("one two three four five six")) as stream:
            await anext(stream)
            await asyncio.sleep(0.05)
            with pytest.raises(ProviderProtocol, match="endless"):
                _ = [speech async for speech in stream]
        assert await speak(voice, "one") == letters("one")


async def test_many_calls_that_start_together_share_one_handshake():
    async with speaking("cartesia") as (server, tts):

        async def call(number):
            async with tts.open(MULAW_8K) as voice:
                return await speak(voice, f"call{number}")

        heard = await asyncio.gather(*(call(n) for n in range(15)))
        assert heard == [letters(f"call{n}") for n in range(15)]
        assert server.connections == 1
