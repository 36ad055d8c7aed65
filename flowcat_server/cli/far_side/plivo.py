"""Plivo, and Vobiz, which calls as it does."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, urlencode

from flowcat_server.carriers._plivo import signature, signed_text
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
)
from flowcat_server.core.audio import MULAW_8K, AudioFormat
from flowcat_server.core.carrier import Account, Message


class PlivoStream(FarStream):
    """Plivo's messages."""

    @property
    def says(self) -> AudioFormat:
        """As the answer asked for."""
        return audio_format(self.account.options.get("content_type", "")) or MULAW_8K

    @property
    def stream_id(self) -> str:
        """Our id of the stream."""
        return f"stream-{self.call}"

    def start(self) -> list[Message]:
        """``start``, alone."""
        wide = self.says.encoding == "pcm16"
        about = {
            "callId": self.call,
            "streamId": self.stream_id,
            "accountId": "MADOCTOR",
            "tracks": ["inbound"],
            "mediaFormat": {
                "encoding": "audio/x-l16" if wide else "audio/x-mulaw",
                "sampleRate": self.says.sample_rate,
            },
        }
        extra = ";".join(f"{name}={value}" for name, value in self.parameters.items())
        return [
            json.dumps(
                {"event": "start", "sequenceNumber": 1, "start": about, "extra_headers": extra}
            )
        ]

    def event(self, kind: str, **about: Any) -> str:
        """A message of the stream."""
        return json.dumps({"event": kind, "streamId": self.stream_id, **about})

    def media(self, payload: str) -> Message:
        """A ``media`` message."""
        about = {"track": "inbound", "chunk": self.sent, "timestamp": "0", "payload": payload}
        return self.event("media", media=about, sequenceNumber=self.sent + 1)

    def played(self, mark: str) -> Message | None:
        """A checkpoint was reached."""
        return self.event("playedStream", name=mark)

    def key(self, digit: str) -> Message | None:
        """A ``dtmf`` message."""
        return self.event("dtmf", dtmf={"track": "inbound", "digit": digit})

    def said(self, fields: Mapping[str, Any]) -> Heard:
        """``playAudio``, ``checkpoint``, ``clearAudio``, and Vobiz's ``stop``."""
        match fields:
            case {"event": "playAudio", "media": {"payload": payload}}:
                return self.audio(payload)
            case {"event": "checkpoint", "name": str() as name}:
                return Heard(mark=name)
            case {"event": "clearAudio"}:
                return Heard(cleared=True, answers=[self.event("clearedAudio")])
            case {"event": "stop"}:
                return Heard(ending=True)
        raise Unexpected(f"a message that is not known: {fields.get('event')!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class PlivoSide(FarSide):
    """Forms, signed with a nonce over the address and their fields."""

    header: str

    def fields(self, call: str) -> dict[str, str]:
        """What a webhook says of a call; numbers without a plus."""
        return {
            "CallUUID": call,
            "From": CALLER.lstrip("+"),
            "To": CALLED.lstrip("+"),
            "CallStatus": "ringing",
            "Direction": "inbound",
        }

    def status(self, call: str) -> Asked:
        """The call is over."""
        over = {**self.fields(call), "CallStatus": "completed", "HangupCause": "NORMAL_CLEARING"}
        return Asked("POST", self.status_path, urlencode(over).encode(), FORM)

    def sign(self, asked: Asked, url: str, account: Account, now_s: int) -> dict[str, str]:
        """Version 3. The nonce differs from one webhook to the next."""
        if not account.webhook_key:
            return {}
        form = parse_qsl(asked.body.decode(), keep_blank_values=True)
        nonce = signature(account.webhook_key, f"{now_s} {url} {asked.body!r}")[:20]
        text = signed_text(asked.method, url, form)
        given = signature(account.webhook_key, f"{text}.{nonce}")
        return {f"{self.header}-V3": given, f"{self.header}-V3-Nonce": nonce}

    def place(self, answer: str) -> Place:
        """``<Stream>`` and the address in it."""
        return Place((child(document(answer), "./Stream").text or "").strip())

    def is_busy(self, status: int, answer: str) -> bool:
        """``<Hangup reason="busy">``."""
        if status != 200:
            return False
        try:
            return child(document(answer), "./Hangup").get("reason") == "busy"
        except Unexpected:
            return False


PLIVO = PlivoSide(
    name="plivo", stream=PlivoStream, reports=True, signs="url", header="X-Plivo-Signature"
)
VOBIZ = PlivoSide(
    name="vobiz", stream=PlivoStream, reports=True, signs="url", header="X-Vobiz-Signature"
)
