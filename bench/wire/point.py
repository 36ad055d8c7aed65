"""One measurement: so many calls for so many seconds, and whether they were held."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

LATEST_MS = 20.0
"""A frame of 20 ms that is later than this has missed its place."""
ANSWER_MS = 40.0
"""Added to the providers' own time, at most, for 99 of 100 answers."""
NOISE_MS = 1.0
"""A generator that is itself later than this (p99) says nothing about the server."""


@dataclass(frozen=True, slots=True)
class Spread:
    """Percentiles, milliseconds."""

    count: int
    p50: float
    p90: float
    p95: float
    p99: float
    p999: float
    max: float

    @staticmethod
    def read(values: Mapping[str, int] | None) -> Spread | None:
        """From the generator's microseconds; None: nothing was measured."""
        if values is None:
            return None
        ms = {name: value / 1000 for name, value in values.items() if name != "count"}
        return Spread(values["count"], **ms)


@dataclass(frozen=True, slots=True)
class Point:
    """What the generator saw."""

    calls: int
    seconds: int
    faults: tuple[str, ...]
    """Why the calls were not held; empty: they were."""
    latency: Spread | None
    """Echo: from sending a frame to having it back."""
    own_lateness: Spread | None
    """Of the generator itself."""
    first_audio: Spread | None
    """From dialling to the first audio."""
    answer: Spread | None
    """Agents: from when the answer was due to when it came."""
    lateness: Spread | None
    """Agents: each 20 ms of an answer, for a listener without a buffer."""
    cpu_s: float
    rss_kb: int
    frames: int

    @property
    def held(self) -> bool:
        """Whether every call was served as it should be."""
        return not self.faults

    @property
    def hopeless(self) -> bool:
        """Whether no disturbance explains it: half of the frames were too late."""
        spread = self.answer or self.latency
        return not self.held and (spread is None or spread.p50 > LATEST_MS)

    @property
    def noisy(self) -> bool:
        """Whether the generator was late itself, so that the point does not count."""
        own = self.own_lateness
        return own is not None and own.p99 > NOISE_MS

    @property
    def core(self) -> float:
        """Share of a core that the server took."""
        return self.cpu_s / self.seconds

    @property
    def us_per_frame(self) -> float:
        """The server's processor time for each frame of a caller, all that it does included."""
        return self.cpu_s * 1e6 / self.frames if self.frames else 0.0


def read(result: Mapping[str, Any]) -> Point:
    """The generator's JSON."""
    return Point(
        calls=result["calls"],
        seconds=result["seconds"],
        faults=tuple(_faults(result)),
        latency=Spread.read(result["latency"]),
        own_lateness=Spread.read(result["own_lateness"]),
        first_audio=Spread.read(result["first_audio"]),
        answer=Spread.read(result["answer"]),
        lateness=Spread.read(result["lateness"]),
        cpu_s=result["cpu_s"],
        rss_kb=result["rss_kb"],
        frames=result["frames_sent"],
    )


def _faults(result: Mapping[str, Any]) -> list[str]:
    counted = ("refused", "closed", "doubled", "unreadable", "incomplete")
    found = [f"{result[name]} {name}" for name in counted if result[name]]
    if result["refusal"]:
        found.append(result["refusal"])
    if result["aborted"]:
        found.append("given up")
    if result["live"] < result["calls"]:
        found.append(f"{result['calls'] - result['live']} calls not up")
    if result["questions"]:
        if missing := result["questions"] - result["answered"]:
            found.append(f"{missing} unanswered")
        found += _late("answer", result["answer"], ANSWER_MS)
        found += _late("output", result["lateness"], LATEST_MS)
    elif result["latency"] is not None or result["frames_sent"]:
        if lost := result["frames_sent"] - result["frames_back"]:
            found.append(f"{lost} lost")
        found += _late("echo", result["latency"], LATEST_MS)
    return found


def _late(what: str, values: Mapping[str, int] | None, most_ms: float) -> list[str]:
    if values is None:
        return [f"no {what}"]
    p99 = values["p99"] / 1000
    return [f"{what} p99 {p99:.1f} ms"] if p99 > most_ms else []
