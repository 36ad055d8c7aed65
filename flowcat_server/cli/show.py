"""``flowcat-server show``: the configuration in effect, and where each value came from."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from typing import Any

import yaml
from pydantic import BaseModel, SecretStr

from flowcat_server.cli.redact import HIDDEN, redacted
from flowcat_server.cli.source import add_source, load_source
from flowcat_server.config.document import Path, dotted
from flowcat_server.config.load import Loaded, origin
from flowcat_server.config.types import DurationField, Ports, format_duration

_INDENT = "  "


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    parser = commands.add_parser(
        "show",
        help="print the configuration in effect, secrets hidden",
        description="Each value's origin stands behind it.",
        allow_abbrev=False,
    )
    add_source(parser)
    parser.add_argument("--defaults", action="store_true", help="print defaults too")
    parser.add_argument("--json", action="store_true", help="print it as JSON")
    parser.set_defaults(handler=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the configuration."""
    loaded = load_source(arguments)
    values = list(settings(loaded, defaults=arguments.defaults))
    if arguments.json:
        listing = {dotted(path): {"value": value, "origin": said} for path, value, said in values}
        print(json.dumps(listing, indent=2, ensure_ascii=False))
    else:
        print("\n".join(as_yaml(values)))
    return 0


Setting = tuple[Path, Any, str]


def settings(loaded: Loaded, *, defaults: bool) -> Iterator[Setting]:
    """Path, value as written, and origin of every setting."""
    for path, value in _leaves(loaded.config, ()):
        said = origin(loaded.document, path)
        if defaults or said != "default":
            yield path, value, said


def _leaves(block: BaseModel, path: Path) -> Iterator[tuple[Path, Any]]:
    for attribute, field in type(block).model_fields.items():
        value, here = getattr(block, attribute), (*path, field.alias or attribute)
        if isinstance(value, BaseModel):
            yield from _leaves(value, here)
        elif isinstance(value, list) and value and isinstance(value[0], BaseModel):
            for number, item in enumerate(value):
                yield from _leaves(item, (*here, number))
        else:
            is_duration = DurationField in field.metadata or "DurationField" in repr(
                field.annotation
            )
            yield here, _written(here, value, is_duration)


def _written(path: Path, value: Any, is_duration: bool) -> Any:
    """A value as it is written in a file."""
    if isinstance(value, SecretStr):
        return HIDDEN if value.get_secret_value() else ""
    if isinstance(value, Ports):
        return str(value)
    if is_duration and isinstance(value, int):
        return format_duration(value)
    return redacted(path[-1], value)


def as_yaml(values: list[Setting]) -> Iterator[str]:
    """The settings as YAML lines, origins as comments."""
    open_path: Path = ()
    for path, value, said in values:
        shared = 0
        parent = path[:-1]
        while shared < min(len(parent), len(open_path)) and parent[shared] == open_path[shared]:
            shared += 1
        dash = ""
        for depth in range(shared, len(parent)):
            part = parent[depth]
            if isinstance(part, int):
                dash = _indent(parent[:depth]) + "- "
            else:
                yield (dash or _indent(parent[:depth])) + f"{part}:"
                dash = ""
        open_path = parent
        yield from _setting(dash or _indent(parent), path[-1], value, said)


def _indent(path: Path) -> str:
    return _INDENT * len(path)


def _setting(lead: str, name: str | int, value: Any, said: str) -> Iterator[str]:
    comment = f"  # {said}"
    inner = " " * len(lead) + _INDENT
    if isinstance(value, dict | list) and value:
        yield f"{lead}{name}:{comment}"
        text = yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=92)
        yield from (inner + line if line else "" for line in text.splitlines())
        return
    if isinstance(value, str) and _fits_block(value):
        yield f"{lead}{name}: |{'' if value.endswith(chr(10)) else '-'}{comment}"
        yield from (inner + line if line else "" for line in value.splitlines())
        return
    yield f"{lead}{name}: {json.dumps(value, ensure_ascii=False)}{comment}"


def _fits_block(text: str) -> bool:
    """Whether a text of several lines can stand as it is under ``|``."""
    lines = text.split("\n")
    return (
        len(lines) > 1
        and bool(lines[0].strip())
        and not lines[0].startswith((" ", "\t"))
        and not text.endswith("\n\n")
        and all(line == line.rstrip() and line.isprintable() for line in lines)
    )


class _Dumper(yaml.SafeDumper):
    """Writes texts of several lines under ``|``, as people do."""


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    style = "|" if _fits_block(value) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_Dumper.add_representer(str, _text)
