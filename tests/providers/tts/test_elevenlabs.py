from __future__ import annotations

import json
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from flowcat_server.core.audio import ALAW_8K, MULAW_8K, PCM_24K
from flowcat_server.core.interfaces import Word
from flowcat_server.errors import ProviderBusy, ProviderError, ProviderProtocol, ProviderRefused
from flowcat_server.providers.http import Http
from flowcat_server.providers.sockets import Chunk, Done, Failed
from flowcat_server.providers.tts import elevenlabs
from flowcat_server.providers.tts.elevenlabs import PROVIDER, MultiContextWire
from tests.fakes.elevenlabs_server import ElevenLabsServer
from tests.fakes.settings import KEY, settings

CORPUS = Path(__file__).parents[2] / "corpus" / "elevenlabs"


@asynccontextmanager
async def speaking(trouble="", **options):
    async with ElevenLabsServer(trouble) as server:
        http = Http()
        tts = PROVIDER.create(settings(PROVIDER, http=http, base_url=server.url, **options))
        async with tts.open(MULAW_8K) as voice:
            yield server, voice
        await tts.close()
        await http.close()


def test_the_url_names_voice_model_and_format():
    tts = PROVIDER.create(
        settings(PROVIDER, voice="a/b", language="de-DE", apply_text_normalization="on")
    )
    url = URL(tts.endpoint(MULAW_8K).url)
    assert url.host == "api.elevenlabs.io"
    assert url.raw_path == "/v1/text-to-speech/a%2Fb/multi-stream-input"
    assert dict(url.query) == {
        "model_id": "eleven_flash_v2_5",
        "output_format": "ulaw_8000",
        "auto_mode": "true",
        "sync_alignment": "true",
        "inactivity_timeout": "180",
        "language_code": "de",
        "apply_text_normalization": "on",
    }
    assert URL(tts.endpoint(ALAW_8K).url).query["output_format"] == "alaw_8000"
    assert URL(tts.endpoint(PCM_24K).url).query["output_format"] == "pcm_24000"
    assert KEY not in repr(tts.endpoint(MULAW_8K))


@pytest.mark.parametrize(
    ("model", "voice", "model_sent", "voice_sent"),
    [
        ("eleven_turbo_v2_5", "v1", "eleven_turbo_v2_5", "v1"),
        ("v1", "", elevenlabs.DEFAULT_MODEL, "v1"),
        (None, None, elevenlabs.DEFAULT_MODEL, elevenlabs.DEFAULT_VOICE),
    ],
)
def test_a_model_alone_may_be_the_voice(model, voice, model_sent, voice_sent):
    tts = PROVIDER.create(settings(PROVIDER, model=model, voice=voice))
    url = URL(tts.endpoint(MULAW_8K).url)
    assert (url.query["model_id"], url.parts[3]) == (model_sent, voice_sent)


async def test_a_context_is_set_up_filled_and_closed():
    async with speaking(stability=0.4, speed=1.1) as (server, voice):
        async with aclosing(voice.synthesize("Hello there.")) as stream:
            _ = [speech async for speech in stream]
        context = server.received[0]["context_id"]
        assert server.received == [
            {
                "text": " ",
                "context_id": context,
                "voice_settings": {"stability": 0.4, "speed": 1.1},
            },
            {"text": "Hello there. ", "context_id": context, "flush": True},
            {"context_id": context, "close_context": True},
        ]
        assert server.headers[0]["xi-api-key"] == KEY


async def test_word_times_count_from_the_beginning_of_the_sentence():
    async with speaking() as (_, voice), aclosing(voice.synthesize("one three")) as stream:
        heard = [speech async for speech in stream]
    assert [(speech.audio, speech.words) for speech in heard] == [
        (b"one" * 40, (Word("one", 0, 15),)),
        (b"three" * 40, (Word("three", 15, 40),)),
    ]


@pytest.mark.parametrize(
    ("trouble", "error"),
    [("error", ProviderRefused), ("busy", ProviderBusy), ("violation", ProviderRefused)],
)
async def test_refusals_are_told_apart(trouble, error):
    async with speaking(trouble) as (_, voice):
        with pytest.raises(error):
            async with aclosing(voice.synthesize("one")) as stream:
                await anext(stream)


def test_recorded_messages_are_understood():
    wire = MultiContextWire(MULAW_8K, {})
    wire.begin("c1", "")
    lines = (CORPUS / "tts.jsonl").read_text(encoding="utf-8").splitlines()
    events = [event for line in lines for _, event in wire.parse(line)]
    assert [word for event in events if isinstance(event, Chunk) for word in event.words] == [
        Word("Hello", 0, 300),
        Word("there.", 350, 600),
    ]
    assert events[-1] == Done()


def test_recorded_and_sent_messages_have_the_vendors_field_names():
    # The vendor's own models accept anything, so the names are taken from its AsyncAPI page:
    # https://elevenlabs.io/docs/api-reference/text-to-speech/v-1-text-to-speech-voice-id-multi-stream-input
    out = {"audio", "alignment", "normalizedAlignment", "contextId", "isFinal"}
    for line in (CORPUS / "tts.jsonl").read_text(encoding="utf-8").splitlines():
        assert set(json.loads(line)) <= out
    wire = MultiContextWire(MULAW_8K, {"speed": 1.0})
    sent = [*wire.begin("c1", "x"), *wire.goodbye()]
    names = {"text", "context_id", "voice_settings", "flush", "close_context", "close_socket"}
    assert {name for text in sent for name in json.loads(text)} <= names


def test_snake_case_names_are_understood_too():
    wire = MultiContextWire(MULAW_8K, {})
    wire.begin("c1", "")
    message = {
        "audio": "//8=",
        "context_id": "c1",
        "alignment": {"chars": ["a", " "], "charsStartTimesMs": [0, 5], "charsDurationsMs": [5, 5]},
    }
    assert wire.parse(json.dumps(message)) == [("c1", Chunk(b"\xff\xff", (Word("a", 0, 5),)))]
    assert wire.parse('{"is_final":true,"context_id":"c1"}') == [("c1", Done())]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)
ALIGNMENT = st.fixed_dictionaries(
    {"chars": JSON, "charStartTimesMs": JSON, "charDurationsMs": JSON}
)


@given(
    st.lists(
        st.text()
        | st.binary()
        | JSON.map(json.dumps)
        | st.fixed_dictionaries(
            {"contextId": st.just("c1") | JSON},
            optional={
                "audio": JSON | st.just("AAAA"),
                "alignment": JSON | ALIGNMENT,
                "isFinal": JSON,
                "error": JSON,
                "message": JSON,
            },
        ).map(json.dumps)
    )
)
def test_any_message_gives_events_or_a_protocol_error(messages):
    wire = MultiContextWire(MULAW_8K, {})
    wire.begin("c1", "")
    for message in messages:
        try:
            events = wire.parse(message)
        except ProviderProtocol:
            continue
        for _, event in events:
            assert isinstance(event, (Chunk, Done, Failed))
            assert not isinstance(event, Failed) or isinstance(event.error, ProviderError)
