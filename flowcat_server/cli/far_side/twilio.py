"""Twilio, and those that call as it does: SignalWire, Cloudonix, Telnyx."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, urlencode

from flowcat_server.carriers._twilio import signature
from flowcat_server.carriers._values import audio_format
from flowcat_server.cli.far_side.model import (
    CALLED,
    CALLER,
    FORM,
    Asked,
    FarSide,
    FarStream,
    Heard,
    Place,
    Unexpected,
    child,
    document,
    verbs,
)
from flowcat_server.core.audio import MULAW_8K, AudioFormat
from flowcat_server.core.carrier import Account, Message

ACCOUNT = "AC" + "0" * 32


class TwilioStream(FarStream):
    """Twilio's messages."""

    @property
    def stream_id(self) -> str:
        """Our id of the stream, which every message of the server's has to name."""
        return f"MZ{self.call}"

    def start(self) -> list[Message]:
        """``connected`` and ``start``."""
        return [
            '{"event":"connected","protocol":"Call","version":"1.0.0"}',
            self.event("start", start=self.described(), sequenceNumber="1"),
        ]

    def described(self) -> dict[str, Any]:
        """The stream, as ``start`` describes it."""
        wide = self.says.encoding == "pcm16"
        return {
            "accountSid": ACCOUNT,
            "streamSid": self.stream_id,
            "callSid": self.call,
            "tracks": ["inbound"],
            "customParameters": self.parameters,
            "mediaFormat": {
                "encoding": "audio/x-L16" if wide else "audio/x-mulaw",
                "sampleRate": self.says.sample_rate,
                "channels": 1,
            },
        }

    def event(self, kind: str, **about: Any) -> str:
        """A message of the stream."""
        return json.dumps({"event": kind, "streamSid": self.stream_id, **about})

    def media(self, payload: str) -> Message:
        """A ``media`` message."""
        about = {
            "track": "inbound",
            "chunk": str(self.sent),
            "timestamp": str((self.sent - 1) * self.chunk_ms),
            "payload": payload,
        }
        return self.event("media", media=about, sequenceNumber=str(self.sent + 1))

    def played(self, mark: str) -> Message | None:
        """A ``mark``, given back."""
        return self.event("mark", mark={"name": mark})

    def key(self, digit: str) -> Message | None:
        """A ``dtmf`` message."""
        return self.event("dtmf", dtmf={"track": "inbound_track", "digit": digit})

    def stop(self) -> list[Message]:
        """A ``stop`` message."""
        return [self.event("stop", stop={"accountSid": ACCOUNT, "callSid": self.call})]

    def said(self, fields: Mapping[str, Any]) -> Heard:
        """``media``, ``mark``, ``clear``."""
        if fields.get("streamSid") != self.stream_id:
            raise Unexpected("a message of another stream")
        return self.told(fields)

    def told(self, fields: Mapping[str, Any]) -> Heard:
        """A message of this stream."""
        match fields:
            case {"event": "media", "media": {"payload": payload}}:
                return self.audio(payload)
            case {"event": "mark", "mark": {"name": str() as name}}:
                return Heard(mark=name)
            case {"event": "clear"}:
                return Heard(cleared=True)
        raise Unexpected(f"a message that is not known: {fields.get('event')!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class TwilioSide(FarSide):
    """Forms, signed over the address and their fields."""

    header: str = "X-Twilio-Signature"
    """Empty: it signs nothing, and sends a password."""

    def fields(self, call: str) -> dict[str, str]:
        """What a webhook says of a call."""
        return {
            "CallSid": call,
            "AccountSid": ACCOUNT,
            "From": CALLER,
            "To": CALLED,
            "CallStatus": "ringing",
            "Direction": "inbound",
        }

    def status(self, call: str) -> Asked:
        """The call is over."""
        over = {**self.fields(call), "CallStatus": "completed", "CallDuration": "3"}
        return Asked("POST", self.status_path, urlencode(over).encode(), FORM)

    def sign(self, asked: Asked, url: str, account: Account, now_s: int) -> dict[str, str]:
        """The signature, or the password."""
        if not self.header or not account.webhook_key:
            return FarSide.sign(self, asked, url, account, now_s)
        form = parse_qsl(asked.body.decode(), keep_blank_values=True)
        return {self.header: signature(account.webhook_key, url, form)}

    def handshake(self, url: str, account: Account, now_s: int, unique: str) -> dict[str, str]:
        """Signed over the ``wss`` address alone."""
        del now_s, unique
        if not self.header or not account.webhook_key:
            return {}
        return {self.header: signature(account.webhook_key, url)}

    def place(self, answer: str) -> Place:
        """``<Connect><Stream>`` and its parameters."""
        stream = child(document(answer), "./Connect/Stream")
        found = {each.get("name", ""): each.get("value", "") for each in stream}
        return Place(stream.get("url", ""), found)

    def is_busy(self, status: int, answer: str) -> bool:
        """``<Reject>``."""
        return status == 200 and verbs(answer)[:1] == ["Reject"]

    def new_call(self, unique: str) -> str:
        """``CA`` and 32 digits."""
        return f"CA{unique}"


class SignalWireStream(TwilioStream):
    """Twilio's messages, with a codec that was asked for."""

    @property
    def says(self) -> AudioFormat:
        """As the agent file has it, such as ``L16@16000h``."""
        codec, _, rate = self.account.options.get("codec", "").partition("@")
        return audio_format(codec, rate.removesuffix("h")) or MULAW_8K


class TelnyxStream(TwilioStream):
    """Snake case, and no ids in what the server sends."""

    @property
    def hears(self) -> AudioFormat:
        """As the answer asked for."""
        options = self.account.options
        return audio_format(options.get("codec", ""), options.get("sample_rate", "")) or MULAW_8K

    @property
    def big_endian(self) -> bool:
        """Unless the agent file says otherwise."""
        return self.account.options.get("byte_order", "big") == "big"

    def start(self) -> list[Message]:
        """``connected`` and ``start``."""
        about = {
            "user_id": "doctor",
            "call_control_id": self.call,
            "from": CALLER,
            "to": CALLED,
            "custom_parameters": self.parameters,
            "media_format": {"encoding": "PCMU", "sample_rate": 8000, "channels": 1},
        }
        return [
            '{"event":"connected","version":"1.0.0"}',
            self.event("start", start=about, sequence_number="1"),
        ]

    def event(self, kind: str, **about: Any) -> str:
        """A message of the stream."""
        return json.dumps({"event": kind, "stream_id": self.stream_id, **about})

    def said(self, fields: Mapping[str, Any]) -> Heard:
        """``media``, ``mark``, ``clear``, none with an id."""
        return self.told(fields)


TWILIO = TwilioSide(name="twilio", stream=TwilioStream, reports=True, signs="url")
SIGNALWIRE = TwilioSide(
    name="signalwire",
    stream=SignalWireStream,
    reports=True,
    signs="url",
    header="X-SignalWire-Signature",
)
CLOUDONIX = TwilioSide(name="cloudonix", stream=TwilioStream, reports=True, header="")
TELNYX = TwilioSide(
    name="telnyx",
    stream=TelnyxStream,
    reports=True,
    signs="body",
    can_sign=False,  # Ed25519: the agent file holds the public half
    dated=True,
    header="",
)
