"""Values from the wire, whose types vary: scalars, objects, formats, keys."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any

import msgspec

from flowcat_server.core.audio import AudioFormat, Encoding
from flowcat_server.core.carrier import Digit, Fed, Ignored

MAX_ID_CHARS = 128
MAX_PARAMETERS = 64
MAX_PARAMETER_CHARS = 1024
MAX_NUMBER_BITS = 128
DTMF_KEYS = frozenset("0123456789*#ABCD")
UNREADABLE = (msgspec.MsgspecError, RecursionError, ValueError)
"""What decoding JSON raises; nesting and lone surrogates included."""
RATES = frozenset({8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 96000, 192000})

_NOT_IN_NUMBERS = re.compile(r"[^A-Za-z0-9+*#.:;=@_~-]")
_ENCODINGS: Mapping[str, Encoding] = {
    "mulaw": "mulaw",
    "x-mulaw": "mulaw",
    "ulaw": "mulaw",
    "pcmu": "mulaw",
    "g711u": "mulaw",
    "alaw": "alaw",
    "x-alaw": "alaw",
    "pcma": "alaw",
    "l16": "pcm16",
    "x-l16": "pcm16",
    "x-raw": "pcm16",
    "raw": "pcm16",
    "pcm": "pcm16",
}

decode_json = msgspec.json.Decoder().decode


def encode_json(value: object) -> str:
    """JSON without blanks."""
    return msgspec.json.encode(value).decode()


def parse_object(message: str | bytes) -> dict[str, Any] | str:
    """A JSON object, or why it is none."""
    try:
        fields = decode_json(message)
    except UNREADABLE:
        return "unreadable message"
    return fields if isinstance(fields, dict) else "not an object"


def fault(reason: str) -> Ignored:
    """Something that should not have been sent."""
    return Ignored(reason, fault=True)


def obj(value: object) -> Mapping[str, Any]:
    """An object; anything else is an empty one."""
    return value if isinstance(value, dict) else {}


def text(value: object) -> str:
    """A scalar as text; anything else, and numbers without measure, are empty."""
    match value:
        case str():
            return value
        case bool():
            return "true" if value else "false"
        case int():
            return str(value) if value.bit_length() <= MAX_NUMBER_BITS else ""
        case float():
            return str(int(value)) if value.is_integer() else str(value)
        case _:
            return ""


def number(value: object) -> str:
    """Who calls or is called: a number, a SIP address, a name without blanks.

    Callers choose what stands there (RFC 3261 section 20.20); it goes into prompts, records and
    logs, so nothing is left of it that means something in markup, templates or a terminal.
    """
    return _NOT_IN_NUMBERS.sub("", text(value)[:MAX_ID_CHARS])


def short(value: object, limit: int = MAX_ID_CHARS) -> str:
    """A scalar as text, cut to a length."""
    return text(value)[:limit]


def first(fields: Mapping[str, Any], names: Iterable[str]) -> Any:
    """The first of several spellings that is there and not null."""
    for name in names:
        value = fields.get(name)
        if value is not None:
            return value
    return None


def parameters(values: Mapping[str, Any]) -> dict[str, str]:
    """Custom parameters, limited in number and length."""
    return {
        short(name, MAX_PARAMETER_CHARS): short(value, MAX_PARAMETER_CHARS)
        for name, value in islice(values.items(), MAX_PARAMETERS)
    }


def key(value: object) -> Fed:
    """One DTMF key."""
    digit = text(value).upper()
    return Digit(digit) if digit in DTMF_KEYS and digit else fault("not a key")


def audio_format(encoding: str, rate: str = "") -> AudioFormat | None:
    """A format by the names that carriers give it; None if we cannot read it.

    Understands ``audio/x-mulaw``, ``PCMA``, ``L16``, and ``audio/l16;rate=16000``.
    """
    name, *attributes = encoding.lower().split(";")
    name = name.strip().removeprefix("audio/")
    for attribute in attributes:
        label, _, value = attribute.partition("=")
        if label.strip() == "rate" and not rate:
            rate = value.strip()
    kind = _ENCODINGS.get(name)
    rate = rate or "8000"
    if kind is None or not (rate.isascii() and rate.isdigit() and len(rate) <= 6):
        return None
    hertz = int(rate)
    if hertz not in RATES or (kind != "pcm16" and hertz != 8000):
        return None
    return AudioFormat(kind, hertz)
