"""A browser's view of its call: one internal event stream, two dialects on a WebSocket.

``native`` is our own page's: every event of `core.events` with its fields. ``flowcat`` is what
Flowcat's playground expects: ``{"type": "rtf-...", "payload": {...}}``.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import msgspec

from flowcat_server.core import events
from flowcat_server.core.events import EVENT_NAMES, CallEvent, Latency

MAX_BUFFERED = 512
"""Events kept for a browser that has not connected yet or reads slowly; the oldest go first."""

Dialect = Callable[[CallEvent], list[dict[str, Any]]]


class EventFeed:
    """The events of one call, for one reader at a time.

    Events are numbered from 1 and kept after they were read, so that a reader whose connection
    broke can go on behind the last one that it really got.
    """

    def __init__(self) -> None:
        self._events: deque[CallEvent] = deque(maxlen=MAX_BUFFERED)
        self._published = 0
        self._news: asyncio.Future[None] | None = None
        self._closed = False
        self.number = 0
        """Of the event that was read last."""

    @property
    def finished(self) -> bool:
        """The call is over and everything has been read."""
        return self._closed and self.number >= self._published

    def publish(self, event: CallEvent) -> None:
        """Take an event; a subscriber of the session."""
        self._events.append(event)
        self._published += 1
        self._closed = self._closed or isinstance(event, events.CallEnded)
        self._wake()

    def close(self) -> None:
        """Nothing more will be published, for instance because the call never began."""
        self._closed = True
        self._wake()

    def resume(self, after: int) -> None:
        """Go on behind event number `after`, or with the oldest that is kept."""
        self.number = max(0, min(after, self._published))

    async def next(self) -> CallEvent | None:
        """The next event; None after the last one of the call."""
        while self.number >= self._published:
            if self._closed:
                return None
            news = self._news = asyncio.get_running_loop().create_future()
            try:
                await news
            finally:
                if self._news is news:
                    self._news = None
        oldest = self._published - len(self._events)
        self.number = max(self.number, oldest) + 1
        return self._events[self.number - oldest - 1]

    def _wake(self) -> None:
        if self._news is not None and not self._news.done():
            self._news.set_result(None)


def native(event: CallEvent) -> list[dict[str, Any]]:
    """Our own dialect: the event's name and its fields."""
    fields = {field.name: getattr(event, field.name) for field in dataclasses.fields(event)}
    latency = fields.get("latency")
    if isinstance(latency, Latency):
        fields["latency"] = {**latency.parts(), "total": latency.total_ms}
    return [{"type": EVENT_NAMES[type(event)], **fields}]


def flowcat(event: CallEvent) -> list[dict[str, Any]]:
    """Flowcat's dialect; events it does not know are left out."""
    match event:
        case events.CallerText():
            return [
                _rtf(
                    "rtf-user-transcription",
                    text=event.text,
                    final=event.final,
                    user_id="caller",
                    timestamp=datetime.now(UTC).isoformat(),
                )
            ]
        case events.AgentText():
            return [_rtf("rtf-bot-text", text=event.text)]
        case events.AgentSpeaking(speaking=True):
            return [_rtf("rtf-bot-started-speaking")]
        case events.AgentSpeaking():
            return [_rtf("rtf-bot-stopped-speaking")]
        case events.ToolStarted():
            # Sent twice, as Flowcat does: first the name alone, then the whole call.
            return [
                _rtf("rtf-function-call-start", function_name=event.name),
                _rtf(
                    "rtf-function-call-start",
                    tool_call_id=event.tool_call_id,
                    function_name=event.name,
                    arguments=dict(event.arguments),
                ),
            ]
        case events.ToolEnded():
            return [
                _rtf(
                    "rtf-function-call-end",
                    tool_call_id=event.tool_call_id,
                    function_name=event.name,
                    result=event.result,
                    cancelled=event.result == "cancelled" and not event.ok,
                )
            ]
        case _:
            return []


DIALECTS: dict[str, Dialect] = {"native": native, "flowcat": flowcat}


def encode(message: dict[str, Any]) -> str:
    """A text frame."""
    return msgspec.json.encode(message, enc_hook=str).decode()


def _rtf(kind: str, **payload: Any) -> dict[str, Any]:
    return {"type": kind, "payload": payload}
