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
from base64 import b64encode
from binascii import b2a_base64
from collections.abc import Iterable, Mapping, Sequence
from urllib.parse import urlsplit, urlunsplit
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
DTMF_KEYS = frozenset("0123456789*#ABCD")


class _MediaFormat(msgspec.Struct, gc=False):
    encoding: str = "audio/x-mulaw"
    sampleRate: int | str = 8000


class _Start(msgspec.Struct, gc=False):
    accountSid: str = ""
    callSid: str = ""
    streamSid: str = ""
    customParameters: dict[str, str] = {}
    mediaFormat: _MediaFormat = msgspec.field(default_factory=_MediaFormat)


class _Media(msgspec.Struct, gc=False):
    payload: bytes = b""
    track: str = "inbound"


class _Dtmf(msgspec.Struct, gc=False):
    digit: str | int = ""


class _Mark(msgspec.Struct, gc=False):
    name: str = ""


class _Message(msgspec.Struct, gc=False):
    event: str = ""
    streamSid: str = ""
    media: _Media | None = None
    start: _Start | None = None
    dtmf: _Dtmf | None = None
    mark: _Mark | None = None


_decode = msgspec.json.Decoder(_Message).decode


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
            parsed = _decode(message)
        except (msgspec.MsgspecError, RecursionError, UnicodeError):
            return Ignored("unreadable message", fault=True)
        media = parsed.media
        if media is not None and parsed.event == "media":
            if not self._started:
                return Ignored("media before start", fault=True)
            if media.track != "inbound":
                return Ignored("not the caller's track")
            return media.payload
        return self._control(parsed)

    def _control(self, parsed: _Message) -> Fed:
        match parsed.event:
            case "start" if parsed.start is not None:
                return self._start(parsed.start, parsed.streamSid)
            case "mark" if parsed.mark is not None:
                return MarkPlayed(parsed.mark.name[:MAX_ID_CHARS])
            case "dtmf" if parsed.dtmf is not None:
                digit = str(parsed.dtmf.digit)
                return Digit(digit) if digit in DTMF_KEYS else Ignored("not a key", fault=True)
            case "stop":
                return Stopped()
            case "connected":
                return Ignored("connected")
            case _:
                return Ignored("unknown event")

    def _start(self, start: _Start, stream_id: str) -> Fed:
        if self._started:
            return Ignored("second start", fault=True)
        stream_id = stream_id or start.streamSid
        if not stream_id or len(stream_id) > MAX_ID_CHARS or len(start.callSid) > MAX_ID_CHARS:
            return Ignored("start without usable ids", fault=True)
        self._started = True
        self.stream_id = stream_id
        quoted = msgspec.json.encode(stream_id).decode()
        self._audio_prefix = f'{{"event":"media","streamSid":{quoted},"media":{{"payload":"'
        parameters = {
            name[:MAX_PARAMETER_CHARS]: value[:MAX_PARAMETER_CHARS]
            for name, value in list(start.customParameters.items())[:MAX_PARAMETERS]
        }
        return Started(
            call_id=start.callSid,
            stream_id=stream_id,
            account_id=start.accountSid,
            parameters=parameters,
            format=_format(start.mediaFormat),
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


def _format(announced: _MediaFormat) -> AudioFormat | None:
    if announced.encoding == "audio/x-mulaw" and str(announced.sampleRate) == "8000":
        return MULAW_8K
    return None


# --- answer documents ---------------------------------------------------------------------------


def answer(stream_url: str, parameters: Mapping[str, str]) -> str:
    """TwiML that connects the call to our media socket.

    Query strings are dropped by Twilio, so everything travels in ``<Parameter>``. The trailing
    ``<Hangup/>`` runs when our side closes the socket.
    """
    inner = "".join(
        f"<Parameter name={quoteattr(name)} value={quoteattr(value)}/>"
        for name, value in parameters.items()
    )
    return _document(
        f"<Connect><Stream url={quoteattr(stream_url)}>{inner}</Stream></Connect><Hangup/>"
    )


def busy() -> str:
    """TwiML for a full or draining server: the caller hears a busy tone."""
    return _document('<Reject reason="busy"/>')


def transfer(phone: str, caller_id: str = "") -> str:
    """TwiML that passes the call on to another number and ends with it."""
    caller = f" callerId={quoteattr(caller_id)}" if caller_id else ""
    return _document(f"<Dial{caller}>{escape(phone)}</Dial><Hangup/>")


def _document(body: str) -> str:
    return f'<?xml version="1.0" encoding="UTF-8"?><Response>{body}</Response>'


# --- REST ---------------------------------------------------------------------------------------


def _call_url(account_sid: str, call_sid: str) -> str:
    return f"{API}/Accounts/{account_sid}/Calls/{call_sid}.json"


def hang_up_request(account_sid: str, auth_token: str, call_sid: str) -> RestRequest:
    """Ends a live call."""
    return RestRequest(
        "POST",
        _call_url(account_sid, call_sid),
        {"Status": "completed"},
        account_sid,
        auth_token,
    )


def transfer_request(
    account_sid: str, auth_token: str, call_sid: str, phone: str, caller_id: str = ""
) -> RestRequest:
    """Replaces the call's instructions by a dial; this ends our stream."""
    return RestRequest(
        "POST",
        _call_url(account_sid, call_sid),
        {"Twiml": transfer(phone, caller_id)},
        account_sid,
        auth_token,
    )


# --- signatures ---------------------------------------------------------------------------------


def signature(auth_token: str, url: str, form: Iterable[tuple[str, str]] = ()) -> str:
    """``X-Twilio-Signature`` of a request: base64 of HMAC-SHA1 over URL and sorted form fields.

    For each distinct name in order, each distinct value in order is appended as name + value.
    """
    fields: dict[str, set[str]] = {}
    for name, value in form:
        fields.setdefault(name, set()).add(value)
    signed = url + "".join(
        name + value for name in sorted(fields) for value in sorted(fields[name])
    )
    digest = hmac.new(auth_token.encode(), signed.encode("utf-8", "surrogatepass"), hashlib.sha1)
    return b64encode(digest.digest()).decode()


def verify(
    auth_token: str,
    given: str,
    url: str,
    form: Sequence[tuple[str, str]] = (),
    body: bytes | None = None,
) -> bool:
    """Whether a signature fits one of the ways in which Twilio may have seen our URL.

    Twilio signs with or without the default port, and the handshake of the media socket with
    scheme ``wss``. A JSON body is covered by ``bodySHA256`` in the URL's query.
    """
    if not given:
        return False
    if body is not None and "bodySHA256=" in url:
        claimed = url.rpartition("bodySHA256=")[2].partition("&")[0]
        if not hmac.compare_digest(hashlib.sha256(body).hexdigest().encode(), claimed.encode()):
            return False
    matches = [
        hmac.compare_digest(signature(auth_token, candidate, form).encode(), given.encode())
        for candidate in url_candidates(url)
    ]
    return any(matches)


def url_candidates(url: str) -> list[str]:
    """The URL as given, without and with its default port."""
    parts = urlsplit(url)
    try:
        port = parts.port
    except ValueError:
        return [url]
    default = {"https": 443, "wss": 443, "http": 80, "ws": 80}.get(parts.scheme)
    candidates = [url]
    host = parts.hostname or ""
    if ":" in host:
        host = f"[{host}]"
    if port is None and default is not None:
        candidates.append(urlunsplit(parts._replace(netloc=f"{host}:{default}")))
    elif port is not None:
        candidates.append(urlunsplit(parts._replace(netloc=host)))
    return candidates
