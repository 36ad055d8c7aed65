"""Field types of the configuration: durations, port ranges, texts, secrets."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

from pydantic import BeforeValidator, GetJsonSchemaHandler, WithJsonSchema
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

_UNIT_MS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_DURATION = re.compile(r"(\d{1,12}(?:\.\d{1,6})?) ?(ms|s|m|h|d)?")
_MAX_DURATION_MS = 3660 * _UNIT_MS["d"]
_PORTS = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?")

DURATION_PATTERN = r"^\d+(\.\d+)? ?(ms|s|m|h|d)?$"


def parse_duration(value: object) -> int:
    """Milliseconds of ``300ms``, ``8s``, ``10m``, ``2h``, ``30d`` or a bare number of seconds.

    Raises `ValueError` with a sentence for the user.
    """
    hint = "a duration such as 300ms, 8s, 10m or 30d (a bare number is seconds)"
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(f"must be {hint}")  # noqa: TRY004 - pydantic turns ValueErrors into problems
    text = value.strip() if isinstance(value, str) else f"{value:f}" if value == value else ""
    match = _DURATION.fullmatch(text)
    if match is None:
        raise ValueError(f"must be {hint}")
    number, unit = match.groups()
    milliseconds = float(number) * _UNIT_MS[unit or "s"]
    if milliseconds > _MAX_DURATION_MS:
        raise ValueError("must be ten years at most")
    return round(milliseconds)


def format_duration(milliseconds: int) -> str:
    """The shortest exact way to write a duration."""
    for unit in ("d", "h", "m", "s"):
        if milliseconds and milliseconds % _UNIT_MS[unit] == 0:
            return f"{milliseconds // _UNIT_MS[unit]}{unit}"
    return f"{milliseconds}ms" if milliseconds else "0s"


class DurationField:
    """Marks a field as a duration, so that it can be shown as one."""


Duration = Annotated[
    int,
    BeforeValidator(parse_duration),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "pattern": DURATION_PATTERN},
                {"type": "number", "minimum": 0, "description": "Seconds."},
            ]
        }
    ),
    DurationField,
]
"""Milliseconds; written ``300ms``, ``8s``, ``10m``, ``30d``, or as a bare number of seconds."""


class Ports(NamedTuple):
    """An inclusive range of UDP ports."""

    first: int
    last: int

    def __str__(self) -> str:
        return f"{self.first}-{self.last}"


def parse_ports(value: object) -> Ports | None:
    """``"10000-10100"`` or one port; empty means that the system chooses."""
    if value is None or value == "":
        return None
    if isinstance(value, Ports):
        return value
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    match = _PORTS.fullmatch(text.replace(" ", "")) if isinstance(text, str) else None
    if match is None:
        raise ValueError('must be a port range such as "10000-10100"')
    first = int(match[1])
    last = int(match[2] or first)
    if not 1024 <= first <= last <= 65535:
        raise ValueError("must lie within 1024-65535, lower port first")
    return Ports(first, last)


PortRange = Annotated[
    Ports | None,
    BeforeValidator(parse_ports),
    WithJsonSchema({"type": "string", "pattern": r"^(\d{1,5} ?- ?\d{1,5}|\d{4,5})?$"}),
]
"""``Ports(first, last)``, or None when the system chooses."""


MAX_WORKERS = 256


def parse_workers(value: object) -> int | str:
    """A number of processes, or ``auto``. Raises `ValueError` with a sentence for the user."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    if value == "auto" or (whole and 1 <= value <= MAX_WORKERS):  # type: ignore[operator]
        return value  # type: ignore[return-value]
    raise ValueError(f"must be a whole number from 1 to {MAX_WORKERS}, or auto")


Workers = Annotated[
    int | str,
    BeforeValidator(parse_workers),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer", "minimum": 1, "maximum": MAX_WORKERS},
                {"type": "string", "const": "auto"},
            ]
        }
    ),
]
"""How many processes; ``auto``: one for each core."""


def _as_list(value: object) -> object:
    if value is None or value == "":
        return []
    return [value] if isinstance(value, str | int | float) else value


Texts = Annotated[
    list[str],
    BeforeValidator(_as_list),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}),
]
"""One text or a list of them; always a list after parsing."""


@dataclass(frozen=True)
class OrString:
    """Adds a short string form to a field's JSON Schema (the model parses it itself)."""

    description: str

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        short: dict[str, Any] = {"type": "string", "description": self.description}
        return {"anyOf": [short, handler(schema)]}


def parse_bind(text: str) -> tuple[str, int]:
    """Address and port of ``0.0.0.0:6210``, ``[::]:6210`` or ``:6210`` (all addresses).

    Port 0 lets the system choose. Raises `ValueError` with a sentence for the user.
    """
    host, colon, port = text.strip().rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        colon = ""
    if not colon or not port.isascii() or not port.isdecimal() or int(port[:6]) > 65535:
        raise ValueError(f'must be address:port, such as 0.0.0.0:6210; found "{text[:60]}"')
    return host or "0.0.0.0", int(port)  # noqa: S104 - an empty host asks for all addresses
