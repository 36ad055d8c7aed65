"""Past calls: list, transcript, recording, deletion."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tests.browser.cdp import Page, eventually
from tests.browser.fake_server import LATENCY, FakeServer, record

pytestmark = pytest.mark.browser

OpenPage = Callable[..., Awaitable[Page]]

TURNS: list[dict[str, Any]] = [
    {
        "turn": 0,
        "caller": "",
        "agent": "Good morning.",
        "interrupted": False,
        "started_ms": 300,
        "latency": None,
        "node": "start",
    },
    {
        "turn": 1,
        "caller": "Hours on Saturday?",
        "agent": "From nine",
        "unheard": "to one.",
        "interrupted": True,
        "started_ms": 4000,
        "latency": LATENCY,
        "node": "start",
    },
]
EVENTS = [
    {
        "type": "tool_started",
        "at_ms": 4300,
        "tool_call_id": "t",
        "name": "hours",
        "arguments": {"day": "Saturday"},
    },
    {
        "type": "tool_ended",
        "at_ms": 4310,
        "tool_call_id": "t",
        "name": "hours",
        "result": "9-13",
        "ok": True,
        "duration_ms": 10,
    },
]


@pytest.fixture
def past(server: FakeServer) -> FakeServer:
    server.records["a/1"] = record("a/1", TURNS, events=EVENTS)
    server.records["b"] = record(
        "b",
        TURNS[:1],
        channel="twilio",
        recording=False,
        ended_reason="caller.hung_up",
        **{"from": "+4420"},
    )
    server.records["b"]["variables"] = {"name": "Ada"}
    return server


async def test_the_list_tells_who_and_why(open_page: OpenPage, past: FakeServer) -> None:
    page = await open_page()
    await page.click("#nav-history")
    await page.wait_for("document.querySelectorAll('#calls li').length === 2")
    shown = await page.text("#calls")
    assert "webrtc · 0:12 · 2 turns" in shown
    assert "The agent said goodbye" in shown
    assert "twilio · +4420 · 0:12 · 1 turn" in shown
    assert "Caller hung up" in shown
    assert await page.evaluate("document.querySelector('#nav-history').ariaCurrent") == "page"


async def test_no_calls_yet(open_page: OpenPage) -> None:
    page = await open_page("#/history")
    await page.wait_for_text("#calls-note", "No calls yet.")


async def test_a_call_is_told_again_as_it_was_heard(open_page: OpenPage, past: FakeServer) -> None:
    page = await open_page("#/history/a%2F1")
    await page.wait_for_text("#detail", "Hours on Saturday?")
    kinds = await page.evaluate(
        "[...document.querySelectorAll('#detail .turn:last-child > *')]"
        ".map((each) => each.className || each.localName)"
    )
    assert kinds == ["line caller", "card", "line agent interrupted", "turn-latency"]
    assert await page.text("#detail s.unheard") == "to one."
    assert await page.text("#detail turn-latency b") == "600 ms"


async def test_a_recording_plays_from_the_line_that_was_clicked(
    open_page: OpenPage, past: FakeServer
) -> None:
    page = await open_page("#/history/a%2F1")
    await page.wait_for("document.querySelector('#detail .wave')?.dataset.drawn")
    await page.wait_for("Math.round(document.querySelector('#detail audio').duration) === 12")
    await page.evaluate("document.querySelector('#detail audio').muted = true")
    await page.click("#detail .turn:last-child .line.caller .time")
    await page.wait_for("document.querySelector('#detail audio').currentTime > 4.05")
    assert await page.evaluate("!document.querySelector('#detail audio').paused")
    await page.wait_for("document.querySelector('#detail .line.now')")
    assert "Hours on Saturday?" in await page.text("#detail .line.now")
    assert any(asked.startswith("bytes=") for asked in past.ranges)
    await page.click("#nav-call")
    await page.wait_for("document.querySelector('#detail audio').paused")


async def test_a_call_without_recording_shows_what_was_noted(
    open_page: OpenPage, past: FakeServer
) -> None:
    page = await open_page("#/history/b")
    await page.wait_for_text("#detail", "No recording.")
    assert "name Ada" in await page.text("#detail .vars")


async def test_what_a_call_has_used_is_shown(open_page: OpenPage, past: FakeServer) -> None:
    past.records["b"]["usage"] = [
        {"kind": "tts", "provider": "piper", "model": "joe", "characters": 310, "audio_ms": 21_480},
        {"kind": "heard", "provider": "", "characters": 290, "audio_ms": 20_000},
        {"kind": "llm", "provider": "openai", "input_tokens": 900, "output_tokens": 60},
    ]
    page = await open_page("#/history/b")
    await page.wait_for_text("#detail", "Used")
    used = " ".join((await page.text("#detail .vars:last-child")).split())
    assert "Voice · piper · joe 310 characters, 21.5 s of sound" in used
    assert "Heard 290 characters, 20.0 s of sound" in used
    assert "Model · openai 900 tokens in, 60 out" in used


async def test_deleting_asks_first(open_page: OpenPage, past: FakeServer) -> None:
    page = await open_page("#/history/b")
    await page.wait_for_text("#detail", "No recording.")
    await page.click('#detail button[title="Delete this call"]')
    await page.click('#confirm button[value=""]')
    assert past.deleted == []
    await page.click('#detail button[title="Delete this call"]')
    await page.click('#confirm button[value="delete"]')
    await eventually(lambda: past.deleted == ["b"])
    await page.wait_for("document.querySelectorAll('#calls li').length === 1")


async def test_a_call_that_is_gone(open_page: OpenPage, past: FakeServer) -> None:
    page = await open_page("#/history/zzz", errors=True)
    await page.wait_for_text("#detail [role=alert]", "could not be read")


async def test_a_live_call_goes_on_while_history_is_read(
    open_page: OpenPage, past: FakeServer
) -> None:
    page = await open_page()
    await page.click("#call")
    await page.wait_for_text("#status", "Connected")
    await page.click("#nav-history")
    await past.emit("agent_text", turn=0, text="Are you there?")
    await page.click("#nav-call")
    await page.wait_for_text("#log", "Are you there?")
    assert await page.text("#status") == "Connected"
