"""Whether the event loop keeps up: new calls are turned away while it does not.

Theory of operation. The loop is asked for a tick every 20 ms and says how late each one was. A
single stall, however long, is one late tick and says nothing about the next call. A loop that has
too much to do is late again and again: when a tenth of the last `TICKS` was late by more than the
bound, the server is overloaded, until nine tenths of as many are late by less than half of it.
Counted are ticks, not seconds: a loop that turns twice a second is overloaded after five turns,
and is believed again only when it has turned well for a second.
"""

from __future__ import annotations

from collections import deque

TICKS = 50
"""That are looked at: a second of a loop that keeps up."""
ENOUGH = TICKS // 10
"""Late ticks among them that are no accident."""


class Overload:
    """One loop's lateness, and what it means for the next call. Pure."""

    def __init__(self, max_lag_ms: int) -> None:
        """`max_lag_ms`: ticks may be so late; 0: the loop is never overloaded."""
        self._late, self._half = max_lag_ms, max_lag_ms / 2
        self._lags: deque[float] = deque(maxlen=TICKS)
        self.overloaded = False
        """No new call should be taken."""

    def observe(self, lag_ms: float) -> bool:
        """Take a tick that was `lag_ms` late; says whether `overloaded` has changed."""
        if not self._late:
            return False
        self._lags.append(lag_ms)
        if not self.overloaded and lag_ms <= self._late:
            return False  # nearly every tick: a good one never makes it worse
        bound = self._half if self.overloaded else self._late
        late = sum(lag > bound for lag in self._lags) >= ENOUGH
        changed = late is not self.overloaded
        self.overloaded = late
        return changed

    def lag_ms(self) -> int:
        """What nine tenths of the last ticks were not later than."""
        lags = sorted(self._lags)
        return round(lags[len(lags) * 9 // 10]) if lags else 0
