"""Validation errors in plain language: what was found, what is allowed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from flowcat_server.config.document import Path
from flowcat_server.config.suggest import nearest

_SECRET_NAMES = ("api_key", "auth_token", "api_token", "secret", "credential", "password", "token")
_KINDS = {
    "model_type": "a block of keys",
    "model_attributes_type": "a block of keys",
    "dict_type": "a block of keys",
    "list_type": "a list",
    "string_type": "text",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_parsing_size": "a smaller number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
}
_BOUNDS = {
    "greater_than_equal": ("at least", "ge"),
    "greater_than": ("more than", "gt"),
    "less_than_equal": ("at most", "le"),
    "less_than": ("less than", "lt"),
}


def is_secret(name: object) -> bool:
    """Whether a key of that name holds something that must never be shown."""
    plain = str(name).lower().replace("-", "_")
    return plain in _SECRET_NAMES or plain.endswith(("_key", "_token", "_secret", "_password",
                                                     "authorization"))  # fmt: skip


def show_value(path: Path, value: Any) -> str:
    """A value as the user wrote it, shortened; secrets are hidden."""
    if any(is_secret(part) for part in path):
        return "(hidden)"
    if isinstance(value, dict):
        return "a block of keys"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    if value is None:
        return "nothing"
    if isinstance(value, str):
        text = value if len(value) <= 60 else value[:57] + "..."
        return json.dumps(text, ensure_ascii=False)
    return json.dumps(value)[:60] if isinstance(value, bool | int | float) else "another value"


def explain(error: Mapping[str, Any], path: Path) -> str:
    """One sentence for one entry of `pydantic.ValidationError.errors()`."""
    kind, context = error["type"], error.get("ctx", {})
    found = error.get("input")
    if kind == "missing":
        return f"the key {path[-1]!r} is missing"
    said = f"; found {show_value(path, found)}"
    if kind == "value_error":
        sentence = str(context.get("error", ""))
        return sentence + (said if sentence.startswith("must") else "")
    if kind in ("literal_error", "enum"):
        return _choice(str(context.get("expected", "")), found, said)
    if kind in _BOUNDS:
        words, bound = _BOUNDS[kind]
        return f"must be {words} {context.get(bound)}{said}"
    if kind == "string_pattern_mismatch":
        return f"must consist of letters, digits, _ and -, and begin with a letter{said}"
    if kind == "string_type" and isinstance(found, bool | int | float):
        return f"must be text{said}; write it in quotes"
    if kind in _KINDS:
        return f"must be {_KINDS[kind]}{said}"
    message = str(error.get("msg", "is wrong"))
    return message[:1].lower() + message[1:] + said


def _choice(expected: str, found: object, said: str) -> str:
    allowed = [part.strip().strip("'") for part in expected.replace(" or ", ",").split(",")]
    allowed = [name for name in allowed if name]
    meant = nearest(found, allowed) if isinstance(found, str) else None
    hint = f"; did you mean {meant!r}?" if meant else ""
    rule = f"one of {', '.join(allowed)}" if len(allowed) > 1 else repr(allowed[0])
    return f"must be {rule}{said}{hint}"
