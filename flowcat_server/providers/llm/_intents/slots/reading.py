"""What a rule found in a sentence."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Reading:
    """A value found in what was said."""

    value: str | int | bool = ""
    """As it is stored: ISO 8601 for days (``2026-11-27``) and times (``15:30``)."""
    spoken: str = ""
    """As it is said back."""
    problem: str = ""
    """A wording group instead of a value: what was said cannot be taken as it is."""
    detail: str = ""
    """Fills ``{detail}`` of the problem's wording."""
    span: tuple[int, int] = (0, 0)
    """Where it stands in the normalized sentence."""
