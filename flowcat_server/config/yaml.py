"""YAML as people expect it, with the position of every key and value.

PyYAML follows YAML 1.1, where ``no`` is False, ``+44...`` and ``0123`` are integers, ``1:30`` is
90 and a key given twice is silently the last one. Here plain scalars follow the core schema of
YAML 1.2 (https://yaml.org/spec/1.2.2/#103-core-schema), except that numbers with a leading zero
or plus stay text, as telephone numbers and PINs must; a key given twice is an error.

The C parser's events are used directly: it is ten times faster than the pure one (which would
stall live calls during a reload), and depth, size and alias expansion are limited here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

import yaml

from flowcat_server.config.document import Document, Mark, Path, dotted
from flowcat_server.errors import ConfigError, Problem

HAVE_C = hasattr(yaml, "CSafeLoader")
"""Whether libyaml is there; without it everything works, more slowly."""

MAX_CHARACTERS = 1_000_000
MAX_DEPTH = 60
MAX_NODES = 100_000
"""Keys and values, each alias counted as what it stands for."""

_INT = re.compile(r"-?(?:0|[1-9]\d{0,30})")
_BASED = re.compile(r"0o[0-7]{1,30}|0x[0-9a-fA-F]{1,30}")
_FLOAT = re.compile(r"-?(?:\.\d+|(?:0|[1-9]\d*)(?:\.\d*)?)(?:[eE][-+]?\d{1,3})?")
_WORDS: dict[str, Any] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys((".inf", ".Inf", ".INF"), float("inf")),
    **dict.fromkeys(("-.inf", "-.Inf", "-.INF"), float("-inf")),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), float("nan")),
}
_CORE = "tag:yaml.org,2002:"
_TAGS: dict[str, type | tuple[type, ...]] = {
    _CORE + "int": int,
    _CORE + "float": (int, float),
    _CORE + "bool": bool,
    _CORE + "null": type(None),
}
_ADVICE = (
    ("cannot start any token", "a tab or a special character cannot stand here; indent with "
     "spaces, and quote text that starts with @, ` or %"),
    ("mapping values are not allowed", "a colon is not expected here; quote text that holds "
     "': ', and check the indentation"),
    ("could not find expected ':'", "a colon is missing after the key, or the indentation is off"),
    ("did not find expected key", "a key is expected here; check indentation and quotes"),
    ("expected <block end>", "a key is expected here; check indentation and quotes"),
    ("did not find expected '-'", "a list entry (-) is expected here; check the indentation"),
    ("did not find expected ',' or", "a comma or closing bracket is missing"),
    ("expected ',' or", "a comma or closing bracket is missing"),
    ("expected node content", "a value is expected here; is a bracket left open?"),
    ("expected the node content", "a value is expected here; is a bracket left open?"),
    ("unexpected end of stream", "a quote is opened but never closed"),
    ("undefined alias", "this alias (*name) has no anchor (&name) before it"),
    ("special characters are not allowed", "a control character stands here"),
    ("control characters are not allowed", "a control character stands here"),
)  # fmt: skip


def scalar(text: str) -> Any:
    """The value of a plain (unquoted) scalar."""
    if text in _WORDS:
        return _WORDS[text]
    if _INT.fullmatch(text):
        return int(text)
    if _BASED.fullmatch(text):
        return int(text, 0)
    if _FLOAT.fullmatch(text) and len(text) < 400:
        return float(text)
    return text


def parse_yaml(text: str, source: str) -> Document:
    """Parse one YAML document. Raises `ConfigError`."""
    if len(text) > MAX_CHARACTERS:
        raise ConfigError(
            Problem(f"is too long: more than {MAX_CHARACTERS:,} characters", file=source)
        )
    builder = _Builder(source)
    loader = yaml.CSafeLoader if HAVE_C else yaml.SafeLoader
    try:
        return builder.build(yaml.parse(text, Loader=loader))
    except yaml.MarkedYAMLError as error:
        raise ConfigError(_syntax(error, text, source)) from error
    except yaml.YAMLError as error:
        raise ConfigError(_unreadable(error, text, source)) from error
    except UnicodeEncodeError as error:
        line, column = _line_column(text, error.start)
        raise ConfigError(
            Problem("this character is not valid text", file=source, line=line, column=column)
        ) from error


def parse_json(text: str, source: str) -> Document:
    """Parse a JSON document. Raises `ConfigError`."""
    if len(text) > MAX_CHARACTERS:
        raise ConfigError(
            Problem(f"is too long: more than {MAX_CHARACTERS:,} characters", file=source)
        )
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(
            Problem(
                f"is not JSON: {_lower(error.msg)}",
                file=source,
                line=error.lineno,
                column=error.colno,
            )
        ) from error
    except (RecursionError, ValueError) as error:
        raise ConfigError(Problem("is not JSON: nested too deeply", file=source)) from error
    try:
        # JSON is YAML but for a few escapes; the YAML parser knows positions and repeated keys.
        document = parse_yaml(text, source)
    except ConfigError as error:
        if any(_own(problem) for problem in error.problems):
            raise
        return Document(value, source=source)
    document.value = value
    return document


def _own(problem: Problem) -> bool:
    return "given twice" in problem.message or "nested" in problem.message


@dataclass(slots=True)
class _Anchor:
    value: Any
    marks: list[tuple[Path, Mark, bool]]
    """As `_Builder._journal`, with paths relative to the anchor."""


class _Builder:
    """Turns parser events into a `Document`."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._document = Document(None, source=source)
        self._anchors: dict[str, _Anchor] = {}
        self._nodes = 0
        self._journal: list[tuple[Path, Mark, bool]] = []
        """Every mark in order, so that an anchor's own are the last ones (True: of a key)."""
        self._events: Iterator[Any] = iter(())

    def build(self, events: Iterator[Any]) -> Document:
        self._events = events
        for event in events:
            if isinstance(event, yaml.DocumentStartEvent):
                if self._nodes:
                    self._fail("holds more than one document; one file describes one agent", event)
                self._document.value = self._node(next(events), ())
        return self._document

    def _node(self, event: Any, path: Path) -> Any:
        start = len(self._journal)
        self._remember(path, self._mark(event))
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event, path)
        self._count(event, 1)
        if len(path) > MAX_DEPTH:
            self._fail(f"is nested more than {MAX_DEPTH} levels deep", event, path[:3])
        value: Any
        if isinstance(event, yaml.ScalarEvent):
            value = self._scalar(event, path)
        elif isinstance(event, yaml.SequenceStartEvent):
            self._plain_tag(event, "seq", path)
            value = self._list(path)
        else:
            self._plain_tag(event, "map", path)
            value = self._mapping(path)
        if event.anchor:
            size = len(path)
            own = [(known[size:], mark, key) for known, mark, key in self._journal[start:]]
            self._anchors[event.anchor] = _Anchor(value, own)
        return value

    def _remember(self, path: Path, mark: Mark, *, key: bool = False) -> None:
        (self._document.keys if key else self._document.values)[path] = mark
        self._journal.append((path, mark, key))

    def _list(self, path: Path) -> list[Any]:
        value: list[Any] = []
        for event in self._events:
            if isinstance(event, yaml.SequenceEndEvent):
                break
            value.append(self._node(event, (*path, len(value))))
        return value

    def _mapping(self, path: Path) -> dict[str, Any]:
        value: dict[str, Any] = {}
        merged: list[tuple[Any, Any]] = []
        for event in self._events:
            if isinstance(event, yaml.MappingEndEvent):
                break
            name = self._key(event, path)
            here = (*path, name)
            if name == "<<" and not event.style:
                merged.append((event, self._node(next(self._events), here)))
                continue
            if name in value:
                first = self._document.keys[here]
                self._fail(f"{name!r} is given twice, here and in line {first.line}", event, here)
            self._remember(here, self._mark(event), key=True)
            value[name] = self._node(next(self._events), here)
        for event, found in merged:
            self._merge_key(event, found, value, path)
        return value

    def _merge_key(self, event: Any, found: Any, value: dict[str, Any], path: Path) -> None:
        blocks = found if isinstance(found, list) else [found]
        if not all(isinstance(block, dict) for block in blocks):
            self._fail("<< must be given a mapping, or a list of mappings", event, path)
        for block in blocks:
            for name, child in block.items():
                value.setdefault(name, child)

    def _key(self, event: Any, path: Path) -> str:
        self._count(event, 1)
        if not isinstance(event, yaml.ScalarEvent):
            self._fail(
                "a key must be plain text; quote text that starts with { or [, such as "
                "{{name}}", event, path,
            )  # fmt: skip
        key: str = event.value
        return key

    def _scalar(self, event: Any, path: Path) -> Any:
        text: str = event.value
        tag = event.tag
        if tag is None:
            return scalar(text) if not event.style else text
        if tag in ("!", _CORE + "str"):
            return text
        value = scalar(text)
        wanted = _TAGS.get(tag)
        if wanted is None:
            self._fail(f"the tag {tag!r} is not supported", event, path)
        if not isinstance(value, wanted):
            self._fail(f"{text[:40]!r} is not what its tag says", event, path)
        return value

    def _plain_tag(self, event: Any, kind: str, path: Path) -> None:
        if event.tag not in (None, "!", _CORE + kind):
            self._fail(f"the tag {event.tag!r} is not supported", event, path)

    def _alias(self, event: Any, path: Path) -> Any:
        anchor = self._anchors.get(event.anchor)
        if anchor is None:
            self._fail(f"*{event.anchor} has no finished anchor &{event.anchor} before it",
                       event, path)  # fmt: skip
        self._count(event, len(anchor.marks))
        for known, mark, key in anchor.marks:
            if len(path) + len(known) > MAX_DEPTH:
                self._fail(f"is nested more than {MAX_DEPTH} levels deep", event, path[:3])
            if known:
                self._remember((*path, *known), mark, key=key)
        return anchor.value

    def _count(self, event: Any, nodes: int) -> None:
        self._nodes += nodes
        if self._nodes > MAX_NODES:
            self._fail(f"holds more than {MAX_NODES:,} values (aliases counted in full)", event)

    def _mark(self, event: Any) -> Mark:
        mark = event.start_mark
        return Mark(self._source, mark.line + 1, mark.column + 1)

    def _fail(self, message: str, event: Any, path: Path = ()) -> NoReturn:
        mark = self._mark(event)
        raise ConfigError(
            Problem(
                message, path=dotted(path), file=mark.source, line=mark.line, column=mark.column
            )
        )


def _syntax(error: yaml.MarkedYAMLError, text: str, source: str) -> Problem:
    mark = error.problem_mark or error.context_mark
    found = " ".join(part for part in (error.context, error.problem) if part)
    message = next((advice for words, advice in _ADVICE if words in found), found)
    lines = text.splitlines()
    if mark and mark.line < len(lines) and lines[mark.line][mark.column :].startswith("\t"):
        message = "a tab cannot indent YAML; use spaces"
    if "quoted scalar" in found:
        message, mark = "a quote is opened here but never closed", error.context_mark or mark
    return Problem(
        f"is not YAML: {message}",
        file=source,
        line=mark.line + 1 if mark else 0,
        column=mark.column + 1 if mark else 0,
    )


def _unreadable(error: yaml.YAMLError, text: str, source: str) -> Problem:
    position = getattr(error, "position", None)
    if not isinstance(position, int):
        return Problem("is not YAML: it cannot be read", file=source)
    line, column = _line_column(text, position)
    return Problem("is not YAML: a control character stands here", file=source, line=line,
                   column=column)  # fmt: skip


def _line_column(text: str, position: int) -> tuple[int, int]:
    before = text[:position]
    return before.count("\n") + 1, position - (before.rfind("\n") + 1) + 1


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]
