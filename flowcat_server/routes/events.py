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
    """The events of one call, for one reader."""

    def __init__(self) -> None:
        self._events: deque[CallEvent] = deque(maxlen=MAX_BUFFERED)
        self._news: asyncio.Future[None] | None = None
        self._closed = False
        self.taken = False
        """A reader has connected; a second one is refused."""

    def publish(self, event: CallEvent) -> None:
        """Take an event; a subscriber of the session."""
        self._events.append(event)
        self._closed = self._closed or isinstance(event, events.CallEnded)
        self._wake()

    def close(self) -> None:
        """Nothing more comes."""
        self._closed = True
        self._wake()

    def _wake(self) -> None:
        if self._news is not None and not self._news.done():
            self._news.set_result(None)

    async def next(self) -> CallEvent | None:
        """The next event; None after the last one of the call."""
        while not self._events:
            if self._closed:
                return None
            self._news = asyncio.get_running_loop().create_future()
            try:
                await self._news
            finally:
                self._news = None
        return self._events.popleft()


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
