"""Carriers that do as Plivo does: its documents, messages, signatures and API.

Signatures: https://www.plivo.com/docs/voice/concepts/signature-validation.
"""

from __future__ import annotations

import hashlib
import hmac
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from urllib.parse import parse_qsl

from flowcat_server.carriers._http import (
    call_status,
    path_part,
    ringing,
    url_candidates,
    wire_bytes,
    with_plus,
)
from flowcat_server.carriers._json_stream import Dialect, JsonStream, Settings
from flowcat_server.carriers._xml import content, document, element
from flowcat_server.core.carrier import (
    Account,
    CallStatus,
    Carrier,
    CarrierStream,
    Document,
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
MAX_FIELDS = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class PlivoLike(Carrier):
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
            for text in self.signed_texts(request, url):
                yield signature(secret, f"{text}.{nonce}")

    def signed_texts(self, request: Request, url: str) -> Iterator[str]:
        """What may be signed besides the nonce."""
        yield signed_text(request.method, url, request.form or ())

    def read_status(self, request: Request) -> CallStatus | None:
        """``CallStatus`` of a callback."""
        fields = request.fields
        return call_status(fields.get("CallUUID"), fields.get("CallStatus"), STATUSES)

    # --- the API ----------------------------------------------------------------------------

    def hang_up(self, account: Account, call: LiveCall, now_s: int) -> RestRequest | None:
        """Ends a live call."""
        del now_s
        owner = account.id or call.account_id
        if not (account.secret and owner):
            return None
        api = account.api or self.api
        url = f"{api}/Account/{path_part(owner)}/Call/{path_part(call.call_id)}/"
        return self.credentials(RestRequest("DELETE", url), owner, account.secret)

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
