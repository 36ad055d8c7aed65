"""Switches that open the socket unasked: Asterisk's chan_websocket, FreeSWITCH's modules."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from flowcat_server.carriers._values import audio_format
from flowcat_server.cli.far_side.model import (
    CALLED,
    CALLER,
    FarSide,
    Heard,
    RawStream,
    Unexpected,
)
from flowcat_server.core.audio import PCM_8K, AudioFormat
from flowcat_server.core.carrier import Message


class AsteriskStream(RawStream):
    """``chan_websocket`` with JSON control, mu-law."""

    def start(self) -> list[Message]:
        """``MEDIA_START``."""
        variables = {"caller_number": CALLER, "called_number": CALLED, **self.parameters}
        return [
            self.event(
                "MEDIA_START",
                connection_id=f"connection-{self.call}",
                channel=f"WebSocket/doctor/{self.call}",
                format="ulaw",
                optimal_frame_size=160,
                ptime=20,
                channel_variables=variables,
            )
        ]

    def event(self, kind: str, **about: Any) -> str:
        """A control message."""
        return json.dumps({"event": kind, "channel_id": self.call, **about})

    def played(self, mark: str) -> Message | None:
        """A mark was reached."""
        return self.event("MEDIA_MARK_PROCESSED", correlation_id=mark)

    def key(self, digit: str) -> Message | None:
        """A key."""
        return self.event("DTMF_END", digit=digit)

    def unknown(self, size: int) -> Message | None:
        """A message that means nothing."""
        return self.event("DOCTOR", padding="x" * size)

    def said(self, fields: Mapping[str, Any]) -> Heard:
        """``MARK_MEDIA``, ``FLUSH_MEDIA``, ``HANGUP``."""
        match fields:
            case {"command": "MARK_MEDIA", "correlation_id": str() as name}:
                return Heard(mark=name)
            case {"command": "FLUSH_MEDIA"}:
                return Heard(cleared=True)
            case {"command": "HANGUP"}:
                return Heard(ending=True)
        raise Unexpected(f"a command that is not known: {fields.get('command')!r}")


class FreeSwitchStream(RawStream):
    """``mod_audio_stream``, L16."""

    @property
    def says(self) -> AudioFormat:
        """The rate of the address."""
        return audio_format("audio/l16", self.account.options.get("sample_rate", "")) or PCM_8K

    def start(self) -> list[Message]:
        """The metadata of the command; the call's id stands in the address."""
        return [json.dumps({"from": CALLER, "to": CALLED, **self.parameters})]

    def said(self, fields: Mapping[str, Any]) -> Heard:
        """``killAudio`` and ``disconnect``."""
        match fields:
            case {"type": "killAudio"}:
                return Heard(cleared=True)
            case {"type": "disconnect"}:
                return Heard(ending=True)
        raise Unexpected(f"a message that is not known: {fields.get('type')!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class FreeSwitchSide(FarSide):
    """Rate and call stand in the address's query."""

    def path(self, call: str) -> str:
        """With the call's id."""
        return f"/telephony/ws/{self.name}?{urlencode({'call_id': call})}"


ASTERISK = FarSide(
    name="asterisk",
    stream=AsteriskStream,
    asks=False,
    subprotocols=("media",),
    socket_password=True,
)
FREESWITCH = FreeSwitchSide(
    name="freeswitch", stream=FreeSwitchStream, asks=False, socket_password=True
)
