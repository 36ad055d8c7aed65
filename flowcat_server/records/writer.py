"""From a call's events to rows.

`CallWriter.on_event` runs on the audio path's thread: it looks at the event's type and appends a
reference to a bounded queue. Everything that costs time (redaction, rows, SQL) happens later, in
`CallWriter.take`, called by the store's writer task.

When the queue is full: at half its size events that only decorate a transcript are dropped, at
its full size everything but finished turns, usage and the end. What was dropped is counted and
the count is stored with the call.

Interim transcripts are never stored. Events that have a table of their own (turns, tool calls)
are not repeated among the events.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import structlog

from flowcat_server.core import events as ev
from flowcat_server.records.models import LATENCY_PARTS, CallRow, Usage
from flowcat_server.records.redact import Redactor, storable

log = structlog.get_logger()

QUEUE_SIZE = 1_000

_DECORATION, _FACT, _TURN = 0, 1, 2
_VALUE: dict[type, int] = {
    ev.CallerSpeaking: _DECORATION,
    ev.AgentSpeaking: _DECORATION,
    ev.AgentText: _DECORATION,
    ev.CallerText: _FACT,
    ev.AgentHeard: _FACT,
    ev.NodeEntered: _FACT,
    ev.ToolStarted: _FACT,
    ev.ToolEnded: _FACT,
    ev.Variables: _FACT,
    ev.DigitPressed: _FACT,
    ev.Notice: _FACT,
    ev.AnswerDetected: _FACT,
    ev.CallProgress: _TURN,
    ev.TurnCompleted: _TURN,
    ev.CallEnded: _TURN,
    Usage: _TURN,
}
_SAID = (ev.CallerText, ev.AgentText, ev.AgentHeard)

Row = dict[str, Any]


class Rows:
    """Rows of one transaction, by what is to be done with them."""

    __slots__ = (
        "calls",
        "changed",
        "ended",
        "events",
        "tool_calls",
        "tools_ended",
        "turns",
        "turns_told",
        "usage",
    )

    def __init__(self) -> None:
        self.calls: list[Row] = []
        self.turns: list[Row] = []
        self.tool_calls: list[Row] = []
        self.events: list[Row] = []
        self.usage: list[Row] = []
        self.tools_ended: list[Row] = []
        """Updates of `tool_calls`; ``the_call`` and ``the_seq`` say of which row."""
        self.turns_told: list[Row] = []
        """Updates of `turns` whose transcript came late; ``the_call`` and ``the_turn``."""
        self.changed: list[Row] = []
        """Updates of `calls` while they go on; ``the_call`` says of which row."""
        self.ended: list[Row] = []
        """Updates of `calls`; ``the_call`` says of which row."""

    def __len__(self) -> int:
        return sum(len(getattr(self, name)) for name in self.__slots__)

    def add(self, other: Rows) -> None:
        """Append all rows of `other`."""
        for name in self.__slots__:
            getattr(self, name).extend(getattr(other, name))


class CallWriter:
    """Writes one call. All methods run on the loop's thread; `on_event` never waits.

    Args:
        row: The call.
        owner: Id of this server process.
        redactor: Applied to every text before it leaves this object.
        wake: Called with (writer, urgent) when there is something to write.
        transcript: False: what people said is not stored at all.
        webhook: The end of the call is to be told to somebody.
        size: Events that may wait.
    """

    def __init__(
        self,
        row: CallRow,
        owner: str,
        redactor: Redactor,
        wake: Callable[[CallWriter, bool], None],
        *,
        transcript: bool = True,
        webhook: bool = False,
        size: int = QUEUE_SIZE,
    ) -> None:
        self.call_id = row.id
        self.dropped = 0
        """Events that found the queue full."""
        self.ended = False
        """The end of the call was seen; later events are ignored."""
        self.queued = False
        """Owned by the store: it knows that this writer has something to write."""
        self._row = row
        self._new = True
        self._owner = owner
        self._redactor = redactor
        self._wake = wake
        self._transcript = transcript
        self._webhook = "pending" if webhook else ""
        self._size = size
        self._queue: list[tuple[int, Any]] = []
        self._seq = 0
        self._variables = _public(row.variables)
        self._heard: dict[int, ev.AgentHeard] = {}
        self._asked: dict[int, ev.CallerText] = {}
        self._status = "dialling" if row.dialled_at is not None else ""
        self._answered_by = ""
        self._done: set[int] = set()
        self._tools: dict[str, int] = {}

    @property
    def pending(self) -> int:
        """What waits to be written."""
        return len(self._queue) + self._new

    def on_event(self, event: ev.CallEvent) -> None:
        """Take an event of the call."""
        if isinstance(event, ev.UsageCounted):
            self.on_usage(_usage(event))
            return
        kind = type(event)
        value = _VALUE.get(kind)
        if value is None or self.ended or (kind is ev.CallerText and not event.final):  # type: ignore[union-attr]
            return
        if value == _TURN:
            self.ended = kind is ev.CallEnded
            self._append(event, urgent=True)
            return
        waiting = len(self._queue)
        if waiting >= self._size or (value == _DECORATION and waiting * 2 >= self._size):
            self.dropped += 1
        else:
            self._append(event, urgent=False)

    def answered(self, accepted_at: int, recording: str, external_id: str) -> None:
        """A call that was dialled begins: its clock starts now."""
        self._row = replace(
            self._row, accepted_at=accepted_at, recording=recording, external_id=external_id
        )
        self._append(self._row, urgent=True)

    def on_usage(self, usage: Usage) -> None:
        """Take what a provider was used for."""
        if not self.ended:
            self._append(usage, urgent=False)

    def _append(self, item: ev.CallEvent | Usage | CallRow, *, urgent: bool) -> None:
        self._queue.append((self._seq, item))
        self._seq += 1
        if urgent or not self.queued:
            self._wake(self, urgent)

    def take(self, limit: int) -> Rows:
        """Rows of up to `limit` events, oldest first. Called by the store's writer task."""
        rows = Rows()
        if self._new:
            self._new = False
            rows.calls.append(self._call_row())
        taken = self._queue[:limit]
        del self._queue[:limit]
        for seq, item in taken:
            try:
                self._convert(rows, seq, item)
            except (AttributeError, TypeError, ValueError, RecursionError) as error:
                # A tool may return anything; one odd value must not stop everybody's records.
                self.dropped += 1
                log.warning("event_not_recordable", kind=type(item).__name__, error=str(error))
        return rows

    def _convert(self, rows: Rows, seq: int, item: Any) -> None:
        match item:
            case ev.TurnCompleted():
                self._done.add(item.turn)
                self._asked.pop(item.turn, None)
                rows.turns.append(self._turn_row(seq, item, self._heard.pop(item.turn, None)))
            case ev.ToolStarted():
                self._tools[item.tool_call_id] = seq
                rows.tool_calls.append(self._tool_row(seq, item))
            case ev.ToolEnded():
                self._end_tool(rows, seq, item)
            case ev.CallEnded():
                self._end(rows, item)
            case CallRow():
                rows.changed.append(self._changed_row())
            case Usage():
                rows.usage.append({"call_id": self.call_id, "seq": seq} | asdict(item))
            case _:
                self._note(rows, item)
                if self._transcript or not isinstance(item, _SAID):
                    rows.events.append(self._event_row(seq, item))

    def _note(self, rows: Rows, item: Any) -> None:
        """Remember what a later row needs, and mend an earlier one."""
        if isinstance(item, ev.AgentHeard) and item.turn not in self._done:
            self._heard[item.turn] = item
        elif isinstance(item, ev.CallerText) and item.turn not in self._done:
            self._asked[item.turn] = item
        elif isinstance(item, ev.CallerText) and self._transcript:
            text = self._redactor.text(item.text)
            rows.turns_told.append(
                {"the_call": self.call_id, "the_turn": item.turn, "caller": text}
            )
        elif isinstance(item, ev.Variables):
            self._variables |= _public(item.values)
        elif isinstance(item, ev.AnswerDetected):
            self._answered_by = item.answerer
            rows.changed.append(self._changed_row())
        elif isinstance(item, ev.CallProgress):
            self._status = item.status
            rows.changed.append(self._changed_row())

    def _call_row(self) -> Row:
        row = self._row
        return {
            "id": row.id,
            "owner": self._owner,
            "agent": row.agent,
            "channel": row.channel,
            "from_number": storable(row.from_number),
            "to_number": storable(row.to_number),
            "external_id": storable(row.external_id),
            "accepted_at": row.accepted_at,
            "ended_at": None,
            "ended_reason": "",
            "ended_detail": "",
            "variables": self._redactor.value(self._variables),
            "recording": row.recording,
            "dropped_events": 0,
            "webhook": "",
            "status": self._status,
            "dialled_at": row.dialled_at,
            "answered_by": "",
        }

    def _changed_row(self) -> Row:
        return {
            "the_call": self.call_id,
            "accepted_at": self._row.accepted_at,
            "recording": self._row.recording,
            "external_id": self._row.external_id,
            "status": self._status,
            "answered_by": self._answered_by,
        }

    def _turn_row(self, seq: int, turn: ev.TurnCompleted, heard: ev.AgentHeard | None) -> Row:
        latency = turn.latency
        parts = latency.parts() if latency is not None else {}
        text = self._redactor.text if self._transcript else _nothing
        return {
            "call_id": self.call_id,
            "seq": seq,
            "turn": turn.turn,
            "started_ms": turn.started_ms,
            "ended_ms": turn.at_ms,
            "node": turn.node,
            "caller": text(turn.caller),
            "agent": text(turn.agent),
            "unheard": text(heard.unheard) if heard is not None else "",
            "interrupted": turn.interrupted,
            "heard_ms": heard.heard_ms if heard is not None else 0,
            "heard_source": heard.source if heard is not None else "",
            "total_ms": latency.total_ms if latency is not None else None,
            **{f"{part}_ms": parts.get(part) for part in LATENCY_PARTS},
        }

    def _tool_row(self, seq: int, tool: ev.ToolStarted) -> Row:
        return {
            "call_id": self.call_id,
            "seq": seq,
            "tool_call_id": tool.tool_call_id,
            "name": tool.name,
            "arguments": self._redactor.value(tool.arguments),
            "started_ms": tool.at_ms,
            "result": "",
            "ok": None,
            "duration_ms": None,
        }

    def _end_tool(self, rows: Rows, seq: int, tool: ev.ToolEnded) -> None:
        started = self._tools.pop(tool.tool_call_id, None)
        if started is None:  # its start was dropped, or it never had one
            at_ms = tool.at_ms - tool.duration_ms
            start = ev.ToolStarted(at_ms, tool.tool_call_id, tool.name, {})
            rows.tool_calls.append(self._tool_row(seq, start))
            started = seq
        rows.tools_ended.append(
            {
                "the_call": self.call_id,
                "the_seq": started,
                "result": self._redactor.text(tool.result),
                "ok": tool.ok,
                "duration_ms": tool.duration_ms,
            }
        )

    def _event_row(self, seq: int, item: Any) -> Row:
        data = {name: getattr(item, name) for name in item.__slots__ if name != "at_ms"}
        if isinstance(item, ev.DigitPressed):
            data["digit"] = self._redactor.digit(item.digit)
        elif isinstance(item, ev.Variables):
            data["values"] = _public(item.values)
        return {
            "call_id": self.call_id,
            "seq": seq,
            "at_ms": item.at_ms,
            "name": ev.EVENT_NAMES[type(item)],
            "data": self._redactor.value(data),
        }

    def _end(self, rows: Rows, ended: ev.CallEnded) -> None:
        """The end, and the turns that the end cut off."""
        for turn in sorted(self._heard.keys() | self._asked.keys()):
            asked, heard = self._asked.get(turn), self._heard.get(turn)
            started = (
                asked.at_ms if asked else max(0, ended.at_ms - (heard.heard_ms if heard else 0))
            )
            unfinished = ev.TurnCompleted(
                at_ms=ended.at_ms,
                turn=turn,
                caller=asked.text if asked else "",
                agent=heard.text if heard else "",
                started_ms=started,
                interrupted=heard.interrupted if heard else False,
            )
            rows.turns.append(self._turn_row(self._seq, unfinished, heard))
            self._seq += 1
        self._heard.clear()
        self._asked.clear()
        rows.ended.append(
            {
                "the_call": self.call_id,
                "ended_at": self._row.accepted_at + ended.at_ms,
                "ended_reason": ended.reason,
                "ended_detail": self._redactor.text(ended.detail)[:2_000],
                "variables": self._redactor.value(self._variables | _public(ended.variables)),
                "dropped_events": self.dropped,
                "webhook": self._webhook,
            }
        )


def _public(values: Any) -> dict[str, Any]:
    """Without what a provider keeps for itself."""
    return {name: value for name, value in values.items() if not name.startswith("_")}


def _usage(told: ev.UsageCounted) -> Usage:
    provider, _, model = told.provider.partition("/")
    return Usage(
        told.kind,
        provider,
        model,
        input_tokens=told.input_tokens,
        output_tokens=told.output_tokens,
        cached_tokens=told.cached_tokens,
        characters=told.characters,
        audio_ms=told.audio_ms,
    )


def _nothing(text: str) -> str:
    del text
    return ""
