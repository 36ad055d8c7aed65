"""Carriers that do as Plivo does: its documents, messages, signatures and API.

Signatures: https://www.plivo.com/docs/voice/concepts/signature-validation.
"""

from __future__ import annotations

import hashlib
import hmac
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import parse_qsl

from flowcat_server.carriers._http import (
    Answer,
    call_status,
    detected,
    dialled,
    path_part,
    ringing,
    url_candidates,
    wire_bytes,
    with_plus,
)
from flowcat_server.carriers._json_stream import Dialect, JsonStream, Settings
from flowcat_server.carriers._redirects import RedirectingCarrier
from flowcat_server.carriers._values import short, text
from flowcat_server.carriers._xml import content, document, element
from flowcat_server.core.carrier import (
    E164,
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
    Status,
    Verdict,
)
from flowcat_server.core.proof import basic, same

STATUSES: Mapping[str, Status] = {
    "ringing": "ringing",
    "in-progress": "answered",
    "answered": "answered",
    "completed": "completed",
    "busy": "busy",
    "no-answer": "no-answer",
    "timeout": "no-answer",
    "cancel": "canceled",
    "failed": "failed",
}
MACHINE: Mapping[str, Answer] = {"true": ("machine", False), "false": ("human", False)}
MAX_FIELDS = 256
MOST_RING_S = 120
MOST_S = 14_400


@dataclass(frozen=True, slots=True, kw_only=True)
class PlivoLike(RedirectingCarrier):
    """A carrier of Plivo's family."""

    dialect: Dialect
    header: str
    """Prefix of the signature's headers, in lower case."""
    api: str

    def open(self, account: Account, handshake: Request) -> CarrierStream:
        """A new media socket."""
        del handshake
        big_endian = account.options.get("byte_order") == "big"
        return JsonStream(Settings(dialect=self.dialect, big_endian=big_endian))

    # --- webhooks ---------------------------------------------------------------------------

    def read_call(self, request: Request) -> Ringing | None:
        """The call that a webhook announces. Numbers come without a plus."""
        fields = request.fields
        return ringing(
            request,
            fields.get("CallUUID"),
            with_plus(fields.get("From", "")),
            with_plus(fields.get("To", "")),
            fields.get("AuthID"),
        )

    def answer(
        self, account: Account, call: Ringing, url: str, parameters: Mapping[str, str]
    ) -> Document:
        """Connects the call to our media socket.

        Without ``keepCallAlive`` the call would end within a second; ``<Hangup/>`` runs when our
        side closes the socket.
        """
        del call, parameters
        attributes = {
            "bidirectional": "true",
            "keepCallAlive": "true",
            "contentType": account.options.get("content_type", "audio/x-mulaw;rate=8000"),
        }
        return Document(document(element("Stream", attributes, content(url)) + "<Hangup/>"))

    def busy(self, account: Account, call: Ringing) -> Document:
        """The caller hears a busy tone."""
        del account, call
        return Document(document('<Hangup reason="busy"/>'))

    def drop(self, account: Account, call: Ringing) -> Document:
        """Hangs up."""
        del account, call
        return Document(document("<Hangup/>"))

    def say(self, account: Account, call: Ringing, text: str, language: str) -> Document | None:
        """``<Speak>``; this answers the call."""
        del account, call
        spoken = {"language": language} if language else {}
        return Document(document(element("Speak", spoken, content(text)) + "<Hangup/>"))

    def verify(self, request: Request, account: Account, now_s: int) -> Verdict | None:
        """Any of the signatures of version 3, of this account or its main account."""
        del now_s
        nonce = request.headers.get(f"{self.header}-v3-nonce", "")
        offered = [
            given.strip()
            for name in ("v3", "ma-v3")
            for given in request.headers.get(f"{self.header}-{name}", "").split(",")
        ]
        if not nonce:
            return Verdict(proven=False, reason="not signed")
        matches = [
            same(expected, given)
            for expected in self._signatures(request, account.webhook_key, nonce)
            for given in offered[:8]
        ]
        if not any(matches):
            return Verdict(proven=False, reason="signature")
        return Verdict(proven=True, key=f"{nonce} {','.join(offered)}")

    def _signatures(self, request: Request, secret: str, nonce: str) -> Iterator[str]:
        for url in url_candidates(request.url):
            for signed in self.signed_texts(request, url):
                yield signature(secret, f"{signed}.{nonce}")

    def signed_texts(self, request: Request, url: str) -> Iterator[str]:
        """What may be signed besides the nonce."""
        yield signed_text(request.method, url, request.form or ())

    def read_status(self, request: Request) -> CallStatus | None:
        """``CallStatus`` of a callback."""
        fields = request.fields
        detail = fields.get("HangupCauseName") or fields.get("HangupCause")
        return call_status(fields.get("CallUUID"), fields.get("CallStatus"), STATUSES, detail)

    # --- the API ----------------------------------------------------------------------------

    def dial(self, account: Account, call: Dial, now_s: int) -> RestRequest | None:
        """Makes a call. Numbers are written without a plus."""
        del now_s
        if not (account.secret and account.id):
            return None
        body: dict[str, Any] = {
            "from": call.from_number.lstrip("+"),
            "to": call.to.lstrip("+"),
            "answer_url": call.answer_url,
            "answer_method": "POST",
            "ring_url": call.status_url,
            "ring_method": "POST",
            "hangup_url": call.status_url,
            "hangup_method": "POST",
            "ring_timeout": min(call.ring_s, MOST_RING_S),
            "time_limit": min(call.limit_s, MOST_S),
        }
        if call.detect:
            body |= {
                "machine_detection": "true",
                "machine_detection_url": call.status_url,
                "machine_detection_method": "POST",
            }
        url = f"{account.api or self.api}/Account/{path_part(account.id)}/Call/"
        return self.credentials(RestRequest("POST", url, json=body), account.id, account.secret)

    def read_dialled(self, answer: bytes) -> str:
        """``request_uuid``, which is the call's id too."""
        return dialled(answer, "request_uuid")

    def read_detection(self, request: Request) -> Detected | None:
        """``Machine`` of the event ``MachineDetection``."""
        fields = request.fields
        return detected(fields.get("CallUUID"), fields.get("Machine"), MACHINE)

    def cancel(self, account: Account, call: LiveCall, now_s: int) -> RestRequest | None:
        """Takes back a call that was asked for."""
        del now_s
        if not (account.secret and account.id):
            return None
        api = account.api or self.api
        url = f"{api}/Account/{path_part(account.id)}/Request/{path_part(call.call_id)}/"
        return self.credentials(RestRequest("DELETE", url), account.id, account.secret)

    def hang_up(self, account: Account, call: LiveCall, now_s: int) -> RestRequest | None:
        """Ends a live call."""
        del now_s
        owner = account.id or call.account_id
        if not (account.secret and owner):
            return None
        api = account.api or self.api
        url = f"{api}/Account/{path_part(owner)}/Call/{path_part(call.call_id)}/"
        return self.credentials(RestRequest("DELETE", url), owner, account.secret)

    def fetched(
        self, account: Account, call: LiveCall, phone: str, handing: Handing
    ) -> Document | None:
        """``<Dial>``; who is called sees the number that was called."""
        del account
        about = {"timeout": str(handing.ring_s)}
        if E164.fullmatch(call.from_number):
            about["callerId"] = call.from_number.lstrip("+")
        if handing.over_url:
            about |= {"action": handing.over_url, "method": "POST"}
        number = element("Number", {}, content(phone.lstrip("+")))
        return Document(document(element("Dial", about, number) + "<Hangup/>"))

    def read_dial(self, request: Request) -> DialOver | None:
        """``DialStatus`` of what ``<Dial action>`` asks."""
        status = text(request.fields.get("DialStatus"))
        return DialOver(status == "completed", short(status)) if status else None

    def joined(self, other: LiveCall, room: str) -> Document | None:
        """``<Conference>``, which ends when one of them leaves it."""
        del other
        about = {"endConferenceOnExit": "true", "maxMembers": "2"}
        return Document(document(element("Conference", about, content(room)) + "<Hangup/>"))

    def hung_up(self) -> Document:
        """``<Hangup/>``."""
        return Document(document("<Hangup/>"))

    def _redirect(self, account: Account, call: LiveCall, handing: Handing) -> RestRequest | None:
        owner = account.id or call.account_id
        if not (account.secret and owner and handing.document_url):
            return None
        api = account.api or self.api
        url = f"{api}/Account/{path_part(owner)}/Call/{path_part(call.call_id)}/"
        body = {"legs": "aleg", "aleg_url": handing.document_url, "aleg_method": "POST"}
        return self.credentials(RestRequest("POST", url, json=body), owner, account.secret)

    def credentials(self, request: RestRequest, owner: str, secret: str) -> RestRequest:
        """A request with what proves who asks."""
        return replace(request, authorization=basic(owner, secret))


# --- signatures ---------------------------------------------------------------------------------


def signature(secret: str, signed: str) -> str:
    """Base64 of HMAC-SHA256."""
    digest = hmac.new(secret.encode(), wire_bytes(signed), hashlib.sha256)
    return b64encode(digest.digest()).decode()


def signed_text(method: str, url: str, form: Sequence[tuple[str, str]]) -> str:
    """The address, its sorted query, and the sorted parameters joined name to value."""
    base, _, query = url.partition("?")
    asked = _query(query)
    posted = "".join(name + value for name, value in sorted(form)) if method == "POST" else ""
    if not posted:
        return f"{base}?{asked}" if asked else base
    return f"{base}?{asked}.{posted}" if asked else f"{base}?{posted}"


def _query(query: str) -> str:
    try:
        pairs = parse_qsl(query, keep_blank_values=True, max_num_fields=MAX_FIELDS)
    except ValueError:
        return query
    return "&".join(f"{name}={value}" for name, value in sorted(pairs))
