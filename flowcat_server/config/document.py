"""A parsed file that remembers where each key and value stood.

Documents are merged, so two values of one document may come from different files, from the
environment or from the command line.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from flowcat_server.errors import Problem

Path = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Mark:
    """Where a key or a value came from."""

    source: str
    """File name as the user gave it, environment variable, or ``--set``."""
    line: int = 0
    """1-based; 0 outside files."""
    column: int = 0
    kind: Literal["file", "environment", "flag"] = "file"

    def __str__(self) -> str:
        return f"{self.source}:{self.line}" if self.line else self.source


@dataclass(slots=True)
class Document:
    """A value tree of dicts, lists and scalars, with a `Mark` for each path."""

    value: Any
    keys: dict[Path, Mark] = field(default_factory=dict)
    values: dict[Path, Mark] = field(default_factory=dict)
    source: str = ""
    """File name for problems that have no path."""
    expanded: set[Path] = field(default_factory=set)
    """Strings that held a ``${NAME}``."""

    def get(self, path: Path, default: Any = None) -> Any:
        """The value at a path."""
        found = self.value
        for part in path:
            try:
                found = found[part]
            except (KeyError, IndexError, TypeError):
                return default
        return found

    def mark(self, path: Path, *, key: bool = False) -> Mark | None:
        """Where a path stands: the value (or its key), else the nearest parent that is known."""
        if key and path in self.keys:
            return self.keys[path]
        for length in range(len(path), -1, -1):
            found = self.values.get(path[:length]) or self.keys.get(path[:length])
            if found is not None:
                return found
        return None

    def problem(
        self, path: Path, message: str, *, key: bool = False, warning: bool = False
    ) -> Problem:
        """A `Problem` located at a path."""
        mark = self.mark(path, key=key) or Mark(self.source)
        return Problem(
            message,
            path=dotted(path),
            file=mark.source,
            line=mark.line,
            column=mark.column,
            warning=warning,
        )

    def forget(self, path: Path) -> None:
        """Drop the marks of a path and of everything under it."""
        size = len(path)
        for marks in (self.keys, self.values):
            for known in [known for known in marks if known[:size] == path]:
                del marks[known]

    def put(self, path: Path, value: Any, mark: Mark) -> None:
        """Set the value at a path, making the mappings on the way.

        Raises `ValueError` where the way is blocked by a scalar or a list index out of range.
        """
        if not isinstance(self.value, dict):
            self.value = {}
        target: Any = self.value
        slot: Any
        for depth, part in enumerate(path[:-1]):
            here = path[: depth + 1]
            slot = _slot(target, part, here)
            child = target[slot] if isinstance(target, list) else target.get(slot)
            if child is None:
                child = {}
                self.values[here] = mark
            elif isinstance(child, str) and is_provider(here):
                child = split_short_form(child)
            elif not isinstance(child, dict | list):
                raise ValueError(f"{dotted(here)} is not a block, so nothing can be set in it")
            target[slot] = child
            target = child
        target[_slot(target, path[-1], path)] = value
        self.forget(path)
        self.keys[path] = self.values[path] = mark

    def merge(self, over: Document) -> None:
        """Lay another document over this one: blocks merge, all else replaces."""
        self.value = self._merged((), self.value, over)

    def _merged(self, path: Path, base: Any, over: Document) -> Any:
        new = over.get(path)
        if isinstance(new, dict) and isinstance(base, str) and is_provider(path):
            base = split_short_form(base)
        if not (isinstance(new, dict) and isinstance(base, dict)):
            self.forget(path)
            size = len(path)
            for mine, theirs in ((self.keys, over.keys), (self.values, over.values)):
                mine.update({known: m for known, m in theirs.items() if known[:size] == path})
            return new
        merged = dict(base)
        for name in new:
            merged[name] = self._merged((*path, name), base.get(name), over)
        return merged


def _slot(target: Any, part: str | int, path: Path) -> str | int:
    if not isinstance(target, list):
        return str(part)
    if str(part).isdecimal() and int(part) < len(target):
        return int(part)
    raise ValueError(f"{dotted(path)}: the list has {len(target)} entries, numbered from 0")


def split_short_form(text: str) -> dict[str, Any]:
    """``provider/model``, split at the first slash, as a mapping."""
    provider, _, model = text.strip().partition("/")
    return {"provider": provider, "model": model} if model else {"provider": provider}


def is_provider(path: Path) -> bool:
    """Whether a provider stands at that path, which may be written ``provider/model``."""
    if len(path) >= 2 and path[-2] == "fallback":
        return path[0] == "topology"
    return (
        len(path) == 2 and path[0] == "topology" and path[1] in ("stt", "llm", "tts", "vad", "turn")
    )


def dotted(path: Sequence[str | int]) -> str:
    """``topology.llm.fallback.0``."""
    return ".".join(str(part) for part in path)


def walk_strings(value: Any, path: Path = ()) -> Iterator[tuple[Path, str]]:
    """Every string of a tree, with its path."""
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, dict):
        for name, child in value.items():
            yield from walk_strings(child, (*path, name))
    elif isinstance(value, list):
        for number, child in enumerate(value):
            yield from walk_strings(child, (*path, number))


def map_strings(value: Any, change: Callable[[Path, str], Any], path: Path = ()) -> Any:
    """A copy of a tree with every string replaced by ``change(path, text)``."""
    if isinstance(value, str):
        return change(path, value)
    if isinstance(value, dict):
        return {name: map_strings(child, change, (*path, name)) for name, child in value.items()}
    if isinstance(value, list):
        return [map_strings(child, change, (*path, n)) for n, child in enumerate(value)]
    return value
