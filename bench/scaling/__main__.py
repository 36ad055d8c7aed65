"""What a second worker on a second core gives, and how evenly calls are spread.

    python -m bench.scaling [--seconds 8] [--calls N] [--write docs/benchmarks.md]

Calls as in `bench.wire`: each opens its own WebSocket on Twilio's wire and sends a frame each 20
ms, which our server says back through its whole cascade. A core has one worker on it and one
generator in C, which takes its time first (nice -5), so that it is not late itself. With two
cores everything is there twice, on one port: workers and generators are pinned, one of each on
each core, but any caller may reach any worker. What the generator takes of a core it takes from
both measurements alike, so that the ratio is that of the server.

The target is 1.8. Needs two cores, gcc, and the right to raise a priority.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

from bench.scaling import spread
from bench.wire import report
from bench.wire.point import Point, Spread
from bench.wire.running import Broken, Running
from bench.wire.search import most
from bench.wire.subjects import SUBJECTS, Subject

SECONDS = 8
TARGET = 1.8
GENERATOR = ("nice", "-n", "-5")
START_S = 30
END_S = 10
BEGIN, END = "<!-- measured: scaling -->", "<!-- end of measured: scaling -->"


class Cores(Running):
    """So many workers, each on a core of its own."""

    def __init__(self, subject: Subject, workers: int) -> None:
        command = subject.command
        with_workers = replace(
            subject,
            command=lambda port, directory: [
                *command(port, directory), "--workers", str(workers),
            ],
        )  # fmt: skip
        super().__init__(with_workers, core=",".join(str(core) for core in range(workers)))
        self._workers = workers
        self._pids: list[int] = []

    def __enter__(self) -> Cores:
        super().__enter__()
        limit = time.monotonic() + START_S
        while len(self._pids) < self._workers:
            if time.monotonic() > limit:
                self.__exit__(None, None, None)
                raise Broken(f"{self._workers} workers did not start")
            self._pids = self._find()
            time.sleep(0.2)
        for core, pid in enumerate(self._pids):
            subprocess.run(["taskset", "-acp", str(core), str(pid)], check=True, stdout=-3)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for _ in range(2):  # the second one ends calls
            self._process.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(END_S / 2)
                break
        super().__exit__(kind, error, trace)

    def _find(self) -> list[int]:
        if self._workers == 1:
            return [self._process.pid]
        if any(each["status"] != "ok" for each in self._workers_now()):
            return []
        supervisor = self._process.pid
        children = Path(f"/proc/{supervisor}/task/{supervisor}/children")
        return [int(pid) for pid in children.read_text(encoding="ascii").split()]

    def _workers_now(self) -> list[dict[str, Any]]:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/healthz", timeout=5) as answer:
            found: list[dict[str, Any]] = json.load(answer)["workers"]
        return found

    @property
    def pid(self) -> int:
        """Of the first worker; the others have as many calls."""
        return self._pids[0] if self._pids else self._process.pid

    def hold(self, calls: int, seconds: int) -> tuple[Point, list[int]]:
        """Calls from as many generators as there are workers; and each worker's share of them."""
        count = self._workers
        shares = [calls // count + (core < calls % count) for core in range(count)]
        with ThreadPoolExecutor(count + 1) as threads:
            points = [
                threads.submit(self.measure, share, seconds, core=core, prefix=GENERATOR)
                for core, share in enumerate(shares)
            ]
            spread_in = threads.submit(self._watch, points)
            return _together([each.result() for each in points]), spread_in.result()

    def _watch(self, points: list[object]) -> list[int]:
        """The calls of each worker when there were most of them."""
        best: list[int] = []
        while self._workers > 1 and not all(each.done() for each in points):  # type: ignore[attr-defined]
            with suppress(OSError, ValueError):
                found = [each["calls"] for each in self._workers_now()]
                best = max(best, found, key=sum)
            time.sleep(1)
        return best


def _together(points: list[Point]) -> Point:
    """Several generators' points as one; of each percentile the worst."""
    first = points[0]
    return replace(
        first,
        calls=sum(each.calls for each in points),
        faults=tuple(fault for each in points for fault in (each.faults or _silence(each))),
        latency=_worst([each.latency for each in points]),
        own_lateness=_worst([each.own_lateness for each in points]),
        # Each generator watched the first worker while it ran.
        cpu_s=first.cpu_s * len(points),
        frames=sum(each.frames for each in points),
    )


def _silence(point: Point) -> tuple[str, ...]:
    """A generator that got no time sent nothing, and lost nothing."""
    return () if point.frames else ("nothing sent",)


def _worst(spreads: list[Spread | None]) -> Spread | None:
    known = [each for each in spreads if each is not None]
    return max(known, key=lambda each: each.p99) if known else None


@dataclass(frozen=True)
class Measured:
    """What one number of workers did."""

    workers: int
    points: tuple[Point, ...]
    shares: tuple[int, ...]

    @property
    def best(self) -> Point | None:
        """The most calls that were held."""
        held = [point for point in self.points if point.held]
        return max(held, key=lambda point: point.calls) if held else None


def measure(subject: Subject, workers: int, arguments: argparse.Namespace) -> Measured:
    """Search, or one point."""
    points: list[Point] = []
    shares: list[int] = []

    with Cores(subject, workers) as server:

        def hold(calls: int) -> Point:
            nonlocal shares
            for _ in range(2):
                point, shared = server.hold(calls, arguments.seconds)
                _say(workers, point, shared)
                if not point.noisy or point.held or point.hopeless:
                    break
            points.append(point)
            if point.held:
                shares = shared
            return point

        if arguments.calls:
            hold(arguments.calls * workers)
        else:
            for _ in most(hold, subject.start * workers // 2, subject.limit):
                pass
    return Measured(workers, tuple(points), tuple(shares))


def _say(workers: int, point: Point, shares: list[int]) -> None:
    late = f"p99 {point.latency.p99:.2f} ms" if point.latency else ""
    noise = "  (a generator was late itself)" if point.noisy else ""
    print(
        f"{workers} workers {point.calls:>5} calls {shares or ''}  "
        f"{point.us_per_frame:5.1f} us a frame  {late}  {', '.join(point.faults) or 'held'}{noise}",
        file=sys.stderr,
    )


def page(results: list[Measured]) -> str:
    """Markdown."""
    lines = [
        "| workers | calls held | us a frame | p50 / p99 / max, ms | calls of each worker |",
        "|---|---|---|---|---|",
    ]
    for result in results:
        best = result.best
        if best is None or best.latency is None:
            lines.append(f"| {result.workers} | none | | | |")
            continue
        late = best.latency
        lines.append(
            f"| {result.workers} | {best.calls} | {best.us_per_frame:.1f} | "
            f"{late.p50:.2f} / {late.p99:.2f} / {late.max:.1f} | "
            f"{', '.join(map(str, result.shares)) or best.calls} |"
        )
    one, two = results[0].best, results[-1].best
    if one is not None and two is not None:
        ratio = two.calls / one.calls
        verdict = "reached" if ratio >= TARGET else "missed"
        lines.append(
            f"\nTwo workers held {ratio:.2f} times the calls of one ({TARGET}: {verdict})."
        )
    return "\n".join(lines)


def main() -> int:
    """Run, print, write."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.scaling",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seconds", type=int, default=SECONDS, metavar="S", help="of each point")
    parser.add_argument(
        "--calls", type=int, metavar="N", help="measure N calls a worker, do not search"
    )
    parser.add_argument("--spread", action="store_true", help="only the kernel's own spread")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the tables into a page")
    arguments = parser.parse_args()
    text = spread.page()
    if not arguments.spread:
        if (os.cpu_count() or 1) < 2:
            parser.error("one core cannot show what a second one gives")
        subject = next(each for each in SUBJECTS if each.name == "ours")
        results = [measure(subject, workers, arguments) for workers in (1, 2)]
        text = f"{page(results)}\n\n{text}"
    print(text)
    if arguments.write:
        report.write(arguments.write, text, BEGIN, END)
    return 0


if __name__ == "__main__":
    sys.exit(main())
