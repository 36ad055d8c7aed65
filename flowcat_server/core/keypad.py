"""Keys pressed on the telephone, gathered to numbers. Pure: the time is given.

A number ends with its terminator, with its length, or when the keypad rests; what is pressed
afterwards begins the next one, so that no key is lost. A terminator behind a number that its
length has already ended belongs to that number: people press it out of habit.
"""

from __future__ import annotations

from dataclasses import dataclass

WAIT_MS = 1500
"""Silence on the keypad that ends a number of unknown length."""
KEYS = "0123456789*#ABCD"
"""The sixteen keys of ITU-T Q.23."""
MOST = 64
"""Keys in one number; the next one begins another."""


@dataclass(frozen=True, slots=True)
class Keys:
    """What makes a number."""

    length: int = 0
    """How many keys it has; 0: not known."""
    terminator: str = "#"
    """The key that ends it at once; empty: none."""
    timeout_ms: int = WAIT_MS
    """How long the keypad rests before the number counts as complete."""


class Keypad:
    """The keys of one call."""

    def __init__(self) -> None:
        self._keys: list[str] = []
        self._due_ms = 0
        self._full_until_ms = -1
        """Until then a terminator belongs to the number that was complete without it."""

    def press(self, key: str, rules: Keys, now_ms: int) -> str | None:
        """A key; returns the text of the number that it ends, else an empty one.

        None: a terminator that belongs to the number before.
        """
        habit = key == rules.terminator and not self._keys and now_ms < self._full_until_ms
        self._full_until_ms = -1
        if habit:
            return None
        self._keys.append(key)
        self._due_ms = now_ms + rules.timeout_ms
        if key == rules.terminator:
            return self.finish()
        if len(self._keys) >= (rules.length or MOST):
            self._full_until_ms = self._due_ms
            return self.finish()
        return ""

    def tick(self, now_ms: int) -> str:
        """Time has passed; as `press`."""
        due = self.deadline_ms()
        return self.finish() if due is not None and now_ms >= due else ""

    def deadline_ms(self) -> int | None:
        """When `tick` ends the number that is being keyed in; None: none is."""
        return self._due_ms if self._keys else None

    def finish(self) -> str:
        """The text of the number that is being keyed in, which ends; empty if none is."""
        if not self._keys:
            return ""
        keys = " ".join(self._keys)
        self._keys.clear()
        return f"[keypad: {keys}]"
