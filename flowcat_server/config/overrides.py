"""Settings from outside the file: ``--set``, and environment variables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from flowcat_server.config.document import Document, Mark, Path
from flowcat_server.config.environment import Environment
from flowcat_server.config.yaml import parse_yaml, scalar
from flowcat_server.errors import ConfigError, Problem

PREFIX = "FLOWCAT__"
"""``FLOWCAT__SERVER__BIND`` sets ``server.bind``; two underscores separate keys."""


def apply_environment(document: Document, environ: Mapping[str, str]) -> list[Problem]:
    """Lay the environment over a document."""
    problems: list[Problem] = []
    for name, path, value in Environment.read(environ).set_keys():
        problems += _put(document, path, value, Mark(name, kind="environment"))
    for name in sorted(environ):
        if name.startswith(PREFIX) and len(name) > len(PREFIX):
            path = tuple(name.removeprefix(PREFIX).lower().split("__"))
            mark = Mark(name, kind="environment")
            problems += _put_text(document, path, environ[name], mark)
    return problems


def apply_flags(document: Document, settings: Iterable[str]) -> list[Problem]:
    """Lay ``--set a.b.c=value`` arguments over a document, in order."""
    problems: list[Problem] = []
    for setting in settings:
        name, equals, text = setting.partition("=")
        path = tuple(name.strip().split("."))
        if not equals or "" in path:
            problems.append(
                Problem(f"--set takes key=value, such as server.bind=:7000; found {setting!r}")
            )
            continue
        problems += _put_text(document, path, text, Mark("--set", kind="flag"))
    return problems


def _put_text(document: Document, path: Path, text: str, mark: Mark) -> list[Problem]:
    try:
        value = value_of(text)
    except ConfigError as error:
        reason = error.problems[0].message
        return [Problem(reason, path=".".join(map(str, path)), file=mark.source)]
    return _put(document, path, value, mark)


def _put(document: Document, path: Path, value: Any, mark: Mark) -> list[Problem]:
    try:
        document.put(path, value, mark)
    except ValueError as error:
        return [Problem(str(error), file=mark.source)]
    return []


def value_of(text: str) -> Any:
    """A value written on one line: a scalar, or a YAML list or mapping in brackets."""
    stripped = text.strip()
    if stripped.startswith(("[", '"', "'")) or (
        stripped.startswith("{") and not stripped.startswith("{{")
    ):
        return parse_yaml(stripped, "").value
    return scalar(stripped)
