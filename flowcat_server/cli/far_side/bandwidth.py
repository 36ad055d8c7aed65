"""Bandwidth: JSON webhooks with a password, BXML, messages by ``eventType``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flowcat_server.cli.far_side.model import (
    CALLED,
    CALLER,
    JSON,
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
from flowcat_server.core.carrier import Message


class BandwidthStream(FarStream):
    """Bandwidth's messages; there are neither marks nor keys."""

    @property
    def about(self) -> dict[str, Any]:
        """The stream."""
        media = {"encoding": "PCMU", "sampleRate": 8000}
        return {
            "accountId": "doctor",
            "callId": self.call,
            "streamId": f"s-{self.call}",
            "streamName": "flowcat",
            "tracks": [{"name": "inbound", "mediaFormat": media}],
        }

    def start(self) -> list[Message]:
        """``start``."""
        return [
            json.dumps(
                {"eventType": "start", "metadata": self.about, "streamParams": self.parameters}
            )
        ]

    def media(self, payload: str) -> Message:
        """A ``media`` message."""
        return json.dumps({"eventType": "media", "track": "inbound", "payload": payload})

    def unknown(self, size: int) -> Message | None:
        """A message that means nothing."""
        return json.dumps({"eventType": "doctor", "padding": "x" * size})

    def stop(self) -> list[Message]:
        """A ``stop`` message."""
        return [json.dumps({"eventType": "stop", "metadata": self.about})]

    def said(self, fields: Mapping[str, Any]) -> Heard:
        """``playAudio`` and ``clear``."""
        match fields:
            case {"eventType": "playAudio", "media": {"payload": payload}}:
                return self.audio(payload)
            case {"eventType": "clear"}:
                return Heard(cleared=True)
        raise Unexpected(f"a message that is not known: {fields.get('eventType')!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class BandwidthSide(FarSide):
    """Webhooks with a password."""

    def webhook(self, call: str, run_id: str = "", **more: str) -> Asked:
        """A call comes in."""
        about = {"eventType": "initiate", "callId": call, "from": CALLER, "to": CALLED, **more}
        return Asked("POST", self.answer_path(run_id), json.dumps(about).encode(), JSON)

    def status(self, call: str) -> Asked:
        """The caller hung up."""
        about = {"eventType": "disconnect", "callId": call, "cause": "hangup"}
        return Asked("POST", self.status_path, json.dumps(about).encode(), JSON)

    def place(self, answer: str) -> Place:
        """``<StartStream>`` and its parameters."""
        stream = child(document(answer), "./StartStream")
        found = {each.get("name", ""): each.get("value", "") for each in stream}
        return Place(stream.get("destination", ""), found)

    def is_busy(self, status: int, answer: str) -> bool:
        """Nothing but ``<Hangup>``."""
        return status == 200 and verbs(answer) == ["Hangup"]

    def new_call(self, unique: str) -> str:
        """``c-`` and more."""
        return f"c-{unique}"


BANDWIDTH = BandwidthSide(name="bandwidth", stream=BandwidthStream, reports=True)
