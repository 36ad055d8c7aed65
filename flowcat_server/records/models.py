"""Tables and rows of the records database.

Times with ``_at`` are milliseconds since 1970 (UTC); times with ``_ms`` are durations, or
milliseconds of the call's own clock. Everything that belongs to a call goes with it when its row
is deleted. Rows are numbered per call (`seq`) where they are made, so that writing a batch again
after an unclear commit changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
)

metadata = MetaData()


def _call_id() -> Column[str]:
    return Column(
        "call_id", String(64), ForeignKey("calls.id", ondelete="CASCADE"), primary_key=True
    )


def _seq() -> Column[int]:
    return Column("seq", Integer, primary_key=True, autoincrement=False)


schema_version = Table(
    "schema_version", metadata, Column("version", Integer, primary_key=True, autoincrement=False)
)

instances = Table(
    "instances",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("seen_at", BigInteger, nullable=False),
)

calls = Table(
    "calls",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("owner", String(64), nullable=False),
    Column("agent", Text, nullable=False),
    Column("channel", String(32), nullable=False),
    Column("from_number", Text, nullable=False),
    Column("to_number", Text, nullable=False),
    Column("external_id", Text, nullable=False),
    Column("accepted_at", BigInteger, nullable=False),
    Column("ended_at", BigInteger),
    Column("ended_reason", String(32), nullable=False),
    Column("ended_detail", Text, nullable=False),
    Column("variables", JSON, nullable=False),
    Column("recording", Text, nullable=False),
    Column("dropped_events", Integer, nullable=False),
    Column("webhook", String(16), nullable=False),
    Column("status", String(16), nullable=False, server_default=""),
    Column("dialled_at", BigInteger),
    Column("answered_by", String(16), nullable=False, server_default=""),
    Index("calls_by_time", "accepted_at", "id"),
    Index("calls_by_end", "ended_at"),
)

turns = Table(
    "turns",
    metadata,
    _call_id(),
    _seq(),
    Column("turn", Integer, nullable=False),
    Column("started_ms", Integer, nullable=False),
    Column("ended_ms", Integer, nullable=False),
    Column("node", Text, nullable=False),
    Column("caller", Text, nullable=False),
    Column("agent", Text, nullable=False),
    Column("unheard", Text, nullable=False),
    Column("interrupted", Boolean, nullable=False),
    Column("heard_ms", Integer, nullable=False),
    Column("heard_source", String(16), nullable=False),
    Column("total_ms", Integer),
    Column("endpointing_ms", Integer),
    Column("stt_tail_ms", Integer),
    Column("llm_first_token_ms", Integer),
    Column("llm_first_sentence_ms", Integer),
    Column("tts_first_audio_ms", Integer),
    Column("send_ms", Integer),
)

tool_calls = Table(
    "tool_calls",
    metadata,
    _call_id(),
    _seq(),
    Column("tool_call_id", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("arguments", JSON, nullable=False),
    Column("started_ms", Integer, nullable=False),
    Column("result", Text, nullable=False),
    Column("ok", Boolean),
    Column("duration_ms", Integer),
)

events = Table(
    "events",
    metadata,
    _call_id(),
    _seq(),
    Column("at_ms", Integer, nullable=False),
    Column("name", String(32), nullable=False),
    Column("data", JSON, nullable=False),
)

usage = Table(
    "usage",
    metadata,
    _call_id(),
    _seq(),
    Column("kind", String(16), nullable=False),
    Column("provider", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("input_tokens", BigInteger, nullable=False),
    Column("output_tokens", BigInteger, nullable=False),
    Column("cached_tokens", BigInteger, nullable=False),
    Column("characters", BigInteger, nullable=False),
    Column("audio_ms", BigInteger, nullable=False),
    Column("cost_micros", BigInteger, nullable=False),
)


@dataclass(slots=True, frozen=True)
class CallRow:
    """A call at the moment it is accepted, or dialled."""

    id: str
    agent: str
    channel: str
    accepted_at: int
    """Milliseconds since 1970."""
    from_number: str = ""
    to_number: str = ""
    external_id: str = ""
    """The carrier's own id of the call."""
    recording: str = ""
    """File of the recording, relative to the records directory; empty: none."""
    variables: Mapping[str, Any] = field(default_factory=dict)
    dialled_at: int | None = None
    """When we began to make this call, milliseconds since 1970; None: it came to us."""


NEVER_ANSWERED = frozenset({"dialling", "ringing", "busy", "no-answer", "failed", "canceled"})
"""Statuses of calls that nobody has answered, or not yet."""


@dataclass(slots=True, frozen=True)
class Usage:
    """What one provider was used for, to be summed over a call."""

    kind: str
    """``stt``, ``llm``, ``tts``, ``realtime``, or ``heard``: what reached the caller's ear."""
    provider: str
    model: str = ""
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    characters: int = 0
    audio_ms: int = 0
    cost_micros: int = 0
    """Millionths of the currency the price list is written in."""


@dataclass(slots=True, frozen=True)
class CallSummary:
    """One line of a list of calls."""

    id: str
    agent: str
    channel: str
    from_number: str
    to_number: str
    external_id: str
    accepted_at: int
    ended_at: int | None
    """None while the call lives."""
    ended_reason: str
    ended_detail: str
    recording: str
    turns: int
    interruptions: int
    latency_ms: int | None
    """Mean response latency of the turns that have one."""
    dialled_at: int | None = None
    """When a call that we made was begun; None: it came to us."""
    progress: str = ""
    """How far such a call has come, as it was last told."""
    answered_by: str = ""
    """Who answered such a call, as far as is known."""

    @property
    def direction(self) -> str:
        """``inbound`` or ``outbound``."""
        return "inbound" if self.dialled_at is None else "outbound"

    @property
    def status(self) -> str:
        """How far it has come: ``answered`` or ``completed``, or as `CallProgress` says it."""
        if self.ended_at is None:
            return self.progress or "answered"
        if self.progress in ("dialling", "ringing"):
            return "failed"  # its server died meanwhile
        return self.progress if self.progress in NEVER_ANSWERED else "completed"

    @property
    def duration_ms(self) -> int | None:
        """From answering to the end; None while the call lives."""
        if self.ended_at is None:
            return None
        return 0 if self.status in NEVER_ANSWERED else max(0, self.ended_at - self.accepted_at)

    def to_dict(self) -> dict[str, Any]:
        """For JSON; times are ISO 8601 in UTC."""
        return {
            "id": self.id,
            "agent": self.agent,
            "channel": self.channel,
            "from_number": self.from_number,
            "to_number": self.to_number,
            "external_id": self.external_id,
            "accepted_at": iso(self.accepted_at),
            "ended_at": None if self.ended_at is None else iso(self.ended_at),
            "duration_ms": self.duration_ms,
            "ended_reason": self.ended_reason,
            "ended_detail": self.ended_detail,
            "recording": bool(self.recording),
            "turns": self.turns,
            "interruptions": self.interruptions,
            "latency_ms": self.latency_ms,
            "direction": self.direction,
            "status": self.status,
            "dialled_at": None if self.dialled_at is None else iso(self.dialled_at),
            "answered_by": self.answered_by,
        }


@dataclass(slots=True, frozen=True)
class CallRecord:
    """Everything kept of one call. The lists hold plain mappings, in the order of the call."""

    summary: CallSummary
    variables: Mapping[str, Any]
    turns: list[dict[str, Any]]
    tool_calls: list[dict[str, Any]]
    events: list[dict[str, Any]]
    usage: list[dict[str, Any]]
    dropped_events: int
    """Events of little value that were not stored because the database could not keep up."""

    def to_dict(self) -> dict[str, Any]:
        """For JSON: the summary with `turns` as a list."""
        return {
            **self.summary.to_dict(),
            "turn_count": self.summary.turns,
            "variables": dict(self.variables),
            "turns": self.turns,
            "tool_calls": self.tool_calls,
            "events": self.events,
            "usage": self.usage,
            "dropped_events": self.dropped_events,
        }


LATENCY_PARTS = (
    "endpointing",
    "stt_tail",
    "llm_first_token",
    "llm_first_sentence",
    "tts_first_audio",
    "send",
)
"""In order; column ``<part>_ms`` of `turns`."""


def iso(at: int) -> str:
    """Milliseconds since 1970 as ISO 8601 in UTC, to the millisecond."""
    moment = datetime.fromtimestamp(at / 1000, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
