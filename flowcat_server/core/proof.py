"""Credentials of RFC 7617, and comparing secrets in constant time."""

from __future__ import annotations

import hmac
from base64 import b64encode


def basic(user: str, password: str) -> str:
    """The value of an ``Authorization`` header."""
    return "Basic " + b64encode(f"{user}:{password}".encode()).decode()


def same(expected: str, offered: str) -> bool:
    """Equality in constant time, whatever characters were offered."""
    return hmac.compare_digest(
        expected.encode("utf-8", "replace"), offered.encode("utf-8", "replace")
    )
