"""Some cells of the fault matrix on the real wire: a server process, a phone, wall-clock time."""

from __future__ import annotations

import asyncio
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from bench.faults.cells import GREETING, LONGEST_MS
from tests.callscript import VOICE
from tests.e2e.conftest import Server, launch
from tests.phone.line import Phone

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(60)]

ANSWER = "We open at nine."
PREPARED = 6
"""Texts that are spoken before the first call: greeting, fillers, question to the idle, goodbye."""
YAML = """
agent: {prompt: Help., greeting: "%(greeting)s"}
records: {audio: none}
topology:
  vad: {provider: scripted}
  stt: {provider: scripted, %(stt)s}
  llm: {provider: scripted, %(llm)s}
  tts: {provider: scripted, %(tts)s}
"""
HEALTHY = {
    "stt": "options: {lines: [when], delay_ms: 100%s}",
    "llm": f"options: {{replies: [{ANSWER}], first_token_ms: 100%s}}",
    "tts": "options: {ms_per_char: 50, first_audio_ms: 100%s}",
}


@dataclass
class Cell:
    """One server with one fault, and what its caller met."""

    stage: str
    fault: str
    fallback: bool
    silence_ms: int = 0
    reason: str = ""
    detail: str = ""
    last_words: str = ""

    def yaml(self) -> str:
        parts = {stage: line % "" for stage, line in HEALTHY.items()}
        after = f", fail_after: {PREPARED}" if self.stage == "tts" else ""
        broken = HEALTHY[self.stage] % f", fail: {self.fault}{after}"
        spare = (
            f", fallback: [{{provider: scripted, {parts[self.stage]}}}]" if self.fallback else ""
        )
        parts[self.stage] = broken + spare
        return YAML % {"greeting": GREETING, **parts}


async def meet(cell: Cell, server: Server, session: aiohttp.ClientSession) -> None:
    """One call: the greeting, a question, and what follows until it is quiet or over."""
    async with Phone(session, server.url) as phone:
        await phone.hears()
        phone.say(VOICE * 40)
        await phone.said()
        spoke = phone.said_until
        deadline = asyncio.get_running_loop().time() + 15
        while asyncio.get_running_loop().time() < deadline and not phone.hung_up.is_set():
            await asyncio.sleep(0.1)
            if not cell.fallback:
                continue
            if ANSWER.split()[-1] in await said(server):
                break
        frames = range(spoke, len(phone.heard.frames))
        sounds = [spoke, *(index for index in frames if phone.heard.audible(index))]
        if phone.hung_up.is_set():
            sounds.append(len(phone.heard.frames))
    gaps = [20 * (after - before) for before, after in zip(sounds, sounds[1:], strict=False)]
    cell.silence_ms = max(gaps, default=99_999)


async def record(server: Server) -> dict[str, Any]:
    """The only call's record, as far as it is written."""
    _, body = await asyncio.to_thread(server.get, "/api/calls")
    (row,) = json.loads(body)["calls"]
    _, body = await asyncio.to_thread(server.get, f"/api/calls/{row['id']}")
    return {**row, **json.loads(body)}


async def said(server: Server) -> str:
    """What was heard of the last reply."""
    turns = (await record(server))["turns"]
    return turns[-1]["agent"] if turns else ""


async def test_nobody_is_silent_on_the_wire(tmp_path: Path):
    cells = [
        Cell("stt", "hang", fallback=True),
        Cell("tts", "half_dead", fallback=True),
        Cell("llm", "refuse", fallback=False),
        Cell("tts", "hang", fallback=False),
    ]
    homes = [tmp_path / f"{cell.stage}-{cell.fault}" for cell in cells]
    for home in homes:
        home.mkdir()
    servers = await asyncio.gather(
        *(
            asyncio.to_thread(launch, home, cell.yaml())
            for home, cell in zip(homes, cells, strict=True)
        )
    )
    try:
        async with aiohttp.ClientSession() as session:
            pairs = zip(cells, servers, strict=True)
            await asyncio.gather(*(meet(cell, server, session) for cell, server in pairs))
        for cell, server in zip(cells, servers, strict=True):
            found = await record(server)
            for _ in range(100):
                if found["ended_reason"]:
                    break
                await asyncio.sleep(0.05)
                found = await record(server)
            cell.last_words = found["turns"][-1]["agent"]
            cell.reason, cell.detail = found["ended_reason"], found["ended_detail"]
        for cell, server in zip(cells, servers, strict=True):
            assert cell.silence_ms <= LONGEST_MS, cell
            if cell.fallback:
                assert cell.last_words.endswith(ANSWER), cell
                assert re.search(
                    rf'flowcat_provider_errors_total{{.*kind="{cell.stage}".*}} 1',
                    server.get("/metrics")[1],
                ), cell
            else:
                assert cell.last_words.endswith("Please call again a little later."), cell
                assert cell.reason == "provider.failed"
                assert cell.detail.startswith(f"{cell.stage} scripted: "), cell
                state = f'flowcat_provider_breaker_state{{kind="{cell.stage}"'
                assert state in server.get("/metrics")[1]
    finally:
        await asyncio.gather(*(asyncio.to_thread(server.stop) for server in servers))
