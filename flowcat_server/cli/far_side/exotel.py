"""Exotel's Voicebot applet, which asks an address and then opens the socket."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

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
    fields_of,
)
from flowcat_server.core.audio import PCM_8K, AudioFormat
from flowcat_server.core.carrier import Message


class ExotelStream(FarStream):
    """Exotel's messages, ten a second."""

    chunk_ms = 100

    @property
    def says(self) -> AudioFormat:
        """Its usual format."""
        return PCM_8K

    def start(self) -> list[Message]:
        """``connected`` and ``start``."""
        about = {
            "stream_sid": self.call,
            "call_sid": self.call,
            "account_sid": "doctor",
            "from": CALLER,
            "to": CALLED,
            "custom_parameters": self.parameters,
            "media_format": {"encoding": "audio/x-raw", "sample_rate": "8000", "bit_rate": "128k"},
        }
        return ['{"event":"connected"}', self.event("start", start=about, sequence_number="1")]

    def event(self, kind: str, **about: Any) -> str:
        """A message of the stream."""
        return json.dumps({"event": kind, "stream_sid": self.call, **about})

    def media(self, payload: str) -> Message:
        """A ``media`` message."""
        about = {"chunk": str(self.sent), "timestamp": "0", "payload": payload}
        return self.event("media", media=about, sequence_number=str(self.sent + 1))

    def played(self, mark: str) -> Message | None:
        """A ``mark``, given back."""
        return self.event("mark", mark={"name": mark})

    def key(self, digit: str) -> Message | None:
        """A ``dtmf`` message."""
        return self.event("dtmf", dtmf={"digit": digit, "duration": "100"})

    def stop(self) -> list[Message]:
        """A ``stop`` message."""
        return [self.event("stop", stop={"call_sid": self.call, "reason": "callended"})]

    def said(self, fields: Mapping[str, Any]) -> Heard:
        """``media``, ``mark``, ``clear``."""
        if fields.get("stream_sid") != self.call:
            raise Unexpected("a message of another stream")
        match fields:
            case {"event": "media", "media": {"payload": payload}}:
                return self.audio(payload)
            case {"event": "mark", "mark": {"name": str() as name}}:
                return Heard(mark=name)
            case {"event": "clear"}:
                return Heard(cleared=True)
        raise Unexpected(f"a message that is not known: {fields.get('event')!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ExotelSide(FarSide):
    """A GET that is answered with an address."""

    def webhook(self, call: str, run_id: str = "", **more: str) -> Asked:
        """The applet asks for the socket's address."""
        query = {"CallSid": call, "CallFrom": CALLER, "CallTo": CALLED, **more}
        return Asked("GET", f"{self.answer_path(run_id)}?{urlencode(query)}")

    def status(self, call: str) -> Asked:
        """The call is over."""
        over = {"CallSid": call, "EventType": "terminal", "Status": "completed"}
        return Asked("POST", self.status_path, urlencode(over).encode(), FORM)

    def place(self, answer: str) -> Place:
        """The address."""
        return Place(str(fields_of(answer).get("url", "")))

    def is_busy(self, status: int, answer: str) -> bool:
        """503, and no address."""
        if status != 503:
            return False
        try:
            return fields_of(answer).get("error") == "busy"
        except Unexpected:
            return False


EXOTEL = ExotelSide(name="exotel", stream=ExotelStream, reports=True, socket_password=True)
