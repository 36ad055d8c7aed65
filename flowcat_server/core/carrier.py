"""What a carrier's messages mean, and what a carrier can do; the same for all of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

from flowcat_server.core.audio import AudioFormat


@dataclass(slots=True, frozen=True)
class Started:
    """The media stream began. Ids and parameters come from the wire: treat them as hostile."""

    call_id: str
    stream_id: str
    account_id: str = ""
    parameters: Mapping[str, str] = field(default_factory=dict)
    format: AudioFormat | None = None
    """None: the announced format is not one we can read."""


@dataclass(slots=True, frozen=True)
class Digit:
    """One DTMF key."""

    digit: str


@dataclass(slots=True, frozen=True)
class MarkPlayed:
    """Everything sent before this mark was played (or cleared)."""

    name: str


@dataclass(slots=True, frozen=True)
class Stopped:
    """The carrier ends the stream."""


@dataclass(slots=True, frozen=True)
class Ignored:
    """Nothing to do. `fault` is true if the message should not have been sent."""

    reason: str
    fault: bool = False


Event = Started | Digit | MarkPlayed | Stopped | Ignored
Fed = bytes | Event
"""Audio comes back as bare bytes: it is most of the traffic."""


@dataclass(slots=True, frozen=True)
class RestRequest:
    """A request to the carrier's API, described but not sent."""

    method: Literal["GET", "POST", "PUT", "DELETE"]
    url: str
    form: Mapping[str, str]
    user: str
    password: str
    gone_status: tuple[int, ...] = (404,)
    """Statuses that mean: the call is already over."""


class CarrierStream(Protocol):
    """One media socket's messages. No I/O, no clock; never raises on what the wire brings."""

    def feed(self, message: str | bytes) -> Fed:
        """What one message means."""

    def audio(self, payload: bytes) -> str:
        """The message that plays `payload`."""

    def mark(self, name: str) -> str:
        """The message that asks to be told when everything before it was played."""

    def clear(self) -> str:
        """The message that drops what was sent and not yet played."""
