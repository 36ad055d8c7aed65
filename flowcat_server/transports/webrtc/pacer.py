"""The 20 ms beat of all calls of a process.

One timer for many calls instead of one each, on absolute time: beat n is due at t0 + n x 20 ms,
so that lateness does not add up. The calls are spread over four phases of 5 ms, so that the work
of a beat does not come all at once. `time.monotonic` and not the loop's clock, which moves in
steps of a millisecond under uvloop.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from typing import Protocol

BEAT_S = 0.020
PHASES = 4
MAX_BEHIND = 10
"""Beats that are caught up after the loop stood still; older ones are skipped."""
_EARLY_S = 0.001


class Paced(Protocol):
    """What is called on the beat."""

    def beat(self, number: int) -> None:
        """Beat `number` is due. Numbers rise; some are skipped when the process was stopped."""

    def failed(self) -> None:
        """`beat` raised: this one is off the beat now."""


class _Phase:
    def __init__(self, origin: float) -> None:
        self.members: list[Paced] = []
        self.origin = origin
        self.number = 0
        self.handle: asyncio.TimerHandle | None = None


class Pacer:
    """Calls its members every 20 ms while it has any. Not thread-safe: one per event loop."""

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        """`clock` in seconds; `loop`: the running one."""
        self.max_late_ms = 0
        """The worst lateness of a beat so far."""
        self._clock = clock
        self._loop = loop or asyncio.get_running_loop()
        origin = clock()
        self._phases = [_Phase(origin + BEAT_S * n / PHASES) for n in range(PHASES)]

    def add(self, member: Paced) -> None:
        """Begin to call `member`, first within 20 ms."""
        phase = min(self._phases, key=lambda phase: len(phase.members))
        phase.members.append(member)
        if phase.handle is None:
            behind = self._clock() - phase.origin
            phase.number = max(phase.number, math.floor(behind / BEAT_S) + 1)
            self._schedule(phase)

    def discard(self, member: Paced) -> None:
        """Stop calling `member`; allowed at any time, also from within `beat`."""
        for phase in self._phases:
            if member in phase.members:
                # A new list: the old one may be in iteration.
                phase.members = [other for other in phase.members if other is not member]
                if not phase.members and phase.handle is not None:
                    phase.handle.cancel()
                    phase.handle = None

    def _schedule(self, phase: _Phase) -> None:
        due = phase.origin + phase.number * BEAT_S
        phase.handle = self._loop.call_later(max(0.0, due - self._clock()), self._run, phase)

    def _run(self, phase: _Phase) -> None:
        phase.handle = None
        now = self._clock()
        due = phase.origin + phase.number * BEAT_S
        self.max_late_ms = max(self.max_late_ms, int((now - due) * 1000))
        behind = int((now + _EARLY_S - due) / BEAT_S)
        if behind > MAX_BEHIND:
            phase.number += behind - MAX_BEHIND
            behind = MAX_BEHIND
        try:
            if now + _EARLY_S >= due:
                for _ in range(behind + 1):
                    number = phase.number
                    phase.number += 1
                    self._beat(phase, number)
        finally:
            if phase.members and phase.handle is None:
                self._schedule(phase)

    def _beat(self, phase: _Phase, number: int) -> None:
        members = phase.members
        for index, member in enumerate(members):
            try:
                member.beat(number)
            except BaseException:
                # One call's fault must not silence the others; it rises to the loop's handler.
                self.discard(member)
                member.failed()
                for other in members[index + 1 :]:
                    self._loop.call_soon(other.beat, number)
                raise
