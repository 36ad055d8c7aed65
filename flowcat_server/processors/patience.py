"""How long a provider is waited for, where results come unasked: a clock, not a stream."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from flowcat_server.processors.call import Call


class Patience:
    """Calls back when something expected does not come."""

    def __init__(self, call: Call, late: Callable[[int], None]) -> None:
        """`late` is told how many milliseconds were waited."""
        self._call = call
        self._late = late
        self._wait_ms = 0
        self._due: int | None = None
        self._timer: asyncio.Handle | None = None

    def expect(self, within_ms: int) -> None:
        """Something is due from now on; replaces what was expected before."""
        self._wait_ms = within_ms
        self._due = self._call.now_ms() + within_ms
        if self._timer is None:
            self._timer = self._call.call_at(self._due, self._check)

    def rest(self) -> None:
        """Nothing is owed."""
        self._due = None

    def close(self) -> None:
        """The call is over."""
        self.rest()
        self._late = lambda waited_ms: None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _check(self) -> None:
        # One timer that looks again, for `expect` comes with every piece of audio.
        self._timer = None
        if self._due is None:
            return
        if self._call.now_ms() < self._due:
            self._timer = self._call.call_at(self._due, self._check)
            return
        self._due = None
        self._late(self._wait_ms)
