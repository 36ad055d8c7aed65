"""The table of a run."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from importlib.metadata import version

from bench.turns.report import machine
from bench.webrtc.point import Point
from bench.wire.report import NOISE_NOTE, NOISY

TITLE = "Browsers held on one core"
HELD = "WebRTC, Opus both ways; p99 of the packets within 20 ms of their timestamps, nothing lost"
BEGIN, END = "<!-- measured: webrtc -->", "<!-- end of measured: webrtc -->"


@dataclass(frozen=True, slots=True)
class Measured:
    """All points of one server."""

    name: str
    title: str
    points: tuple[Point, ...]
    """The first with as many calls as that of every other server."""
    kb_per_call: float
    """Memory that one more call takes."""

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
    stock = next((r.capacity for r in results if r.name == "stock"), 0)
    alike = results[0].points[0].calls
    rows = [
        f"| server on one core | calls held | of stock aiortc | p50 / p99 / max then, ms | "
        f"us for 20 ms of a call, at {alike} / then | KB a call | echo, ms |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    rows += [_row(result, stock) for result in results]
    return "\n".join(rows) + "\n\n" + _where(results, arguments)


def _row(result: Measured, stock: int) -> str:
    best, alike = result.best, result.points[0]
    if best is None or best.lateness is None:
        return f"| {result.title} | fewer than {alike.calls} | | | {alike.us_per_frame:.0f} | | |"
    spread = best.lateness
    share = f"{result.capacity / stock:.1f}" if stock else ""
    echo = f"{alike.echo_ms:.0f}" if alike.echo_ms else ""
    return (
        f"| {result.title} | {best.calls}{NOISY if best.noisy else ''} | {share} | "
        f"{spread.p50:.1f} / {spread.p99:.1f} / {spread.max:.0f} | "
        f"{alike.us_per_frame:.0f} / {best.us_per_frame:.0f} | {result.kb_per_call:.0f} | {echo} |"
    )


def _where(results: list[Measured], arguments: argparse.Namespace) -> str:
    nice = f", niceness {arguments.nice}" if arguments.nice else ""
    text = (
        f"{machine()}; aiortc {version('aiortc')}, PyAV {version('av')}; points of "
        f"{arguments.seconds} s, server on core 0, generator on core 1{nice}."
    )
    if any(result.best is not None and result.best.noisy for result in results):
        text += f"\n\n{NOISE_NOTE}"
    return text
