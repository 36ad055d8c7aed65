"""What a frame costs inside the server, part by part, and what an idle call costs.

    python -m bench.routing [--no-peer] [--no-memory] [--write docs/benchmarks.md]

Times are processor time of this process, the best of many batches, frames one at a time. Memory is
measured at a real server, from how much more 300 idle calls take than 100.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from bench.routing import parts
from bench.routing.line import line, message
from bench.turns.report import machine
from bench.wire import report, venv
from bench.wire.running import Running
from bench.wire.subjects import SUBJECTS
from flowcat_server.core.audio import decode, encode
from flowcat_server.core.frames import AudioIn, Frame
from flowcat_server.core.processor import Processor, link
from tests.virtual import VirtualLoop

STAGES = 7
FRAMES_PER_S = 50
BATCH, BATCHES = 500, 40
OTHERS = 300
FEW, MANY = 100, 300
PEER_S = 180
BEGIN, END = "<!-- measured: routing -->", "<!-- end of measured: routing -->"
MULAW = bytes([0xFF]) * 160


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the table."""

    what: str
    us: float
    each_s: float = FRAMES_PER_S
    """How often in a second of a call."""

    @property
    def share(self) -> float:
        """Of a core, for one call."""
        return self.us * self.each_s / 1e6


def best(work: Callable[[], Any], batch: int = BATCH, batches: int = BATCHES) -> float:
    """Microseconds of one call of `work`, in the least disturbed of the batches."""
    times = []
    for _ in range(batches):
        begun = time.process_time_ns()
        for _ in range(batch):
            work()
        times.append((time.process_time_ns() - begun) / batch / 1000)
    return min(times)


def routing() -> float:
    """Seven stages that pass frames on, codec included."""
    came: list[bytes] = [b""]

    def out(frame: Frame) -> None:
        assert type(frame) is AudioIn
        came[0] = encode(frame.payload, "mulaw")

    entry = link([Processor() for _ in range(STAGES)], out)
    at = 0

    def frame() -> None:
        nonlocal at
        at += 20
        entry(AudioIn(decode(MULAW, "mulaw"), at))

    us = best(frame)
    assert came == [MULAW]
    return us


def server(calls: int = 1) -> float:
    """From the carrier's message to the one that says its audio back, through the real stages.

    With many `calls` each has its turn, so that little of it is left in the processor's caches.
    """

    async def measure() -> float:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        data = message(MULAW)
        async with AsyncExitStack() as stack:
            lines = [await stack.enter_async_context(line()) for _ in range(calls)]

            def frames() -> None:
                loop._jumping.skipped += 0.02
                for call in lines:
                    call.take(data)

            us = best(frames, max(1, BATCH // calls)) / calls
            assert all(call.socket.messages >= BATCHES for call in lines)
            return us

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(measure())


def peer(*arguments: str) -> dict[str, float]:
    """pipecat's figures."""
    script = str(Path(__file__).with_name("peer.py"))
    command = [str(venv.pipecat()), "-W", "ignore", script, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PEER_S, check=True)
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def idle_kb() -> float:
    """Memory of one more call that is up and silent; full agents."""
    subject = next(s for s in SUBJECTS if s.name == "ours-agents")
    sizes = []
    for calls in (FEW, MANY):
        with Running(subject) as running:
            sizes.append(running.measure(calls, 2, "--mode", "idle", "--settle", "1").rss_kb)
    return (sizes[1] - sizes[0]) / (MANY - FEW)


def main() -> int:
    """Run, print, write."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.routing",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--no-peer", action="store_true", help="without pipecat")
    parser.add_argument("--no-memory", action="store_true", help="without a server")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the tables into a page")
    arguments = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    ours = routing()
    lines = ["| one frame | us | |", "|---|--:|---|"]
    lines.append(f"| seven stages of ours that pass it on, codec included | {ours:.2f} | |")
    lines.append(f"| the real cascade, message to message | {server():.1f} | |")
    lines.append(f"| the same, {OTHERS} calls in turn | {server(OTHERS):.1f} | |")
    idle = [] if arguments.no_memory else [("flowcat-server, agent", idle_kb())]
    if not arguments.no_peer:
        for name, words in (("as it comes", ()), ("observers off", ("lean",))):
            figures = peer(*words)
            lines.append(
                f"| pipecat, seven stages that pass it on, {name} | {figures['us']:.0f} | "
                f"{figures['us'] / ours:.0f} times ours |"
            )
            idle.append((f"pipecat, pipeline without a socket, {name}", figures["kb"]))
    rows = [Row(what, best(work, 200, 20), each_s) for what, work, each_s in parts.works()]
    lines += ["", "| part of a call | us | each second | of a core |", "|---|--:|--:|--:|"]
    lines += [f"| {r.what} | {r.us:.2f} | {r.each_s:g} | {r.share:.3%} |" for r in rows]
    if idle:
        lines += ["", "| idle call | KB |", "|---|--:|"]
        lines += [f"| {what} | {kb:.0f} |" for what, kb in idle]
    text = "\n".join([*lines, "", f"{machine()}."])
    print(text)
    if arguments.write:
        report.write(arguments.write, text, BEGIN, END)
    return 0


if __name__ == "__main__":
    sys.exit(main())
