"""Carriers that do as Twilio does: its webhooks, documents, signatures and API.

Signatures: https://www.twilio.com/docs/usage/security#validating-requests.
"""

from __future__ import annotations

import hashlib
import hmac
from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import parse_qs

from flowcat_server.carriers._http import (
    Answer,
    call_status,
    detected,
    dialled,
    fields_of,
    path_part,
    ringing,
    url_candidates,
    wire_bytes,
)
from flowcat_server.carriers._json_stream import Dialect, JsonStream, Settings
from flowcat_server.carriers._values import first, short, text
from flowcat_server.carriers._xml import content, document, element
from flowcat_server.core.carrier import (
    E164,
    NOWHERE,
    Account,
    CallStatus,
    Carrier,
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
    Status,
    Verdict,
)
from flowcat_server.core.proof import basic, same

STATUSES: Mapping[str, Status] = {
    "queued": "initiated",
    "initiated": "initiated",
    "ringing": "ringing",
    "in-progress": "answered",
    "answered": "answered",
    "completed": "completed",
    "busy": "busy",
    "no-answer": "no-answer",
    "failed": "failed",
    "canceled": "canceled",
}
ANSWERED_BY: Mapping[str, Answer] = {
    "human": ("human", False),
    "machine_start": ("machine", False),
    "machine_end_beep": ("machine", True),
    "machine_end_silence": ("machine", True),
    "machine_end_other": ("machine", True),
    "fax": ("fax", False),
    "unknown": ("unknown", False),
}
"""https://www.twilio.com/docs/voice/answering-machine-detection."""
EVENTS = ("initiated", "ringing", "answered", "completed")
MOST_S = 14_400
"""Longest call that every account may ask for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TwilioLike(Carrier):
    """A carrier of Twilio's family."""

    dialect: Dialect = field(default_factory=Dialect)
    signature_headers: tuple[str, ...] = ()
    """In lower case; the first that is there counts."""
    api: str = ""

    def open(self, account: Account, handshake: Request) -> CarrierStream:
        """A new media socket."""
        del handshake
        big_endian = account.options.get("byte_order") == "big"
        return JsonStream(Settings(dialect=self.dialect, big_endian=big_endian))

    # --- webhooks ---------------------------------------------------------------------------

    def read_call(self, request: Request) -> Ringing | None:
        """The call that a webhook announces."""
        fields = fields_of(request)
        return ringing(
            request,
            fields.get("CallSid"),
            fields.get("From"),
            fields.get("To"),
            fields.get("AccountSid"),
        )

    def stream_attributes(self, account: Account) -> Mapping[str, str]:
        """Attributes of ``<Stream>`` besides its address."""
        del account
        return {}

    def answer(
        self, account: Account, call: Ringing, url: str, parameters: Mapping[str, str]
    ) -> Document:
        """Connects the call to our media socket.

        Query strings are dropped by Twilio, so everything travels in ``<Parameter>``. The
        trailing ``<Hangup/>`` runs when our side closes the socket.
        """
        del call
        inner = "".join(
            element("Parameter", {"name": name, "value": value})
            for name, value in parameters.items()
        )
        stream = element("Stream", {"url": url, **self.stream_attributes(account)}, inner)
        return Document(document(f"<Connect>{stream}</Connect><Hangup/>"))

    def busy(self, account: Account, call: Ringing) -> Document:
        """The caller hears a busy tone."""
        del account, call
        return Document(document('<Reject reason="busy"/>'))

    def drop(self, account: Account, call: Ringing) -> Document:
        """Hangs up."""
        del account, call
        return Document(document("<Hangup/>"))

    def say(self, account: Account, call: Ringing, text: str, language: str) -> Document | None:
        """``<Say>``; this answers the call."""
        del account, call
        spoken = {"language": language} if language else {}
        return Document(document(element("Say", spoken, content(text)) + "<Hangup/>"))

    def verify(self, request: Request, account: Account, now_s: int) -> Verdict | None:
        """``X-Twilio-Signature`` or what the carrier calls it."""
        del now_s
        if not self.signature_headers:
            return None
        given = self._signature(request)
        settings = request.headers.get("x-twilio-webhooks-signature-settings", "")
        form = (request.form or ()) if request.method == "POST" else ()
        covered = request.method != "POST" or request.form is not None
        good = verify(
            account.webhook_key,
            given,
            request.url,
            form,
            body=None if covered else request.body,
            algorithm=signature_algorithm(settings),
        )
        return Verdict(good, "" if good else "signature", given)

    def verify_handshake(self, request: Request, account: Account, now_s: int) -> Verdict | None:
        """The handshake's signature, where there is one: over the ``wss`` address alone."""
        del now_s
        given = self._signature(request)
        if not given:
            return None
        good = verify(account.webhook_key, given, request.url)
        return Verdict(good, "" if good else "handshake signature", given)

    def _signature(self, request: Request) -> str:
        found = (request.headers.get(name, "") for name in self.signature_headers)
        return next(filter(None, found), "")

    def read_status(self, request: Request) -> CallStatus | None:
        """``CallStatus`` of a status callback."""
        fields = fields_of(request)
        detail = first(fields, ("ErrorMessage", "SipResponseCode"))
        return call_status(fields.get("CallSid"), fields.get("CallStatus"), STATUSES, detail)

    # --- the API ----------------------------------------------------------------------------

    def dial(self, account: Account, call: Dial, now_s: int) -> RestRequest | None:
        """Makes a call; who answers is told while our document runs already."""
        del now_s
        api = account.api or self.api
        if not (account.secret and account.id and api):
            return None
        form: dict[str, str | Sequence[str]] = {
            "To": call.to,
            "From": call.from_number,
            "Url": call.answer_url,
            "Method": "POST",
            "StatusCallback": call.status_url,
            "StatusCallbackMethod": "POST",
            "StatusCallbackEvent": EVENTS,
            "Timeout": str(call.ring_s),
            "TimeLimit": str(min(call.limit_s, MOST_S)),
        }
        if call.detect:
            form |= {
                "MachineDetection": "DetectMessageEnd" if call.await_greeting else "Enable",
                "AsyncAmd": "true",
                "AsyncAmdStatusCallback": call.status_url,
                "AsyncAmdStatusCallbackMethod": "POST",
            }
        url = f"{api}/Accounts/{path_part(account.id)}/Calls.json"
        return RestRequest("POST", url, basic(account.id, account.secret), form=form)

    def read_dialled(self, answer: bytes) -> str:
        """``sid``."""
        return dialled(answer, "sid")

    def read_detection(self, request: Request) -> Detected | None:
        """``AnsweredBy``."""
        fields = fields_of(request)
        return detected(fields.get("CallSid"), fields.get("AnsweredBy"), ANSWERED_BY)

    def hang_up(self, account: Account, call: LiveCall, now_s: int) -> RestRequest | None:
        """Ends a live call."""
        del now_s
        return self._update(account, call, {"Status": "completed"})

    def transfer(
        self,
        account: Account,
        call: LiveCall,
        phone: str,
        now_s: int,
        handing: Handing = NOWHERE,
    ) -> RestRequest | None:
        """Replaces the call's instructions by a dial; this ends our stream."""
        del now_s
        return self._update(account, call, {"Twiml": dial(phone, call.from_number, handing)})

    def read_dial(self, request: Request) -> DialOver | None:
        """``DialCallStatus`` of what ``<Dial action>`` asks."""
        status = text(fields_of(request).get("DialCallStatus"))
        return DialOver(status in ("completed", "answered"), short(status)) if status else None

    def join(
        self,
        account: Account,
        call: LiveCall,
        other: LiveCall,
        room: str,
        now_s: int,
        handing: Handing = NOWHERE,
    ) -> RestRequest | None:
        """Puts the call into a conference that ends when one of them leaves it."""
        del other, now_s, handing
        if not self.joins_calls:
            return None
        return self._update(account, call, {"Twiml": conference(room)})

    def hung_up(self) -> Document:
        """``<Hangup/>``."""
        return Document(document("<Hangup/>"))

    def _update(
        self, account: Account, call: LiveCall, form: Mapping[str, str]
    ) -> RestRequest | None:
        owner = account.id or call.account_id
        api = account.api or self.api
        if not (account.secret and owner and api):
            return None
        url = f"{api}/Accounts/{path_part(owner)}/Calls/{path_part(call.call_id)}.json"
        return RestRequest("POST", url, basic(owner, account.secret), form=form)


def dial(phone: str, caller_id: str = "", handing: Handing = NOWHERE) -> str:
    """The document that passes the call on to another number and ends with it."""
    about = {"callerId": caller_id} if E164.fullmatch(caller_id) else {}
    if handing.over_url:
        about |= {"timeout": str(handing.ring_s), "action": handing.over_url, "method": "POST"}
    return document(element("Dial", about, content(phone)) + "<Hangup/>")


def conference(room: str) -> str:
    """The document that puts a call into a room for two, without a beep and without music."""
    about = {"beep": "false", "waitUrl": "", "endConferenceOnExit": "true", "maxParticipants": "2"}
    return document(element("Dial", {}, element("Conference", about, content(room))) + "<Hangup/>")


# --- signatures ---------------------------------------------------------------------------------

_HASHES = {"HMAC_SHA1": hashlib.sha1, "HMAC_SHA256": hashlib.sha256}


def signature_algorithm(settings: str) -> str:
    """The algorithm that ``X-Twilio-Webhooks-Signature-Settings`` names; SHA-1 without one.

    The header reads ``key=...,algorithm=HMAC_SHA256`` where the account signs with a shared key.
    """
    for part in settings.split(","):
        name, _, value = part.partition("=")
        if name.strip() == "algorithm" and value.strip():
            return value.strip().upper()
    return "HMAC_SHA1"


def signature(
    secret: str,
    url: str,
    form: Iterable[tuple[str, str]] = (),
    algorithm: str = "HMAC_SHA1",
) -> str:
    """``X-Twilio-Signature`` of a request: base64 of the HMAC over URL and sorted form fields.

    For each distinct name in order, each distinct value in order is appended as name + value.

    Raises:
        KeyError: An algorithm that we do not know.
    """
    fields: dict[str, set[str]] = {}
    for name, value in form:
        fields.setdefault(name, set()).add(value)
    signed = url + "".join(
        name + value for name in sorted(fields) for value in sorted(fields[name])
    )
    digest = hmac.new(secret.encode(), wire_bytes(signed), _HASHES[algorithm])
    return b64encode(digest.digest()).decode()


def verify(
    secret: str,
    given: str,
    url: str,
    form: Sequence[tuple[str, str]] = (),
    *,
    body: bytes | None = None,
    algorithm: str = "HMAC_SHA1",
) -> bool:
    """Whether a signature fits one of the ways in which Twilio may have seen our URL.

    Twilio signs with or without the default port, and the handshake of the media socket with
    scheme ``wss``. A `body` that is no form is covered by ``bodySHA256`` in the URL's query, and
    is refused without it. An unknown algorithm fits nothing.
    """
    if not given or algorithm not in _HASHES:
        return False
    if body is not None:
        claimed = parse_qs(url.partition("?")[2]).get("bodySHA256", [""])[0]
        if not same(hashlib.sha256(body).hexdigest(), claimed):
            return False
    matches = [
        same(signature(secret, candidate, form, algorithm), given)
        for candidate in url_candidates(url)
    ]
    return any(matches)
