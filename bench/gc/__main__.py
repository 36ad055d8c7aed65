"""What garbage collection does to the audio, with the server's policy and with others.

    python -m bench.gc [--seconds 60] [--calls 100] [--rate 10] [--write docs/benchmarks.md]

The real server on core 0, one run for each policy: `--calls` calls that stay, whose every frame is
accounted for (the echo of `bench.wire`), and beside them `--rate` calls a second that come, stay
two seconds, and go. In the middle of each run one full collection is asked for. Counted by the
server itself: collections of each generation, what they took, the longest; and how much memory the
run has added.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from bench.gc.server import POLICIES
from bench.start.__main__ import Arrivals, arrive
from bench.turns.report import machine
from bench.wire import report
from bench.wire import subjects as wire
from bench.wire.point import Point
from bench.wire.running import RAMP, Running, hurry

TITLES = {
    "python": "as Python starts: 700, 10, 10",
    "frozen": "frozen after the start, Python's thresholds",
    "ours": "**the server's**: frozen, {thresholds}",
    "large": "frozen, 50000, 20, 100",
    "never": "never, but for the one that is asked for",
}
SECONDS, CALLS, RATE = 60, 100, 10.0
BEGIN, END = "<!-- measured: gc -->", "<!-- end of measured: gc -->"


@dataclass(frozen=True, slots=True)
class Run:
    """One policy."""

    point: Point
    arrivals: Arrivals
    counted: dict[str, float]
    grown_kb: int

    def of(self, what: str) -> list[float]:
        """A metric by generation."""
        return [self.counted.get(f"flowcat_gc_{what}{generation}", 0.0) for generation in range(3)]


def counted(port: int) -> dict[str, float]:
    """The server's metrics of collection, ``name + generation``."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    return {
        sample.name + sample.labels["generation"]: sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if "generation" in sample.labels
    }


def run(policy: str, calls: int, rate: float, seconds: int) -> Run:
    """Both generators at one server."""

    def command(port: int, directory: Path) -> list[str]:
        echo = str(wire.HERE / "echo.yaml")
        words = [sys.executable, "-m", "bench.gc.server", policy, "run", echo]
        words += ["--bind", f"127.0.0.1:{port}"]
        return [*words, "--set", f"records.dir={directory / 'calls'}"]

    subject = wire.Subject(policy, TITLES[policy], command, wire.DOOR)
    with Running(subject) as server, ThreadPoolExecutor(1) as beside:
        arrive(server, rate, 5)  # what is imported and cached with the first calls
        before, already = server.rss_kb(), counted(server.port)
        churn = beside.submit(arrive, server, rate, seconds, "--hold-ms", "2000")
        middle = calls / RAMP + subject.settle_s + seconds / 2
        threading.Timer(middle, os.kill, (server.pid, signal.SIGUSR1)).start()
        point = server.measure(calls, seconds, "--keep-going")
        arrivals = churn.result()
        after = {name: value - already[name] for name, value in counted(server.port).items()}
        longest = {name: value for name, value in counted(server.port).items() if "longest" in name}
        return Run(point, arrivals, {**after, **longest}, server.rss_kb() - before)


def table(runs: dict[str, Run]) -> str:
    """What is printed and written."""
    from flowcat_server.server import GC_THRESHOLDS

    rows = [
        "| policy | a frame's way there and back, p99 / p99.9 / max, ms | lost | collections of "
        "generation 0 / 1 / 2 | ms a second | longest of 0 / 1 / 2, ms | memory grew, MB |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for policy, done in runs.items():
        latency = done.point.latency
        late = f"{latency.p99:.1f} / {latency.p999:.1f} / {latency.max:.0f}" if latency else ""
        lost = [fault for fault in done.point.faults if "p99" not in fault]
        noisy = report.NOISY if done.point.noisy else ""
        title = TITLES[policy].format(thresholds=", ".join(map(str, GC_THRESHOLDS)))
        number = " / ".join(f"{count:.0f}" for count in done.of("collections_total"))
        longest = " / ".join(f"{1000 * value:.1f}" for value in done.of("longest_seconds"))
        took = 1000 * sum(done.of("seconds_total")) / done.point.seconds
        rows.append(
            f"| {title}{noisy} | {late} | {', '.join(lost) or 'none'} | {number} | {took:.1f} | "
            f"{longest} | {done.grown_kb / 1024:.0f} |"
        )
    if any(done.point.noisy for done in runs.values()):
        rows += ["", report.NOISE_NOTE]
    return "\n".join(rows)


def main() -> int:
    """Run, print, write."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.gc",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", nargs="+", choices=list(POLICIES), default=list(POLICIES))
    parser.add_argument("--seconds", type=int, default=SECONDS, metavar="S", help="of each policy")
    parser.add_argument("--calls", type=int, default=CALLS, metavar="N", help="that stay")
    parser.add_argument(
        "--rate", type=float, default=RATE, metavar="R", help="come and go a second"
    )
    parser.add_argument("--nice", type=int, default=0, metavar="N", help="of server and generators")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the table into a page")
    arguments = parser.parse_args()
    hurry(arguments.nice)
    runs = {
        policy: run(policy, arguments.calls, arguments.rate, arguments.seconds)
        for policy in arguments.only
    }
    text = (
        f"{table(runs)}\n\n{arguments.calls} calls stay, {arguments.rate:g} a second come and go; "
        f"{arguments.seconds} s of each policy. {machine()}."
    )
    print(text)
    if arguments.write:
        report.write(arguments.write, text, BEGIN, END)
    return 0


if __name__ == "__main__":
    sys.exit(main())
