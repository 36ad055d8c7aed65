"""Telephones a server over WebRTC: so many calls, a packet each 20 ms at its own absolute time.

    python -m bench.webrtc.load --url http://127.0.0.1:6210/webrtc/offer --calls 20 --seconds 8

One thread. Calls have phases spread over the 20 ms; the clock never slips. Close to the next packet
it does not sleep but looks at its sockets, so that it takes a core of its own. Prints one JSON
object; times in it are microseconds.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import heapq
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import uvloop
from aiortc.rtcdtlstransport import RTCCertificate
from numpy.typing import NDArray

from bench.webrtc import arrived, voice
from bench.webrtc.caller import Caller, NotConnected

BEAT_S = 0.020
SPIN_S = 0.002
"""So close to the next packet nobody sleeps: uvloop's timers step in milliseconds."""
SAMPLED = 3
"""Calls whose audio is decoded."""
AT_ONCE = 8
"""Calls that connect or hang up at the same time; a server refuses more than 16."""


class Beat:
    """Sends every caller's packets when they are due."""

    def __init__(self, calls: int) -> None:
        self.late: list[float] | None = None
        """Own lateness, seconds; None: not noted."""
        self._calls = calls
        self._origin = time.monotonic()
        self._due: list[tuple[float, int, Caller]] = []
        self._handle: asyncio.Handle | None = None

    def add(self, caller: Caller) -> None:
        """The caller's phase is its number's."""
        phase = self._origin + BEAT_S * caller.number / self._calls
        beats = int((time.monotonic() - phase) / BEAT_S) + 1
        heapq.heappush(self._due, (phase + beats * BEAT_S, caller.number, caller))
        if self._handle is None:
            self._turn()

    def stop(self) -> None:
        if self._handle is not None:
            self._handle.cancel()

    def _turn(self) -> None:
        due, late = self._due, self.late
        while (now := time.monotonic()) >= due[0][0]:
            at, number, caller = due[0]
            heapq.heapreplace(due, (at + BEAT_S, number, caller))
            caller.send(at)
            if late is not None:
                late.append(now - at)
        loop = asyncio.get_running_loop()
        wait = due[0][0] - now
        if wait < SPIN_S:
            self._handle = loop.call_soon(self._turn)
        else:
            self._handle = loop.call_later(wait - SPIN_S, self._turn)


async def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """One point."""
    said = voice.speak(arguments.talk_ms, arguments.cycle_ms)
    certificate = RTCCertificate.generateCertificate()
    callers = [Caller(n, said.packets, certificate) for n in range(arguments.calls)]
    beat = Beat(arguments.calls)
    started = time.monotonic()
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:
        refusals = await _connect(callers, beat, http, arguments)
        up = [caller for caller in callers if caller.connected]
        setup_s = time.monotonic() - started
        measured: dict[str, Any] = {}
        if up:
            await asyncio.sleep(arguments.settle)
            measured = await _measure(up, beat, arguments)
        beat.stop()
        closed = sum(not caller.alive for caller in up)
        result = _result(up, measured, said, arguments)
        for start in range(0, len(callers), AT_ONCE):
            await asyncio.gather(*(c.hang_up() for c in up[start : start + AT_ONCE]))
    return {
        "calls": arguments.calls, "seconds": arguments.seconds, "live": len(up), "closed": closed,
        "refusal": refusals[0] if refusals else "", "setup_s": setup_s, **result,
    }  # fmt: skip


async def _connect(
    callers: list[Caller], beat: Beat, http: aiohttp.ClientSession, arguments: argparse.Namespace
) -> list[str]:
    refusals: list[str] = []
    few = asyncio.Semaphore(AT_ONCE)

    async def connect(caller: Caller) -> None:
        await asyncio.sleep(caller.number / arguments.ramp)
        try:
            async with few:
                await caller.call(http, arguments.url)
        except NotConnected as error:
            refusals.append(str(error))
        else:
            beat.add(caller)

    async with asyncio.TaskGroup() as tasks:
        for caller in callers:
            tasks.create_task(connect(caller))
    return refusals


async def _measure(up: list[Caller], beat: Beat, arguments: argparse.Namespace) -> dict[str, Any]:
    gc.collect()
    gc.freeze()
    gc.disable()
    for number, caller in enumerate(up):
        caller.line.whole = number % max(1, len(up) // SAMPLED) == 0
        caller.line.keep = True
    beat.late = late = []
    before, began = cpu_s(arguments.pid), time.monotonic()
    await asyncio.sleep(arguments.seconds)
    spent, lasted = cpu_s(arguments.pid) - before, time.monotonic() - began
    beat.late = None
    for caller in up:
        caller.line.keep = False
    return {
        "cpu_s": spent, "lasted_s": lasted, "rss_kb": rss_kb(arguments.pid), "late": late,
        "real_s": time.time() - time.monotonic(),
    }  # fmt: skip


def _result(
    up: list[Caller], measured: dict[str, Any], said: voice.Voice, arguments: argparse.Namespace
) -> dict[str, Any]:
    heard = [arrived.read(caller.line.media) for caller in up]
    echoes = [
        arrived.echo(caller, stream, said, measured["real_s"])
        for caller, stream in zip(up, heard, strict=True)
        if caller.line.whole and len(stream.late)
    ]
    late = np.concatenate([stream.late for stream in heard] or [np.zeros(0)])
    return {
        "packets": sum(len(stream.late) for stream in heard),
        "expected": round(len(up) * measured.get("lasted_s", 0) / BEAT_S),
        "lost": sum(stream.lost for stream in heard),
        "skipped": sum(stream.skipped for stream in heard),
        "silent": sum(not len(stream.late) for stream in heard),
        "cpu_s": measured.get("cpu_s", 0.0),
        "rss_kb": measured.get("rss_kb", 0),
        "lateness": spread(late),
        "own_lateness": spread(np.array(measured.get("late", []))),
        "likeness": min((e.likeness for e in echoes), default=0.0),
        "echo_ms": float(np.median([e.delay_ms for e in echoes])) if echoes else 0.0,
        "spoke": float(np.mean([e.spoke for e in echoes])) if echoes else 0.0,
    }


def spread(seconds: NDArray[np.float64]) -> dict[str, int] | None:
    """Percentiles, microseconds."""
    if not len(seconds):
        return None
    at = {"p50": 50, "p90": 90, "p95": 95, "p99": 99, "p999": 99.9, "max": 100}
    values = np.percentile(seconds * 1e6, list(at.values()), method="inverted_cdf")
    return {"count": len(seconds), **dict(zip(at, map(int, values), strict=True))}


def cpu_s(pid: int) -> float:
    """Processor time of a process and its threads, seconds; 0: of none."""
    if not pid:
        return 0.0
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def rss_kb(pid: int) -> int:
    """Memory of a process."""
    if not pid:
        return 0
    pages = Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]
    return int(pages) * os.sysconf("SC_PAGESIZE") // 1024


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.webrtc.load",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--url", required=True, help="where offers are posted")
    parser.add_argument("--calls", type=int, required=True, metavar="N")
    parser.add_argument("--seconds", type=float, default=8, metavar="S", help="measured")
    parser.add_argument("--settle", type=float, default=2, metavar="S", help="before that")
    parser.add_argument("--ramp", type=float, default=10, metavar="N", help="calls a second")
    parser.add_argument("--talk-ms", type=int, default=0, metavar="MS", help="of each cycle")
    parser.add_argument("--cycle-ms", type=int, default=0, metavar="MS", help="0: no pauses")
    parser.add_argument("--pid", type=int, default=0, help="of the server")
    return parser.parse_args()


if __name__ == "__main__":
    json.dump(uvloop.run(run(_arguments())), sys.stdout)
