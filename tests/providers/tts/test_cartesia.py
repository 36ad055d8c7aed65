from __future__ import annotations

import json
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from yarl import URL

from flowcat_server.core.audio import ALAW_8K, MULAW_8K, PCM_16K
from flowcat_server.core.interfaces import Word
from flowcat_server.errors import ProviderBusy, ProviderError, ProviderProtocol, ProviderRefused
from flowcat_server.providers.http import Http
from flowcat_server.providers.sockets import Chunk, Done, Failed
from flowcat_server.providers.tts import cartesia
from flowcat_server.providers.tts.cartesia import PROVIDER, SonicWire
from tests.fakes import cartesia_server
from tests.fakes.cartesia_server import CartesiaServer
from tests.fakes.settings import KEY, settings
from tests.fakes.vendor_server import until

CORPUS = Path(__file__).parents[2] / "corpus" / "cartesia"


def request(audio=MULAW_8K, text="Hello.", **kind):
    tts = PROVIDER.create(settings(PROVIDER, **kind))
    (message,) = tts.endpoint(audio).wire().begin("c1", text)
    return json.loads(message)


@asynccontextmanager
async def speaking(trouble=""):
    async with CartesiaServer(trouble) as server:
        http = Http()
        tts = PROVIDER.create(settings(PROVIDER, http=http, base_url=server.url))
        async with tts.open(MULAW_8K) as voice:
            yield server, voice
        await tts.close()
        await http.close()


def test_a_request_holds_a_whole_sentence_and_waits_for_no_more():
    assert request(language="de-DE", speed=1.2, pronunciation_dict_id="p") == {
        "model_id": "sonic-3.5",
        "voice": {"mode": "id", "id": cartesia.DEFAULT_VOICE},
        "transcript": "Hello.",
        "context_id": "c1",
        "continue": False,
        "language": "de",
        "add_timestamps": True,
        "max_buffer_delay_ms": 0,
        "output_format": {"container": "raw", "encoding": "pcm_mulaw", "sample_rate": 8000},
        "generation_config": {"speed": 1.2},
        "pronunciation_dict_id": "p",
    }


@pytest.mark.parametrize(
    ("audio", "encoding", "rate"), [(ALAW_8K, "pcm_alaw", 8000), (PCM_16K, "pcm_s16le", 16000)]
)
def test_formats_are_named_as_the_vendor_names_them(audio, encoding, rate):
    wanted = {"container": "raw", "encoding": encoding, "sample_rate": rate}
    assert request(audio)["output_format"] == wanted


@pytest.mark.parametrize(
    ("model", "voice", "model_sent", "voice_sent"),
    [
        ("sonic-3", "v1", "sonic-3", "v1"),
        ("sonic-3", "", "sonic-3", cartesia.DEFAULT_VOICE),
        ("v1", "", "sonic-3.5", "v1"),
        ("next-gen", "v1", "next-gen", "v1"),
    ],
)
def test_a_model_alone_may_be_the_voice(model, voice, model_sent, voice_sent):
    message = request(model=model, voice=voice)
    assert (message["model_id"], message["voice"]["id"]) == (model_sent, voice_sent)


async def test_word_times_come_with_the_audio_they_belong_to():
    async with speaking() as (_, voice), aclosing(voice.synthesize("one three")) as stream:
        heard = [speech async for speech in stream]
    assert [(speech.audio, speech.words) for speech in heard] == [
        (b"one" * 40, (Word("one", 0, 15),)),
        (b"three" * 40, (Word("three", 15, 40),)),
    ]


async def test_a_cancelled_sentence_is_cancelled_at_the_vendor():
    async with speaking("stall") as (server, voice):
        async with aclosing(voice.synthesize("one two")) as stream:
            await anext(stream)
        await until(lambda: len(server.received) == 2)
        first, second = server.received
        assert second == {"context_id": first["context_id"], "cancel": True}


@pytest.mark.parametrize(
    ("trouble", "error"),
    [("error", ProviderRefused), ("nameless_error", ProviderRefused), ("busy", ProviderBusy)],
)
async def test_an_error_ends_the_sentence_also_where_it_names_none(trouble, error):
    async with speaking(trouble) as (server, voice):
        with pytest.raises(error):
            async with aclosing(voice.synthesize("one")) as stream:
                await anext(stream)
        assert server.connections == 1


async def test_the_key_and_the_version_travel_in_headers():
    async with speaking() as (server, _):
        assert server.headers[0]["Authorization"] == f"Bearer {KEY}"
        assert server.headers[0]["Cartesia-Version"] == cartesia.API_VERSION
        assert KEY not in str(server.queries)


def test_recorded_messages_are_understood():
    wire = SonicWire({})
    events = [
        wire.parse(line) for line in (CORPUS / "tts.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    flat = [event for found in events for event in found]
    assert flat[0] == ("c1", Chunk(b"", (Word("Hello", 0, 320), Word("there.", 340, 700))))
    assert flat[1] == ("c1", Chunk(b"\xff\xfe\xfd\xfc"))
    assert flat[2] == ("c1", Done())
    assert flat[3][0] is None
    assert isinstance(flat[3][1], Failed)
    assert flat[3][1].error.retryable
    assert len(flat) == 4


def test_recorded_messages_are_the_vendors():
    from cartesia.types import WebsocketResponse

    adapter = TypeAdapter(WebsocketResponse)
    for line in (CORPUS / "tts.jsonl").read_text(encoding="utf-8").splitlines():
        adapter.validate_json(line)
    with pytest.raises(ValidationError):
        adapter.validate_json('{"type":"chunk"}')


def test_our_request_is_what_the_vendors_client_would_send():
    from cartesia.types import GenerationRequestParam

    adapter = TypeAdapter(GenerationRequestParam)
    message = request(speed=1.2, volume=1.0, emotion="calm")
    checked = adapter.validate_python(message)
    assert set(message) - set(checked) <= {"continue"}
    with pytest.raises(ValidationError):
        adapter.validate_python({**message, "max_buffer_delay_ms": "soon"})


async def test_the_vendors_client_understands_our_fake():
    from cartesia import AsyncCartesia

    async with (
        CartesiaServer() as server,
        AsyncCartesia(
            api_key=KEY, base_url=server.url.replace("ws", "http"), websocket_base_url=server.url
        ) as client,
        client.tts.websocket_connect() as socket,
    ):
        context = socket.context(
            model_id="sonic-3.5",
            voice={"mode": "id", "id": "v"},
            output_format={
                "container": "raw",
                "encoding": "pcm_mulaw",
                "sample_rate": 8000,
            },
        )
        await context.send(
            model_id="sonic-3.5",
            transcript="one two",
            voice={"mode": "id", "id": "v"},
            continue_=False,
        )
        heard = [event async for event in context.receive()]
    audio = [event.audio for event in heard if event.type == "chunk"]
    assert audio == [b"one" * 40, b"two" * 40]
    assert heard[-1].type == "done"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)


@given(
    st.text()
    | st.binary()
    | JSON.map(json.dumps)
    | st.fixed_dictionaries(
        {
            "type": st.sampled_from(["chunk", "timestamps", "done", "error", "flush_done"]),
            "context_id": st.text() | st.none() | st.integers(),
        },
        optional={
            "data": JSON,
            "word_timestamps": JSON
            | st.fixed_dictionaries({"words": JSON, "start": JSON, "end": JSON}),
            "status_code": JSON,
            "message": JSON,
        },
    ).map(json.dumps)
)
def test_any_message_gives_events_or_a_protocol_error(message):
    try:
        events = SonicWire({}).parse(message)
    except ProviderProtocol:
        return
    for _, event in events:
        assert isinstance(event, (Chunk, Done, Failed))
        assert not isinstance(event, Failed) or isinstance(event.error, ProviderError)


def test_the_url():
    endpoint = PROVIDER.create(settings(PROVIDER)).endpoint(MULAW_8K)
    assert URL(endpoint.url).host == "api.cartesia.ai"
    assert (URL(endpoint.url).path,) == cartesia_server.CartesiaServer.PATHS
    assert KEY not in repr(endpoint)
