"""Words on the terminal: problems, and colour where it is wanted."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import TextIO

from flowcat_server.errors import Problem

_CODES = {"red": "31", "yellow": "33", "green": "32", "dim": "2"}


def paint(text: str, colour: str, stream: TextIO) -> str:
    """The text in a colour, if the stream is a terminal and NO_COLOR is not set."""
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb" or not stream.isatty():
        return text
    return f"\x1b[{_CODES[colour]}m{text}\x1b[0m"


def print_problems(problems: Iterable[Problem], stream: TextIO) -> None:
    """One line per problem, then how many there are."""
    found = list(problems)
    for problem in found:
        print(line(problem, stream), file=stream)
    if len(found) > 1:
        print(count(found), file=stream)


def line(problem: Problem, stream: TextIO) -> str:
    """``agent.yaml:3:5: error: server.bind: must be ...``."""
    where = problem.file
    if problem.line:
        where += f":{problem.line}:{problem.column}"
    kind = paint("warning", "yellow", stream) if problem.warning else paint("error", "red", stream)
    parts = [part for part in (where, kind, problem.path) if part]
    return ": ".join([*parts, problem.message])


def count(problems: Sequence[Problem]) -> str:
    """``2 errors, 1 warning``."""
    warnings = sum(problem.warning for problem in problems)
    errors = len(problems) - warnings
    parts = []
    if errors:
        parts.append(f"{errors} error{'s' * (errors > 1)}")
    if warnings:
        parts.append(f"{warnings} warning{'s' * (warnings > 1)}")
    return ", ".join(parts) or "no problems"


def as_json(problem: Problem) -> dict[str, object]:
    """A problem as JSON."""
    return {
        "severity": "warning" if problem.warning else "error",
        "file": problem.file,
        "line": problem.line,
        "column": problem.column,
        "path": problem.path,
        "message": problem.message,
    }
