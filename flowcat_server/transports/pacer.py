"""One clock for all sockets that are sent audio: a single timer, never one per call."""

from __future__ import annotations

import asyncio
from typing import Protocol

TICK_MS = 20


class Paced(Protocol):
    """Something that wants to be called every tick while it has audio to send."""

    def pump(self) -> bool:
        """Send what is due. False: nothing more to send, stop calling."""

    def failed(self) -> None:
        """`pump` raised: this one is off the clock now."""


class Pacer:
    """Calls every registered member each 20 ms at absolute times (n * 20 ms from the start).

    The timer stops when nobody is registered. A late loop skips missed ticks: members send by
    the clock, not by counting ticks.
    """

    def __init__(self) -> None:
        self._members: set[Paced] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0

    def add(self, member: Paced) -> None:
        """Start calling `member`; it is called on the next tick."""
        self._members.add(member)
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._due = loop.time() + TICK_MS / 1000
            self._timer = loop.call_at(self._due, self._tick)

    def remove(self, member: Paced) -> None:
        """Stop calling `member`."""
        self._members.discard(member)

    def _tick(self) -> None:
        # The next tick first: whatever a member does, the others are called again.
        loop = asyncio.get_running_loop()
        step = TICK_MS / 1000
        now = loop.time()
        self._due += step
        if self._due <= now:
            self._due += step * (1 + int((now - self._due) / step))
        self._timer = loop.call_at(self._due, self._tick)
        members = list(self._members)
        for index, member in enumerate(members):
            try:
                if member in self._members and not member.pump():
                    self._members.discard(member)
            except BaseException:
                # One call's fault must not silence the others; it rises to the loop's handler.
                self._members.discard(member)
                member.failed()
                for other in members[index + 1 :]:
                    loop.call_soon(self._late, other)
                raise
        if not self._members:
            self._timer.cancel()
            self._timer = None

    def _late(self, member: Paced) -> None:
        if member in self._members and not member.pump():
            self._members.discard(member)
