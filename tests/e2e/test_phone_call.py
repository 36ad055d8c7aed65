"""A telephone call to the default agent, over the wire, with real speech in both directions."""

from __future__ import annotations

import asyncio
import json
import statistics
import subprocess
import sys
from difflib import SequenceMatcher

import aiohttp
import pytest

from tests.e2e.conftest import Server, Speech
from tests.phone.line import Phone

pytestmark = [pytest.mark.e2e, pytest.mark.models, pytest.mark.timeout(180), pytest.mark.alone]


def alike(heard: str, expected: str) -> bool:
    """Whether an ear that errs in a word or writes numbers its own way heard this."""
    return expected in heard or SequenceMatcher(None, heard, expected).ratio() > 0.6


async def heard(phone: Phone, speech: Speech, *, quiet_ms: int = 900) -> tuple[int, str]:
    """The agent's next utterance: frame of its first sound, and its words."""
    start, end = await phone.hears(quiet_ms=quiet_ms)
    return start, await speech.hear(phone.heard.pcm(max(0, start - 10), end + 10))


async def test_three_questions_an_interruption_a_key_and_a_goodbye(
    receptionist: Server, speech: Speech
):
    questions = {
        "What are your opening hours?": "sure we're open monday to friday from 8 to 6",
        "Where are you located?": "we're at 12 willow lane in millbrook it's the brick house "
        "across from the library",
        "How much is a check-up?": "a standard visit is 80 dollars a full checkup is 140 dollars",
    }
    lines = {line: await speech.say(line) for line in questions}
    interruption = await speech.say("Sorry, do you have parking?")
    goodbye = await speech.say("Thank you, goodbye.")
    latencies: list[int] = []
    async with aiohttp.ClientSession() as session, Phone(session, receptionist.url) as phone:
        _, greeting = await heard(phone, speech)
        assert "clinic" in greeting

        for line, expected in questions.items():
            phone.skip()
            phone.say(lines[line])
            await phone.said()
            spoken_until = phone.said_until
            start, answer = await heard(phone, speech)
            latencies.append((start - spoken_until) * 20)
            assert alike(answer, expected), (line, answer)

        # A question whose answer is cut off after a second by another one.
        phone.skip()
        phone.say(lines["What are your opening hours?"])
        await phone.said()
        await phone.hears_something()
        await asyncio.sleep(1.0)
        clears = len(phone.clears)
        begun = len(phone.heard.frames)
        phone.say(interruption)
        await phone.said()
        assert len(phone.clears) == clears + 1, "the agent was not cut off"
        assert (phone.clears[-1] - begun) * 20 <= 900
        phone.skip()
        _, answer = await heard(phone, speech)
        assert "park" in answer

        phone.skip()
        await phone.press("5")
        await heard(phone, speech)

        phone.skip()
        phone.say(goodbye)
        await phone.said()
        _, answer = await heard(phone, speech)
        assert "bye" in answer
        await asyncio.wait_for(phone.hung_up.wait(), 5)
        assert not phone._jitter, "the line was dropped before the goodbye had been played"
        call_sid = phone._call_sid

    print("response latencies, ms:", latencies, "median", statistics.median(latencies))
    await _check_record(receptionist, call_sid, latencies)


async def _check_record(server: Server, call_sid: str, latencies: list[int]) -> None:
    """The record agrees with what happened on the line."""
    async with aiohttp.ClientSession() as session:
        async with session.get(f"{server.url}/api/calls") as response:
            calls = (await response.json())["calls"]
        call = next(call for call in calls if call["external_id"] == call_sid)
        async with session.get(f"{server.url}/api/calls/{call['id']}") as response:
            record = await response.json()
        async with session.get(f"{server.url}/api/calls/{call['id']}/recording") as response:
            assert response.status == 200
            wav = await response.read()
    assert call["ended_reason"] == "agent.ended"
    assert wav[:4] == b"RIFF"
    assert len(wav) > 8000 * 4 * 20  # stereo, 8 kHz, more than 20 s
    turns = record["turns"]
    assert any(turn["interrupted"] for turn in turns)
    answered = [turn for turn in turns if turn["latency"]]
    for turn, measured in zip(answered, latencies, strict=False):
        parts = dict(turn["latency"])
        assert parts.pop("total") == sum(parts.values())
        # Recorded at our socket; the ear adds the phone's own frame and the soft start of a word.
        assert abs(sum(parts.values()) - measured) <= 250, (parts, measured)


async def test_the_call_is_listed_on_the_command_line(receptionist: Server):
    async with (
        aiohttp.ClientSession() as session,
        Phone(session, receptionist.url, call_sid="CA" + "1" * 32) as phone,
    ):
        await phone.hears_something()
    await asyncio.sleep(1.0)
    listed = await asyncio.to_thread(
        subprocess.run,
        [
            sys.executable,
            "-m",
            "flowcat_server",
            "calls",
            "ls",
            "--json",
            "--config",
            "configs/default.yaml",
            "--set",
            f"records.dir={receptionist.records}",
        ],
        capture_output=True,
        check=False,
    )
    assert listed.returncode == 0, listed.stderr
    calls = json.loads(listed.stdout)
    assert any("1" * 32 in json.dumps(call) for call in calls)
