"""One clock for all sockets that are sent audio: a single timer, never one per call."""

from __future__ import annotations

import asyncio
from math import ceil
from typing import Protocol

TICK_MS = 20
STEP_S = TICK_MS / 1000
EARLY = 0.05
"""A tick that comes this share of one early is on time: clocks are read in milliseconds."""
STOP = -1


class Paced(Protocol):
    """Something that wants to be called while it has audio to send."""

    def pump(self) -> int:
        """Send what is due.

        Returns in how many milliseconds it wants to be called again, at the earliest on the next
        tick; `STOP`: not any more.
        """

    def failed(self) -> None:
        """`pump` raised: this one is off the clock now."""


class Pacer:
    """Calls members on ticks at absolute times (n * 20 ms from the start), each when it wants to.

    The timer stops when nobody is registered. A late loop skips missed ticks: members send by
    the clock, not by counting ticks.
    """

    def __init__(self) -> None:
        self._ticks: dict[int, list[Paced]] = {}
        """Who is called on a tick, or was to be and has been moved."""
        self._members: dict[Paced, int] = {}
        """On which tick each is called."""
        self._timer: asyncio.TimerHandle | None = None
        self._begun = 0.0
        self._last = 0
        """The tick that was reached, counted from `_begun`."""

    def add(self, member: Paced, after_ms: int = 0) -> None:
        """Call `member` when this time has passed, on the next tick if it is 0.

        Who is to be called already is called at the earlier of the two times.
        """
        loop = asyncio.get_running_loop()
        if self._timer is None:
            self._begun, self._last = loop.time(), 0
            self._timer = loop.call_at(self._begun + STEP_S, self._tick)
        tick = self._tick_after(loop.time(), after_ms)
        if self._members.get(member, tick + 1) > tick:
            self._place(member, tick)

    def remove(self, member: Paced) -> None:
        """Stop calling `member`."""
        self._members.pop(member, None)

    def _tick_after(self, now: float, after_ms: int) -> int:
        if after_ms <= 0:
            return self._last + 1
        ticks = (now - self._begun + after_ms / 1000) / STEP_S
        return max(self._last + 1, ceil(ticks - EARLY))

    def _place(self, member: Paced, tick: int) -> None:
        self._members[member] = tick
        self._ticks.setdefault(tick, []).append(member)

    def _tick(self) -> None:
        # The next tick first: whatever a member does, the others are called again.
        loop = asyncio.get_running_loop()
        now = loop.time()
        reached = max(self._last + 1, int((now - self._begun) / STEP_S + EARLY))
        ticks, self._last = range(self._last + 1, reached + 1), reached
        self._timer = loop.call_at(self._begun + (reached + 1) * STEP_S, self._tick)
        due = [member for tick in ticks for member in self._ticks.pop(tick, ())]
        for index, member in enumerate(due):
            try:
                self._call(member, now)
            except BaseException:
                # One call's fault must not silence the others; it rises to the loop's handler.
                self._members.pop(member, None)
                member.failed()
                for other in due[index + 1 :]:
                    loop.call_soon(self._call, other, now)
                raise
        if not self._members:
            self._timer.cancel()
            self._timer = None
            self._ticks.clear()

    def _call(self, member: Paced, now: float) -> None:
        members = self._members
        if members.get(member, self._last + 1) > self._last:
            return  # it was removed, or put off
        after_ms = member.pump()
        if after_ms < 0:
            members.pop(member, None)
            return
        tick = self._tick_after(now, after_ms)
        placed = members.get(member, 0)
        if not self._last < placed <= tick:  # else `pump` has asked for an earlier one
            self._place(member, tick)
