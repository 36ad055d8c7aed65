from __future__ import annotations

import json
from contextlib import aclosing

import pytest
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from flowcat_server.core.audio import ALAW_8K, MULAW_8K, PCM_24K
from flowcat_server.errors import ConfigError, ProviderBusy, ProviderError
from flowcat_server.providers.http import Http
from flowcat_server.providers.sockets import Chunk, Done
from flowcat_server.providers.tts.deepgram import FLUSHES_PER_MINUTE, PROVIDER, AuraWire, voice_name
from tests.fakes.deepgram_server import DeepgramServer
from tests.fakes.settings import KEY, settings


@pytest.mark.parametrize(
    ("voice", "model", "language", "name"),
    [
        ("", "aura-2", "", "aura-2-andromeda-en"),
        ("thalia", "aura-2", "", "aura-2-thalia-en"),
        ("celeste", "aura-2", "es-ES", "aura-2-celeste-es"),
        ("asteria", "aura", "", "aura-asteria-en"),
        ("aura-2-apollo-en", "aura-2", "", "aura-2-apollo-en"),
        ("", "aura-2-apollo-en", "", "aura-2-apollo-en"),
        ("", "apollo", "", "aura-2-apollo-en"),
    ],
)
def test_a_voice_may_be_named_in_any_usual_way(voice, model, language, name):
    assert voice_name(voice, model, language) == name


def test_the_query():
    tts = PROVIDER.create(settings(PROVIDER, region="eu", speed=1.1, extra={"tag": "x"}))
    endpoint = tts.endpoint(MULAW_8K)
    url = URL(endpoint.url)
    assert (url.host, url.path) == ("api.eu.deepgram.com", "/v1/speak")
    assert dict(url.query) == {
        "model": "aura-2-andromeda-en",
        "encoding": "mulaw",
        "sample_rate": "8000",
        "speed": "1.1",
        "tag": "x",
    }
    assert URL(tts.endpoint(ALAW_8K).url).query["encoding"] == "alaw"
    assert URL(tts.endpoint(PCM_24K).url).query["encoding"] == "linear16"
    assert KEY not in repr(endpoint)


def test_flux_voices_are_another_protocol():
    with pytest.raises(ConfigError, match="Flux"):
        PROVIDER.create(settings(PROVIDER, voice="flux-haley-en"))


async def test_a_voice_that_talks_much_changes_sockets_before_the_vendor_minds():
    async with DeepgramServer() as server:
        http = Http()
        tts = PROVIDER.create(settings(PROVIDER, http=http, base_url=server.url))
        async with tts.open(MULAW_8K) as voice:
            for _ in range(FLUSHES_PER_MINUTE + 5):
                async with aclosing(voice.synthesize("a")) as stream:
                    assert [speech.audio async for speech in stream] == [b"a" * 40]
        await tts.close()
        await http.close()
        assert server.connections == 2


async def test_a_vendor_that_will_not_flush_is_busy():
    async with DeepgramServer("flush_limit") as server:
        http = Http()
        tts = PROVIDER.create(settings(PROVIDER, http=http, base_url=server.url))
        async with tts.open(MULAW_8K) as voice:
            with pytest.raises(ProviderBusy):
                async with aclosing(voice.synthesize("one")) as stream:
                    await anext(stream)
        await tts.close()
        await http.close()


FLUSHED, CLEARED = '{"type":"Flushed","sequence_id":0}', '{"type":"Cleared","sequence_id":0}'


def test_a_flushed_that_is_late_does_not_end_the_next_sentence():
    wire = AuraWire()
    wire.begin("a", "one")
    wire.cancel("a")
    assert wire.parse(b"old") == ()
    assert wire.parse(CLEARED) == ((None, Done()),)
    wire.begin("b", "two")
    assert wire.parse(FLUSHED) == ()
    assert wire.parse(b"new") == ((None, Chunk(b"new")),)
    assert wire.parse(FLUSHED) == ((None, Done()),)


def test_a_flushed_that_comes_in_time_is_not_waited_for_again():
    wire = AuraWire()
    wire.begin("a", "one")
    wire.cancel("a")
    assert wire.parse(FLUSHED) == ()
    assert wire.parse(CLEARED) == ((None, Done()),)
    wire.begin("b", "two")
    assert wire.parse(FLUSHED) == ((None, Done()),)


def test_an_error_names_what_the_vendor_said():
    with pytest.raises(ProviderError, match="DATA-0001 text too long"):
        AuraWire().parse('{"type":"Error","code":"DATA-0001","description":"text too long"}')


@given(
    st.lists(
        st.text()
        | st.binary()
        | st.fixed_dictionaries(
            {"type": st.sampled_from(["Flushed", "Cleared", "Warning", "Error"])},
            optional={"code": st.integers() | st.text(), "description": st.text() | st.none()},
        ).map(json.dumps)
    )
)
def test_any_message_gives_events_or_a_provider_error(messages):
    wire = AuraWire()
    wire.begin("a", "one")
    for message in messages:
        try:
            wire.parse(message)
        except ProviderError:
            continue


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
async def test_the_vendors_client_understands_our_fake():
    from deepgram import AsyncDeepgramClient
    from deepgram.environment import DeepgramClientEnvironment
    from deepgram.speak.v1.types import SpeakV1Flushed, SpeakV1Metadata, SpeakV1Text

    async with DeepgramServer() as server:
        environment = DeepgramClientEnvironment(
            base=server.url, production=server.url, agent=server.url, agent_rest=server.url
        )
        client = AsyncDeepgramClient(api_key=KEY, environment=environment)
        async with client.speak.v1.connect(
            model="aura-2-andromeda-en", encoding="mulaw", sample_rate=8000
        ) as socket:
            await socket.send_text(SpeakV1Text(type="Speak", text="one two"))
            await socket.send_flush()
            got = [await socket.recv() for _ in range(4)]
    assert isinstance(got[0], SpeakV1Metadata)
    assert got[1:3] == [b"one" * 40, b"two" * 40]
    assert isinstance(got[3], SpeakV1Flushed)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_what_we_send_is_what_the_vendors_client_sends():
    from deepgram.speak.v1.types import SpeakV1Clear, SpeakV1Close, SpeakV1Flush, SpeakV1Text

    wire = AuraWire()
    sent = [*wire.begin("a", "Hello."), *wire.cancel("a"), *wire.goodbye()]
    types = [SpeakV1Text, SpeakV1Flush, SpeakV1Clear, SpeakV1Close]
    for text, kind in zip(sent, types, strict=True):
        model = kind.model_validate_json(text)
        assert model.model_dump(exclude_none=True) == json.loads(text)
    assert [json.loads(text)["type"] for text in sent] == ["Speak", "Flush", "Clear", "Close"]
