"""Whether the agent answers as fast as it should, and which stage is to blame if not."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from flowcat_server.core.events import Latency

WINDOW = 100
"""Turns that are looked at."""
ENOUGH = 20
"""Turns needed before a percentile means anything."""


@dataclass(frozen=True, slots=True)
class Overspent:
    """The 95th percentile of the last turns is over budget."""

    p95_ms: int
    stage: str
    """The part of `Latency` that took most of the time in the turns over budget."""
    stage_ms: int
    """Its mean in these turns."""


class LatencyBudget:
    """Looks at every answered turn of a process."""

    def __init__(self, p95_ms: int) -> None:
        self.p95_ms = p95_ms
        self._turns: deque[Latency] = deque(maxlen=WINDOW)

    def observe(self, latency: Latency) -> Overspent | None:
        """Take a turn; says so if the budget is exceeded with it."""
        self._turns.append(latency)
        if len(self._turns) < ENOUGH:
            return None
        totals = sorted(turn.total_ms for turn in self._turns)
        p95 = totals[(len(totals) * 95 + 99) // 100 - 1]
        if p95 <= self.p95_ms:
            return None
        slow = [turn.parts() for turn in self._turns if turn.total_ms > self.p95_ms]
        means = {part: sum(turn[part] for turn in slow) // len(slow) for part in slow[0]}
        stage = max(means, key=lambda part: means[part])
        return Overspent(p95, stage, means[stage])
