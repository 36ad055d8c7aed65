"""Keys pressed on the telephone, gathered to numbers. Pure: the time is given."""

from __future__ import annotations

WAIT_MS = 1500
"""Silence on the keypad that ends a number; ``#`` ends it at once."""


class Keypad:
    """The keys of one call. A number is what is pressed without a long pause."""

    def __init__(self, wait_ms: int = WAIT_MS) -> None:
        self._wait_ms = wait_ms
        self._digits: list[str] = []
        self._last_ms = 0

    def press(self, digit: str, now_ms: int) -> str:
        """A key; returns the text of the number that it ends, else an empty one."""
        self._digits.append(digit)
        self._last_ms = now_ms
        return self._end() if digit == "#" else ""

    def tick(self, now_ms: int) -> str:
        """Time has passed; as `press`."""
        due = self.deadline_ms()
        return self._end() if due is not None and now_ms >= due else ""

    def deadline_ms(self) -> int | None:
        """When `tick` ends the number, or None."""
        return self._last_ms + self._wait_ms if self._digits else None

    def _end(self) -> str:
        digits = " ".join(self._digits)
        self._digits.clear()
        return f"[keypad: {digits}]"
