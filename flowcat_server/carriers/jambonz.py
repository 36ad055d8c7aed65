"""jambonz: a call answered with the verb ``listen``, audio both ways.

In: a JSON object with the call's attributes and our ``metadata``, then binary L16,
little-endian::

    {"callSid":"..","from":"+1..","to":"+1..","sampleRate":8000,"mixType":"mono","token":"t"}
    {"event":"dtmf","dtmf":"2","duration":"1600"}
    {"type":"mark","data":{"name":"m1","event":"playout"}}

Out, with ``streaming``: binary L16 of any whole samples, ``killAudio``, ``mark``, and
``disconnect``, after which the next verb runs, which hangs up. Webhooks are signed:
``Jambonz-Signature: t=<seconds>,v1=<hex>``.
https://docs.jambonz.org/verbs/verbs/listen.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping, Sequence
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
    encode_json,
    fault,
    first,
    key,
    number,
    obj,
    parameters,
    parse_object,
    short,
    text,
)
from flowcat_server.core.audio import AudioFormat
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
    MarkPlayed,
    Message,
    Request,
    RestRequest,
    Ringing,
    Sending,
    Started,
    Status,
    Verdict,
)
from flowcat_server.core.proof import same

_DECLINE = {"verb": "sip:decline", "status": 486, "reason": "Busy Here"}
MAX_AGE_S = 300
STATUSES: Mapping[str, Status] = {
    "trying": "initiated",
    "ringing": "ringing",
    "early-media": "ringing",
    "in-progress": "answered",
    "completed": "completed",
    "failed": "failed",
    "busy": "busy",
    "no-answer": "no-answer",
}
AMD: Mapping[str, Answer] = {
    "amd_human_detected": ("human", False),
    "amd_machine_detected": ("machine", False),
    "amd_no_speech_detected": ("unknown", False),
    "amd_decision_timeout": ("unknown", False),
    "amd_machine_stopped_speaking": ("machine", True),
    "amd_tone_detected": ("machine", True),
}
"""``type`` of what is posted to ``amd.actionHook``:
https://docs.jambonz.org/guides/features/answering-machine-detection."""
_CALL = ("callSid", "call_sid")


class Stream(PcmStream):
    """One media socket."""

    __slots__ = ("_spoken",)

    def __init__(self, spoken: AudioFormat | None) -> None:
        super().__init__()
        self._spoken = spoken

    def _control(self, fields: Mapping[str, Any]) -> Fed:
        if not self._started:
            return self._start(fields)
        if fields.get("event") == "dtmf":
            return key(fields.get("dtmf"))
        if fields.get("type") != "mark":
            return Ignored("unknown message")
        about = obj(fields.get("data"))
        name = short(about.get("name"))
        if not name:
            return fault("mark without name")
        return MarkPlayed(name) if about.get("event") != "cleared" else Ignored("mark cleared")

    def _start(self, fields: Mapping[str, Any]) -> Fed:
        call_id = text(first(fields, _CALL))
        if not call_id or len(call_id) > MAX_ID_CHARS:
            return fault("start without usable ids")
        self._started = True
        return Started(
            call_id=call_id,
            stream_id=short(first(fields, ("callId", "call_id"))),
            account_id=short(first(fields, ("accountSid", "account_sid"))),
            parameters=parameters({**fields, **obj(fields.get("metadata"))}),
            input_format=audio_format("audio/l16", text(fields.get("sampleRate"))),
            output_format=self._spoken,
            sending=Sending(unit=2),
            from_number=number(fields.get("from")),
            to_number=number(fields.get("to")),
        )

    def mark(self, name: str) -> str:
        """Comes back when what was sent before it has been played."""
        return encode_json({"type": "mark", "data": {"name": name}})

    def clear(self) -> str:
        """Drops what was not played."""
        return '{"type":"killAudio"}'

    def end(self, reason: str, target: str = "") -> Sequence[Message]:
        """Ends the verb; the next one hangs up, unless the call has been given others."""
        del reason
        return ['{"type":"disconnect"}'] if self._started and not target else ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Jambonz(RedirectingCarrier):
    """Verbs in JSON, signed webhooks."""

    api: str = "https://api.jambonz.cloud/v1"

    def open(self, account: Account, handshake: Request) -> CarrierStream:
        """A new media socket; what we send was asked for in the answer."""
        del handshake
        return Stream(audio_format("audio/l16", _rate(account)))

    def read_call(self, request: Request) -> Ringing | None:
        """The call that a webhook announces."""
        fields = fields_of(request)
        return ringing(
            request,
            fields.get("call_sid"),
            fields.get("from"),
            fields.get("to"),
            fields.get("account_sid"),
        )

    def answer(
        self, account: Account, call: Ringing, url: str, parameters: Mapping[str, str]
    ) -> Document:
        """Connects the call to our media socket, and hangs up when that closes."""
        del call
        rate = int(_rate(account))
        listen: dict[str, Any] = {
            "verb": "listen",
            "url": url,
            "mixType": "mono",
            "sampleRate": rate,
            "passDtmf": True,
            "bidirectionalAudio": {"enabled": True, "streaming": True, "sampleRate": rate},
            "metadata": dict(parameters),
        }
        if account.password:
            listen["wsAuth"] = {"username": account.user, "password": account.password}
        return Document(encode_json([listen, {"verb": "hangup"}]), "application/json")

    def busy(self, account: Account, call: Ringing) -> Document:
        """SIP's own busy (RFC 3261 section 21.4.24)."""
        del account, call
        return Document(encode_json([_DECLINE]), "application/json")

    def say(self, account: Account, call: Ringing, text: str, language: str) -> Document | None:
        """``say`` before the call is answered (RFC 3960), then SIP's own busy."""
        del account, call
        say: dict[str, Any] = {"verb": "say", "text": text, "earlyMedia": True}
        if language:
            say["synthesizer"] = {"language": language}
        return Document(encode_json([say, _DECLINE]), "application/json")

    def drop(self, account: Account, call: Ringing) -> Document:
        """Hangs up."""
        del account, call
        return Document(encode_json([{"verb": "hangup"}]), "application/json")

    def verify(self, request: Request, account: Account, now_s: int) -> Verdict | None:
        """Any ``v1`` over the time and the body, as it came or written compactly."""
        stamp, offered = _parts(request.headers.get("jambonz-signature", ""))
        if not stamp:
            return Verdict(proven=False, reason="not signed")
        if abs(now_s - int(stamp)) > MAX_AGE_S:
            return Verdict(proven=False, reason="signature too old")
        bodies = [request.body]
        parsed = parse_object(request.body)
        if isinstance(parsed, dict):
            bodies.append(encode_json(parsed).encode())
        secret = account.webhook_key.encode()
        for body in bodies:
            digest = hmac.new(secret, f"{stamp}.".encode() + body, hashlib.sha256).hexdigest()
            for given in offered:
                if same(digest, given):
                    return Verdict(proven=True, key=f"{stamp} {given}")
        return Verdict(proven=False, reason="signature")

    def read_status(self, request: Request) -> CallStatus | None:
        """``call_status`` of a status callback."""
        fields = fields_of(request)
        detail = first(fields, ("sip_reason", "sip_status"))
        return call_status(fields.get("call_sid"), fields.get("call_status"), STATUSES, detail)

    # --- the API ----------------------------------------------------------------------------

    def dial(self, account: Account, call: Dial, now_s: int) -> RestRequest | None:
        """Makes a call; its speech settings are the application's, of which none is used."""
        del now_s
        application = account.options.get("application_sid", "")
        if not (account.secret and account.id and application):
            return None
        body: dict[str, Any] = {
            "application_sid": application,
            "from": call.from_number,
            "to": {"type": "phone", "number": call.to},
            "call_hook": {"url": call.answer_url, "method": "POST"},
            "call_status_hook": {"url": call.status_url, "method": "POST"},
            "timeout": call.ring_s,
            "timeLimit": call.limit_s,
        }
        if call.detect:
            body["amd"] = {"actionHook": call.status_url}
        url = f"{account.api or self.api}/Accounts/{path_part(account.id)}/Calls"
        return RestRequest("POST", url, f"Bearer {account.secret}", json=body)

    def read_dialled(self, answer: bytes) -> str:
        """``sid``."""
        return dialled(answer, "sid")

    def read_detection(self, request: Request) -> Detected | None:
        """``type`` of an event of its detection."""
        fields = fields_of(request)
        return detected(fields.get("call_sid"), fields.get("type"), AMD)

    def cancel(self, account: Account, call: LiveCall, now_s: int) -> RestRequest | None:
        """Ends a call that rings."""
        del now_s
        if not (account.secret and account.id):
            return None
        api = account.api or self.api
        url = f"{api}/Accounts/{path_part(account.id)}/Calls/{path_part(call.call_id)}"
        body = {"call_status": "no-answer"}
        return RestRequest("PUT", url, f"Bearer {account.secret}", json=body)

    def fetched(
        self, account: Account, call: LiveCall, phone: str, handing: Handing
    ) -> Document | None:
        """The verb ``dial``: https://docs.jambonz.org/verbs/verbs/dial."""
        del account
        verb: dict[str, Any] = {
            "verb": "dial",
            "target": [{"type": "phone", "number": phone}],
            "answerOnBridge": True,
            "timeout": handing.ring_s,
        }
        if E164.fullmatch(call.from_number):
            verb["callerId"] = call.from_number
        if handing.over_url:
            verb["actionHook"] = {"url": handing.over_url, "method": "POST"}
        return Document(encode_json([verb, {"verb": "hangup"}]), "application/json")

    def read_dial(self, request: Request) -> DialOver | None:
        """``dial_call_status`` of what ``actionHook`` asks."""
        status = text(fields_of(request).get("dial_call_status"))
        return DialOver(status in ("completed", "in-progress"), short(status)) if status else None

    def joined(self, other: LiveCall, room: str) -> Document | None:
        """The verb ``conference``, which ends when one of them leaves it."""
        del other
        verb = {"verb": "conference", "name": room, "endConferenceOnExit": True, "beep": False}
        return Document(encode_json([verb, {"verb": "hangup"}]), "application/json")

    def hung_up(self) -> Document:
        """The verb ``hangup``."""
        return Document(encode_json([{"verb": "hangup"}]), "application/json")

    def _redirect(self, account: Account, call: LiveCall, handing: Handing) -> RestRequest | None:
        owner = account.id or call.account_id
        if not (account.secret and owner and handing.document_url):
            return None
        api = account.api or self.api
        url = f"{api}/Accounts/{path_part(owner)}/Calls/{path_part(call.call_id)}"
        body = {"call_hook": {"url": handing.document_url, "method": "POST"}}
        return RestRequest("PUT", url, f"Bearer {account.secret}", json=body)


def _parts(header: str) -> tuple[str, list[str]]:
    """The time and the signatures of ``t=..,v1=..,v1=..``."""
    stamp, offered = "", []
    for part in header.split(",")[:8]:
        name, _, value = part.strip().partition("=")
        if name == "t" and value.isascii() and value.isdigit() and len(value) <= 12:
            stamp = value
        elif name == "v1":
            offered.append(value)
    return stamp, offered


def _rate(account: Account) -> str:
    return account.options.get("sample_rate", "8000")


CARRIER = Jambonz(
    name="jambonz",
    title="jambonz",
    wire="verb `listen`, bidirectional and streaming",
    audio="L16, 8, 16 or 24 kHz",
    docs="https://docs.jambonz.org/verbs/verbs/listen",
    paste="the application's calling webhook (POST); its call status webhook is the same with "
    "/status/",
    credential="webhook_secret",
    unverified="how exactly the signed body is written; whether a call that is made takes our "
    "`call_hook` rather than its application's",
    has_status=True,
    moves_calls=True,
    joins_calls="both",
    dial_keys=("account_sid", "api_key", "application_sid"),
    detection="`amd`",
    subprotocols=("audio.jambonz.org", "audio.drachtio.org"),
    basic_on_socket=True,
)
