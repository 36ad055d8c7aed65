"""The call page on a real server: a Chromium that speaks, and what arrived at either end."""

from __future__ import annotations

import asyncio
import base64
import difflib
import json
import re
import sys
import time
import wave
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import numpy as np
import numpy.typing as npt
import soxr

from flowcat_server.core.audio import PCM_16K, PCM_24K
from tests.browser.cdp import BrowserError, Page
from tests.e2e.conftest import ROOT, Server, Speech

Result = TypeVar("Result")
Samples = npt.NDArray[np.int16]

ARTIFACTS = ROOT / "artifacts"
VOICE = PCM_24K
EAR = PCM_16K
LAG_S = 0.1
"""A server whose loop stood still for so long was starved: what it sent came late."""
WHISPER_S = 0.1
"""Silence around an utterance that the ear gets."""


@dataclass(frozen=True, slots=True)
class Utterance:
    """A stretch of speech and where it was."""

    start_ms: int
    end_ms: int
    pcm: bytes
    """At `EAR`."""


def utterances(samples: Samples, rate: int, *, quiet_ms: int = 700) -> list[Utterance]:
    """Stretches of sound, parted by at least `quiet_ms` without any."""
    frame = rate // 50
    whole = samples[: len(samples) // frame * frame].reshape(-1, frame).astype(float)
    loud = np.flatnonzero(np.sqrt((whole**2).mean(axis=1)) > 150)
    found: list[Utterance] = []
    if not len(loud):
        return found
    edges = np.flatnonzero(np.diff(loud) > quiet_ms // 20)
    for first, last in zip([0, *(edges + 1)], [*edges, len(loud) - 1], strict=True):
        start, end = int(loud[first]), int(loud[last]) + 1
        if end - start < 5:
            continue  # a click
        lead = int(WHISPER_S * 50)
        cut = samples[max(0, start - lead) * frame : (end + lead) * frame]
        pcm = soxr.resample(cut, rate, EAR.sample_rate).astype("<i2").tobytes()
        found.append(Utterance(start * 20, end * 20, pcm))
    return found


async def transcripts(speech: Speech, parts: Sequence[Utterance]) -> list[str]:
    """What each says, in order."""
    return [await speech.hear(part.pcm, EAR) for part in parts]


def words(text: str) -> list[str]:
    """Lower-case words without punctuation, figures apart, as an ear writes them."""
    return re.findall(r"[a-z]+(?:'[a-z]+)?|[0-9]+", text.lower())


def share_heard(said: str, heard: str) -> float:
    """How much of what was said is found, in order, in what an ear made of it; 0 to 1."""
    spoken = words(said)
    match = difflib.SequenceMatcher(a=spoken, b=words(heard), autojunk=False)
    return sum(block.size for block in match.get_matching_blocks()) / len(spoken)


def channels(wav: bytes) -> tuple[Samples, Samples, int]:
    """Caller, agent and rate of a stereo recording."""
    with wave.open(BytesIO(wav)) as file:
        assert file.getnchannels() == 2
        both = np.frombuffer(file.readframes(file.getnframes()), "<i2").reshape(-1, 2)
        return both[:, 0], both[:, 1], file.getframerate()


def write_wav(path: Path, pcm: bytes, rate: int = VOICE.sample_rate) -> Path:
    """A mono file, as Chromium's fake microphone plays it."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(pcm)
    return path


async def script(speech: Speech, parts: Sequence[str | int]) -> bytes:
    """Speech and pauses in milliseconds, as one sound at `VOICE`."""
    return b"".join(
        [
            VOICE.silence(part) if isinstance(part, int) else await speech.say(part, VOICE)
            for part in parts
        ]
    )


MOUTH = """
(() => {
  const context = new AudioContext({ sampleRate: 48000 });
  const mouth = context.createMediaStreamDestination();
  mouth.channelCount = 1;
  navigator.mediaDevices.getUserMedia = async () => mouth.stream.clone();
  const sounds = {};
  window.__mouth = {
    async learn(name, wav) {
      const bytes = Uint8Array.from(atob(wav), (each) => each.charCodeAt(0));
      sounds[name] = await context.decodeAudioData(bytes.buffer);
      return sounds[name].duration * 1000;
    },
    async say(name) {
      await context.resume();
      const source = new AudioBufferSourceNode(context, { buffer: sounds[name] });
      source.connect(mouth);
      source.start();
      await new Promise((done) => { source.onended = done; });
    },
  };
})();
"""
"""A microphone that speaks when the test says so (`Mouth`), in the place of the browser's own."""


class Mouth:
    """Speaks into a page that was opened with the script `MOUTH`."""

    def __init__(self, page: Page) -> None:
        self._page = page

    async def learn(self, **sounds: bytes) -> None:
        """Keep sounds at `VOICE` under their names."""
        for name, pcm in sounds.items():
            file = BytesIO()
            with wave.open(file, "wb") as out:
                out.setnchannels(1)
                out.setsampwidth(2)
                out.setframerate(VOICE.sample_rate)
                out.writeframes(pcm)
            encoded = base64.b64encode(file.getvalue()).decode()
            await self._page.evaluate(f"window.__mouth.learn({json.dumps(name)}, '{encoded}')")

    async def say(self, name: str) -> None:
        """Returns when it has been said."""
        await self._page.evaluate(f"window.__mouth.say({json.dumps(name)})", timeout=30.0)


async def events(page: Page) -> list[dict[str, Any]]:
    """All events the page was told, in order."""
    text = await page.evaluate("document.querySelector('#raw').textContent")
    return [json.loads(line) for line in text.splitlines()]


async def wait_for_event(
    page: Page, kind: str, *, after: int = 0, timeout: float = 20.0, **fields: Any
) -> dict[str, Any]:
    """The first event of a kind with these fields behind the `after` first events."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        for event in (await events(page))[after:]:
            if event["type"] == kind and all(event.get(k) == v for k, v in fields.items()):
                return event
        await asyncio.sleep(0.05)
    seen = [json.dumps(event) for event in (await events(page))[after:]]
    raise TimeoutError("\n".join([f"no {kind} {fields} within {timeout} s; there were", *seen]))


async def start_call(page: Page, *, timeout: float = 15.0) -> None:
    """Presses the big button and waits until both the page and the server are connected."""
    await page.click("#call")
    await page.wait_for_text("#status", "Connected", timeout=timeout)
    await wait_for_event(page, "call_started", timeout=timeout)


async def hang_up(page: Page) -> None:
    """Presses it again, not so soon that it would be taken for a double click."""
    await page.wait_for("document.querySelector('#call-label').textContent === 'Hang up'")
    await asyncio.sleep(0.6)
    await page.click("#call")


async def fetch(server: Server, path: str) -> Any:
    """JSON of the server's API."""
    async with aiohttp.ClientSession() as http, http.get(server.url + path) as response:
        assert response.status == 200, (path, response.status)
        return await response.json()


async def fetch_recording(server: Server, call_id: str) -> bytes:
    """The WAV of an ended call."""
    url = f"{server.url}/api/calls/{call_id}/recording"
    async with aiohttp.ClientSession() as http, http.get(url) as response:
        assert response.status == 200
        return await response.read()


async def live_calls(server: Server) -> list[str]:
    """Ids of the calls that are live."""
    listed = (await fetch(server, "/api/calls"))["calls"]
    return [call["id"] for call in listed if call["live"]]


async def ended_call(server: Server, call_id: str, *, timeout: float = 10.0) -> dict[str, Any]:
    """The record of a call, once it is over."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        record: dict[str, Any] = await fetch(server, f"/api/calls/{call_id}")
        if not record["call"]["live"]:
            return record
        await asyncio.sleep(0.05)
    raise TimeoutError(f"the call {call_id} did not end within {timeout} s")


def starved(server: Server) -> int:
    """How often the server's loop stood still for longer than `LAG_S` so far."""
    text = server.get("/metrics")[1]
    buckets = {
        float(edge): float(count)
        for edge, count in re.findall(
            r'flowcat_loop_lag_seconds_bucket\{le="([^"]+)"\} ([0-9.e+]+)', text
        )
    }
    assert buckets, "the server tells no loop lag"
    within = max(edge for edge in buckets if edge <= LAG_S)
    return int(buckets[float("inf")] - buckets[within])


async def steadily(server: Server, attempt: Callable[[], Awaitable[Result]]) -> Result:
    """Runs `attempt`; again, up to twice, only if it failed while the server was held up."""
    for _ in range(2):
        before = starved(server)
        try:
            return await attempt()
        except (AssertionError, TimeoutError, BrowserError) as error:
            late = starved(server) - before
            if not late:
                sys.stderr.write(server.text()[-4000:])
                raise
            sys.stderr.write(f"the server stood still {late} times; again after: {error!r:.6000}\n")
    return await attempt()
