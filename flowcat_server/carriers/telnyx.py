"""Telnyx Media Streaming, for TeXML applications and for Call Control applications.

In, as text frames; ``encoding`` is the codec of the call's leg, whatever we send::

    {"event":"connected","version":"1.0.0"}
    {"event":"start","sequence_number":"1","stream_id":"<uuid>","start":{"user_id":"..",
     "call_control_id":"v3:..","from":"+1..","to":"+1..","custom_parameters":{},
     "media_format":{"encoding":"PCMA","sample_rate":8000,"channels":1}}}
    {"event":"media","stream_id":"<uuid>","media":{"track":"inbound","chunk":"2",
     "timestamp":"5","payload":"<base64>"}}  (in no promised order)
    {"event":"dtmf","stream_id":"<uuid>","dtmf":{"digit":"1"}}
    {"event":"mark","stream_id":"<uuid>","mark":{"name":"m1"}}
    {"event":"error","stream_id":"<uuid>","payload":{"code":100004,"title":".."}}
    {"event":"stop","stream_id":"<uuid>","stop":{"call_control_id":"v3:.."}}

Out: ``media`` of 20 ms to 30 s, ``mark`` and ``clear``, none with an id. A TeXML webhook has
Twilio's names and is answered with a document; one of Call Control is JSON, and the call is
answered through the API. Both are signed with Ed25519 over ``timestamp|body``.
https://developers.telnyx.com/docs/voice/programmable-voice/media-streaming.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from flowcat_server.carriers._http import (
    CALL_ID,
    Answer,
    call_status,
    detected,
    dialled,
    json_fields,
    path_part,
    ringing,
)
from flowcat_server.carriers._json_stream import Dialect, Settings
from flowcat_server.carriers._order import OrderedJsonStream
from flowcat_server.carriers._twilio import EVENTS, MOST_S, STATUSES, TwilioLike
from flowcat_server.carriers._values import audio_format, obj, short, text
from flowcat_server.core.audio import AudioFormat
from flowcat_server.core.carrier import (
    E164,
    NOWHERE,
    Account,
    CallStatus,
    CarrierStream,
    Detected,
    Dial,
    DialOver,
    Document,
    Handing,
    LiveCall,
    Request,
    RestRequest,
    Ringing,
    Sending,
    Status,
    Verdict,
)

MAX_AGE_S = 300
"""Of a signed webhook; as the vendor's own library has it."""
_MAX_SIGNATURE = 128
HANGUP_CAUSES: Mapping[str, Status] = {
    "normal_clearing": "completed",
    "user_busy": "busy",
    "call_rejected": "busy",
    "timeout": "no-answer",
    "no_answer": "no-answer",
    "originator_cancel": "canceled",
}
_EVENTS: Mapping[str, Status] = {
    "call.initiated": "initiated",
    "call.ringing": "ringing",
    "call.answered": "answered",
}
RESULTS: Mapping[str, Answer] = {
    "human": ("human", False),
    "human_residence": ("human", False),
    "human_business": ("human", False),
    "machine": ("machine", False),
    "fax_detected": ("fax", False),
    "silence": ("unknown", False),
    "not_sure": ("unknown", False),
    "beep_detected": ("machine", True),
    "ended": ("machine", True),
}
"""Of ``call.machine[.premium].detection.ended`` and ``.greeting.ended``."""
_GREETING_OVER = frozenset({"call.machine.greeting.ended", "call.machine.premium.greeting.ended"})
_DETECTION = frozenset({"call.machine.detection.ended", "call.machine.premium.detection.ended"})
OURS = b64encode(b"flowcat-server").decode()
"""``client_state`` of the calls that we make: it comes back in every event of theirs."""
HANDED = "flowcat-server handed "
"""``client_state`` of the leg that a call is passed on to, before the call's own id."""
DIALLED = "call-control-dialled"
"""What `Ringing.account_id` says of such a call, when it was answered."""
NO_API_KEY = "carriers.telnyx.api_key is needed to answer calls of a Call Control application"
CALL_CONTROL = "call-control"
"""What `Ringing.account_id` says of a call that is answered through the API."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Telnyx(TwilioLike):
    """TeXML in Twilio's manner, Call Control in its own."""

    def open(self, account: Account, handshake: Request) -> CarrierStream:
        """A new media socket; what we send was asked for in the answer."""
        del handshake
        return OrderedJsonStream(
            Settings(
                dialect=self.dialect,
                sending=_sending,
                output=audio_format(*_codec(account)),
                big_endian=account.options.get("byte_order", "big") == "big",
            )
        )

    # --- webhooks ---------------------------------------------------------------------------

    def read_call(self, request: Request) -> Ringing | None:
        """The call that a webhook announces."""
        if request.method != "POST" or request.form is not None:
            fields = request.fields
            return ringing(
                request,
                fields.get("CallSid"),
                fields.get("From"),
                fields.get("To"),
                fields.get("AccountSid"),
            )
        event, payload = _event(request)
        if event == "call.initiated" and payload.get("direction") == "incoming":
            kind = CALL_CONTROL
        elif event == "call.answered" and payload.get("client_state") == OURS:
            kind = DIALLED
        else:
            return None
        return ringing(
            request,
            payload.get("call_control_id"),
            payload.get("from"),
            payload.get("to"),
            kind,
        )

    def is_report(self, request: Request) -> bool:
        """Call Control sends every event to one address, and again what is not taken."""
        return request.form is None and bool(_event(request)[0])

    def stream_attributes(self, account: Account) -> Mapping[str, str]:
        """Without ``rtp`` what we send would be taken for MP3."""
        codec, rate = _codec(account)
        return {
            "bidirectionalMode": "rtp",
            "bidirectionalCodec": codec,
            "bidirectionalSamplingRate": rate,
        }

    def answer(
        self, account: Account, call: Ringing, url: str, parameters: Mapping[str, str]
    ) -> Document:
        """A document; for Call Control nothing but the request that connects the call."""
        if call.account_id not in (CALL_CONTROL, DIALLED):
            return TwilioLike.answer(self, account, call, url, parameters)
        if not account.secret:
            return Document(NO_API_KEY, "text/plain", status=503)
        codec, rate = _codec(account)
        stream: dict[str, Any] = {
            "stream_url": url,
            "stream_track": "inbound_track",
            "stream_bidirectional_mode": "rtp",
            "stream_bidirectional_codec": codec,
        }
        if rate != "8000":  # known to other requests that start a stream, but not listed here
            stream["stream_bidirectional_sampling_rate"] = int(rate)
        action = "answer" if call.account_id == CALL_CONTROL else "streaming_start"
        return Document("", "text/plain", rest=self._act(account, call.call_id, action, stream))

    def busy(self, account: Account, call: Ringing) -> Document:
        """The caller hears a busy tone."""
        if call.account_id != CALL_CONTROL:
            return TwilioLike.busy(self, account, call)
        cause = {"cause": "USER_BUSY"}
        return Document("", "text/plain", rest=self._act(account, call.call_id, "reject", cause))

    def drop(self, account: Account, call: Ringing) -> Document:
        """Hangs up."""
        if call.account_id != DIALLED:
            return TwilioLike.drop(self, account, call)
        return Document("", "text/plain", rest=self._act(account, call.call_id, "hangup", {}))

    def say(self, account: Account, call: Ringing, text: str, language: str) -> Document | None:
        """A TeXML document speaks; a Call Control call would have to be answered first."""
        if call.account_id == CALL_CONTROL:
            return None
        return TwilioLike.say(self, account, call, text, language)

    def verify(self, request: Request, account: Account, now_s: int) -> Verdict | None:
        """Ed25519 over the time and the raw body."""
        stamp = request.headers.get("telnyx-timestamp", "")
        given = request.headers.get("telnyx-signature-ed25519", "")
        if not (stamp.isascii() and stamp.isdigit() and len(stamp) <= 12):
            return Verdict(proven=False, reason="signature without time")
        if abs(now_s - int(stamp)) > MAX_AGE_S:
            return Verdict(proven=False, reason="signature too old")
        if not _signed(account.webhook_key, given, f"{stamp}|".encode() + request.body):
            return Verdict(proven=False, reason="signature")
        return Verdict(proven=True, key=f"{stamp} {given}")

    def read_status(self, request: Request) -> CallStatus | None:
        """``CallStatus`` of TeXML, the event of Call Control."""
        if request.form is not None:
            fields = request.fields
            return call_status(fields.get("CallSid"), fields.get("CallStatus"), STATUSES)
        event, payload = _event(request)
        call = payload.get("call_control_id")
        if event != "call.hangup":
            return call_status(call, event, _EVENTS)
        cause = text(payload.get("hangup_cause")).lower()
        return call_status(call, "hangup", {"hangup": HANGUP_CAUSES.get(cause, "failed")}, cause)

    # --- the API ----------------------------------------------------------------------------

    def dial(self, account: Account, call: Dial, now_s: int) -> RestRequest | None:
        """Makes a call of a TeXML application, if one is configured, else of Call Control."""
        del now_s
        if not account.secret:
            return None
        api, proof = account.api or self.api, f"Bearer {account.secret}"
        application = account.options.get("texml_application_id", "")
        owner = account.options.get("account_id", "")
        if application and owner:
            url = f"{api}/texml/Accounts/{path_part(owner)}/Calls"
            return RestRequest("POST", url, proof, json=_texml(application, call))
        connection = account.options.get("connection_id", "")
        if not connection:
            return None
        return RestRequest("POST", f"{api}/calls", proof, json=_call_control(connection, call))

    def read_dialled(self, answer: bytes) -> str:
        """``call_control_id``; of TeXML the first webhook tells it."""
        return dialled(answer, "data", "call_control_id") or dialled(answer, "sid")

    def read_detection(self, request: Request) -> Detected | None:
        """The events of Call Control, ``AnsweredBy`` of TeXML."""
        if request.form is not None:
            return TwilioLike.read_detection(self, request)
        event, payload = _event(request)
        call, result = payload.get("call_control_id"), payload.get("result")
        if event in _GREETING_OVER:
            return detected(call, "ended", RESULTS)
        return detected(call, result, RESULTS) if event in _DETECTION else None

    def outlives(self, account_id: str) -> bool:
        """Call Control knows no document whose end would end the call."""
        return account_id in (CALL_CONTROL, DIALLED)

    def hang_up(self, account: Account, call: LiveCall, now_s: int) -> RestRequest | None:
        """Ends a live call."""
        del now_s
        return self._act(account, call.call_id, "hangup", {})

    def transfer(
        self,
        account: Account,
        call: LiveCall,
        phone: str,
        now_s: int,
        handing: Handing = NOWHERE,
    ) -> RestRequest | None:
        """Passes a live call on; it stays with us until somebody answers."""
        del now_s
        body: dict[str, Any] = {"to": phone, "timeout_secs": handing.ring_s}
        if E164.fullmatch(call.from_number):
            body["from"] = call.from_number
        body["target_leg_client_state"] = b64encode(f"{HANDED}{call.call_id}".encode()).decode()
        return self._act(account, call.call_id, "transfer", body)

    def read_dial(self, request: Request) -> DialOver | None:
        """An event of the new leg, which carries what `transfer` gave it."""
        event, payload = _event(request)
        call_id = _handed(text(payload.get("client_state")))
        if not call_id or event not in ("call.bridged", "call.hangup"):
            return None
        cause = text(payload.get("hangup_cause")).lower()
        return DialOver(event == "call.bridged", short(cause), call_id)

    def join(
        self,
        account: Account,
        call: LiveCall,
        other: LiveCall,
        room: str,
        now_s: int,
        handing: Handing = NOWHERE,
    ) -> RestRequest | None:
        """Bridges the two."""
        del room, now_s, handing
        return self._act(account, call.call_id, "bridge", {"call_control_id": other.call_id})

    def send_keys(
        self, account: Account, call: LiveCall, keys: str, now_s: int
    ) -> RestRequest | None:
        """``send_dtmf``, which knows ``w`` too."""
        del now_s
        return self._act(account, call.call_id, "send_dtmf", {"digits": keys})

    def _act(
        self, account: Account, call_id: str, action: str, body: Mapping[str, Any]
    ) -> RestRequest | None:
        if not account.secret:
            return None
        url = f"{account.api or self.api}/calls/{path_part(call_id)}/actions/{action}"
        # 422 with code 90018: the call has ended.
        return RestRequest(
            "POST", url, f"Bearer {account.secret}", json=dict(body), gone_status=(404, 422)
        )


def _handed(state: str) -> str:
    """The id of the call that was passed on; empty: this is no leg of such a transfer."""
    try:
        said = b64decode(state, validate=True).decode()
    except ValueError:
        return ""
    call_id = said.removeprefix(HANDED)
    return call_id if call_id != said and CALL_ID.fullmatch(call_id) else ""


def _texml(application: str, call: Dial) -> dict[str, Any]:
    body: dict[str, Any] = {
        "ApplicationSid": application,
        "To": call.to,
        "From": call.from_number,
        "Url": call.answer_url,
        "StatusCallback": call.status_url,
        "StatusCallbackMethod": "POST",
        "StatusCallbackEvent": " ".join(EVENTS),
        "Timeout": call.ring_s,
        "TimeLimit": min(call.limit_s, MOST_S),
    }
    if call.detect:
        body |= {
            "MachineDetection": "DetectMessageEnd" if call.await_greeting else "Enable",
            "AsyncAmd": True,
            "AsyncAmdStatusCallback": call.status_url,
            "AsyncAmdStatusCallbackMethod": "POST",
        }
    return body


def _call_control(connection: str, call: Dial) -> dict[str, Any]:
    body: dict[str, Any] = {
        "connection_id": connection,
        "to": call.to,
        "from": call.from_number,
        "webhook_url": call.answer_url,
        "webhook_url_method": "POST",
        "timeout_secs": call.ring_s,
        "time_limit_secs": min(call.limit_s, MOST_S),
        "client_state": OURS,
    }
    if call.detect:
        mode = "greeting_end" if call.await_greeting else "detect"
        body["answering_machine_detection"] = mode
    return body


def _sending(audio: AudioFormat) -> Sending:
    return Sending(unit=audio.sample_bytes, least=audio.bytes_for(20), most=audio.bytes_for(30_000))


def _codec(account: Account) -> tuple[str, str]:
    """What we asked to send, and its rate."""
    return account.options.get("codec", "PCMU"), account.options.get("sample_rate", "8000")


def _event(request: Request) -> tuple[str, Mapping[str, Any]]:
    """A Call Control event's type and payload."""
    data = obj(json_fields(request).get("data"))
    return text(data.get("event_type")), obj(data.get("payload"))


def _signed(public_key: str, given: str, message: bytes) -> bool:
    if not given or len(given) > _MAX_SIGNATURE:
        return False
    try:
        key = Ed25519PublicKey.from_public_bytes(b64decode(public_key, validate=True))
        key.verify(b64decode(given, validate=True), message)
    except (InvalidSignature, ValueError):  # ValueError: no base64, or a key of another length
        return False
    return True


CARRIER = Telnyx(
    name="telnyx",
    title="Telnyx",
    wire="Media Streaming: TeXML `<Connect><Stream>`, or Call Control",
    audio="in: mu-law or A-law, 8 kHz, as the call's leg has it; out: mu-law, A-law or L16",
    docs="https://developers.telnyx.com/docs/voice/programmable-voice/media-streaming",
    paste="the TeXML application's or the Call Control application's webhook",
    credential="public_key",
    unverified="byte order of L16 (`byte_order`); a `sample_rate` of its own in Call Control; "
    "fields of `error`; whether `media` ever comes out of order",
    has_status=True,
    moves_calls=True,
    joins_calls="caller",
    reports_dials=True,
    sends_keys="api",
    dial_keys=("api_key", "connection_id"),
    detection="`answering_machine_detection`; TeXML: `MachineDetection` with `AsyncAmd`",
    ticket_in="path",
    dialect=Dialect(ids=()),
    api="https://api.telnyx.com/v2",
)
