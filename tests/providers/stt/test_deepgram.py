from __future__ import annotations

import asyncio
import json
import time
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from yarl import URL

from flowcat_server.core.audio import ALAW_8K, MULAW_8K, PCM_16K
from flowcat_server.core.interfaces import Audio, EndOfTurn, Pause, Resume, Transcript
from flowcat_server.errors import (
    ProviderBusy,
    ProviderProtocol,
    ProviderRefused,
    ProviderUnavailable,
)
from flowcat_server.providers import websocket
from flowcat_server.providers.http import Http
from flowcat_server.providers.stt import deepgram
from flowcat_server.providers.stt._deepgram import FluxReader, NovaReader, Ring
from flowcat_server.providers.stt.deepgram import PROVIDER
from tests.fakes.deepgram_server import DeepgramServer, flux_turn, nova_results, say
from tests.fakes.inbox import Inbox
from tests.fakes.settings import KEY, settings
from tests.fakes.vendor_server import until

CORPUS = Path(__file__).parents[2] / "corpus" / "deepgram"
MODELS = ["nova-3", "flux-general-en"]


def query(audio=MULAW_8K, *, model=None, language="", base_url="", **options):
    stt = PROVIDER.create(
        settings(PROVIDER, model=model, language=language, base_url=base_url, **options)
    )
    return URL(stt.url(audio))


@asynccontextmanager
async def listening(server, *, model="nova-3", **options):
    """A running stream: an inbox to fill and transcripts to read."""
    http = Http()
    stt = PROVIDER.create(
        settings(PROVIDER, http=http, base_url=server.url, model=model, **options)
    )
    inbox = Inbox()
    try:
        async with aclosing(stt.transcribe(inbox, MULAW_8K)) as stream:
            yield inbox, stream
    finally:
        await http.close()


def spoken(text, at_ms=0):
    """Audio of a text and then half a second of silence, in pieces of 80 ms."""
    audio = say(text) + MULAW_8K.silence(500)
    size = MULAW_8K.bytes_for(80)
    pieces = [audio[n : n + size] for n in range(0, len(audio), size)]
    return [Audio(piece, at_ms + 80 * (n + 1)) for n, piece in enumerate(pieces)]


def turn(text, pause):
    """A spoken text, its pause, and the silence that goes on after it."""
    return (*spoken(text), Pause(pause), Audio(MULAW_8K.silence(300), 0))


async def answer(stream, pause, timeout_s=2.0):
    """Read until the pause is answered; the turn's segments, joined."""
    segments = {}
    async with asyncio.timeout(timeout_s):
        async for transcript in stream:
            segments[transcript.segment] = transcript.text
            if transcript.pause == pause:
                break
    return " ".join(text for _, text in sorted(segments.items()) if text)


# --- the query ------------------------------------------------------------------------------


def test_a_carriers_audio_goes_untouched_to_nova():
    url = query()
    assert url.path == "/v1/listen"
    assert url.host == "api.deepgram.com"
    assert dict(url.query) == {
        "model": "nova-3",
        "encoding": "mulaw",
        "sample_rate": "8000",
        "channels": "1",
        "interim_results": "true",
        "punctuate": "true",
        "smart_format": "false",
        "endpointing": "25",
    }


@pytest.mark.parametrize(
    ("audio", "encoding", "rate"), [(ALAW_8K, "alaw", "8000"), (PCM_16K, "linear16", "16000")]
)
def test_formats_are_named_as_the_vendor_names_them(audio, encoding, rate):
    assert query(audio).query["encoding"] == encoding
    assert query(audio).query["sample_rate"] == rate


def test_lists_are_repeated_and_extras_pass():
    url = query(keyterm=["flow cat", "ümlaut"], endpointing=False, extra={"redact": ["pci", "ssn"]})
    assert url.query.getall("keyterm") == ["flow cat", "ümlaut"]
    assert url.query.getall("redact") == ["pci", "ssn"]
    assert url.query["endpointing"] == "false"


def test_flux_gets_its_own_road_and_no_option_of_novas():
    url = query(model="flux-general-multi", language="de-DE", eot_threshold=1.0)
    assert url.path == "/v2/listen"
    assert dict(url.query) == {
        "model": "flux-general-multi",
        "encoding": "mulaw",
        "sample_rate": "8000",
        "language_hint": "de",
        "eot_threshold": "1.0",
    }


def test_a_region_changes_the_vendors_host_but_not_ones_own():
    assert query(region="eu").host == "api.eu.deepgram.com"
    assert query(region="eu", base_url="http://stt.example:8080").host == "stt.example"
    assert query(base_url="http://stt.example:8080").scheme == "ws"


def test_unknown_options_are_refused():
    with pytest.raises(ValidationError, match="endpoint"):
        settings(PROVIDER, endpoint=10)


# --- a call ---------------------------------------------------------------------------------


@pytest.mark.parametrize("model", MODELS)
async def test_a_pause_is_answered_with_everything_said_before_it(model):
    async with DeepgramServer() as server, listening(server, model=model) as (inbox, stream):
        inbox.put(*turn("i want a table for two", 1))
        assert await answer(stream, 1) == "i want a table for two"
        assert server.headers[0]["Authorization"] == f"Token {KEY}"


@pytest.mark.parametrize("model", MODELS)
async def test_turns_do_not_mix(model):
    async with DeepgramServer() as server, listening(server, model=model) as (inbox, stream):
        for number, text in enumerate(("one two", "three", "four five")):
            inbox.put(*turn(text, number))
            assert await answer(stream, number) == text
            inbox.put(EndOfTurn())


@pytest.mark.parametrize("model", MODELS)
async def test_a_turn_with_a_pause_in_it_keeps_both_halves(model):
    async with DeepgramServer() as server, listening(server, model=model) as (inbox, stream):
        segments = {}
        inbox.put(*turn("one two", 1))
        async for transcript in stream:
            segments[transcript.segment] = transcript.text
            if transcript.pause == 1:
                break
        inbox.put(Resume(), *turn("three", 2))
        async for transcript in stream:
            segments[transcript.segment] = transcript.text
            if transcript.pause == 2:
                break
        assert " ".join(filter(None, segments.values())) == "one two three"


@pytest.mark.parametrize("model", MODELS)
async def test_silence_is_answered_with_no_words(model):
    async with DeepgramServer() as server, listening(server, model=model) as (inbox, stream):
        inbox.put(Audio(MULAW_8K.silence(600), 600), Pause(4))
        assert await answer(stream, 4) == ""


@pytest.mark.parametrize("model", MODELS)
async def test_words_are_told_while_the_caller_speaks(model):
    async with DeepgramServer() as server, listening(server, model=model) as (inbox, stream):
        inbox.put(*spoken("one two"))
        async with asyncio.timeout(2):
            while (transcript := await anext(stream)).text != "one two":
                pass
        assert transcript.final is False


async def test_a_vendor_that_does_not_reply_to_finalize_is_not_waited_for():
    async with DeepgramServer("deaf") as server, listening(server) as (inbox, stream):
        inbox.put(*spoken("one two"), Pause(1))
        began = time.monotonic()
        assert await answer(stream, 1) == "one two"
        assert 0.4 < time.monotonic() - began < 1.5


async def test_an_idle_stream_is_kept_alive(monkeypatch):
    monkeypatch.setattr(NovaReader, "idle_ms", 10)
    async with DeepgramServer() as server, listening(server) as (_, stream):
        reading = asyncio.ensure_future(anext(stream))
        await until(lambda: server.received.count('{"type":"KeepAlive"}') >= 2)
        reading.cancel()
        await asyncio.wait((reading,))


async def test_an_idle_flux_hears_silence(monkeypatch):
    monkeypatch.setattr(FluxReader, "idle_ms", 10)
    async with DeepgramServer() as server, listening(server, model=MODELS[1]) as (_, stream):
        reading = asyncio.ensure_future(anext(stream))
        await until(lambda: server.received.count(MULAW_8K.silence(10)) >= 2)
        reading.cancel()
        await asyncio.wait((reading,))


async def test_the_end_of_the_call_ends_the_stream_politely():
    async with DeepgramServer() as server, listening(server) as (inbox, stream):
        inbox.put(*spoken("one"))
        inbox.end()
        async with asyncio.timeout(2):
            _ = [transcript async for transcript in stream]
        await until(lambda: server.open == 0)
        assert server.received[-1] == '{"type":"CloseStream"}'


# --- trouble --------------------------------------------------------------------------------


@pytest.fixture
def at_once(monkeypatch):
    monkeypatch.setattr(deepgram, "RECONNECT_AFTER_MS", (0, 1, 2))


@pytest.mark.parametrize("model", MODELS)
async def test_words_survive_a_broken_connection(at_once, model):
    server = DeepgramServer("cut", times=1, cut_after=2500)
    async with server, listening(server, model=model) as (inbox, stream):
        inbox.put(*spoken("one two three"))
        inbox.put(Pause(1))
        assert await answer(stream, 1) == "one two three"
        assert server.connections == 2


async def test_what_was_fixed_before_the_break_is_not_heard_twice(at_once):
    server = DeepgramServer("cut", times=1, cut_after=8000)
    async with server, listening(server) as (inbox, stream):
        inbox.put(*spoken("one two"), Pause(1))
        assert await answer(stream, 1) == "one two"
        inbox.put(Resume(), *spoken("three four"), Pause(2))
        assert await answer(stream, 2) == "three four"
        assert server.connections == 2


async def test_a_vendor_that_stays_away_is_given_up(at_once):
    server = DeepgramServer("cut", cut_after=1)
    async with server, listening(server) as (inbox, stream):
        inbox.put(*spoken("one"), Pause(1))
        with pytest.raises(ProviderUnavailable):
            await answer(stream, 1)
        assert server.connections == 4


async def test_a_key_that_was_withdrawn_is_not_tried_again(at_once):
    server = DeepgramServer("cut", times=1, cut_after=1)
    async with server, listening(server) as (inbox, stream):
        reading = asyncio.ensure_future(anext(stream))
        await until(lambda: server.open == 1)
        server.trouble, server.times = "refuse", 9
        inbox.put(*spoken("one"))
        server.cut_after = 1
        await asyncio.sleep(0)
        with pytest.raises(ProviderRefused):
            await reading
        assert server.connections == 2


@pytest.mark.parametrize(
    ("trouble", "error"),
    [
        ("refuse", ProviderRefused),
        ("bad_request", ProviderRefused),
        ("rate_limit", ProviderBusy),
        ("fault", ProviderUnavailable),
    ],
)
async def test_a_refused_stream_says_why_and_never_the_key(trouble, error):
    async with DeepgramServer(trouble) as server, listening(server) as (_, stream):
        with pytest.raises(error, match=f"{trouble} on purpose") as caught:
            await anext(stream)
        assert KEY not in str(caught.value)


async def test_a_handshake_that_hangs_is_given_up(monkeypatch):
    monkeypatch.setattr(websocket, "CONNECT_TIMEOUT_S", 0.02)
    async with DeepgramServer("hang") as server, listening(server) as (_, stream):
        with pytest.raises(Exception, match="no answer in time"):
            await anext(stream)


async def test_a_half_dead_vendor_is_silent_and_can_be_left():
    async with DeepgramServer("half_dead") as server:
        async with listening(server) as (inbox, stream):
            inbox.put(*spoken("one"), Pause(1))
            with pytest.raises(TimeoutError):
                await answer(stream, 1, timeout_s=0.7)
        await until(lambda: server.open == 0)


async def test_nonsense_ends_the_stream():
    async with DeepgramServer("garbage") as server, listening(server) as (inbox, stream):
        inbox.put(*spoken("one"))
        with pytest.raises(ProviderProtocol):
            await anext(stream)


async def test_a_fault_inside_flux_is_survived(at_once):
    server = DeepgramServer("error", times=1)
    async with server, listening(server, model=MODELS[1]) as (inbox, stream):
        inbox.put(*spoken("one two"), Pause(1))
        assert await answer(stream, 1) == "one two"


async def test_nobody_is_there():
    async with DeepgramServer() as server:
        url = server.url
    http = Http()
    stt = PROVIDER.create(settings(PROVIDER, http=http, base_url=url))
    async with aclosing(stt.transcribe(Inbox(), MULAW_8K)) as stream:
        with pytest.raises(ProviderUnavailable):
            await anext(stream)
    await http.close()


# --- the readers ----------------------------------------------------------------------------


def fed(reader, audio):
    reader.ring.append(audio)
    return reader


def results(audio, start, *, final, asked=False):
    return json.dumps(nova_results(audio, start, final=final, from_finalize=asked))


def test_a_late_reply_to_an_earlier_pause_does_not_answer_a_later_one():
    first, both = say("one two"), say("one two three")
    reader = fed(NovaReader(MULAW_8K), first)
    reader.pause(1, 0)
    reader.resume()
    fed(reader, both[len(first) :] + MULAW_8K.silence(300))
    reader.pause(2, 400)
    (late,) = reader.parse(results(first, 0, final=True, asked=True), 500)
    assert (late.text, late.pause) == ("one two", None)
    whole = both + MULAW_8K.silence(300)
    (right,) = reader.parse(results(whole, len(first), final=True, asked=True), 600)
    assert (right.text, right.pause, right.segment) == ("three", 2, 1)


def test_a_new_connection_counts_from_what_it_was_sent_again():
    first, second = say("one two"), say("three") + MULAW_8K.silence(100)
    reader = fed(NovaReader(MULAW_8K), first)
    reader.parse(results(first, 0, final=True), 0)
    fed(reader, second)
    assert b"".join(reader.connected()) == second
    reader.pause(1, 0)
    (heard,) = reader.parse(results(second, 0, final=True), 0)
    assert (heard.text, heard.segment, heard.pause) == ("three", 1, 1)
    assert reader.ring.size == 0


def test_words_of_the_last_turn_that_come_late_are_dropped():
    audio = say("one two")
    reader = fed(NovaReader(MULAW_8K), audio)
    reader.end_turn()
    assert reader.parse(results(audio, 0, final=True), 10) == ()


def test_an_interim_text_that_was_taken_back_is_taken_back():
    audio = say("one")
    reader = fed(NovaReader(MULAW_8K), audio)
    assert reader.parse(results(audio, 0, final=False), 0)[0].text == "one"
    empty = nova_results(b"\xff" * len(audio), 0, final=True)
    assert reader.parse(json.dumps(empty), 0) == (Transcript("", 0, True),)


def test_a_pause_is_settled_at_once_where_the_words_are_fixed_already():
    audio = say("one two") + MULAW_8K.silence(200)
    reader = fed(NovaReader(MULAW_8K), audio)
    reader.parse(results(audio[: len(say("one two"))], 0, final=True), 100)
    reader.pause(1, 200)
    assert reader.settle(300) is None
    assert reader.settle(360) == Transcript("", 1, False, 1)


def test_nothing_is_settled_for_a_vendor_that_has_died():
    reader = fed(NovaReader(MULAW_8K), say("one"))
    reader.pause(1, 10_000)
    assert reader.settle(20_000) is None


def test_flux_that_ends_the_turn_itself_answers_the_pause():
    audio = say("one two")
    reader = fed(FluxReader(MULAW_8K), audio + MULAW_8K.silence(800))
    reader.pause(1, 0)
    message = flux_turn(1, "EndOfTurn", 0, audio, 0, len(audio), "model")
    assert reader.parse(json.dumps(message), 0) == (Transcript("one two", 0, True, 1),)


def test_flux_turns_of_one_turn_of_ours_are_segments():
    audio = say("one two")
    reader = fed(FluxReader(MULAW_8K), audio)
    for turn in (0, 1):
        message = flux_turn(1, "EndOfTurn", turn, audio, 0, len(audio), "model")
        assert reader.parse(json.dumps(message), 0)[0].segment == turn
    assert reader.end_turn() == ()
    message = flux_turn(1, "Update", 2, audio, 0, len(audio))
    assert reader.parse(json.dumps(message), 0)[0].segment == 0


def test_flux_is_told_to_end_a_turn_and_its_rest_is_dropped():
    audio = say("one two")
    reader = fed(FluxReader(MULAW_8K), audio)
    reader.parse(json.dumps(flux_turn(1, "Update", 0, audio, 0, len(audio))), 0)
    assert [json.loads(text) for text in reader.end_turn()] == [{"type": "ForceEndTurn"}]
    ended = flux_turn(2, "EndOfTurn", 0, audio, 0, len(audio), "manual")
    assert reader.parse(json.dumps(ended), 0) == ()


@given(
    st.lists(st.binary(max_size=300), max_size=40),
    st.lists(st.integers(-100, 20_000), max_size=10),
)
def test_the_ring_keeps_the_newest_audio_in_order(chunks, trims):
    ring, sent = Ring(MULAW_8K), b""
    for chunk in chunks:
        ring.append(chunk)
        sent += chunk
    for position in trims:
        ring.trim(position)
    kept = b"".join(ring.chunks())
    assert len(kept) == ring.size
    assert sent[ring.start :] == kept
    assert ring.start >= max([0, *[min(trim, len(sent)) for trim in trims]])


def test_the_ring_is_bounded():
    ring = Ring(MULAW_8K)
    for _ in range(1000):
        ring.append(MULAW_8K.silence(20))
    assert ring.size == MULAW_8K.bytes_for(10_000)
    assert ring.end == MULAW_8K.bytes_for(20_000)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)
FIELDS = {
    "type": st.sampled_from(["Results", "TurnInfo", "Error", "Warning", "Metadata", "new"]) | JSON,
    "channel": JSON | st.just({"alternatives": [{"transcript": "x"}]}),
    "start": JSON,
    "duration": JSON,
    "is_final": JSON,
    "from_finalize": JSON,
    "event": st.sampled_from(["Update", "EndOfTurn"]) | JSON,
    "turn_index": JSON,
    "transcript": JSON,
    "audio_window_end": JSON,
}


@pytest.mark.parametrize("kind", [NovaReader, FluxReader])
@given(
    messages=st.lists(
        st.text() | st.binary() | JSON.map(json.dumps)
        | st.fixed_dictionaries({}, optional=FIELDS).map(json.dumps)
        | st.fixed_dictionaries(FIELDS).map(json.dumps)
    )
)  # fmt: skip
def test_any_message_gives_transcripts_or_one_kind_of_error(kind, messages):
    reader = fed(kind(MULAW_8K), say("one two"))
    reader.pause(1, 0)
    for message in messages:
        try:
            found = reader.parse(message, 0)
        except (ProviderProtocol, ProviderRefused, ProviderBusy, ProviderUnavailable):
            continue
        assert all(isinstance(item, Transcript) for item in found)


# --- the vendor's own client ------------------------------------------------------------------


def sdk(server):
    from deepgram import AsyncDeepgramClient
    from deepgram.environment import DeepgramClientEnvironment

    environment = DeepgramClientEnvironment(
        base=server.url, production=server.url, agent=server.url, agent_rest=server.url
    )
    return AsyncDeepgramClient(api_key=KEY, environment=environment)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
async def test_the_vendors_client_understands_our_fake_nova():
    from deepgram.listen.v1.types import ListenV1Results

    async with (
        DeepgramServer() as server,
        sdk(server).listen.v1.connect(model="nova-3", encoding="mulaw", sample_rate=8000) as socket,
    ):
        await socket.send_media(say("one two"))
        await socket.send_finalize()
        while not (message := await socket.recv()).from_finalize:
            pass
    assert isinstance(message, ListenV1Results)
    assert message.channel.alternatives[0].transcript == "one two"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
async def test_the_vendors_client_understands_our_fake_flux():
    from deepgram.listen.v2.types import ListenV2Connected, ListenV2TurnInfo

    async with (
        DeepgramServer() as server,
        sdk(server).listen.v2.connect(
            model="flux-general-en", encoding="mulaw", sample_rate="8000"
        ) as socket,
    ):
        assert isinstance(await socket.recv(), ListenV2Connected)
        await socket.send_media(say("one two") + MULAW_8K.silence(100))
        assert isinstance(await socket.recv(), ListenV2TurnInfo)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_recorded_messages_are_the_vendors_and_are_understood():
    from deepgram.listen.v1.types import ListenV1Metadata, ListenV1Results
    from deepgram.listen.v2.types import ListenV2Connected, ListenV2TurnInfo

    types = {
        "Results": ListenV1Results,
        "Metadata": ListenV1Metadata,
        "Connected": ListenV2Connected,
        "TurnInfo": ListenV2TurnInfo,
    }
    heard = {}
    for name, reader in (("nova", NovaReader(MULAW_8K)), ("flux", FluxReader(MULAW_8K))):
        fed(reader, MULAW_8K.silence(9000))
        heard[name] = []
        for line in (CORPUS / f"{name}.jsonl").read_text(encoding="utf-8").splitlines():
            kind = json.loads(line)["type"]
            if kind in types:
                types[kind].model_validate_json(line)
            heard[name] += [(item.text, item.final) for item in reader.parse(line, 0)]
    assert heard["nova"][-1] == ("Hello, I need an appointment on Friday.", True)
    assert heard["flux"][-1] == ("Hello, I need an appointment.", True)
