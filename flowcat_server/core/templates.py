"""``{{variables}}`` in prompts and fixed texts, filled in per call."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

_VARIABLE = re.compile(r"\{\{\s*([A-Za-z_][\w.]*(?:[/+\-]\w+)*)\s*(?:\|\s*([^{}]*?)\s*)?\}\}")


def render(text: str, variables: Mapping[str, Any]) -> str:
    """Replace ``{{name}}`` and ``{{name | fallback}}``; unknown names become their fallback.

    Values are inserted as they are and never read as templates again, since some of them come
    from the caller.
    """
    if "{{" not in text:
        return text

    def value(match: re.Match[str]) -> str:
        found: Any = variables
        for part in match[1].split("."):
            found = found.get(part) if isinstance(found, Mapping) else None
            if found is None:
                # Names that hold a slash, such as current_time_Europe/London, are whole keys.
                found = variables.get(match[1])
                break
        return (match[2] or "") if found is None else str(found)

    return _VARIABLE.sub(value, text)


def names(text: str) -> set[str]:
    """The variables that a text refers to."""
    return {match[1] for match in _VARIABLE.finditer(text)}


def time_variables(wanted: set[str], now: datetime) -> dict[str, str]:
    """Flowcat's clock variables among `wanted`.

    ``current_time``, ``current_date``, ``current_weekday``, each with an optional
    ``_<IANA zone>`` suffix; an unknown zone falls back to `now`'s own.
    """
    found: dict[str, str] = {}
    for name in wanted:
        for prefix, pattern in (
            ("current_time", "%H:%M"),
            ("current_date", "%Y-%m-%d"),
            ("current_weekday", "%A"),
        ):
            if name == prefix or name.startswith(prefix + "_"):
                zone = name[len(prefix) + 1 :]
                moment = now
                if zone:
                    try:
                        moment = now.astimezone(ZoneInfo(zone))
                    except (ZoneInfoNotFoundError, ValueError, OSError):  # "Europe" is a directory
                        moment = now
                found[name] = moment.strftime(pattern)
    return found
