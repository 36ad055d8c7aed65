"""How many calls are held: doubled until they are not, then halved down to a few percent. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

STEP = 0.04
"""The answer is known to this share of itself."""
TRIES = 2
"""A point that was not held is tried again: one disturbance must not decide."""
GROWTH = 1.6


class Result(Protocol):
    """What is needed of a measurement."""

    @property
    def held(self) -> bool:
        """Whether the calls were held."""

    @property
    def hopeless(self) -> bool:
        """Whether there is no use in trying again."""


def most(measure: Callable[[int], Result], start: int, limit: int) -> Iterator[tuple[int, Result]]:
    """Measure at one number of calls after another; the largest held one is the answer.

    Args:
        measure: Runs so many calls.
        start: The first number to try.
        limit: No number is larger.
    """
    low, high = 0, limit + 1
    calls = min(start, limit)
    while True:
        result = measure(calls)
        yield calls, result
        for _ in range(TRIES - 1):
            if result.held or result.hopeless:
                break
            result = measure(calls)
            yield calls, result
        if result.held:
            low = calls
        else:
            high = calls
        if high - low <= max(1, round(low * STEP)):
            return
        if high > limit:
            calls = min(limit, max(low + 1, round(low * GROWTH)))
        elif low:
            calls = (low + high) // 2
        else:
            calls = max(1, round(high / GROWTH / GROWTH))
