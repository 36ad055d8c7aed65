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

from flowcat_server.carriers._http import (
    Answer,
    call_status,
    detected,
    dialled,
    fields_of,
    path_part,
    ringing,
)
from flowcat_server.carriers._pcm_stream import PcmStream
from flowcat_server.carriers._redirects import RedirectingCarrier
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
    E164,
    Account,
    CallStatus,
    CarrierStream,
    Detected,
    Dial,
    DialOver,
    Document,
    Fed,
    Handing,
    Ignored,
    LiveCall,
    Request,
    RestRequest,
    Ringing,
    Sending,
    Started,
    Status,
    Stopped,
)
from flowcat_server.core.proof import basic

MAX_STREAM_PARAMS = 12
MOST_RING_S = 300
TOKEN_URL = "https://api.bandwidth.com/api/v1/oauth2/token"  # noqa: S105 - an address
EVENTS: Mapping[str, Status] = {"initiate": "initiated", "answer": "answered"}
CAUSES: Mapping[str, Status] = {
    "hangup": "completed",
    "busy": "busy",
    "timeout": "no-answer",
    "cancel": "canceled",
    "rejected": "busy",
}
"""``cause`` of the event ``disconnect``; any other is a failure."""
MACHINE: Mapping[str, Answer] = {
    "human": ("human", False),
    "answering-machine": ("machine", False),
    "tone-detected": ("machine", True),
    "silence": ("unknown", False),
    "timeout": ("unknown", False),
    "error": ("unknown", False),
}
"""``value`` of the event: https://dev.bandwidth.com/docs/voice/webhooks/machineDetectionComplete."""
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
class Bandwidth(RedirectingCarrier):
    """BXML, webhooks with a password."""

    api: str = "https://voice.bandwidth.com/api/v2"

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

    def read_status(self, request: Request) -> CallStatus | None:
        """``eventType``, and the cause of a ``disconnect``."""
        fields = fields_of(request)
        call, event = fields.get("callId"), text(fields.get("eventType"))
        if event != "disconnect":
            return call_status(call, event, EVENTS)
        cause = text(fields.get("cause"))
        detail = text(fields.get("errorMessage")) or cause
        return call_status(call, event, {event: CAUSES.get(cause, "failed")}, detail)

    # --- the API ----------------------------------------------------------------------------

    def dial(self, account: Account, call: Dial, now_s: int) -> RestRequest | None:
        """Makes a call; user and password travel with the addresses that are asked."""
        del now_s
        application = account.options.get("application_id", "")
        if not application:
            return None
        proof = {"username": account.user, "password": account.password}
        proof = proof if account.password else {}
        body: dict[str, Any] = {
            "applicationId": application,
            "from": call.from_number,
            "to": call.to,
            "answerUrl": call.answer_url,
            "answerMethod": "POST",
            "disconnectUrl": call.status_url,
            "disconnectMethod": "POST",
            "callTimeout": min(call.ring_s, MOST_RING_S),
            **proof,
        }
        if call.detect:
            body["machineDetection"] = {
                "mode": "async",
                "callbackUrl": call.status_url,
                "callbackMethod": "POST",
                **proof,
            }
        return self._post(account, "", body)

    def read_dialled(self, answer: bytes) -> str:
        """``callId``."""
        return dialled(answer, "callId")

    def read_detection(self, request: Request) -> Detected | None:
        """``machineDetectionComplete``."""
        fields = fields_of(request)
        if fields.get("eventType") != "machineDetectionComplete":
            return None
        found = obj(fields.get("machineDetectionResult")).get("value")
        return detected(fields.get("callId"), text(found) or fields.get("value"), MACHINE)

    def cancel(self, account: Account, call: LiveCall, now_s: int) -> RestRequest | None:
        """Ends a call that rings."""
        del now_s
        return self._post(account, f"/{path_part(call.call_id)}", {"state": "completed"})

    def fetched(
        self, account: Account, call: LiveCall, phone: str, handing: Handing
    ) -> Document | None:
        """``<Transfer>``: https://dev.bandwidth.com/docs/voice/bxml/transfer."""
        about = {"callTimeout": str(handing.ring_s)}
        if E164.fullmatch(call.from_number):
            about["transferCallerId"] = call.from_number
        if handing.over_url:
            about["transferCompleteUrl"] = handing.over_url
            if account.password:
                about |= {"username": account.user, "password": account.password}
        number = element("PhoneNumber", {}, content(phone))
        body = element("Transfer", about, number) + "<Hangup/>"
        return Document(document(body), "application/xml")

    def read_dial(self, request: Request) -> DialOver | None:
        """``transferComplete``: the cause is that of the leg that was dialled last."""
        fields = fields_of(request)
        if fields.get("eventType") != "transferComplete":
            return None
        cause = text(fields.get("cause"))
        return DialOver(cause == "hangup", short(cause))

    def joined(self, other: LiveCall, room: str) -> Document | None:
        """``<Bridge>``; when one hangs up, the other is hung up."""
        del room
        body = element("Bridge", {}, content(other.call_id)) + "<Hangup/>"
        return Document(document(body), "application/xml")

    def hung_up(self) -> Document:
        """``<Hangup/>``."""
        return Document(document("<Hangup/>"), "application/xml")

    def _redirect(self, account: Account, call: LiveCall, handing: Handing) -> RestRequest | None:
        if not handing.document_url:
            return None
        body = {"redirectUrl": handing.document_url, "redirectMethod": "POST"}
        if account.password:
            body |= {"username": account.user, "password": account.password}
        return self._post(account, f"/{path_part(call.call_id)}", body)

    def _post(self, account: Account, path: str, body: Mapping[str, Any]) -> RestRequest | None:
        owner = account.options.get("account_id", "")
        if not (account.secret and account.id and owner):
            return None
        grant = {"grant_type": "client_credentials"}
        token = RestRequest("POST", TOKEN_URL, basic(account.id, account.secret), form=grant)
        url = f"{account.api or self.api}/accounts/{path_part(owner)}/calls{path}"
        return RestRequest("POST", url, json=dict(body), token=token)

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
    unverified="every message: they rest on documentation of 2023 and one other project's code; "
    "whether a call that still rings can be ended",
    has_status=True,
    moves_calls=True,
    joins_calls="caller",
    tells_keys=False,
    dial_keys=("account_id", "client_id", "client_secret", "application_id"),
    detection="`machineDetection`, asynchronous",
)
