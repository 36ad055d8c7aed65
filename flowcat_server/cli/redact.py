"""Hides what must not be shown: keys, tokens, passwords inside addresses."""

from __future__ import annotations

import re
from typing import Any

from flowcat_server.config.explain import is_secret

HIDDEN = "(hidden)"
_PASSWORD = re.compile(r"(://[^/\s:@]*:)[^/\s@]+@")
_PARAMETER = re.compile(
    r"([?&][\w-]*(?:key|token|secret|password|signature)[\w-]*=)[^&\s]+", re.IGNORECASE
)


def redacted(name: object, value: Any) -> Any:
    """A copy of a value without secrets; `name` is the key it stands under."""
    if isinstance(value, dict):
        return {key: redacted(key, child) for key, child in value.items()}
    if isinstance(value, list):
        return [redacted(name, child) for child in value]
    if isinstance(value, str) and value:
        if is_secret(name):
            return HIDDEN
        return _PARAMETER.sub(rf"\1{HIDDEN}", _PASSWORD.sub(rf"\1{HIDDEN}@", value))
    return value
