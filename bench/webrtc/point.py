"""One measurement: so many browsers for so many seconds, and whether they were held."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bench.webrtc.subjects import ALIKE
from bench.wire.point import LATEST_MS, NOISE_MS, Spread

PACKETS_A_SECOND = 50
MISSED = 0.01
"""Of the pieces of 20 ms, the share that a server may leave out."""


@dataclass(frozen=True, slots=True)
class Point:
    """What the generator saw."""

    calls: int
    seconds: float
    faults: tuple[str, ...]
    """Why the calls were not held; empty: they were."""
    lateness: Spread | None
    """Of each packet against its own timestamp."""
    own_lateness: Spread | None
    """Of the generator itself."""
    echo_ms: float
    """From sending a sound to the arrival of the packet in which it comes back; 0: no echo."""
    spoke: float
    """Share of the time in which the server's side was heard."""
    cpu_s: float
    rss_kb: int

    @property
    def held(self) -> bool:
        """Whether every call was served as it should be."""
        return not self.faults

    @property
    def hopeless(self) -> bool:
        """Whether no disturbance explains it: half of the packets were too late."""
        return not self.held and (self.lateness is None or self.lateness.p50 > LATEST_MS)

    @property
    def noisy(self) -> bool:
        """Whether the generator was late itself, so that the point does not count."""
        return self.own_lateness is not None and self.own_lateness.p99 > NOISE_MS

    @property
    def core(self) -> float:
        """Share of a core that the server took."""
        return self.cpu_s / self.seconds

    @property
    def us_per_frame(self) -> float:
        """The server's processor time for each 20 ms of a call, both ways."""
        return self.cpu_s * 1e6 / (self.calls * self.seconds * PACKETS_A_SECOND)


def read(result: Mapping[str, Any], *, echoes: bool) -> Point:
    """The generator's JSON."""
    return Point(
        calls=result["calls"],
        seconds=result["seconds"],
        faults=tuple(_faults(result, echoes)),
        lateness=Spread.read(result["lateness"]),
        own_lateness=Spread.read(result["own_lateness"]),
        echo_ms=result["echo_ms"] if echoes else 0.0,
        spoke=result["spoke"],
        cpu_s=result["cpu_s"],
        rss_kb=result["rss_kb"],
    )


def _faults(result: Mapping[str, Any], echoes: bool) -> list[str]:
    found = [f"{result[name]} {name}" for name in ("closed", "lost", "silent") if result[name]]
    if result["refusal"]:
        found.append(result["refusal"])
    if result["live"] < result["calls"]:
        found.append(f"{result['calls'] - result['live']} calls not up")
    if result["skipped"] > result["expected"] * MISSED:
        found.append(f"{result['skipped']} pieces left out")
    lateness = result["lateness"]
    if lateness is None:
        found.append("no packets")
    elif (p99 := lateness["p99"] / 1000) > LATEST_MS:
        found.append(f"packets p99 {p99:.1f} ms")
    if echoes and result["likeness"] < ALIKE:
        found.append(f"what came back is not what was said ({result['likeness']:.2f})")
    return found
