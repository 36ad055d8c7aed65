"""What vendors say about a failure, made readable, classified, and free of keys."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import aiohttp
import msgspec

from flowcat_server.errors import (
    ProviderBusy,
    ProviderError,
    ProviderRefused,
    ProviderUnavailable,
)
from flowcat_server.providers.http import status_error

MAX_BODY_BYTES = 16_384
"""How much of an error's body is read."""

_KEY_LIKE = re.compile(
    r"(?i)\bbearer\s+[^\s\"',;]+"
    r"|\b(?:sk|pk|rk|gsk|csk|xai|nvapi|hf|fw|pplx|tgp)[-_][\w*.\-]{6,}"
    r"|\bAIza[\w*\-]{6,}"
    r"|[\w\-]*\*{3,}[\w\-]*"
)
_PERMANENT = re.compile(
    r"insufficient_quota|billing|invalid|authentication|permission|not_?found|unsupported"
    r"|context_length|content_filter|safety|deactivated|too_large"
)
_BUSY = re.compile(r"rate_?limit|too_many|concurren|resource_?exhausted")


def redact(text: str, key: str = "") -> str:
    """`text` on one line, without `key` and without anything that looks like a key."""
    if key:
        text = text.replace(key, "[key]")
    return " ".join(_KEY_LIKE.sub("[key]", text).split())


def error_text(body: bytes) -> tuple[str, str]:
    """A vendor's error body: its message and its machine-readable words, both perhaps empty.

    Understands the shapes ``{"error": {"message", "type", "code"}}``, ``{"error": "..."}``,
    ``{"message": ...}``, ``{"detail": ...}``, the same in a list, and plain text.
    """
    try:
        parsed = msgspec.json.decode(body)
    except (ValueError, RecursionError):
        text = body.decode(errors="replace").strip()
        return ("", "") if text.startswith("<") else (text, "")
    return describe(parsed)


def describe(parsed: Any) -> tuple[str, str]:
    """As `error_text`, of a body that was already parsed."""
    if isinstance(parsed, list) and parsed:
        parsed = parsed[0]
    if isinstance(parsed, Mapping):
        inner = parsed.get("error") or parsed
        if isinstance(inner, Mapping):
            message = next(
                (inner[name] for name in ("message", "detail", "msg") if inner.get(name)), ""
            )
            words = " ".join(
                str(inner[name]) for name in ("type", "code", "status") if inner.get(name)
            )
            return _as_text(message), words.lower()
        return _as_text(inner), ""
    return _as_text(parsed), ""


def stream_error(provider: str, parsed: Any, key: str) -> ProviderError:
    """The error for an error object that came inside a stream or socket."""
    message, words = describe(parsed)
    text = redact(message or words or "unnamed error", key)[:300]
    status = re.search(r"\b[45]\d\d\b", words)
    if "insufficient_quota" in words:
        return ProviderRefused(provider, text)
    if status:
        return status_error(provider, int(status[0]), text)
    if _BUSY.search(words):
        return ProviderBusy(provider, text)
    if _PERMANENT.search(words):
        return ProviderRefused(provider, text)
    return ProviderUnavailable(provider, text)


async def read_body(response: aiohttp.ClientResponse, limit: int = MAX_BODY_BYTES) -> bytes:
    """The beginning of a body, to its end or to `limit` bytes."""
    body = bytearray()
    while len(body) < limit and (piece := await response.content.read(limit - len(body))):
        body += piece
    return bytes(body)


async def refusal(provider: str, response: aiohttp.ClientResponse, key: str) -> ProviderError:
    """The error for a response whose status is not 200; reads the beginning of its body."""
    if 300 <= response.status < 400:
        return ProviderRefused(provider, f"HTTP {response.status}: redirects are not followed")
    message, words = error_text(await read_body(response))
    text = redact(message or words or response.reason or "", key)
    if response.status == 429 and "insufficient_quota" in words:
        # OpenAI's answer to an empty account: waiting does not help.
        return ProviderRefused(provider, f"HTTP 429: {text[:300]}")
    return status_error(provider, response.status, text)


def _as_text(value: Any) -> str:
    if isinstance(value, str):
        return value
    return msgspec.json.encode(value).decode() if value else ""
