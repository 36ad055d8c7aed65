"""JSON Schema of the agent file, for completion and checking in editors.

It describes what may be written: short forms, durations as text, and ``${NAME}`` where a number or
a choice is expected. It refuses unknown keys everywhere, as ``flowcat-server check`` does.
"""

from __future__ import annotations

from typing import Any

from flowcat_server.config.models import Config

DIALECT = "https://json-schema.org/draft/2020-12/schema"
_VARIABLE = {"type": "string", "pattern": r"\$\{", "description": "Filled in from the environment."}


def json_schema() -> dict[str, Any]:
    """The schema as a JSON object."""
    schema = Config.model_json_schema()
    for block in (schema, *schema.get("$defs", {}).values()):
        _close(block)
    schema["patternProperties"] = {"^x-": True}
    return {"$schema": DIALECT, **schema, "title": "flowcat-server agent file"}


def _close(block: dict[str, Any]) -> None:
    if "properties" not in block:
        return
    block["additionalProperties"] = False
    for name, rule in block["properties"].items():
        rule.pop("title", None)
        rule.pop("default", None)
        block["properties"][name] = _or_variable(rule)


def _or_variable(rule: dict[str, Any]) -> dict[str, Any]:
    """Let ``${NAME}`` stand for a number, a choice or a flag, and for a patterned text."""
    plain = {key: value for key, value in rule.items() if key != "description"}
    closed = (
        plain.get("type") in ("integer", "number", "boolean")
        or "enum" in plain
        or "const" in plain
        or "pattern" in str(plain)
    )
    if not closed:
        return rule
    return {"description": rule.get("description", ""), "anyOf": [plain, _VARIABLE]}
