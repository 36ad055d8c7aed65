"""Places for calls: how many there are, who counts them, and what a reserved one is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from typing import Protocol

RESERVATION_S = 60.0
"""A reservation that no call has taken up by then is given back."""


class Places(Protocol):
    """Counts places. One that is taken has a number, which never means another one."""

    @property
    def used(self) -> int:
        """Places in use."""

    @property
    def live(self) -> Collection[str]:
        """Ids of the calls that other processes run on these places."""

    def take(self) -> int | None:
        """Take a place; None where all are in use."""

    def begun(self, place: int, call_id: str) -> None:
        """The place is that of this call, and this process has it."""

    def give_back(self, place: int) -> None:
        """Free a place, unless it has become another process's."""


class OwnPlaces:
    """The places of a process that shares them with no other."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._last = 0
        self._used: set[int] = set()
        self.live: Collection[str] = ()

    @property
    def used(self) -> int:
        """Places in use."""
        return len(self._used)

    def take(self) -> int | None:
        """Take a place; None where all are in use."""
        if len(self._used) >= self._limit:
            return None
        self._last += 1
        self._used.add(self._last)
        return self._last

    def begun(self, place: int, call_id: str) -> None:
        """Nobody else asks."""

    def give_back(self, place: int) -> None:
        """Free a place."""
        self._used.discard(place)


class Reservation:
    """A place for one call."""

    def __init__(self, place: int, give_back: Callable[[Reservation], None], hold_s: float) -> None:
        self.place = place
        self._give_back = give_back
        self._timer: asyncio.TimerHandle | None = asyncio.get_running_loop().call_later(
            hold_s, self.release
        )
        self.held = True
        self.taken = False

    def take(self) -> None:
        """Use the place for a call, if it has not been given back meanwhile."""
        self.taken = self.held
        self._cancel_timer()

    def part(self) -> None:
        """The place is somebody else's from now on."""
        self.held = False
        self._cancel_timer()

    def release(self) -> None:
        """Give the place back. Idempotent."""
        if self.held:
            self.part()
            self._give_back(self)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
