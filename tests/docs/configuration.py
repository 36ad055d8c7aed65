"""The reference of the agent file's keys, from the models that validate them."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from flowcat_server.config.blocks import written_fields
from flowcat_server.config.environment import VARIABLES
from flowcat_server.config.models import Config
from flowcat_server.config.topology import ProviderSpec
from flowcat_server.config.types import DURATION_PATTERN, DurationField, format_duration
from tests.docs.attributes import one_line
from tests.docs.markers import table
from tests.docs.pages import anchor

SHARED = {"topology.fallback[]": "A provider", "turn.deadlines.stt": "A deadline"}
"""Titles of blocks that stand in several places; the path is the first of them."""


def all_keys() -> Iterator[tuple[str, type[BaseModel], str, FieldInfo]]:
    """Every key: dotted path of its block, the block's model, the key, its field."""
    seen: set[type[BaseModel]] = set()

    def walk(path: str, model: type[BaseModel]) -> Iterator[tuple[str, type[BaseModel], str, Any]]:
        if model in seen:
            return
        seen.add(model)
        for name, field in written_fields(model).items():
            yield path, model, name, field
        for name, field in written_fields(model).items():
            inner = _block(field)
            if inner is not None:
                many = "[]" if "list[" in str(field.annotation) else ""
                yield from walk(f"{path}.{name}{many}".lstrip("."), inner)

    yield from walk("", Config)


@cache
def blocks() -> dict[str, tuple[type[BaseModel], list[tuple[str, FieldInfo]]]]:
    """Keys by block, in the order of the models."""
    found: dict[str, tuple[type[BaseModel], list[tuple[str, FieldInfo]]]] = {}
    for path, model, name, field in all_keys():
        found.setdefault(path, (model, []))[1].append((name, field))
    return found


def configuration() -> str:
    """One section for each block."""
    parts: list[str] = []
    order = [*Config.model_fields]
    found = blocks()
    sections = sorted(
        (path for path in found if path),
        key=lambda path: order.index(path.split(".")[0].rstrip("[]")),
    )
    parts.append(_section("", *found[""]))
    for path in sections:
        parts.append(f"{'##' if '.' not in path else '###'} {_title(path)}")
        parts.append(_about(found[path][0]))
        parts.append(_section(path, *found[path]))
    return "\n\n".join(parts)


def variables() -> str:
    """Environment variables that set a key."""
    rows = [(f"`{name}`", f"`{'.'.join(map(str, path))}`") for name, path in VARIABLES.items()]
    rows.append(("`FLOWCAT__A__B`", "`a.b`, any key; two underscores between keys"))
    rows.append(("`FLOWCAT_CONFIG`", "the agent file, where none is named"))
    return table(("Variable", "Sets"), rows)


def _title(path: str) -> str:
    return SHARED.get(path, path)


def _about(model: type[BaseModel]) -> str:
    return one_line((model.__doc__ or "").strip())


def _section(path: str, model: type[BaseModel], fields: list[tuple[str, FieldInfo]]) -> str:
    schema = model.model_json_schema()
    schema = schema.get("$defs", {}).get(model.__name__, schema)["properties"]
    rows = []
    for name, field in fields:
        about = one_line(field.description or "")
        kind = _kind(field, schema[name])
        rows.append((f"`{name}`", kind, _default(field), about))
    return table(("Key", "Type", "Default", "Meaning"), rows)


def _kind(field: FieldInfo, rule: dict[str, Any]) -> str:
    inner = _block(field)
    many = "list[" in str(field.annotation)
    if inner is None:
        return _plain(rule)
    place = next(place for place, (model, _) in blocks().items() if model is inner)
    title = _title(place)
    noun = title.removeprefix("A ").lower() if place in SHARED else "block"
    return f"list of [{noun}s](#{anchor(title)})" if many else f"[{noun}](#{anchor(title)})"


def _plain(rule: dict[str, Any]) -> str:
    options = [option for option in rule.get("anyOf", ()) if option.get("type") != "null"]
    if any(option.get("pattern") == DURATION_PATTERN for option in options):
        return "duration"
    if "enum" in rule:
        return ", ".join(f"`{value}`" for value in rule["enum"])
    if "const" in rule:
        return f"`{rule['const']}`"
    if len(options) == 1:
        return _plain(options[0])
    if len(options) == 2 and all(option.get("type") != "array" for option in options):
        return ", ".join(_plain(option) for option in options)
    if len(options) == 2 and options[1].get("type") == "array":
        return "text or list of texts"
    if rule.get("format") == "password":
        return "secret"
    if rule.get("type") == "array":
        items = rule["items"]
        if "enum" in items:
            return "list of " + ", ".join(f"`{value}`" for value in items["enum"])
        return "list of blocks" if items.get("type") == "object" else "list of texts"
    if rule.get("type") == "integer":
        low, high = rule.get("minimum"), rule.get("maximum")
        if low is not None and high is not None:
            return f"number, {low} to {high}"
        return f"number, at least {low}" if low is not None else "number"
    names = {"string": "text", "boolean": "`true`, `false`", "object": "block", None: "any"}
    return names[rule.get("type")]


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if value is PydanticUndefined or value is None:
        return ""
    if isinstance(value, SecretStr):
        return ""
    if isinstance(value, ProviderSpec):
        return f"`{value.provider}`"
    if isinstance(value, BaseModel):
        # A block whose own keys have no defaults has them here.
        given = [name for name, inner in type(value).model_fields.items() if inner.is_required()]
        shown = ", ".join(f"{name}: {format_duration(getattr(value, name))}" for name in given)
        return f"`{{ {shown} }}`" if given else ""
    if _is_duration(field):
        return f"`{format_duration(value)}`"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if value in ("", [], {}):
        return ""
    if isinstance(value, list):
        return ", ".join(f"`{item}`" for item in value)
    return f"`{value}`"


def _is_duration(field: FieldInfo) -> bool:
    return DurationField in field.metadata or "DurationField" in str(field.annotation)


def _block(field: FieldInfo) -> type[BaseModel] | None:
    """The model of a field that is a block or a list of blocks."""
    if "ProviderRef" in str(field.annotation):  # the model's own name, while it is being made
        return ProviderSpec
    candidates: list[Any] = [field.annotation]
    while candidates:
        candidate = candidates.pop()
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
        candidates += getattr(candidate, "__args__", ())
    return None
