"""What carriers' webhooks and APIs have in common: addresses, signatures, credentials, numbers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from flowcat_server.carriers._values import (
    MAX_ID_CHARS,
    MAX_PARAMETERS,
    number,
    obj,
    parameters,
    parse_object,
    short,
    text,
)
from flowcat_server.core.carrier import (
    E164,
    Account,
    Answerer,
    CallStatus,
    Detected,
    Request,
    Ringing,
    Status,
)

_UNHAPPY = frozenset({"busy", "no-answer", "failed", "canceled"})

Answer = tuple[Answerer, bool]
"""Who answered, and whether a machine's greeting is over."""

_DEFAULT_PORTS = {"https": "443", "wss": "443", "http": "80", "ws": "80"}
_NETLOC = re.compile(
    r"(?P<host>\[[^\]]*\]|[^:/?#]*)(?::(?P<port>\d*))?(?P<rest>[/?#].*|$)", re.DOTALL
)
CALL_ID = re.compile(rf"[A-Za-z0-9_.:~=@+-]{{1,{MAX_ID_CHARS}}}")
"""Call ids as carriers make them; nothing that means something in a path, in markup or in a log."""
_SIP_HEADER = "SipHeader_"


def url_candidates(url: str) -> list[str]:
    """The URL as given, without its port, and with the default one if it has none.

    Nothing else of it is touched: a signature covers its exact characters.
    """
    scheme, separator, rest = url.partition("://")
    parts = _NETLOC.fullmatch(rest) if separator else None
    if parts is None or not parts["host"]:
        return [url]
    if parts["port"]:
        return [url, f"{scheme}://{parts['host']}{parts['rest']}"]
    default = _DEFAULT_PORTS.get(scheme)
    if default is None:
        return [url]
    return [url, f"{scheme}://{parts['host']}:{default}{parts['rest']}"]


def wire_bytes(text: str) -> bytes:
    """The bytes of an address or a header: what was no UTF-8 arrived as surrogates."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace")


def path_part(value: str) -> str:
    """An id that came over the wire: it must not leave its place in the path."""
    return quote(value, safe="", errors="replace")


def with_plus(number: str) -> str:
    """A number in E.164, where a carrier leaves out the plus."""
    return f"+{number}" if E164.fullmatch(f"+{number}") else number


def json_fields(request: Request) -> Mapping[str, Any]:
    """The body's JSON object; of a list, its only object; empty if there is none."""
    found = parse_object(request.body or b"{}")
    if isinstance(found, dict):
        return found
    wrapped = parse_object(b'{"list":' + request.body + b"}")
    items = wrapped.get("list") if isinstance(wrapped, dict) else None
    if isinstance(items, list) and len(items) == 1 and isinstance(items[0], dict):
        return items[0]
    return {}


def fields_of(request: Request) -> Mapping[str, Any]:
    """A webhook's fields, whether they come as a form, a query or JSON."""
    if request.method == "POST" and request.form is None:
        return json_fields(request)
    return request.fields


def ringing(
    request: Request, call_id: object, caller: object, called: object, account: object
) -> Ringing | None:
    """The call that a webhook announces, if its id can be used."""
    name = text(call_id)
    if not CALL_ID.fullmatch(name):
        return None
    return Ringing(name, number(caller), number(called), short(account), headers_of(request))


def headers_of(request: Request) -> Mapping[str, str]:
    """What a webhook says came with its call.

    SIP headers, which Twilio's family and Vonage send as ``SipHeader_X-Team``, Plivo as
    ``X-PH-Team``, jambonz under ``sip.headers`` and Telnyx's Call Control in the list
    ``custom_headers``; then the parameters of our address, and the webhook's own fields.
    """
    fields = fields_of(request)
    payload = obj(obj(fields.get("data")).get("payload"))
    listed = payload.get("custom_headers")
    pairs = listed[:MAX_PARAMETERS] if isinstance(listed, list) else ()
    named = {text(obj(pair).get("name")): obj(pair).get("value") for pair in pairs}
    prefixed = {
        name.removeprefix(_SIP_HEADER): value
        for name, value in fields.items()
        if name.startswith(_SIP_HEADER)
    }
    sip = {**obj(obj(fields.get("sip")).get("headers")), **named, **prefixed}
    plain = {**dict(request.query), **payload, **fields}
    everything = {**sip, **{name: plain[name] for name in plain if name not in sip}}
    return {
        name: value
        for name, value in parameters(everything).items()
        if value and name and not name.startswith(_SIP_HEADER)
    }


def call_status(
    call_id: object, value: object, meanings: Mapping[str, Status], detail: object = ""
) -> CallStatus | None:
    """A call's status by the carrier's word for it."""
    name = text(call_id)
    status = meanings.get(text(value).lower())
    if not status or not CALL_ID.fullmatch(name):
        return None
    # How a call went well needs no reason.
    return CallStatus(name, status, short(detail) if status in _UNHAPPY else "")


def detected(call_id: object, value: object, meanings: Mapping[str, Answer]) -> Detected | None:
    """Who answered a call, by the carrier's word for it."""
    name = text(call_id)
    answer = meanings.get(text(value).lower())
    if answer is None or not CALL_ID.fullmatch(name):
        return None
    return Detected(name, *answer)


def dialled(answer: bytes, *path: str) -> str:
    """The id that stands at a path of what a dial was answered; empty if there is none."""
    value: Any = parse_object(answer)
    for name in path:
        value = obj(value).get(name)
    found = text(value)
    return found if CALL_ID.fullmatch(found) else ""


def with_password(url: str, account: Account) -> str:
    """An address of ours with the user and password that the carrier has to send to it."""
    if not account.password:
        return url
    scheme, separator, rest = url.partition("://")
    return f"{scheme}{separator}{path_part(account.user)}:{path_part(account.password)}@{rest}"
