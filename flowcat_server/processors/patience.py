"""How long a provider is waited for, where results come unasked: a clock, not a stream."""

from __future__ import annotations

import asyncio

from flowcat_server.errors import ProviderTimeout
from flowcat_server.processors.call import Call


class Patience:
    """Ends the call with `ProviderTimeout` when something expected does not come."""

    def __init__(self, call: Call, name: str) -> None:
        self._call = call
        self._name = name
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
        error = ProviderTimeout(self._name, f"silent for {self._wait_ms} ms")
        error.stage = "realtime"
        raise error
