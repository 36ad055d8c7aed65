"""Interrupting, typing, pressing keys, booking and saying goodbye on the page."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.browser.cdp import Browser, Page
from tests.e2e.conftest import Server, Speech
from tests.e2e.pages import (
    ARTIFACTS,
    MOUTH,
    VOICE,
    Mouth,
    channels,
    ended_call,
    events,
    fetch_recording,
    share_heard,
    start_call,
    steadily,
    transcripts,
    utterances,
    wait_for_event,
)

pytestmark = [pytest.mark.e2e, pytest.mark.models, pytest.mark.browser, pytest.mark.timeout(240)]

STOPS_WITHIN_MS = 900
"""From the caller's first sound to the agent's last, in the recording."""


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    async with await Browser.launch() as launched:
        yield launched


async def agent_text(page: Page, turn: int) -> str:
    told = await events(page)
    parts = [each["text"] for each in told if each["type"] == "agent_text" and each["turn"] == turn]
    return " ".join(parts)


async def test_interrupting_typing_a_key_and_a_goodbye(
    receptionist: Server, browser: Browser, speech: Speech
):
    sounds = {
        "hours": await speech.say("What are your opening hours?", VOICE),
        "parking": await speech.say("Sorry, do you have parking?", VOICE),
        "goodbye": await speech.say("Thank you, goodbye.", VOICE),
    }

    async def attempt() -> None:
        page = await browser.new_page(receptionist.url + "/?raw=1", capture=True, scripts=[MOUTH])
        await page.wait_for_text("#agent-name", "receptionist")
        mouth = Mouth(page)
        await mouth.learn(**sounds)
        await start_call(page)
        call_id = (await wait_for_event(page, "call_started"))["call_id"]
        await wait_for_event(page, "turn_completed", turn=0)
        await _interrupt(page, mouth)
        await _type(page)
        await _press(page)
        await _pictures(page)
        goodbye = await _say_goodbye(page, mouth)
        assert page.errors == []

        samples, rate = await page.remote_audio()
        heard = await transcripts(speech, utterances(samples, rate))
        assert share_heard(goodbye, heard[-1]) >= 0.6, (goodbye, heard[-1])
        assert heard[-1].endswith("bye"), heard[-1]
        record = await ended_call(receptionist, call_id)
        assert record["call"]["ended_reason"] == "agent.ended"
        await _check_silenced(receptionist, record)

    await steadily(receptionist, attempt)


async def _interrupt(page: Page, mouth: Mouth) -> None:
    await mouth.say("hours")
    await wait_for_event(page, "agent_speaking", turn=1, speaking=True)
    await asyncio.sleep(1.5)
    await mouth.say("parking")
    cut = await wait_for_event(page, "agent_heard", turn=1)
    assert cut["interrupted"]
    assert cut["text"]
    assert cut["unheard"]
    whole = await agent_text(page, 1)
    assert f"{cut['text']} {cut['unheard']}" == whole
    await page.wait_for_text("s.unheard", cut["unheard"])
    assert await page.text(".line.agent.interrupted .said") == cut["text"]
    struck = "getComputedStyle(document.querySelector('s.unheard')).textDecorationLine"
    assert await page.evaluate(struck) == "line-through"
    answered = await wait_for_event(page, "turn_completed", turn=2, timeout=25)
    assert share_heard("Sorry, do you have parking?", answered["caller"]) >= 0.8
    assert "parking" in answered["agent"]
    assert not answered["interrupted"]


async def _type(page: Page) -> None:
    seen = len(await events(page))
    await page.type("#text", "Do you take children?")
    await page.press("Enter")
    answered = await wait_for_event(page, "turn_completed", after=seen, timeout=25)
    assert "children" in answered["agent"]
    await page.wait_for_text(".line.caller .tag", "typed")


async def _press(page: Page) -> None:
    await page.click("#keys")
    seen = len(await events(page))
    await page.click('[data-digit="5"]')
    assert (await wait_for_event(page, "digit_pressed", after=seen))["digit"] == "5"
    await page.wait_for_text("#log .digit", "Key 5")
    await page.press("Escape")
    await page.evaluate("document.activeElement.blur()")


async def _say_goodbye(page: Page, mouth: Mouth) -> str:
    seen = len(await events(page))
    await mouth.say("goodbye")
    await wait_for_event(page, "call_ended", after=seen, reason="agent.ended")
    answered = [each for each in await events(page) if each["type"] == "turn_completed"][-1]
    assert "bye" in answered["agent"].lower()
    assert not answered["interrupted"]
    await page.wait_for_text("#status", "The agent said goodbye")
    await page.wait_for_text("#log .end", "The agent said goodbye")
    assert await page.text("#call") == "Start call"
    assert await page.text("#alert") == ""
    return str(answered["agent"])


async def _check_silenced(server: Server, record: dict[str, Any]) -> None:
    """In the recording the agent stops soon after the caller has begun to interrupt."""
    caller, agent, rate = channels(await fetch_recording(server, record["call"]["id"]))
    interruption = utterances(caller, rate)[1]
    cut = next(
        part
        for part in utterances(agent, rate)
        if part.start_ms < interruption.start_ms < part.end_ms
    )
    after = cut.end_ms - interruption.start_ms
    sys.stderr.write(f"\nbrowser: silent {after} ms after the caller's first sound\n")
    assert after <= STOPS_WITHIN_MS


async def _pictures(page: Page) -> None:
    """The page in the middle of a call; `docs/images` shows them."""
    await page.evaluate("document.querySelector('#more').open = true")
    await page.screenshot(ARTIFACTS / "page.png")
    await page.emulate_media({"prefers-color-scheme": "dark"})
    await page.screenshot(ARTIFACTS / "page-dark.png")
    await page.emulate_media({})
    await page.evaluate("document.querySelector('#more').open = false")
    await page.set_size(390, 844, scale=1.5)
    await page.evaluate("document.querySelector('#scroller').scrollTop = 1e6")
    await page.screenshot(ARTIFACTS / "page-phone.png")
    await page.set_size(1280, 800)


async def test_a_visit_is_booked_in_writing(receptionist: Server, browser: Browser):
    page = await browser.new_page(receptionist.url, microphone="denied")
    await page.wait_for_text("#agent-name", "receptionist")
    wednesday = _next_weekday(2)
    dialogue = [
        ("I'd like to book a visit", "day"),
        (f"on {wednesday:%B} {wednesday.day}", "time"),
        ("at half past two in the afternoon", "name"),
        ("Anna Miller", "number"),
        ("202 555 0147", "2 0 2"),
        ("yes, that's right", ""),
    ]
    for number, (line, expected) in enumerate(dialogue):
        seen = len(await events(page)) if number else 0
        await page.type("#text", line)
        await page.press("Enter")
        answer = await _typed_answer(page, seen, line)
        assert expected in answer.lower(), (line, answer)
    told = await events(page)
    nodes = [event["node"] for event in told if event["type"] == "node_entered"]
    assert nodes == ["start", "book", "more"]
    for name in ("Front desk", "Book a visit", "Anything else"):
        assert f"Step: {name}" in await page.text("#log")
    seen = len(told)
    await page.type("#text", "no, that's everything, thank you")
    await page.press("Enter")
    await wait_for_event(page, "call_ended", after=seen, reason="agent.ended")
    await page.wait_for_text("#status", "The agent said goodbye")
    record = await ended_call(receptionist, told[0]["call_id"])
    kept = record["variables"]
    assert kept["visit_day"] == wednesday.date().isoformat()
    assert kept["visit_time"] == "14:30"
    assert kept["caller_name"] == "Anna Miller"
    assert "".join(filter(str.isdigit, kept["caller_phone"])) == "2025550147"
    assert page.errors == []


async def _typed_answer(page: Page, seen: int, line: str) -> str:
    """What the agent says to a typed line; it need not be waited for to its end."""
    caption = await wait_for_event(page, "caller_text", after=seen, final=True)
    assert caption["typed"]
    assert caption["text"] == line
    await wait_for_event(page, "agent_text", after=seen, turn=caption["turn"])
    await wait_for_event(page, "turn_completed", after=seen, turn=caption["turn"], timeout=30)
    return await agent_text(page, caption["turn"])


def _next_weekday(weekday: int) -> datetime:
    """The first such day that is at least three days away."""
    day = datetime.now(UTC).astimezone() + timedelta(days=3)
    return day + timedelta(days=(weekday - day.weekday()) % 7)
