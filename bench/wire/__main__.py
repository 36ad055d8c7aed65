"""Capacity of one core on Twilio's media wire: our server, bare echoes and others, in one run.

    python -m bench.wire [--only NAME ...] [--seconds 8] [--write docs/benchmarks.md]

Each server runs alone on core 0, a generator in C on core 1. Every call opens its own WebSocket
and sends a frame each 20 ms. How many calls are held is searched: 99 of 100 frames back within 20
ms, none lost, doubled or cut, no call refused or dropped. For agents: 99 of 100 answers within 40
ms of when the providers could have given them, and 99 of 100 pieces of 20 ms of them in time for
a listener without a buffer.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict

from bench.wire import native, plot, report
from bench.wire.options import options
from bench.wire.point import Point
from bench.wire.running import Broken, Running, hurry
from bench.wire.search import most
from bench.wire.subjects import SUBJECTS, Subject

SECONDS = 8
LONG_S = 60
SEED_CALLS = 167
"""Calls on each core in the benchmark that Flowcat publishes."""
LONG = ("c", "aiohttp", "ours")
PATIENCE = 2
"""A point that the generator's own lateness has spoiled is measured again, so often at most."""


def main() -> int:
    """Run, print, write."""
    arguments = _arguments()
    hurry(arguments.nice)
    wanted = [s for s in SUBJECTS if not arguments.only or s.name in arguments.only]
    results = []
    for subject in wanted:
        try:
            results.append(_measure(subject, arguments))
        except (Broken, native.NoCompiler) as error:
            print(error, file=sys.stderr)
            if not arguments.only:
                continue
            return 1
    text = report.page(results, arguments)
    print(text)
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(r) for r in results], indent=1))
    if arguments.write:
        image = arguments.write.parent / "images" / "benchmark-wire.svg"
        image.write_text(plot.capacity(results), encoding="utf-8")
        picture = f"![{plot.TITLE}](images/{image.name})"
        report.write(arguments.write, f"{picture}\n\n{text}")
    return 0


def _arguments() -> argparse.Namespace:
    names = [subject.name for subject in SUBJECTS]
    parser = options("bench.wire", __doc__, names, SECONDS)
    parser.add_argument(
        "--long", type=int, default=LONG_S, metavar="S",
        help=f"at {SEED_CALLS} calls, for percentiles to the maximum; 0: not",
    )  # fmt: skip
    return parser.parse_args()


def _measure(subject: Subject, arguments: argparse.Namespace) -> report.Measured:
    seconds = max(arguments.seconds, subject.least_s)
    points: list[Point] = []
    with Running(subject) as server:
        idle_kb = server.rss_kb()

        def measure(calls: int, seconds: int = seconds) -> Point:
            for _ in range(PATIENCE):
                point = server.measure(calls, seconds)
                _say(subject, point)
                if not point.noisy or point.held or point.hopeless:
                    break
            points.append(point)
            return point

        if arguments.calls:
            measure(arguments.calls)
        else:
            for _ in most(measure, subject.start, subject.limit):
                pass
    long = None
    if arguments.long and subject.name in LONG and not arguments.calls:
        with Running(subject) as server:
            long = server.measure(SEED_CALLS, arguments.long, "--keep-going")
            _say(subject, long)
    return report.Measured(subject.name, subject.title, tuple(points), long, idle_kb)


def _say(subject: Subject, point: Point) -> None:
    """A line on the terminal for each point."""
    spread = point.answer or point.latency
    late = f"p50 {spread.p50:.2f}  p99 {spread.p99:.2f}  max {spread.max:.1f} ms" if spread else ""
    noise = "  (the generator was late itself)" if point.noisy else ""
    print(
        f"{subject.name:>12} {point.calls:>5} calls  core {point.core:4.0%}  {late}  "
        f"{', '.join(point.faults) or 'held'}{noise}",
        file=sys.stderr,
    )


if __name__ == "__main__":
    sys.exit(main())
