"""From a carrier's webhook to the agent's first words, while calls arrive, and what a call costs.

    python -m bench.start [--rate 50] [--seconds 20] [--write docs/benchmarks.md]

The real server runs on core 0 with everything on that is on by default: recording, records, log. A
generator in C on core 1 places the calls: a connection for the webhook, one for the media socket,
`start` with the token, a frame each 20 ms, `stop`. First audio is counted from the moment the
webhook is dialled. What a start and an end cost is the server's processor time where each call is
hung up as soon as it has heard something.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.turns.report import machine
from bench.wire import native, report
from bench.wire.point import NOISE_MS, Spread
from bench.wire.running import LOAD_CORE, MARGIN_S, Running, hurry
from bench.wire.subjects import DOOR, Subject

HERE = Path(__file__).parent
RATE, SECONDS, SETTLE_S = 50, 20, 4
GOAL_MS, GOAL_COST_MS = 150.0, 10.0
"""For 95 of 100 calls to their first audio; processor time of a start and an end."""
WAYS: dict[str, tuple[str, ...]] = {
    "evenly, hung up at the first sound": ("--hold-ms", "0"),
    "evenly, two seconds each": ("--hold-ms", "2000"),
    "at random, two seconds each": ("--hold-ms", "2000", "--poisson"),
}
BEGIN, END = "<!-- measured: start -->", "<!-- end of measured: start -->"


@dataclass(frozen=True, slots=True)
class Arrivals:
    """What the generator saw. Milliseconds."""

    begun: int
    faults: tuple[str, ...]
    """Calls that did not hear anything, and why; empty: all did."""
    answered: Spread | None
    """From dialling the webhook to its answer."""
    upgraded: Spread | None
    """To the open media socket."""
    first_audio: Spread | None
    """To the first sound."""
    own_lateness: Spread | None
    """Of the generator itself."""
    live: int
    """Most calls at a time."""
    cpu_s: float
    seconds: int

    @property
    def cost_ms(self) -> float:
        """The server's processor time for each call, all that it does included."""
        return self.cpu_s * 1000 / self.begun if self.begun else 0.0

    @property
    def noisy(self) -> bool:
        """Whether the generator was late itself."""
        return self.own_lateness is not None and self.own_lateness.p99 > NOISE_MS


def read(result: Mapping[str, Any]) -> Arrivals:
    """The generator's JSON."""
    counted = ("refused", "closed", "silent", "unreadable")
    faults = [f"{result[name]} {name}" for name in counted if result[name]]
    heard = result["first_audio"]["count"] if result["first_audio"] else 0
    if missing := result["begun"] - heard:
        faults.append(f"{missing} heard nothing")
    if result["refusal"]:
        faults.append(result["refusal"])
    return Arrivals(
        result["begun"],
        tuple(faults),
        *(
            Spread.read(result[name])
            for name in ("answered", "upgraded", "first_audio", "own_lateness")
        ),
        live=result["live"],
        cpu_s=result["cpu_s"],
        seconds=result["seconds"],
    )


def arrive(server: Running, rate: float, seconds: int, *more: str) -> Arrivals:
    """So many calls a second for so many seconds."""
    command = ["taskset", "-c", str(LOAD_CORE), str(native.program("start")), *more]
    for name, value in {
        "port": server.port, "rate": rate, "seconds": seconds, "settle": SETTLE_S,
        "pid": server.pid,
    }.items():  # fmt: skip
        command += [f"--{name}", str(value)]
    limit = SETTLE_S + seconds + MARGIN_S
    done = subprocess.run(command, capture_output=True, text=True, timeout=limit, check=True)
    return read(json.loads(done.stdout))


def table(results: Mapping[str, Arrivals], rate: float) -> str:
    """What is printed and written."""
    rows = [
        f"| {rate:g} calls a second arrive | first audio p50 / p95 / p99 / max, ms | webhook p95 | "
        "socket open p95 | at a time | CPU a call, ms | core | not served |",
        "|---|--:|--:|--:|--:|--:|--:|---|",
    ]
    for way, seen in results.items():
        spread, answered, upgraded = seen.first_audio, seen.answered, seen.upgraded
        late = (
            f"{spread.p50:.0f} / {spread.p95:.0f} / {spread.p99:.0f} / {spread.max:.0f}"
            if spread
            else ""
        )
        rows.append(
            f"| {way}{report.NOISY if seen.noisy else ''} | {late} | "
            f"{answered.p95 if answered else 0:.0f} | {upgraded.p95 if upgraded else 0:.0f} | "
            f"{seen.live} | {seen.cost_ms:.1f} | {seen.cpu_s / seen.seconds:.0%} | "
            f"{', '.join(seen.faults) or 'none'} |"
        )
    if any(seen.noisy for seen in results.values()):
        rows += ["", report.NOISE_NOTE]
    return "\n".join(rows)


def main() -> int:
    """Run, print, write; 1 if a goal is missed."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.start",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rate", type=float, default=RATE, metavar="R", help="calls a second")
    parser.add_argument("--seconds", type=int, default=SECONDS, metavar="S", help="of each row")
    parser.add_argument("--config", type=Path, default=HERE / "agent.yaml", metavar="FILE")
    parser.add_argument("--nice", type=int, default=0, metavar="N", help="of server and generator")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the table into a page")
    arguments = parser.parse_args()
    hurry(arguments.nice)
    config = str(arguments.config.resolve())

    def command(port: int, directory: Path) -> list[str]:
        words = [sys.executable, "-m", "flowcat_server", "run", config]
        words += ["--bind", f"127.0.0.1:{port}"]
        return [*words, "--set", f"records.dir={directory / 'calls'}"]

    results = {}
    for way, more in WAYS.items():
        with Running(Subject("start", way, command, DOOR)) as server:
            results[way] = arrive(server, arguments.rate, arguments.seconds, *more)
    text = f"{table(results, arguments.rate)}\n\n{machine()}; rows of {arguments.seconds} s."
    print(text)
    if arguments.write:
        report.write(arguments.write, text, BEGIN, END)
    return int(not all(_good(seen) for seen in results.values()) or _cost(results) > GOAL_COST_MS)


def _good(seen: Arrivals) -> bool:
    spread = seen.first_audio
    return not seen.faults and spread is not None and spread.p95 <= GOAL_MS


def _cost(results: Mapping[str, Arrivals]) -> float:
    return next(iter(results.values())).cost_ms


if __name__ == "__main__":
    sys.exit(main())
