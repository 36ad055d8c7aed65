"""A spoken conversation on the page: a microphone that asks, a loudspeaker that is listened to."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.browser.cdp import Browser, Page
from tests.e2e.conftest import Server, Speech
from tests.e2e.pages import (
    ARTIFACTS,
    VOICE,
    channels,
    ended_call,
    events,
    fetch_recording,
    hang_up,
    script,
    share_heard,
    start_call,
    steadily,
    transcripts,
    utterances,
    wait_for_event,
    write_wav,
)

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.models,
    pytest.mark.browser,
    pytest.mark.timeout(240),
    pytest.mark.alone,
]

QUESTIONS = {
    "What are your opening hours?": ("open", "monday", "friday", "saturday"),
    "Where are you located?": ("brick house", "library"),
    "How much does a visit cost?": ("standard visit", "140"),
}
"""What is asked, and what the answer must contain."""
IN_TIME_MS = 5
"""A transcript that was there so soon was there before the turn's end, and is shown as interim; a
later one may have ended the turn itself."""
UNDERSTOOD = 0.8
"""Share of a question's words that the agent's own ear must get."""
HEARD, NOT_HEARD = 0.55, 0.4
"""Share of the words of an answer that a small speech model hears in it, and in another one."""
GREETING_MS, ANSWER_MS = 6_500, 8_500


@pytest.fixture(scope="module")
def microphone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("voice") / "microphone.wav"


@pytest.fixture
async def sound(speech: Speech, microphone: Path) -> int:
    """The microphone's file; its length in milliseconds."""
    parts: list[str | int] = [GREETING_MS]
    for question in QUESTIONS:
        parts += [question, ANSWER_MS]
    pcm = await script(speech, [*parts, 1_000])
    write_wav(microphone, pcm)
    return VOICE.duration_ms(len(pcm))


async def test_three_questions_are_asked_and_answered(
    receptionist: Server, speech: Speech, microphone: Path, sound: int
):
    async def attempt() -> None:
        async with await Browser.launch(mic_wav=microphone) as browser:
            page = await browser.new_page(receptionist.url + "/?raw=1", capture=True)
            await page.wait_for_text("#agent-name", "receptionist")
            await _converse(receptionist, speech, page, sound)

    await steadily(receptionist, attempt)


async def _converse(server: Server, speech: Speech, page: Page, sound: int) -> None:
    connect_ms = await _timed_start(page)
    call_id = (await wait_for_event(page, "call_started"))["call_id"]
    for number in range(1, len(QUESTIONS) + 1):
        await wait_for_event(page, "turn_completed", turn=number, timeout=25)
        if number == 2:
            await _pictures(page, "talk")
    await _check_page(page)
    samples, rate = await page.remote_audio()
    await hang_up(page)
    await page.wait_for_text("#status", "You hung up")
    assert page.errors == []
    assert all(url.startswith((server.url, "ws" + server.url[4:])) for url in page.requests)

    heard = await transcripts(speech, utterances(samples, rate))
    assert len(heard) == 1 + len(QUESTIONS), heard
    said = [turn["agent"] for turn in (await ended_call(server, call_id))["turns"]]
    _same_words(said, heard)
    record = await ended_call(server, call_id)
    responses = await _check_record(server, speech, record)
    sys.stderr.write(
        f"\nbrowser: connected after {connect_ms} ms; responses "
        f"{[turn['latency']['total'] for turn in record['turns'][1:]]} ms at the server, "
        f"{responses} ms in the recording, median {statistics.median(responses):.0f} ms\n"
    )


async def _timed_start(page: Page) -> int:
    """Milliseconds from the click to a connected call, as the page's clock tells."""
    await page.evaluate(
        """(() => {
          const status = document.querySelector('#status');
          addEventListener('click', () => { window.clickedAt = performance.now(); }, true);
          new MutationObserver(() => {
            if (status.textContent === 'Connected') window.connectedAt ??= performance.now();
          }).observe(status, { childList: true, characterData: true, subtree: true });
          const interim = document.querySelector('#interim');
          window.captions = [];
          new MutationObserver(() => {
            if (interim.checkVisibility()) window.captions.push(interim.textContent);
          }).observe(interim, { childList: true, subtree: true, attributes: true });
        })()"""
    )
    await start_call(page)
    return int(await page.wait_for("window.connectedAt - window.clickedAt"))


async def _pictures(page: Page, name: str) -> None:
    await page.screenshot(ARTIFACTS / f"{name}-light.png")
    await page.emulate_media({"prefers-color-scheme": "dark"})
    await page.screenshot(ARTIFACTS / f"{name}-dark.png")
    await page.emulate_media({})
    await page.set_size(390, 844, scale=2)
    await page.screenshot(ARTIFACTS / f"{name}-phone.png")
    await page.set_size(1280, 800)


async def _check_page(page: Page) -> None:
    told = await events(page)
    finals = [event["text"] for event in told if event["type"] == "caller_text" and event["final"]]
    _understood(finals)
    assert await _texts(page, ".line.caller .said") == finals
    interim = [event for event in told if event["type"] == "caller_text" and not event["final"]]
    assert {event["text"] for event in interim} <= set(await page.evaluate("window.captions"))

    said = await _texts(page, ".line.agent .said")
    assert len(said) == 1 + len(QUESTIONS)
    for expected, answer in zip(QUESTIONS.values(), said[1:], strict=True):
        assert all(word in answer.lower() for word in expected), answer
    assert "Step: Front desk" in await page.text("#log")

    completed = [event for event in told if event["type"] == "turn_completed" and event["latency"]]
    assert len(completed) == len(QUESTIONS)
    in_time = {event["turn"] for event in completed if event["latency"]["stt_tail"] <= IN_TIME_MS}
    assert in_time <= {event["turn"] for event in interim}
    rows = await page.evaluate(
        "[...document.querySelectorAll('turn-latency')].map((each) =>"
        " [...each.querySelectorAll('.ms')].map((cell) => parseInt(cell.textContent)))"
    )
    for event, row in zip(completed, rows, strict=True):
        parts = dict(event["latency"])
        total = parts.pop("total")
        assert row == list(parts.values())
        assert sum(row) == total
    assert "Typical response" in await page.text("#median")


async def _check_record(server: Server, speech: Speech, record: dict[str, Any]) -> list[int]:
    """What the server keeps agrees with what was said; response times in the recording."""
    assert record["call"]["ended_reason"] == "caller.hung_up"
    turns = record["turns"][1:]
    _understood([turn["caller"] for turn in turns])
    caller, agent, rate = channels(await fetch_recording(server, record["call"]["id"]))
    asked, answered = utterances(caller, rate), utterances(agent, rate)
    _understood(await transcripts(speech, asked))
    _same_words([turn["agent"] for turn in record["turns"]], await transcripts(speech, answered))
    return [
        answer.start_ms - question.end_ms
        for question, answer in zip(asked, answered[1:], strict=True)
    ]


async def _texts(page: Page, selector: str) -> list[str]:
    found: list[str] = await page.evaluate(
        f"[...document.querySelectorAll('{selector}')].map((each) => each.textContent.trim())"
    )
    return found


def _same_words(said: list[str], heard: list[str]) -> None:
    """Each utterance is the one that was said, and no other."""
    assert len(said) == len(heard) == 1 + len(QUESTIONS), heard
    for number, text in enumerate(said):
        shares = [share_heard(text, sound) for sound in heard]
        own = shares.pop(number)
        assert own >= HEARD, (text, heard[number])
        assert max(shares) < NOT_HEARD, (text, heard)


def _understood(texts: Sequence[str]) -> None:
    for question, text in zip(QUESTIONS, texts, strict=True):
        assert share_heard(question, text) >= UNDERSTOOD, (question, text)
