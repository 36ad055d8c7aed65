"""Did you mean: the nearest allowed name."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def nearest(name: str, allowed: Iterable[str]) -> str | None:
    """The allowed name that was probably meant, or None."""
    by_lower = {known.lower(): known for known in allowed}
    found = get_close_matches(name[:80].lower(), by_lower, n=1, cutoff=0.6)
    return by_lower[found[0]] if found else None


def did_you_mean(name: str, allowed: Iterable[str]) -> str:
    """``; did you mean 'model'?`` or nothing."""
    found = nearest(name, allowed)
    return f"; did you mean {found!r}?" if found else ""


def listed(names: Iterable[str], limit: int = 24) -> str:
    """Names in a sentence, shortened."""
    known = list(names)
    more = f" and {len(known) - limit} more" if len(known) > limit else ""
    return ", ".join(known[:limit]) + more
