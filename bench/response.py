"""How long callers wait for an answer: a real call to a real server, measured at the far end.

Starts ``flowcat-server run`` on a free port, telephones it over Twilio's wire with synthesized
speech at the pace of real time, and asks questions. Per question it prints the parts that the
server recorded and their sum, and what the telephone measured, both from the last voiced frame
that it sent: when the first audio of the answer arrived (``wire``), and when the first audible
frame of it was played (``ear``), which is later by the silence with which the answer's audio
begins. ``diff`` is ``wire`` less the sum: frames of 20 ms at both ends, and the two sides' notions
of when the caller's voice had ended.

    python -m bench.response [--questions 20] [--config configs/default.yaml] [--set key=value ...]
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import socket
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from pydantic import SecretStr

from flowcat_server.core.audio import PCM_8K
from flowcat_server.providers.http import Http
from flowcat_server.providers.registry import Settings, find
from tests.phone.line import FRAME_S, Phone

ROOT = Path(__file__).parent.parent
READY_S = 60.0
QUIET_MS = 900
"""Silence after which an answer counts as over."""
HEADS = {
    "endpointing": "endpoint",
    "stt_tail": "stt tail",
    "llm_first_token": "llm token",
    "llm_first_sentence": "sentence",
    "tts_first_audio": "tts",
    "send": "send",
}
PARTS = tuple(HEADS)
QUESTIONS = (
    "What are your opening hours?",
    "Where are you located?",
    "How much is a check-up?",
    "Is there parking?",
    "Can I come by bus?",
    "Do you take credit cards?",
    "Which insurance do you accept?",
    "What do I need to bring?",
    "Do you take new patients?",
    "Are you open on Sunday?",
    "Do you give flu shots?",
    "Who are the doctors?",
    "How long does a visit take?",
    "Is it wheelchair accessible?",
    "Can I bring my baby?",
    "How do I get my results?",
    "Do you write medical certificates?",
    "I'm running late.",
    "What's your phone number?",
    "Do you do blood tests?",
)


@dataclass(frozen=True, slots=True)
class Measured:
    """One question and its answer. Milliseconds."""

    question: str
    wire: int | None = None
    """To the arrival of the first audio; None: no answer came."""
    ear: int | None = None
    """To the first audible frame."""


class Server:
    """A server process of this checkout, stopped at the end of the block."""

    def __init__(self, config: Path, settings: list[str], directory: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self._log = directory / "server.log"
        arguments = ["--bind", f"127.0.0.1:{port}", "--set", f"records.dir={directory / 'calls'}"]
        for setting in settings:
            arguments += ["--set", setting]
        self._command = [sys.executable, "-m", "flowcat_server", "run", str(config), *arguments]

    async def __aenter__(self) -> Server:
        with self._log.open("wb") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self._command, cwd=ROOT, stdout=log, stderr=log
            )
        limit = time.monotonic() + READY_S
        async with aiohttp.ClientSession() as session:
            while time.monotonic() < limit and self._process.returncode is None:
                try:
                    async with session.get(f"{self.url}/readyz") as response:
                        if response.status == 200:
                            return self
                except aiohttp.ClientError:
                    pass
                await asyncio.sleep(0.1)
        if self._process.returncode is None:
            self._process.kill()
        raise SystemExit(f"the server did not start:\n{self._log.read_text(encoding='utf-8')}")

    async def __aexit__(self, *error: object) -> None:
        self._process.terminate()
        await asyncio.wait_for(self._process.wait(), 20)


async def speech(texts: list[str]) -> list[bytes]:
    """The questions, spoken by the bundled voice; PCM16 at 8 kHz."""
    provider = find("tts", "piper")
    if provider is None:
        raise SystemExit("the voice 'piper' is not installed")
    http = Http()
    voice = provider.create(
        Settings("piper", provider.default_model, provider.default_voice, "", SecretStr(""), "",
                 provider.options(), http, ROOT)
    )  # fmt: skip
    await voice.start()
    spoken: dict[str, bytes] = {}
    async with voice.open(PCM_8K) as opened:
        for text in dict.fromkeys(texts):
            spoken[text] = b"".join([s.audio async for s in opened.synthesize(text)])
    await voice.close()
    await http.close()
    return [spoken[text] for text in texts]


async def converse(url: str, texts: list[str], spoken: list[bytes]) -> list[Measured]:
    """One call in which every question is asked."""
    measured = []
    async with aiohttp.ClientSession() as session, Phone(session, url) as phone:
        await phone.hears(quiet_ms=QUIET_MS, timeout_s=20)
        for text, pcm in zip(texts, spoken, strict=True):
            await asyncio.sleep(0.5)
            phone.skip()
            phone.say(pcm)
            await phone.said()
            asked_until, before = phone.said_until, len(phone.arrived)
            try:
                start, _ = await phone.hears(quiet_ms=QUIET_MS, timeout_s=10)
            except TimeoutError:
                measured.append(Measured(text))
                continue
            first = phone.arrived[before]
            ms = round(FRAME_S * 1000)
            measured.append(Measured(text, (first - asked_until) * ms, (start - asked_until) * ms))
    return measured


async def recorded(url: str) -> list[dict[str, Any]]:
    """The latency that the server recorded, turn by turn, of its only call."""
    async with aiohttp.ClientSession() as session:
        call: dict[str, Any] = {"ended_reason": ""}
        while not call["ended_reason"]:
            await asyncio.sleep(0.1)
            async with session.get(f"{url}/api/calls") as response:
                call = (await response.json())["calls"][0]
        async with session.get(f"{url}/api/calls/{call['id']}") as response:
            turns = (await response.json())["turns"]
    return [turn for turn in turns if turn["caller"]]


def machine() -> str:
    """What this was measured on."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text(encoding="utf-8").splitlines()
        names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
        model = names[0] if names else model
    load = ", ".join(f"{value:.2f}" for value in os.getloadavg())
    return (
        f"{model}, {os.cpu_count()} CPUs, {platform.system()} {platform.release()}, "
        f"Python {platform.python_version()}, load average before the call {load}"
    )


def report(measured: list[Measured], turns: list[dict[str, Any]]) -> None:
    """One line per question, then the percentiles."""
    columns = (*(HEADS[part] for part in PARTS), "sum", "wire", "diff", "ear")
    print("  ".join(f"{name:>10}" for name in columns) + "  question")
    rows = []
    for number, item in enumerate(measured):
        latency = turns[number]["latency"] if number < len(turns) else None
        if item.wire is None or item.ear is None or not latency:
            print(f"{'no answer' if item.ear is None else 'no record':>10}  {item.question}")
            continue
        parts = [latency[part] for part in PARTS]
        rows.append((sum(parts), item.wire, item.wire - sum(parts), item.ear))
        print("  ".join(f"{value:>10}" for value in (*parts, *rows[-1])) + f"  {item.question}")
    print(f"\nanswered {len(rows)} of {len(measured)}; milliseconds")
    for index, name in enumerate(("sum", "wire", "diff", "ear")):
        _percentiles(name, [row[index] for row in rows])


def _percentiles(name: str, values: list[int]) -> None:
    if len(values) < 2:
        return
    cuts = statistics.quantiles(values, n=20, method="inclusive")
    print(
        f"{name:>6}: p50 {statistics.median(values):.0f}  p90 {cuts[17]:.0f}  p95 {cuts[18]:.0f}  "
        f"min {min(values)}  max {max(values)}"
    )


async def main() -> None:
    """Run once."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.response",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--questions", type=int, default=len(QUESTIONS), metavar="N")
    parser.add_argument("--config", type=Path, default=ROOT / "configs" / "default.yaml")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    chosen = parser.parse_args()
    texts = [QUESTIONS[number % len(QUESTIONS)] for number in range(chosen.questions)]
    spoken = await speech(texts)
    with tempfile.TemporaryDirectory() as directory:
        async with Server(chosen.config, chosen.set, Path(directory)) as server:
            await asyncio.sleep(3)  # fixed texts are still being spoken ahead of time
            where = machine()
            measured = await converse(server.url, texts, spoken)
            turns = await recorded(server.url)
    report(measured, turns)
    print(f"\n{where}")


if __name__ == "__main__":
    asyncio.run(main())
