"""Vonage Voice API: a call connected to a WebSocket endpoint by its NCCO.

In: binary messages of 20 ms of L16, little-endian, and text messages::

    {"event":"websocket:connected","content-type":"audio/l16;rate=16000","call_uuid":"..","k":"v"}
    {"event":"websocket:dtmf","digit":"5","duration":260}
    {"event":"websocket:cleared"}
    {"event":"websocket:notify","payload":{"mark":"m1"}}

The socket itself names no call: the answer to the webhook puts the call's ``uuid`` among the
headers, which come back flattened into the first message. Out: binary messages of exactly 20 ms,
``{"action":"clear"}`` and ``{"action":"notify","payload":{..}}``. Webhooks carry a JWT, signed
with the account's signature secret, that covers the body. Closing the socket does not end the
call. https://developer.vonage.com/en/voice/voice-api/concepts/websockets.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from flowcat_server.carriers import _jwt
from flowcat_server.carriers._http import (
    Answer,
    call_status,
    detected,
    dialled,
    fields_of,
    path_part,
    ringing,
    with_plus,
)
from flowcat_server.carriers._pcm_stream import PcmStream
from flowcat_server.carriers._values import (
    MAX_ID_CHARS,
    audio_format,
    encode_json,
    fault,
    first,
    key,
    obj,
    parameters,
    short,
    text,
)
from flowcat_server.core.carrier import (
    E164,
    NOWHERE,
    OVER,
    Account,
    CallStatus,
    Carrier,
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
    Request,
    RestRequest,
    Ringing,
    Sending,
    Started,
    Status,
    Verdict,
)
from flowcat_server.core.proof import same

MAX_AGE_S = 300
"""Of a signed webhook."""
TOKEN_LIFETIME_S = 120
"""Of what we sign for the API."""
BUSY_TEXT = "All our lines are busy. Please call again later."
STATUSES: Mapping[str, Status] = {
    "started": "initiated",
    "ringing": "ringing",
    "answered": "answered",
    "busy": "busy",
    "cancelled": "canceled",
    "unanswered": "no-answer",
    "timeout": "no-answer",
    "rejected": "busy",
    "failed": "failed",
    "completed": "completed",
}
MACHINE: Mapping[str, Answer] = {
    "human": ("human", False),
    "machine": ("machine", False),
    "beep_start": ("machine", True),
    "beep_timeout": ("machine", True),
}
"""``status`` and, once the greeting is over, ``sub_state``:
https://developer.vonage.com/en/voice/voice-api/concepts/advanced-machine-detection."""
BEEP_WAIT_S = 45
MIN_RING_S, MOST_RING_S = 1, 120
MOST_S = 7200
_NOT_PARAMETERS = frozenset({"event", "content-type", "call_uuid"})


class Stream(PcmStream):
    """One media socket."""

    __slots__ = ()

    def _control(self, fields: Mapping[str, Any]) -> Fed:
        match fields.get("event"):
            case "websocket:connected":
                return self._start(fields)
            case "websocket:dtmf":
                return key(fields.get("digit"))
            case "websocket:notify":
                name = short(obj(fields.get("payload")).get("mark"))
                return MarkPlayed(name) if name else fault("mark without name")
            case "websocket:cleared":
                return Ignored("cleared")
            case str():
                return Ignored("unknown event")
            case _:
                return fault("no event")

    def _start(self, fields: Mapping[str, Any]) -> Fed:
        if self._started:
            return fault("second start")
        call_id = text(fields.get("call_uuid"))
        if not call_id or len(call_id) > MAX_ID_CHARS:
            return fault("start without usable ids")
        self._started = True
        audio = audio_format(text(fields.get("content-type")))
        frame = audio.bytes_for(20) if audio is not None else 0
        own = {name: value for name, value in fields.items() if name not in _NOT_PARAMETERS}
        return Started(
            call_id=call_id,
            stream_id=call_id,
            parameters=parameters(own),
            input_format=audio,
            output_format=audio,
            sending=Sending(unit=frame, least=frame, most=frame),
        )

    def mark(self, name: str) -> str:
        """A ``notify``; it comes back when the audio before it has played."""
        return encode_json({"action": "notify", "payload": {"mark": name}})

    def clear(self) -> str:
        """A ``clear``."""
        return '{"action":"clear"}'


@dataclass(frozen=True, slots=True, kw_only=True)
class Vonage(Carrier):
    """NCCOs, signed webhooks, an API with tokens of our own."""

    api: str = "https://api.nexmo.com"

    def open(self, account: Account, handshake: Request) -> CarrierStream:
        """A new media socket."""
        del account, handshake
        return Stream()

    # --- webhooks ---------------------------------------------------------------------------

    def read_call(self, request: Request) -> Ringing | None:
        """The call that a webhook announces."""
        fields = fields_of(request)
        caller, called = (with_plus(text(fields.get(name))) for name in ("from", "to"))
        return ringing(request, fields.get("uuid"), caller, called, "")

    def answer(
        self, account: Account, call: Ringing, url: str, parameters: Mapping[str, str]
    ) -> Document:
        """Connects the call to our media socket."""
        rate = account.options.get("sample_rate", "16000")
        endpoint = {
            "type": "websocket",
            "uri": url,
            "content-type": f"audio/l16;rate={rate}",
            "headers": {"call_uuid": call.call_id, **parameters},
        }
        connect: dict[str, Any] = {"action": "connect", "endpoint": [endpoint]}
        connect |= _shown(call.to_number)
        return Document(encode_json([connect]), "application/json")

    def busy(self, account: Account, call: Ringing) -> Document:
        """An NCCO cannot turn a call away, so that the caller is told."""
        return self.say(account, call, BUSY_TEXT, "")

    def say(self, account: Account, call: Ringing, text: str, language: str) -> Document:
        """``talk``; the call ends with the NCCO."""
        del account, call
        talk = {"action": "talk", "text": text} | ({"language": language} if language else {})
        return Document(encode_json([talk]), "application/json")

    def drop(self, account: Account, call: Ringing) -> Document:
        """An NCCO with nothing to do ends the call."""
        del account, call
        return Document("[]", "application/json")

    def verify(self, request: Request, account: Account, now_s: int) -> Verdict | None:
        """The token's signature, its issuer, age and owner, and the body's hash."""
        kind, _, token = request.headers.get("authorization", "").partition(" ")
        said = _jwt.claims(token.strip(), account.webhook_key) if kind == "Bearer" else None
        if said is None:
            return Verdict(proven=False, reason="signature")
        problem = _problem(said, request, account, now_s)
        if problem:
            return Verdict(proven=False, reason=problem)
        return Verdict(proven=True, key=short(said.get("jti")) or token)

    def read_status(self, request: Request) -> CallStatus | None:
        """``status`` of an event."""
        fields = fields_of(request)
        detail = first(fields, ("detail", "reason", "sip_code"))
        return call_status(fields.get("uuid"), fields.get("status"), STATUSES, detail)

    # --- the API ----------------------------------------------------------------------------

    def dial(self, account: Account, call: Dial, now_s: int) -> RestRequest | None:
        """Makes a call; who answers is told while our NCCO runs already."""
        body: dict[str, Any] = {
            "to": [{"type": "phone", "number": call.to.lstrip("+")}],
            "from": {"type": "phone", "number": call.from_number.lstrip("+")},
            "answer_url": [call.answer_url],
            "answer_method": "POST",
            "event_url": [call.status_url],
            "event_method": "POST",
            "ringing_timer": max(MIN_RING_S, min(call.ring_s, MOST_RING_S)),
            "length_timer": min(call.limit_s, MOST_S),
        }
        if call.detect:
            body["advanced_machine_detection"] = {
                "behavior": "continue",
                "mode": "default",
                "beep_timeout": BEEP_WAIT_S,
            }
        # Each call has addresses of its own, so that no two requests have the same name.
        return self._request("POST", "", body, account, call.answer_url, now_s)

    def read_dialled(self, answer: bytes) -> str:
        """``uuid``."""
        return dialled(answer, "uuid")

    def read_detection(self, request: Request) -> Detected | None:
        """The statuses ``human`` and ``machine``."""
        fields = fields_of(request)
        status = text(fields.get("status"))
        heard = first(fields, ("sub_state",)) if status == "machine" else None
        return detected(fields.get("uuid"), heard or status, MACHINE)

    def hang_up(self, account: Account, call: LiveCall, now_s: int) -> RestRequest | None:
        """Ends a live call."""
        return self._update(account, call, {"action": "hangup"}, now_s)

    def transfer(
        self,
        account: Account,
        call: LiveCall,
        phone: str,
        now_s: int,
        handing: Handing = NOWHERE,
    ) -> RestRequest | None:
        """Gives a live call an NCCO that connects it to another number."""
        number = phone.lstrip("+")
        connect: dict[str, Any] = {
            "action": "connect",
            "endpoint": [{"type": "phone", "number": number}],
        }
        connect |= _shown(call.from_number)
        if handing.over_url:
            # An event that is waited for: its answer replaces what follows.
            connect |= {
                "timeout": handing.ring_s,
                "eventType": "synchronous",
                "eventUrl": [handing.over_url],
                "eventMethod": "POST",
            }
        return self._replace(account, call, connect, now_s)

    def read_dial(self, request: Request) -> DialOver | None:
        """``status`` of the leg that was dialled."""
        status = text(fields_of(request).get("status"))
        told = STATUSES.get(status)
        return DialOver(told == "completed", short(status)) if told in OVER else None

    def join(
        self,
        account: Account,
        call: LiveCall,
        other: LiveCall,
        room: str,
        now_s: int,
        handing: Handing = NOWHERE,
    ) -> RestRequest | None:
        """Moves the call into a conversation that ends when one of them leaves it."""
        del other, handing
        entered = {"action": "conversation", "name": room, "endOnExit": True}
        return self._replace(account, call, entered, now_s)

    def hung_up(self) -> Document:
        """An NCCO without actions: the call ends with it."""
        return Document("[]", "application/json")

    def send_keys(
        self, account: Account, call: LiveCall, keys: str, now_s: int
    ) -> RestRequest | None:
        """``PUT .../dtmf``; it has no A to D, and ``p`` for a pause."""
        if set(keys) & set("ABCD"):
            return None
        path = f"/{path_part(call.call_id)}/dtmf"
        body = {"digits": keys.replace("w", "p")}
        return self._request("PUT", path, body, account, f"{call.call_id}-{keys}", now_s)

    def _replace(
        self, account: Account, call: LiveCall, action: Mapping[str, Any], now_s: int
    ) -> RestRequest | None:
        destination = {"type": "ncco", "ncco": [dict(action)]}
        return self._update(
            account, call, {"action": "transfer", "destination": destination}, now_s
        )

    def _update(
        self, account: Account, call: LiveCall, body: Mapping[str, Any], now_s: int
    ) -> RestRequest | None:
        path = f"/{path_part(call.call_id)}"
        # Two requests of a call in a second are the same one.
        name = f"{call.call_id}-{now_s}-{body['action']}"
        return self._request("PUT", path, body, account, name, now_s)

    def _request(
        self,
        method: Literal["POST", "PUT"],
        path: str,
        body: Mapping[str, Any],
        account: Account,
        name: str,
        now_s: int,
    ) -> RestRequest | None:
        """A request about calls; `name` is unique, as the API asks."""
        if not (account.id and account.secret):
            return None
        claims = {
            "application_id": account.id,
            "iat": now_s,
            "exp": now_s + TOKEN_LIFETIME_S,
            "jti": name,
        }
        token = _jwt.make(claims, account.secret)
        if not token:
            return None
        url = f"{account.api or self.api}/v1/calls{path}"
        return RestRequest(method, url, f"Bearer {token}", json=dict(body))


def _shown(number: str) -> dict[str, Any]:
    """Who seems to call: a number of the account, any if ours is not known."""
    return {"from": number.lstrip("+")} if E164.fullmatch(number) else {"randomFromNumber": True}


def _problem(said: Mapping[str, Any], request: Request, account: Account, now_s: int) -> str:
    """What is wrong with a token that is signed; the vendor's own helper checks no more."""
    issued = said.get("iat")
    if not isinstance(issued, int | float) or not abs(now_s - issued) <= MAX_AGE_S:
        return "signature too old"
    if said.get("iss") != "Vonage":
        return "issuer"
    for name, ours in (
        ("api_key", account.options.get("api_key")),
        ("application_id", account.id),
    ):
        theirs = text(first(said, (name,)))
        if ours and theirs and not same(ours, theirs):
            return name
    covered = text(said.get("payload_hash"))
    if request.body and not same(hashlib.sha256(request.body).hexdigest(), covered):
        return "body"
    return ""


CARRIER = Vonage(
    name="vonage",
    title="Vonage",
    wire="WebSocket endpoint of an NCCO",
    audio="L16, 8, 16 or 24 kHz",
    docs="https://developer.vonage.com/en/voice/voice-api/concepts/websockets",
    paste="the application's answer URL (GET or POST); its event URL is the same with /status/",
    credential="signature_secret",
    unverified="whether answer webhooks of every account are signed; `payload_hash` of a GET; "
    "that machine detection of mode `default` leaves our NCCO running",
    has_status=True,
    moves_calls=True,
    joins_calls="both",
    sends_keys="api",
    dial_keys=("application_id", "private_key"),
    detection="`advanced_machine_detection`",
    outlives_socket=True,
)
