"""Loads an agent file: read, merge, expand, override, validate.

Precedence, strongest first: ``--set``, environment, ``<name>.local.yaml`` beside the file, the
file, defaults.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import Any

from flowcat_server.config.document import (
    Document,
    Mark,
    Path,
    is_provider,
    map_strings,
    split_short_form,
)
from flowcat_server.config.expand import UnsetVariable, expand
from flowcat_server.config.files import parse_text, read_text, shown
from flowcat_server.config.graph import Defaults, build_graph, prompt_graph
from flowcat_server.config.knowledge import read_facts
from flowcat_server.config.models import Config
from flowcat_server.config.overrides import apply_environment, apply_flags
from flowcat_server.config.semantics import check
from flowcat_server.config.validate import validate
from flowcat_server.core.agent import SEND_KEYS
from flowcat_server.core.graph import Fact, Graph
from flowcat_server.errors import ConfigError, Problem


@dataclass(frozen=True, slots=True)
class Loaded:
    """A configuration that can be run, and where it came from."""

    config: Config
    path: FilePath
    """The agent file, absolute."""
    graph: Graph
    """The agent's graph; for a prompt alone, one node and a way to end."""
    knowledge: tuple[Fact, ...]
    warnings: tuple[Problem, ...]
    files: tuple[FilePath, ...]
    """Every file read, for reloading on change."""
    document: Document
    work_dir: FilePath
    """Where relative paths of what is written (records) start: beside the file, or the current
    directory for a bundled file."""
    agents: Mapping[str, Loaded] = field(default_factory=dict)
    """The files of ``routes.agents``, by the names they have there."""

    @property
    def base_dir(self) -> FilePath:
        """Where relative paths of the file start."""
        return self.path.parent

    def origin(self, path: str) -> str:
        """Where the value at a dotted path came from, such as ``agent.yaml:12``."""
        parts = tuple(int(part) if part.isdecimal() else part for part in path.split("."))
        return origin(self.document, parts)


def origin(document: Document, path: Path) -> str:
    """``agent.yaml:12``, the name of an environment variable, ``--set`` or ``default``."""
    mark = document.values.get(path)
    if mark is not None:
        return str(mark)
    block = document.get(path[:-1])
    if isinstance(block, str) and is_provider(path[:-1]):
        block = split_short_form(block)
    # What a short form (openai/gpt-4o) or a merged key (<<) stands for has its parent's place.
    if isinstance(block, dict) and path[-1] in block:
        mark = document.mark(path[:-1])
    return str(mark) if mark is not None else "default"


def load(
    path: FilePath | str,
    *,
    settings: Iterable[str] = (),
    environ: Mapping[str, str] = os.environ,
    refuse_unknown: bool = False,
    work_dir: FilePath | None = None,
) -> Loaded:
    """Load an agent file. Raises `ConfigError` with every mistake found.

    `settings` are ``key=value`` texts of ``--set``. `refuse_unknown` makes unknown keys in
    Flowcat's own blocks errors rather than warnings.
    """
    file = FilePath(path)
    return load_text(
        read_text(file),
        file,
        settings=settings,
        environ=environ,
        refuse_unknown=refuse_unknown,
        work_dir=work_dir,
    )


def load_text(
    text: str,
    path: FilePath,
    *,
    settings: Iterable[str] = (),
    environ: Mapping[str, str] = os.environ,
    refuse_unknown: bool = False,
    work_dir: FilePath | None = None,
) -> Loaded:
    """As `load`, with the file's text given."""
    document, files = _parsed(text, path)
    problems = apply_environment(document, environ)
    problems += apply_flags(document, settings)
    return _finish(document, files, problems, path, environ, refuse_unknown, work_dir)


def _parsed(text: str, path: FilePath) -> tuple[Document, list[FilePath]]:
    """A file with its ``.local`` companion laid over it, and the names of both."""
    document = parse_text(text, path)
    local = local_file(path)
    if local is None:
        return document, [path]
    over = parse_text(read_text(local), local)
    if over.value is not None:
        document.merge(over)
    return document, [path, local]


def _finish(
    document: Document,
    files: list[FilePath],
    problems: list[Problem],
    path: FilePath,
    environ: Mapping[str, str],
    refuse_unknown: bool,
    work_dir: FilePath | None,
) -> Loaded:
    """Expand, validate, and read the other files that a document names."""
    problems += expand_document(document, environ)
    said = {problem.path for problem in problems}
    config, found = validate(document, refuse_unknown=refuse_unknown)
    problems += [problem for problem in found if problem.path not in said]
    graph, found = _graph(document, config, path, environ, files)
    problems += found
    facts: tuple[Fact, ...] = ()
    agents: dict[str, Loaded] = {}
    if config is not None:
        problems += [found for found in check(config, document) if found.path not in said]
        facts, found = read_facts(config.knowledge, document, path.parent)
        problems += found
        files += [path.parent / entry.path for entry in config.knowledge if entry.path]
        agents, found = _agents(config, document, path, environ, refuse_unknown)
        problems += found
        files += [file for agent in agents.values() for file in agent.files]
    problems = sorted(dict.fromkeys(problems), key=lambda p: (p.file != shown(path), p.file, p.line,
                                                              p.column))  # fmt: skip
    errors = [problem for problem in problems if not problem.warning]
    if errors or config is None or graph is None:
        raise ConfigError(problems)
    return Loaded(
        config=config,
        path=path.absolute(),
        graph=graph,
        knowledge=facts,
        warnings=tuple(problems),
        files=tuple(files),
        document=document,
        work_dir=(work_dir or path.parent).absolute(),
        agents=agents,
    )


def _agents(
    config: Config,
    document: Document,
    path: FilePath,
    environ: Mapping[str, str],
    refuse_unknown: bool,
) -> tuple[dict[str, Loaded], list[Problem]]:
    """The agent files of ``routes.agents``, and every problem that they have."""
    agents: dict[str, Loaded] = {}
    problems: list[Problem] = []
    for name, written in config.routes.agents.items():
        here: Path = ("routes", "agents", name)
        file = path.parent / written
        try:
            inner, files = _parsed(read_text(file), file)
            ignored = _only_agent(inner, shown(path))
            agents[name] = _finish(inner, files, ignored, file, environ, refuse_unknown, None)
        except ConfigError as error:
            problems += [p if p.file else document.problem(here, p.message) for p in error.problems]
        else:
            problems += agents[name].warnings
    return agents, problems


SERVER_WIDE = ("server", "routes", "carriers", "webrtc", "limits", "records", "observability")
"""Blocks that only the main file has a say in."""


def _only_agent(document: Document, main: str) -> list[Problem]:
    """Take from an agent's file what the main file decides for all; a warning for each."""
    value = document.value if isinstance(document.value, dict) else {}
    problems = []
    for name in [name for name in SERVER_WIDE if value.pop(name, None) is not None]:
        message = f"is not read here: for all agents of a server, {main} decides it"
        problems.append(document.problem((name,), message, key=True, warning=True))
        document.forget((name,))
    return problems


def local_file(path: FilePath) -> FilePath | None:
    """``agent.local.yaml`` beside ``agent.yaml``, if it is there."""
    local = path.with_name(f"{path.stem}.local{path.suffix}")
    return local if local.is_file() else None


def expand_document(document: Document, environ: Mapping[str, str]) -> list[Problem]:
    """Fill in ``${NAME}`` in every string that came from a file."""
    problems: list[Problem] = []
    absent: list[Path] = []

    def filled(path: Path, text: str) -> Any:
        if any("\ud800" <= character <= "\udfff" for character in text):
            problems.append(document.problem(path, "holds a character that is not valid text"))
            return ""
        mark = document.mark(path) or Mark(document.source)
        if mark.kind != "file" or "$" not in text:
            return text
        try:
            value = expand(text, environ)
        except UnsetVariable as error:
            if path[0:1] == ("topology",) and path[-1] == "api_key":
                absent.append(path)
            else:
                problems.append(document.problem(path, str(error)))
            return text
        except ValueError as error:
            problems.append(document.problem(path, str(error)))
            return text
        if value != text:
            document.expanded.add(path)
        return value

    document.value = map_strings(document.value, filled)
    for path in absent:
        del document.get(path[:-1])["api_key"]
        document.forget(path)
    return problems


def _graph(
    document: Document,
    config: Config | None,
    path: FilePath,
    environ: Mapping[str, str],
    files: list[FilePath],
) -> tuple[Graph | None, list[Problem]]:
    """The graph, looked at also when other parts are wrong, so that all mistakes are told."""
    agent = document.get(("agent",))
    agent = agent if isinstance(agent, dict) else {}
    greeting = agent.get("greeting")
    defaults = Defaults(
        greeting if isinstance(greeting, str) else "",
        config is not None and config.agent.protect_greeting,
        config.agent.keypad.keys() if config is not None and config.agent.keypad else None,
    )
    tools = _tool_names(document)
    if agent.get("graph_inline") is not None:
        if not isinstance(agent["graph_inline"], dict):
            return None, []  # said by validate()
        return build_graph(document, ("agent", "graph_inline"), defaults=defaults, tools=tools)
    if isinstance(agent.get("graph"), str) and agent["graph"]:
        file = path.parent / agent["graph"]
        try:
            inner = parse_text(read_text(file), file)
        except ConfigError as error:
            here: Path = ("agent", "graph")
            return None, [
                p if p.line else document.problem(here, p.message) for p in error.problems
            ]
        files.append(file)
        problems = expand_document(inner, environ)
        graph, found = build_graph(inner, defaults=defaults, tools=tools)
        return graph, problems + found
    prompt = config.agent.prompt if config is not None else ""
    if config is not None and config.agent.send_keys:
        tools = [*tools, SEND_KEYS]
    return prompt_graph(prompt, defaults, tools), []


def _tool_names(document: Document) -> list[str]:
    tools = document.get(("tools",))
    if not isinstance(tools, list):
        return []
    names = [tool.get("name") for tool in tools if isinstance(tool, dict)]
    return list(dict.fromkeys(name for name in names if isinstance(name, str)))
