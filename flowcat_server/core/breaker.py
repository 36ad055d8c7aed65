"""Whether a provider is worth asking: a circuit breaker, one per provider and process.

    closed --failures in a row--> open --open_ms--> half open --success--> closed
                                   ^                    |
                                   '------ failure -----'

Theory of operation. All calls tell the same breaker how their uses of the provider went. An open
breaker puts the provider last, so that calls begin with its fallback at once. After `open_ms` it
is half open: the next call that would use the provider is its trial, all others stay where they
are until the trial has gone well. Nothing is asked only to find out: a trial is a caller's call,
and that call has the fallback behind it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["closed", "half_open", "open"]


@dataclass(frozen=True, slots=True)
class BreakerRules:
    """When a provider is left alone, and for how long."""

    failures: int = 2
    """In a row."""
    open_ms: int = 30_000


class Breaker:
    """One provider's health, as all calls of this process see it. Pure."""

    def __init__(self, rules: BreakerRules | None = None) -> None:
        self._rules = rules or BreakerRules()
        self._failures = 0
        self._opened_ms: int | None = None
        self._trial_ms: int | None = None
        self.opened = 0
        """How often it has opened."""
        self.guesses_used = self.guesses_dropped = 0
        """Replies that were begun before the caller's turn had ended, and what became of them."""
        self.hedges_lost = 0
        """How often the next provider, asked beside this one, was the first to answer."""

    def state(self, now_ms: int) -> State:
        """Where it stands."""
        if self._opened_ms is None:
            return "closed"
        return "half_open" if now_ms - self._opened_ms >= self._rules.open_ms else "open"

    def admits(self, now_ms: int) -> bool:
        """Whether a call should use the provider now; in the half-open state, as its trial."""
        state = self.state(now_ms)
        if state != "half_open":
            return state == "closed"
        # A call may end before its trial has an outcome: the trial is then somebody else's.
        running = self._trial_ms is not None and now_ms - self._trial_ms < self._rules.open_ms
        if not running:
            self._trial_ms = now_ms
        return not running

    def succeeded(self) -> bool:
        """A use went well; says whether this closed the breaker."""
        closed = self._opened_ms is not None
        self._failures = 0
        self._opened_ms = self._trial_ms = None
        return closed

    def failed(self, now_ms: int, *, for_good: bool = False) -> bool:
        """A use failed, `for_good` where trying again cannot help; says whether this opened it."""
        self._failures += 1
        state = self.state(now_ms)
        if state == "open":
            return False
        if state == "closed" and self._failures < self._rules.failures and not for_good:
            return False
        self._opened_ms, self._trial_ms = now_ms, None
        self.opened += 1
        return True
