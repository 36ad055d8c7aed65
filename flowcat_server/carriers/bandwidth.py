"""Bandwidth: BXML with ``<StartStream mode="bidirectional">``, JSON messages by ``eventType``.

In, as text frames; the audio stands at the top of the message::

    {"eventType":"start","metadata":{"accountId":"..","callId":"c-..","streamId":"s-..",
     "streamName":"s1","tracks":[{"name":"inbound","mediaFormat":{"encoding":"PCMU",
     "sampleRate":8000}}]},"streamParams":{"token":"t"}}
    {"eventType":"media","track":"inbound","payload":"<base64>"}
    {"eventType":"stop","metadata":{"callId":"c-..","streamId":"s-.."}}

Out: ``playAudio`` and ``clear``; there are no marks and no keys. ``StartStream`` does not wait,
so ``<StopStream wait="true"/>`` holds the call until we close the socket. Webhooks are not
signed; they carry user and password. https://dev.bandwidth.com/docs/voice/bxml/startStream.
"""

from __future__ import annotations

from base64 import b64decode
from binascii import b2a_base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flowcat_server.carriers._http import fields_of, ringing
from flowcat_server.carriers._pcm_stream import PcmStream
from flowcat_server.carriers._values import (
    MAX_ID_CHARS,
    audio_format,
    fault,
    number,
    obj,
    parameters,
    short,
    text,
)
from flowcat_server.carriers._xml import content, document, element
from flowcat_server.core.audio import MULAW_8K, AudioFormat
from flowcat_server.core.carrier import (
    Account,
    Carrier,
    CarrierStream,
    Document,
    Fed,
    Ignored,
    Request,
    Ringing,
    Sending,
    Started,
    Stopped,
)

MAX_STREAM_PARAMS = 12
STREAM = "flowcat"


class Stream(PcmStream):
    """One media socket."""

    __slots__ = ()

    def feed(self, message: str | bytes, binary: bool = False) -> Fed:  # noqa: FBT001, FBT002, RUF100 - one call a frame
        """What one message means. Never raises."""
        del binary
        return self._text(message)

    def _control(self, fields: Mapping[str, Any]) -> Fed:
        match fields.get("eventType"):
            case "media":
                return self._media(fields)
            case "start":
                return self._start(obj(fields.get("metadata")), obj(fields.get("streamParams")))
            case "stop":
                return Stopped()
            case str():
                return Ignored("unknown event")
            case _:
                return fault("no event")

    def _media(self, fields: Mapping[str, Any]) -> Fed:
        if not self._started:
            return fault("media before start")
        if fields.get("track", "inbound") != "inbound":
            return Ignored("not the caller's track")
        payload = fields.get("payload")
        try:
            audio = b64decode(payload, validate=True) if isinstance(payload, str) else b""
        except ValueError:
            return fault("payload is not base64")
        return audio or fault("media without audio")

    def _start(self, about: Mapping[str, Any], custom: Mapping[str, Any]) -> Fed:
        if self._started:
            return fault("second start")
        call_id, stream_id = text(about.get("callId")), text(about.get("streamId"))
        if not call_id or max(len(call_id), len(stream_id)) > MAX_ID_CHARS:
            return fault("start without usable ids")
        self._started = True
        return Started(
            call_id=call_id,
            stream_id=stream_id,
            account_id=short(about.get("accountId")),
            parameters=parameters(custom),
            input_format=_heard(about.get("tracks")),
            output_format=MULAW_8K,
            sending=Sending(marks=False),
            from_number=number(about.get("from")),
            to_number=number(about.get("to")),
        )

    def audio(self, payload: bytes) -> str:
        """A ``playAudio`` message."""
        encoded = b2a_base64(payload, newline=False).decode("ascii")
        about = f'{{"contentType":"audio/pcmu","payload":"{encoded}"}}'
        return f'{{"eventType":"playAudio","media":{about}}}'

    def clear(self) -> str:
        """Drops what was not played."""
        return '{"eventType":"clear"}'


def _heard(tracks: object) -> AudioFormat | None:
    """The caller's track; mu-law where none is described."""
    for each in tracks[:8] if isinstance(tracks, list) else ():
        track = obj(each)
        if track.get("name", "inbound") == "inbound":
            announced = obj(track.get("mediaFormat"))
            encoding = text(announced.get("encoding")) or "PCMU"
            return audio_format(encoding, text(announced.get("sampleRate")))
    return MULAW_8K


@dataclass(frozen=True, slots=True, kw_only=True)
class Bandwidth(Carrier):
    """BXML, webhooks with a password."""

    def open(self, account: Account, handshake: Request) -> CarrierStream:
        """A new media socket."""
        del account, handshake
        return Stream()

    def read_call(self, request: Request) -> Ringing | None:
        """The call that an ``initiate`` webhook announces."""
        fields = fields_of(request)
        return ringing(
            request,
            fields.get("callId"),
            fields.get("from"),
            fields.get("to"),
            fields.get("accountId"),
        )

    def answer(
        self, account: Account, call: Ringing, url: str, parameters: Mapping[str, str]
    ) -> Document:
        """Connects the call to our media socket, and holds it until that closes."""
        del account, call
        given = list(parameters.items())[:MAX_STREAM_PARAMS]
        inner = "".join(
            element("StreamParam", {"name": name, "value": value}) for name, value in given
        )
        start = {
            "destination": url,
            "mode": "bidirectional",
            "name": STREAM,
            "tracks": "inbound",
        }
        body = element("StartStream", start, inner)
        body += element("StopStream", {"name": STREAM, "wait": "true"})
        return Document(document(body + "<Hangup/>"), "application/xml")

    def busy(self, account: Account, call: Ringing) -> Document:
        """BXML has no busy signal: the call is not taken."""
        del account, call
        return Document(document("<Hangup/>"), "application/xml")

    def say(self, account: Account, call: Ringing, text: str, language: str) -> Document | None:
        """``<SpeakSentence>``; this answers the call."""
        del account, call
        spoken = {"locale": language.replace("-", "_")} if language else {}
        body = element("SpeakSentence", spoken, content(text)) + "<Hangup/>"
        return Document(document(body), "application/xml")


CARRIER = Bandwidth(
    name="bandwidth",
    title="Bandwidth",
    wire='BXML `<StartStream mode="bidirectional">`',
    audio="mu-law, 8 kHz",
    docs="https://dev.bandwidth.com/docs/voice/bxml/startStream",
    paste="the voice application's call initiated callback URL",
    credential="password",
    unverified="every message: they rest on documentation of 2023 and one other project's code",
)
