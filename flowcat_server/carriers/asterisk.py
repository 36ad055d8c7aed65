"""Asterisk's ``chan_websocket``: the dialplan dials us, ``Dial(WebSocket/<connection>/c(ulaw))``.

Binary messages are frames of the channel's codec, both ways. Control is text, plain or, with
``f(json)``, JSON; whatever it begins with is what it is answered in::

    MEDIA_START connection_id:c channel:n channel_id:i format:ulaw optimal_frame_size:160 ptime:20
    {"event":"MEDIA_START","connection_id":"c","channel":"n","channel_id":"i","format":"ulaw",
     "optimal_frame_size":160,"ptime":20,"channel_variables":{"AGENT":"a1"}}
    DTMF_END channel_id:i digit:5
    MEDIA_MARK_PROCESSED correlation_id:p1
    MEDIA_XOFF
    MEDIA_XON

Out: whole multiples of the frame, 65500 bytes at most, and the commands ``MARK_MEDIA``,
``FLUSH_MEDIA`` and ``HANGUP``. It buffers 20 s and says when that is full. There is no webhook:
user and password of ``websocket_client.conf``, or its address, prove who opens the socket.
https://docs.asterisk.org/Configuration/Channel-Drivers/WebSocket/.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flowcat_server.carriers._pcm_stream import PcmStream
from flowcat_server.carriers._values import (
    MAX_ID_CHARS,
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
from flowcat_server.core.audio import AudioFormat
from flowcat_server.core.carrier import (
    Account,
    Carrier,
    CarrierStream,
    Fed,
    Flow,
    Ignored,
    MarkPlayed,
    Message,
    Request,
    Sending,
    Started,
)

MOST = 65_500
"""Bytes of a binary message; a longer one hangs up."""
MAX_FRAME = 16_000
FORMATS: Mapping[str, AudioFormat] = {
    "ulaw": AudioFormat("mulaw", 8000),
    "alaw": AudioFormat("alaw", 8000),
    "slin": AudioFormat("pcm16", 8000),
    **{
        f"slin{rate // 1000}": AudioFormat("pcm16", rate)
        for rate in (8000, 12000, 16000, 24000, 32000, 44100, 48000, 96000, 192000)
    },
}
_CALLER = ("CALLERID(num)", "caller_number")


class Stream(PcmStream):
    """One media socket."""

    __slots__ = ("_plain",)

    def __init__(self) -> None:
        super().__init__()
        self._plain = False
        """Control is in plain text."""

    def _text(self, message: str | bytes) -> Fed:
        line = message if isinstance(message, str) else message.decode("utf-8", "replace")
        if line.lstrip()[:1] not in ("{", "["):
            return self._control(_plain_fields(line))
        return PcmStream._text(self, message)

    def _control(self, fields: Mapping[str, Any]) -> Fed:
        match fields.get("event"):
            case "MEDIA_START":
                return self._start(fields)
            case "DTMF_END":
                return key(fields.get("digit"))
            case "MEDIA_MARK_PROCESSED":
                name = short(fields.get("correlation_id"))
                return MarkPlayed(name) if name else fault("mark without name")
            case "MEDIA_XOFF":
                return Flow(paused=True)
            case "MEDIA_XON":
                return Flow(paused=False)
            case "ERROR":
                # Older versions know fewer commands; what they do not know they do not do.
                return Ignored("a command was refused")
            case str() as event if event.isupper():
                return Ignored("unknown event")
            case _:
                return fault("no event")

    def _start(self, fields: Mapping[str, Any]) -> Fed:
        if self._started:
            return fault("second start")
        call_id = text(fields.get("channel_id")) or text(fields.get("channel"))
        stream_id = text(fields.get("connection_id"))
        if not call_id or len(call_id) > MAX_ID_CHARS or len(stream_id) > MAX_ID_CHARS:
            return fault("start without usable ids")
        self._started = True
        self._plain = fields.get("plain") is True
        audio = FORMATS.get(text(fields.get("format")))
        size = text(fields.get("optimal_frame_size"))
        frame = int(size) if size.isascii() and size.isdigit() and len(size) <= 6 else 0
        if audio is not None and not 0 < frame <= MAX_FRAME:
            frame = audio.bytes_for(20)
        variables = parameters(obj(fields.get("channel_variables")))
        return Started(
            call_id=call_id,
            stream_id=stream_id,
            parameters=variables,
            input_format=audio,
            output_format=audio,
            sending=Sending(unit=max(1, frame), least=frame, most=MOST),
            from_number=number(first(variables, _CALLER)),
            to_number=number(variables.get("called_number")),
        )

    def mark(self, name: str) -> str:
        """Comes back when what was queued before it has been played."""
        return self._command("MARK_MEDIA", name)

    def clear(self) -> str:
        """Drops what is queued."""
        return self._command("FLUSH_MEDIA")

    def end(self, reason: str, target: str = "") -> Sequence[Message]:
        """Hangs up the channel."""
        del reason, target
        return [self._command("HANGUP")] if self._started else ()

    def _command(self, name: str, about: str = "") -> str:
        if self._plain:
            return f"{name} {about}".strip()
        return encode_json({"command": name, **({"correlation_id": about} if about else {})})


def _plain_fields(line: str) -> dict[str, Any]:
    """``EVENT name:value name:value``."""
    event, *pairs = line.split(maxsplit=32) or [""]
    fields: dict[str, Any] = {"event": event, "plain": True}
    for pair in pairs:
        name, _, value = pair.partition(":")
        fields.setdefault(name, value)
    return fields


@dataclass(frozen=True, slots=True, kw_only=True)
class Asterisk(Carrier):
    """A switch of one's own that opens the socket unasked."""

    def open(self, account: Account, handshake: Request) -> CarrierStream:
        """A new media socket."""
        del account, handshake
        return Stream()


CARRIER = Asterisk(
    name="asterisk",
    title="Asterisk",
    wire="`chan_websocket`, plain and JSON control",
    audio="mu-law, A-law, L16 from 8 to 192 kHz",
    docs="https://docs.asterisk.org/Configuration/Channel-Drivers/WebSocket/",
    paste="`uri` of a connection in websocket_client.conf, with protocols = media",
    credential="password",
    has_webhook=False,
    subprotocols=("media",),
    handshake_suffices=True,
    basic_on_socket=True,
)
