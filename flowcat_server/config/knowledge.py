"""Facts of the agent: from ``knowledge:`` itself, and from the files it names.

A Markdown file holds a question as heading over each answer; several headings in a row are
wordings of one question. Text before the first heading is a fact without a question. A YAML or
JSON file holds a list of ``{questions, answer}``.
"""

from __future__ import annotations

import re
from pathlib import Path as FilePath
from typing import Any

from pydantic import ValidationError

from flowcat_server.config.document import Document, Path
from flowcat_server.config.explain import explain
from flowcat_server.config.files import parse_text, read_text, shown
from flowcat_server.config.models import Knowledge
from flowcat_server.core.graph import Fact
from flowcat_server.errors import ConfigError, Problem

_HEADING = re.compile(r"#{1,6}\s+(.*?)\s*#*")


def read_facts(
    entries: list[Knowledge], document: Document, base_dir: FilePath
) -> tuple[tuple[Fact, ...], list[Problem]]:
    """Every fact, in order, with unique ids."""
    facts: list[Fact] = []
    problems: list[Problem] = []
    for number, entry in enumerate(entries):
        if not entry.path:
            facts.append(
                Fact(entry.name or f"fact-{number + 1}", tuple(entry.questions), entry.answer)
            )
            continue
        file = base_dir / entry.path
        here: Path = ("knowledge", number, "path")
        if not file.exists():
            message = f"there is no file {shown(file)}; the agent runs without it"
            problems.append(document.problem(here, message, warning=True))
            continue
        try:
            facts += _from_file(entry, file)
        except ConfigError as error:
            problems += [
                problem if problem.line else document.problem(here, problem.message)
                for problem in error.problems
            ]
    return _unique(facts), problems


def _from_file(entry: Knowledge, file: FilePath) -> list[Fact]:
    text = read_text(file)
    name = entry.name or file.stem
    if file.suffix.lower() in (".yaml", ".yml", ".json"):
        return _from_list(name, parse_text(text, file))
    return _from_markdown(name, text)


def _from_list(name: str, document: Document) -> list[Fact]:
    if not isinstance(document.value, list):
        raise ConfigError(document.problem((), "must be a list of {questions, answer}"))
    facts: list[Fact] = []
    problems: list[Problem] = []
    for number, item in enumerate(document.value):
        try:
            entry = Knowledge.model_validate(item)
        except ValidationError as error:
            for found in error.errors():
                path: Path = (number, *found["loc"])
                key = found["type"] == "extra_forbidden"
                problems.append(document.problem(path, explain(_plain(found), path), key=key))
            continue
        facts.append(
            Fact(entry.name or f"{name}-{number + 1}", tuple(entry.questions), entry.answer)
        )
    if problems:
        raise ConfigError(problems)
    return facts


def _plain(found: Any) -> dict[str, Any]:
    entry: dict[str, Any] = dict(found)
    if entry["type"] == "extra_forbidden":
        entry |= {"type": "value_error", "ctx": {"error": f"unknown key {entry['loc'][-1]!r}"}}
    return entry


def _from_markdown(name: str, text: str) -> list[Fact]:
    facts: list[Fact] = []
    questions: list[str] = []
    answer: list[str] = []

    def finish() -> None:
        said = " ".join(" ".join(answer).split())
        if said:
            facts.append(Fact(f"{name}-{len(facts) + 1}", tuple(questions), said))
            questions.clear()
        answer.clear()

    for line in text.splitlines():
        heading = _HEADING.fullmatch(line.strip())
        if heading is None:
            answer.append(line.strip())
            continue
        finish()
        questions.append(heading[1])
    finish()
    return facts


def _unique(facts: list[Fact]) -> tuple[Fact, ...]:
    taken: set[str] = set()
    unique: list[Fact] = []
    for fact in facts:
        identity, number = fact.id, 2
        while identity in taken:
            identity, number = f"{fact.id}-{number}", number + 1
        taken.add(identity)
        unique.append(Fact(identity, fact.questions, fact.answer))
    return tuple(unique)
