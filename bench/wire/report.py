"""The table of a run."""

from __future__ import annotations

import argparse
import sysconfig
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from bench.turns.report import machine
from bench.wire import venv
from bench.wire.point import NOISE_MS, Point

NOISY = " \\*"
NOISE_NOTE = (
    f"\\* the generator itself was late by more than {NOISE_MS:.0f} ms (p99), at its own limit or "
    "on a busy machine: the figure is provisional."
)
BEGIN, END = "<!-- measured: wire -->", "<!-- end of measured: wire -->"


@dataclass(frozen=True, slots=True)
class Measured:
    """All points of one server."""

    name: str
    title: str
    points: tuple[Point, ...]
    long: Point | None
    """At the seed's load."""
    idle_kb: int
    """Memory before the first call."""

    @property
    def best(self) -> Point | None:
        """The most calls that were held."""
        return max((p for p in self.points if p.held), key=lambda p: p.calls, default=None)

    @property
    def capacity(self) -> int:
        """The number of them."""
        return self.best.calls if self.best else 0


def page(results: list[Measured], arguments: argparse.Namespace) -> str:
    """Everything that is printed and written."""
    parts = [_capacity(results)]
    if any(result.long for result in results):
        parts.append(_long(results))
    parts.append(_where(results, arguments))
    return "\n\n".join(parts)


def _capacity(results: list[Measured]) -> str:
    bare = next((r.capacity for r in results if r.name == "aiohttp"), 0)
    rows = [
        "| server on one core | calls held | of bare aiohttp | p50 / p99 / max then, ms | "
        "us a frame | core |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for result in results:
        best = result.best
        share = f"{result.capacity / bare:.2f}" if bare else ""
        if best is None:
            least = min((p.calls for p in result.points), default=0)
            rows.append(f"| {result.title} | fewer than {least} | | | | |")
            continue
        spread = best.answer or best.latency
        late = f"{spread.p50:.2f} / {spread.p99:.1f} / {spread.max:.0f}" if spread else ""
        calls = f"{best.calls}{NOISY if best.noisy else ''}"
        rows.append(
            f"| {result.title} | {calls} | {share} | {late} | {best.us_per_frame:.0f} | "
            f"{best.core:.0%} |"
        )
    return "\n".join(rows)


def _long(results: list[Measured]) -> str:
    point = next(r.long for r in results if r.long)
    rows = [
        f"{point.calls} calls for {point.seconds} s, ms:",
        "",
        "| server | p50 | p90 | p99 | p99.9 | max | lost or broken | core |",
        "|---|--:|--:|--:|--:|--:|---|--:|",
    ]
    for result in results:
        point = result.long
        if point is None or point.latency is None:
            continue
        spread = point.latency
        numbers = (spread.p50, spread.p90, spread.p99, spread.p999, spread.max)
        values = " | ".join(f"{value:.2f}" for value in numbers)
        faults = ", ".join(f for f in point.faults if "p99" not in f) or "none"
        rows.append(f"| {result.title} | {values} | {faults} | {point.core:.0%} |")
    return "\n".join(rows)


def _where(results: list[Measured], arguments: argparse.Namespace) -> str:
    versions = [f"aiohttp {aiohttp.__version__}"]
    if any(result.name.startswith("pipecat") for result in results):
        versions.append(f"pipecat {venv.version(venv.pipecat(), 'pipecat-ai')}")
    noisy = any(result.best is not None and result.best.noisy for result in results)
    note = f"\n\n{NOISE_NOTE}"
    if "--enable-optimizations" not in (sysconfig.get_config_var("CONFIG_ARGS") or ""):
        versions.append("Python built without profile-guided optimization")
    nice = f", niceness {arguments.nice}" if arguments.nice else ""
    return (
        f"{machine()}; {', '.join(versions)}; points of {arguments.seconds} s, server on core 0, "
        f"generator on core 1{nice}.{note if noisy else ''}"
    )


def write(file: Path, text: str, begin: str = BEGIN, end: str = END) -> None:
    """Put the table between the marks of a page."""
    old = file.read_text(encoding="utf-8")
    before, rest = old.split(begin)
    after = rest.split(end)[1]
    file.write_text(f"{before}{begin}\n\n{text}\n\n{end}{after}", encoding="utf-8")
