"""Pipecat's serializers and ours: they read what we read, and send what we send.

Pipecat pins older versions of packages that this project uses, so that it comes without its
dependencies; where one that a serializer needs is missing, these tests are skipped.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from flowcat_server.core.audio import MULAW_8K, PCM_8K, PCM_16K, AudioFormat, decode
from flowcat_server.core.carrier import Account, CarrierStream, Digit, Reply, Request, Started
from tests.carriers.kit import CORPUS, carrier_named, said

frames = pytest.importorskip("pipecat.frames.frames", reason="pipecat-ai is not installed")
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]


def twilio(stream_id: str) -> Any:
    from pipecat.serializers.twilio import TwilioFrameSerializer

    params = TwilioFrameSerializer.InputParams(auto_hang_up=False)
    return TwilioFrameSerializer(stream_sid=stream_id, params=params)


def telnyx(stream_id: str) -> Any:
    from pipecat.serializers.telnyx import TelnyxFrameSerializer

    params = TelnyxFrameSerializer.InputParams(auto_hang_up=False)
    return TelnyxFrameSerializer(stream_id, "PCMU", "PCMU", params=params)


def plivo(stream_id: str) -> Any:
    from pipecat.serializers.plivo import PlivoFrameSerializer

    params = PlivoFrameSerializer.InputParams(auto_hang_up=False)
    return PlivoFrameSerializer(stream_id=stream_id, params=params)


def exotel(stream_id: str) -> Any:
    from pipecat.serializers.exotel import ExotelFrameSerializer

    return ExotelFrameSerializer(stream_sid=stream_id)


def vonage(stream_id: str) -> Any:
    from pipecat.serializers.vonage import VonageFrameSerializer

    del stream_id
    return VonageFrameSerializer()


MAKERS: dict[str, tuple[Callable[[str], Any], AudioFormat]] = {
    "twilio": (twilio, MULAW_8K),
    "signalwire": (twilio, MULAW_8K),
    "cloudonix": (twilio, MULAW_8K),
    "telnyx": (telnyx, MULAW_8K),
    "exotel": (exotel, PCM_8K),
    "plivo": (plivo, MULAW_8K),
    "vobiz": (plivo, MULAW_8K),
    "vonage": (vonage, PCM_16K),
}
every = pytest.mark.parametrize("name", MAKERS)


def both(name: str) -> tuple[CarrierStream, Any, list[dict[str, Any]]]:
    """Our stream, started; their serializer; what is recorded of the call."""
    rows = [json.loads(line) for line in (CORPUS / name / "call.jsonl").read_text().splitlines()]
    stream = carrier_named(name).open(Account(), Request("GET", "wss://a.example"))
    arriving = [row for row in rows if "do" not in row]
    begun = next(fed for row in arriving if isinstance(fed := stream.feed(*said(row)), Started))
    maker, audio = MAKERS[name]
    theirs = maker(begun.stream_id)
    theirs._sample_rate = audio.sample_rate
    return stream, theirs, arriving


def within(inner: Any, outer: Any) -> bool:
    """Whether everything in one message is in the other; we may say more."""
    if isinstance(inner, dict) and isinstance(outer, dict):
        return all(name in outer and within(value, outer[name]) for name, value in inner.items())
    return bool(inner == outer)


@every
async def test_audio_is_read_alike(name: str):
    stream, theirs, arriving = both(name)
    _, audio = MAKERS[name]
    compared = 0
    for row in arriving:
        if "audio" not in row["means"]:
            continue
        message, binary = said(row)
        ours = stream.feed(message, binary)
        assert isinstance(ours, bytes)
        frame = await theirs.deserialize(message)
        assert isinstance(frame, frames.InputAudioRawFrame)
        assert frame.audio == decode(ours, audio.encoding)
        compared += 1
    assert compared


@every
async def test_keys_are_read_alike(name: str):
    stream, theirs, arriving = both(name)
    for row in arriving:
        if "digit" not in row["means"] or row["means"]["digit"] in "ABCD":
            continue
        message, binary = said(row)
        ours = stream.feed(message, binary)
        assert isinstance(ours, Digit)
        if isinstance(row["message"].get("digit"), int):
            continue  # they expect text
        frame = await theirs.deserialize(message)
        assert frame.button.value == ours.digit


@every
async def test_what_they_send_is_within_what_we_send(name: str):
    stream, theirs, _ = both(name)
    _, audio = MAKERS[name]
    pcm = bytes(range(256)) * 5
    frame = frames.OutputAudioRawFrame(audio=pcm, sample_rate=audio.sample_rate, num_channels=1)
    their_audio = await theirs.serialize(frame)
    if isinstance(their_audio, bytes):
        assert stream.audio(pcm) == their_audio
    else:
        payload = pcm if audio.encoding == "pcm16" else _mulaw(pcm)
        sent = stream.audio(payload)
        ours, others = json.loads(sent), json.loads(their_audio)
        others.pop("streamId", None)  # of Plivo's playAudio, which its documentation does not show
        assert within(others, ours), (others, ours)
    their_clear = await theirs.serialize(frames.InterruptionFrame())
    clear = stream.clear()
    assert clear is not None
    assert within(json.loads(their_clear), json.loads(clear))


async def test_genesys_protocol_is_answered_alike():
    """Everything that is said and done in the recorded session, by both."""
    from pipecat.serializers.genesys import GenesysAudioHookSerializer

    theirs = GenesysAudioHookSerializer()
    theirs._sample_rate = 8000
    ours = carrier_named("genesys").open(Account(), Request("GET", "wss://a.example"))
    pcm = bytes(range(256)) * 5
    spoken = frames.OutputAudioRawFrame(audio=pcm, sample_rate=8000, num_channels=1)
    pairs: list[tuple[Any, Any]] = []
    answer: Any = None
    for line in (CORPUS / "genesys" / "call.jsonl").read_text().splitlines():
        row = json.loads(line)
        match row.get("do"):
            case "accept":
                pairs.append((answer, json.loads(ours.accept()[0])))
            case "audio":
                pairs.append((await theirs.serialize(spoken), ours.audio(_mulaw(pcm))))
            case "clear":
                barge_in = await theirs.serialize(frames.InterruptionFrame())
                pairs.append((json.loads(barge_in), json.loads(ours.clear() or "")))
            case "end":
                ended = await theirs.serialize(frames.EndFrame())
                pairs.append((json.loads(ended), json.loads(ours.end("agent.ended")[0])))
            case None:
                media = row.get("message", {}).get("parameters", {}).get("media", [])
                # Of what is offered they take the first, and we what is mono.
                media[:] = [each for each in media if each["channels"] == ["external"]]
                message, binary = said(row)
                fed, frame = ours.feed(message, binary), await theirs.deserialize(message)
                if isinstance(fed, Started):
                    answer = frame.message  # ours comes when the call is accepted
                elif isinstance(fed, Reply):
                    pairs.append((frame.message, json.loads(fed.message)))
                elif isinstance(fed, Digit):
                    pairs.append((frame.button.value, fed.digit))
                elif isinstance(fed, bytes):
                    pairs.append((frame.audio, decode(fed, "mulaw")))
    for other, own in pairs:
        if isinstance(other, dict):
            other.pop("position", None)  # of what a server says it is optional
            other["parameters"].pop("outputVariables", None)
        assert other == own
    assert len(pairs) == 8


def _mulaw(pcm: bytes) -> bytes:
    from flowcat_server.core.audio import encode

    return encode(pcm, "mulaw")
