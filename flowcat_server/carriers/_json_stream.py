"""Media sockets of JSON text messages with base64 audio: Twilio's wire and its relatives.

One parser reads them all, since what differs are spellings; a `Dialect` says how they are written
to. Fields' types vary between carriers, and within one: none but the payload is relied on.
"""

from __future__ import annotations

from base64 import b64decode
from binascii import b2a_base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from flowcat_server.carriers._values import (
    MAX_ID_CHARS,
    MAX_PARAMETERS,
    UNREADABLE,
    audio_format,
    decode_json,
    encode_json,
    fault,
    first,
    key,
    number,
    obj,
    parameters,
    short,
    text,
)
from flowcat_server.core.audio import MULAW_8K, AudioFormat, swap_bytes
from flowcat_server.core.carrier import (
    Fed,
    Ignored,
    MarkPlayed,
    Message,
    Sending,
    Started,
    Stopped,
)

STREAM_IDS = ("streamSid", "stream_sid", "stream_id", "streamId")
CALL_IDS = ("callSid", "call_sid", "call_control_id", "callId")
ACCOUNTS = ("accountSid", "account_sid", "user_id", "accountId")
FORMATS = ("mediaFormat", "media_format")
PARAMETERS = ("customParameters", "custom_parameters")
CALLERS_TRACKS = frozenset({"inbound", "inbound_track"})
NO_AUDIO = Ignored("media without audio", fault=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """How a carrier of this family is written to."""

    ids: tuple[str, ...] = ("streamSid",)
    """Under which names its own stream id is sent back, if at all."""
    media: str = "media"
    mark: str = "mark"
    clear: str = "clear"
    """Names of the messages."""
    flat_mark: bool = False
    """A mark's name stands at the top of the message."""
    names_format: bool = False
    """Audio says its format."""
    id_on_media: bool = True
    keys: str = ""
    """Sends keys: ``digit`` one by one, ``string`` all at once; empty: it cannot be done."""
    unannounced: AudioFormat = MULAW_8K
    """The format where none is announced."""
    end: str = ""
    """Sent before we close; empty: nothing."""


class _Media(msgspec.Struct, gc=False):
    payload: bytes
    track: str = "inbound"


class _MediaMessage(msgspec.Struct, gc=False):
    """The frequent message, and only it: anything else takes the tolerant way."""

    event: str
    media: _Media


_decode_media = msgspec.json.Decoder(_MediaMessage).decode

Shape = Callable[[AudioFormat], Sending]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What is known of a stream before it starts."""

    dialect: Dialect = field(default_factory=Dialect)
    sending: Shape = lambda _: Sending()
    output: AudioFormat | None = None
    """What the carrier was asked to take; None: what it announces it sends."""
    big_endian: bool = False
    """L16 comes and goes in network byte order."""


class JsonStream:
    """One media socket."""

    __slots__ = (
        "_audio_prefix",
        "_dialect",
        "_ids",
        "_plain",
        "_settings",
        "_started",
        "_swap_in",
        "_swap_out",
        "stream_id",
    )

    def __init__(self, settings: Settings) -> None:
        self.stream_id = ""
        self._settings = settings
        self._dialect = settings.dialect
        self._started = False
        self._ids: dict[str, str] = {}
        self._audio_prefix = ""
        self._swap_in = self._swap_out = False
        self._plain = False
        """The caller's audio is what arrives: the stream has started, and in our byte order."""

    # --- what comes in ----------------------------------------------------------------------

    def feed(self, message: str | bytes, binary: bool = False) -> Fed:  # noqa: FBT001, FBT002, RUF100 - one call a frame
        """What one message means; a payload's bytes for caller audio. Never raises."""
        del binary
        try:
            parsed = _decode_media(message)
        except UNREADABLE:
            return self._control(message)
        if parsed.event != "media":
            return self._control(message)
        media = parsed.media
        if media.track == "inbound" and self._plain:
            return media.payload or NO_AUDIO
        return self._audio(media.payload, media.track)

    def _audio(self, payload: bytes, track: str) -> Fed:
        if not self._started:
            return Ignored("media before start", fault=True)
        if track not in CALLERS_TRACKS:
            return Ignored("not the caller's track")
        if self._swap_in:
            payload = swap_bytes(payload)
        return payload or NO_AUDIO

    def _control(self, message: str | bytes) -> Fed:
        """Any message whatever types its fields have; they vary between carriers of this wire."""
        try:
            fields = decode_json(message)
        except UNREADABLE:
            return fault("unreadable message")
        if not isinstance(fields, dict):
            return fault("not an object")
        match fields.get("event"):
            case "start":
                return self._start(fields, obj(fields.get("start")))
            case "media":
                return self._loose_media(obj(fields.get("media")))
            case "mark":
                return _played(obj(fields.get("mark")).get("name"))
            case "playedStream":
                return _played(fields.get("name"))
            case "dtmf":
                return key(obj(fields.get("dtmf")).get("digit"))
            case "stop":
                return Stopped()
            case "connected" | "clearedAudio" as event:
                return Ignored(event)
            case "error":
                return fault("the carrier reports an error")
            case str():
                return Ignored("unknown event")
            case _:
                return fault("no event")

    def _loose_media(self, media: Mapping[str, Any]) -> Fed:
        payload = media.get("payload")
        try:
            audio = b64decode(payload, validate=True) if isinstance(payload, str) else b""
        except ValueError:
            return Ignored("payload is not base64", fault=True)
        track = media.get("track")
        return self._audio(audio, track if track and isinstance(track, str) else "inbound")

    def _start(self, message: Mapping[str, Any], start: Mapping[str, Any]) -> Fed:
        if self._started:
            return Ignored("second start", fault=True)
        stream = text(first(message, STREAM_IDS)) or text(first(start, STREAM_IDS))
        call_id = text(first(start, CALL_IDS))
        if not stream or len(stream) > MAX_ID_CHARS or len(call_id) > MAX_ID_CHARS:
            return fault("start without usable ids")
        heard = self._format(obj(first(start, FORMATS)))
        spoken = self._settings.output or heard
        self._started = True
        self.stream_id = stream
        self._ids = dict.fromkeys(self._dialect.ids, stream)
        self._swap_in = self._swaps(heard)
        self._plain = not self._swap_in
        self._swap_out = self._swaps(spoken)
        self._audio_prefix = self._prefix(spoken)
        extra = message.get("extra_headers")
        custom = parameters(obj(first(start, PARAMETERS)))
        return Started(
            call_id=call_id,
            stream_id=stream,
            account_id=short(first(start, ACCOUNTS)),
            parameters=custom | extra_headers(extra),
            input_format=heard,
            output_format=spoken,
            sending=self._settings.sending(spoken or MULAW_8K),
            from_number=number(first(start, ("from",)) or message.get("from")),
            to_number=number(first(start, ("to",)) or message.get("to")),
        )

    def _format(self, announced: Mapping[str, Any]) -> AudioFormat | None:
        """The announced format; the usual one where the carrier announces none."""
        usual = self._dialect.unannounced
        encoding = text(announced.get("encoding"))
        rate = text(first(announced, ("sampleRate", "sample_rate")))
        if not encoding:
            encoding = "audio/x-mulaw" if usual.encoding == "mulaw" else "audio/l16"
        return audio_format(encoding, rate)

    def _swaps(self, audio: AudioFormat | None) -> bool:
        return self._settings.big_endian and audio is not None and audio.encoding == "pcm16"

    # --- what goes out ----------------------------------------------------------------------

    def _prefix(self, spoken: AudioFormat | None) -> str:
        dialect = self._dialect
        ids = self._ids if dialect.id_on_media else {}
        head = encode_json({"event": dialect.media, **ids})[:-1]
        about = ""
        if dialect.names_format and spoken is not None:
            kind = "audio/x-mulaw" if spoken.encoding == "mulaw" else "audio/x-l16"
            about = f'"contentType":"{kind}","sampleRate":{spoken.sample_rate},'
        return f'{head},"media":{{{about}"payload":"'

    def accept(self) -> Sequence[Message]:
        """Nothing: the carrier waits for nothing."""
        return ()

    def audio(self, payload: bytes) -> str:
        """A ``media`` message."""
        if self._swap_out:
            payload = swap_bytes(payload)
        return self._audio_prefix + b2a_base64(payload, newline=False).decode("ascii") + '"}}'

    def mark(self, name: str) -> str:
        """A ``mark`` message."""
        about = {"name": name} if self._dialect.flat_mark else {"mark": {"name": name}}
        return encode_json({"event": self._dialect.mark, **self._ids, **about})

    def clear(self) -> str:
        """A ``clear`` message."""
        return encode_json({"event": self._dialect.clear, **self._ids})

    def dtmf(self, digits: str) -> Sequence[Message]:
        """Keys, where the carrier takes them."""
        match self._dialect.keys:
            case "digit":
                return [
                    encode_json({"event": "dtmf", **self._ids, "dtmf": {"digit": digit}})
                    for digit in digits
                ]
            case "string":
                return [encode_json({"event": "sendDTMF", "dtmf": digits})]
            case _:
                return ()

    def end(self, reason: str, target: str = "") -> Sequence[Message]:
        """What is said before we close; of a call that was passed on the stream ends by itself."""
        del reason
        said = self._dialect.end and not target
        return [encode_json({"event": self._dialect.end, **self._ids})] if said else ()


def _played(name: object) -> Fed:
    played = short(name)
    return MarkPlayed(played) if played else fault("mark without name")


def extra_headers(value: object) -> dict[str, str]:
    """Plivo's ``k=v;k2=v2``, or a JSON object in a string."""
    if not isinstance(value, str) or not value:
        return {}
    if value.lstrip().startswith("{"):
        try:
            return parameters(obj(decode_json(value)))
        except UNREADABLE:
            return {}
    pairs = (part.partition("=") for part in value.split(";", MAX_PARAMETERS)[:MAX_PARAMETERS])
    return parameters({name.strip(): given.strip() for name, _, given in pairs if name.strip()})
