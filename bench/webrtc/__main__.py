"""How many browsers one core holds: our server beside stock aiortc, in one run.

    python -m bench.webrtc [--only NAME ...] [--seconds 8] [--write docs/benchmarks.md]

Each server runs alone on core 0, the generator on core 1. Every call comes through the door,
`POST /webrtc/offer`, and is a real one: ICE, DTLS, SRTP, Opus both ways, RTCP, a socket of its own.
How many are held is searched: 99 of 100 packets within 20 ms of what their own timestamps say,
none lost, no call refused or dropped, and what was said comes back.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict

from bench.webrtc import report
from bench.webrtc.point import Point
from bench.webrtc.running import Running
from bench.webrtc.subjects import SUBJECTS, Browsers
from bench.wire import plot
from bench.wire.options import options
from bench.wire.report import write
from bench.wire.running import Broken, hurry
from bench.wire.search import most

SECONDS = 8
ALIKE_CALLS = 10
"""All servers are measured with so many, for what a call costs."""
FEW, MANY, MEMORY_S = 10, 30, 20
"""Memory of a call is how much more a server takes that has many, each a new one."""
PATIENCE = 2
"""A point that the generator's own lateness has spoiled is measured again, so often at most."""


def main() -> int:
    """Run, print, write."""
    names = [subject.name for subject in SUBJECTS]
    arguments = options("bench.webrtc", __doc__, names, SECONDS).parse_args()
    hurry(arguments.nice)
    wanted = [s for s in SUBJECTS if not arguments.only or s.name in arguments.only]
    results = []
    for subject in wanted:
        try:
            results.append(_measure(subject, arguments))
        except Broken as error:
            print(error, file=sys.stderr)
            return 1
    text = report.page(results, arguments)
    print(text)
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(r) for r in results], indent=1))
    if arguments.write:
        image = arguments.write.parent / "images" / "benchmark-webrtc.svg"
        bars = [(r.name, r.title, r.capacity) for r in results]
        image.write_text(plot.bars(report.TITLE, report.HELD, bars), encoding="utf-8")
        picture = f"![{report.TITLE}](images/{image.name})"
        write(arguments.write, f"{picture}\n\n{text}", report.BEGIN, report.END)
    return 0


def _measure(subject: Browsers, arguments: argparse.Namespace) -> report.Measured:
    seconds = max(arguments.seconds, subject.least_s)
    points: list[Point] = []
    with Running(subject) as server:
        server.warm()

        def measure(calls: int) -> Point:
            for _ in range(PATIENCE):
                point = server.browsers(calls, seconds, subject.settle_s)
                _say(subject, point)
                if not point.noisy or point.hopeless:
                    break
            points.append(point)
            return point

        measure(ALIKE_CALLS)
        if arguments.calls:
            measure(arguments.calls)
        else:
            for _ in most(measure, 2 * ALIKE_CALLS, subject.limit):
                pass
    return report.Measured(subject.name, subject.title, tuple(points), _kb_per_call(subject))


def _kb_per_call(subject: Browsers) -> float:
    sizes = []
    for calls in (FEW, MANY):
        with Running(subject) as server:
            server.warm()
            sizes.append(server.browsers(calls, MEMORY_S, subject.settle_s).rss_kb)
    return (sizes[1] - sizes[0]) / (MANY - FEW)


def _say(subject: Browsers, point: Point) -> None:
    """A line on the terminal for each point."""
    spread = point.lateness
    late = f"p50 {spread.p50:.2f}  p99 {spread.p99:.1f}  max {spread.max:.0f} ms" if spread else ""
    own = point.own_lateness
    noise = (
        f"  (the generator was late itself, p99 {own.p99:.1f} ms)" if own and point.noisy else ""
    )
    print(
        f"{subject.name:>12} {point.calls:>4} calls  core {point.core:4.0%}  {late}  "
        f"{', '.join(point.faults) or 'held'}{noise}",
        file=sys.stderr,
    )


if __name__ == "__main__":
    sys.exit(main())
