from __future__ import annotations

import asyncio
import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from flowcat_server.core import events
from flowcat_server.core.events import EVENT_NAMES, CallEvent
from flowcat_server.routes.events import MAX_BUFFERED, EventFeed, encode, flowcat, native

LATENCY = events.Latency(310, 95, 22, 14, 138, 21)


def said(event: CallEvent) -> list[dict[str, Any]]:
    """What Flowcat's page is sent, as it reads it."""
    return [json.loads(encode(message)) for message in flowcat(event)]


# --- Flowcat's dialect ----------------------------------------------------------------------------


@pytest.mark.parametrize("final", [True, False])
def test_the_callers_words(final: bool):
    (message,) = said(events.CallerText(7, 1, "hello there", final=final))
    moment = message["payload"].pop("timestamp")
    assert datetime.fromisoformat(moment).tzinfo is not None
    assert message == {
        "type": "rtf-user-transcription",
        "payload": {"text": "hello there", "final": final, "user_id": "caller"},
    }


@pytest.mark.parametrize(
    ("event", "messages"),
    [
        (
            events.AgentText(0, 1, "Good morning."),
            [{"type": "rtf-bot-text", "payload": {"text": "Good morning."}}],
        ),
        (
            events.AgentSpeaking(0, speaking=True, turn=1),
            [{"type": "rtf-bot-started-speaking", "payload": {}}],
        ),
        (
            events.AgentSpeaking(0, speaking=False, turn=1),
            [{"type": "rtf-bot-stopped-speaking", "payload": {}}],
        ),
        (
            events.ToolStarted(0, "t1", "book", {"day": "Friday"}),
            [
                {"type": "rtf-function-call-start", "payload": {"function_name": "book"}},
                {
                    "type": "rtf-function-call-start",
                    "payload": {
                        "tool_call_id": "t1",
                        "function_name": "book",
                        "arguments": {"day": "Friday"},
                    },
                },
            ],
        ),
        (
            events.ToolEnded(0, "t1", "book", "done"),
            [
                {
                    "type": "rtf-function-call-end",
                    "payload": {
                        "tool_call_id": "t1",
                        "function_name": "book",
                        "result": "done",
                        "cancelled": False,
                    },
                }
            ],
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_flowcats_page_is_told(event: CallEvent, messages: list[dict[str, Any]]):
    assert said(event) == messages


def test_only_a_tool_that_was_cancelled_is_told_as_cancelled():
    (cut,) = said(events.ToolEnded(0, "t1", "book", "cancelled", ok=False))
    (failed,) = said(events.ToolEnded(0, "t1", "book", "no", ok=False))
    (odd,) = said(events.ToolEnded(0, "t1", "book", "cancelled"))
    assert [m["payload"]["cancelled"] for m in (cut, failed, odd)] == [True, False, False]


def test_events_that_flowcat_does_not_know_are_left_out():
    known = {
        events.CallerText,
        events.AgentText,
        events.AgentSpeaking,
        events.ToolStarted,
        events.ToolEnded,
    }
    assert said(events.Notice(0, "info", "x", "y")) == []
    assert said(events.CallEnded(0, "caller.hung_up")) == []
    assert known < set(EVENT_NAMES)


# --- our own dialect ------------------------------------------------------------------------------


def test_every_event_has_a_name_and_all_its_fields():
    (message,) = native(events.TurnCompleted(9, 2, "a", "b", 5, latency=LATENCY, node="n"))
    assert json.loads(encode(message)) == {
        "type": "turn_completed",
        "at_ms": 9,
        "turn": 2,
        "caller": "a",
        "agent": "b",
        "started_ms": 5,
        "interrupted": False,
        "latency": {
            "endpointing": 310,
            "stt_tail": 95,
            "llm_first_token": 22,
            "llm_first_sentence": 14,
            "tts_first_audio": 138,
            "send": 21,
            "total": 600,
        },
        "node": "n",
    }
    (greeting,) = native(events.TurnCompleted(9, 0, "", "b", 5))
    assert greeting["latency"] is None


def test_values_that_json_does_not_know_become_text():
    (message,) = native(events.Variables(0, {"path": Path("/a"), "kind": int}))
    assert json.loads(encode(message))["values"] == {"path": "/a", "kind": "<class 'int'>"}


# --- the feed -------------------------------------------------------------------------------------


def text(n: int) -> events.AgentText:
    return events.AgentText(n, 0, str(n))


async def test_events_before_the_reader_came_are_kept_in_order():
    feed = EventFeed()
    for n in range(5):
        feed.publish(text(n))
    assert [await feed.next() for _ in range(5)] == [text(n) for n in range(5)]


async def test_a_reader_waits_for_the_next_event_and_hears_the_end():
    feed = EventFeed()
    reader = asyncio.create_task(feed.next())
    await asyncio.sleep(0)
    assert not reader.done()
    end = events.CallEnded(1, "agent.ended")
    feed.publish(end)
    assert await reader == end
    assert await feed.next() is None


async def test_a_call_that_never_connected_ends_the_feed_too():
    feed = EventFeed()
    reader = asyncio.create_task(feed.next())
    await asyncio.sleep(0)
    feed.close()
    assert await reader is None


async def test_a_slow_reader_loses_the_oldest_and_never_the_end():
    feed = EventFeed()
    for n in range(MAX_BUFFERED * 3):
        feed.publish(text(n))
    feed.publish(events.CallEnded(1, "agent.ended"))
    kept = []
    while (event := await feed.next()) is not None:
        kept.append(event)
    assert len(kept) == MAX_BUFFERED
    assert isinstance(kept[-1], events.CallEnded)


async def test_a_reader_that_is_cancelled_loses_no_event():
    feed = EventFeed()
    reader = asyncio.create_task(feed.next())
    await asyncio.sleep(0)
    reader.cancel()
    feed.publish(text(1))
    assert await feed.next() == text(1)
