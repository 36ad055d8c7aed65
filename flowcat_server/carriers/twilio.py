"""Twilio Media Streams, bidirectional (``<Connect><Stream>``), and Twilio's webhooks.

In, as text frames::

    {"event":"connected","protocol":"Call","version":"1.0.0"}
    {"event":"start","streamSid":"MZ..","start":{"accountSid":"AC..","callSid":"CA..",
     "tracks":["inbound"],"customParameters":{"k":"v"},
     "mediaFormat":{"encoding":"audio/x-mulaw","sampleRate":8000,"channels":1}}}
    {"event":"media","streamSid":"MZ..","media":{"track":"inbound","chunk":"1","timestamp":"5",
     "payload":"<base64 mu-law>"}}
    {"event":"dtmf","streamSid":"MZ..","dtmf":{"track":"inbound_track","digit":"1"}}
    {"event":"mark","streamSid":"MZ..","mark":{"name":"m1"}}
    {"event":"stop","streamSid":"MZ..","stop":{"accountSid":"AC..","callSid":"CA.."}}

Out: ``media``, ``mark`` and ``clear`` with the ``streamSid``. Messages and limits:
https://www.twilio.com/docs/voice/media-streams/websocket-messages. Signatures:
https://www.twilio.com/docs/usage/security#validating-requests.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from base64 import b64decode, b64encode
from binascii import b2a_base64
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any
from urllib.parse import parse_qs, quote
from xml.sax.saxutils import escape, quoteattr

import msgspec

from flowcat_server.core.audio import MULAW_8K, AudioFormat
from flowcat_server.core.carrier import (
    Digit,
    Fed,
    Ignored,
    MarkPlayed,
    RestRequest,
    Started,
    Stopped,
)

NAME = "twilio"
FORMAT = MULAW_8K
API = "https://api.twilio.com/2010-04-01"
MAX_ID_CHARS = 128
MAX_PARAMETERS = 64
MAX_PARAMETER_CHARS = 1024
MAX_NUMBER_BITS = 128
DTMF_KEYS = frozenset("0123456789*#ABCD")
CALLERS_TRACKS = frozenset({"inbound", "inbound_track"})
_UNREADABLE = (msgspec.MsgspecError, RecursionError, ValueError)


class _Media(msgspec.Struct, gc=False):
    payload: bytes
    track: str = "inbound"


class _MediaMessage(msgspec.Struct, gc=False):
    """The frequent message, and only it: anything else takes the tolerant way."""

    event: str
    media: _Media


_decode_media = msgspec.json.Decoder(_MediaMessage).decode
_decode_any = msgspec.json.Decoder().decode


class Stream:
    """One media socket."""

    __slots__ = ("_audio_prefix", "_started", "stream_id")

    def __init__(self) -> None:
        self.stream_id = ""
        self._started = False
        self._audio_prefix = ""

    def feed(self, message: str | bytes) -> Fed:
        """What one text frame means; a payload's bytes for caller audio. Never raises."""
        try:
            parsed = _decode_media(message)
        except _UNREADABLE:
            return self._control(message)
        if parsed.event != "media":
            return self._control(message)
        return self._audio(parsed.media.payload, parsed.media.track)

    def _audio(self, payload: bytes, track: str) -> Fed:
        if not self._started:
            return Ignored("media before start", fault=True)
        if track not in CALLERS_TRACKS:
            return Ignored("not the caller's track")
        if not payload:
            return Ignored("media without audio", fault=True)
        return payload

    def _control(self, message: str | bytes) -> Fed:
        """Any message whatever types its fields have; they vary between carriers of this wire."""
        try:
            fields = _decode_any(message)
        except _UNREADABLE:
            return Ignored("unreadable message", fault=True)
        if not isinstance(fields, dict):
            return Ignored("not an object", fault=True)
        match fields.get("event"):
            case "start":
                return self._start(_object(fields.get("start")), fields.get("streamSid"))
            case "media":
                return self._loose_media(_object(fields.get("media")))
            case "mark":
                name = _text(_object(fields.get("mark")).get("name"))
                return MarkPlayed(name[:MAX_ID_CHARS]) if name else _fault("mark without name")
            case "dtmf":
                digit = _text(_object(fields.get("dtmf")).get("digit"))
                return Digit(digit) if digit in DTMF_KEYS else _fault("not a key")
            case "stop":
                return Stopped()
            case "connected":
                return Ignored("connected")
            case str():
                return Ignored("unknown event")
            case _:
                return Ignored("no event", fault=True)

    def _loose_media(self, media: Mapping[str, Any]) -> Fed:
        payload = media.get("payload")
        try:
            audio = b64decode(payload, validate=True) if isinstance(payload, str) else b""
        except ValueError:
            return Ignored("payload is not base64", fault=True)
        track = media.get("track")
        return self._audio(audio, track if track and isinstance(track, str) else "inbound")

    def _start(self, start: Mapping[str, Any], stream_id: object) -> Fed:
        if self._started:
            return Ignored("second start", fault=True)
        stream = _text(stream_id) or _text(start.get("streamSid"))
        call_id = _text(start.get("callSid"))
        if not stream or len(stream) > MAX_ID_CHARS or len(call_id) > MAX_ID_CHARS:
            return Ignored("start without usable ids", fault=True)
        self._started = True
        self.stream_id = stream
        quoted = msgspec.json.encode(stream).decode()
        self._audio_prefix = f'{{"event":"media","streamSid":{quoted},"media":{{"payload":"'
        custom = _object(start.get("customParameters"))
        return Started(
            call_id=call_id,
            stream_id=stream,
            account_id=_text(start.get("accountSid"))[:MAX_ID_CHARS],
            parameters={
                name[:MAX_PARAMETER_CHARS]: _text(value)[:MAX_PARAMETER_CHARS]
                for name, value in islice(custom.items(), MAX_PARAMETERS)
            },
            format=_format(_object(start.get("mediaFormat"))),
        )

    def audio(self, payload: bytes) -> str:
        """A ``media`` message; any number of mu-law bytes."""
        return self._audio_prefix + b2a_base64(payload, newline=False).decode("ascii") + '"}}'

    def mark(self, name: str) -> str:
        """A ``mark`` message."""
        return self._control_message("mark", mark={"name": name})

    def clear(self) -> str:
        """A ``clear`` message."""
        return self._control_message("clear")

    def _control_message(self, event: str, **fields: object) -> str:
        message = {"event": event, "streamSid": self.stream_id, **fields}
        return msgspec.json.encode(message).decode()


def _fault(reason: str) -> Ignored:
    return Ignored(reason, fault=True)


def _object(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: object) -> str:
    """A scalar as text; anything else, and numbers without measure, are empty."""
    match value:
        case str():
            return value
        case bool():
            return "true" if value else "false"
        case int():
            return str(value) if value.bit_length() <= MAX_NUMBER_BITS else ""
        case float():
            return str(int(value)) if value.is_integer() else str(value)
        case _:
            return ""


def _format(announced: Mapping[str, Any]) -> AudioFormat | None:
    """The announced format; mu-law where the carrier announces none."""
    encoding = _text(announced.get("encoding")) or "audio/x-mulaw"
    rate = _text(announced.get("sampleRate")) or "8000"
    return MULAW_8K if (encoding.lower(), rate) == ("audio/x-mulaw", "8000") else None


# --- answer documents ---------------------------------------------------------------------------

_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that XML 1.0 cannot hold, not even escaped (section 2.2)."""


def answer(stream_url: str, parameters: Mapping[str, str]) -> str:
    """TwiML that connects the call to our media socket.

    Query strings are dropped by Twilio, so everything travels in ``<Parameter>``. The trailing
    ``<Hangup/>`` runs when our side closes the socket.
    """
    inner = "".join(
        f"<Parameter name={_attribute(name)} value={_attribute(value)}/>"
        for name, value in parameters.items()
    )
    return _document(
        f"<Connect><Stream url={_attribute(stream_url)}>{inner}</Stream></Connect><Hangup/>"
    )


def busy() -> str:
    """TwiML for a full or draining server: the caller hears a busy tone."""
    return _document('<Reject reason="busy"/>')


def transfer(phone: str, caller_id: str = "") -> str:
    """TwiML that passes the call on to another number and ends with it."""
    caller = f" callerId={_attribute(caller_id)}" if caller_id else ""
    return _document(f"<Dial{caller}>{escape(_NOT_XML.sub('', phone))}</Dial><Hangup/>")


def _attribute(value: str) -> str:
    return quoteattr(_NOT_XML.sub("", value))


def _document(body: str) -> str:
    return f'<?xml version="1.0" encoding="UTF-8"?><Response>{body}</Response>'


# --- REST ---------------------------------------------------------------------------------------


def _call_url(api: str, account_sid: str, call_sid: str) -> str:
    # Both ids come over the wire: they must not leave their place in the path.
    account, call = (quote(sid, safe="", errors="replace") for sid in (account_sid, call_sid))
    return f"{api}/Accounts/{account}/Calls/{call}.json"


def hang_up_request(
    account_sid: str, auth_token: str, call_sid: str, *, api: str = API
) -> RestRequest:
    """Ends a live call."""
    return RestRequest(
        "POST",
        _call_url(api, account_sid, call_sid),
        {"Status": "completed"},
        account_sid,
        auth_token,
    )


def transfer_request(
    account_sid: str,
    auth_token: str,
    call_sid: str,
    phone: str,
    caller_id: str = "",
    *,
    api: str = API,
) -> RestRequest:
    """Replaces the call's instructions by a dial; this ends our stream."""
    return RestRequest(
        "POST",
        _call_url(api, account_sid, call_sid),
        {"Twiml": transfer(phone, caller_id)},
        account_sid,
        auth_token,
    )


# --- signatures ---------------------------------------------------------------------------------

_HASHES = {"HMAC_SHA1": hashlib.sha1, "HMAC_SHA256": hashlib.sha256}
_DEFAULT_PORTS = {"https": "443", "wss": "443", "http": "80", "ws": "80"}
_NETLOC = re.compile(
    r"(?P<host>\[[^\]]*\]|[^:/?#]*)(?::(?P<port>\d*))?(?P<rest>[/?#].*|$)", re.DOTALL
)


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
    digest = hmac.new(
        secret.encode(), signed.encode("utf-8", "surrogateescape"), _HASHES[algorithm]
    )
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
        actual = hashlib.sha256(body).hexdigest()
        if not hmac.compare_digest(actual.encode(), claimed.encode("utf-8", "replace")):
            return False
    offered = given.encode("utf-8", "replace")
    matches = [
        hmac.compare_digest(signature(secret, candidate, form, algorithm).encode(), offered)
        for candidate in url_candidates(url)
    ]
    return any(matches)


def url_candidates(url: str) -> list[str]:
    """The URL as given, without its port, and with the default one if it has none.

    Nothing else of it is touched: the signature covers its exact characters.
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
