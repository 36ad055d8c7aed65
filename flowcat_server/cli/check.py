"""``flowcat-server check``: is this file right? Nothing is started and nothing is contacted."""

from __future__ import annotations

import argparse
import json
import os
import sys

from flowcat_server.cli.console import as_json, count, line, paint
from flowcat_server.cli.source import add_source, agent_file, load_source
from flowcat_server.config.files import shown
from flowcat_server.errors import ConfigError, Problem


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    parser = commands.add_parser(
        "check",
        help="look for mistakes in an agent file",
        description="Exit code 0: right; 1: mistakes; 2: with --strict, warnings only.",
        allow_abbrev=False,
    )
    add_source(parser)
    parser.add_argument("--strict", action="store_true", help="exit with 2 on warnings alone")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.set_defaults(handler=run)


def run(arguments: argparse.Namespace) -> int:
    """Print every problem and say how it went."""
    problems = find_problems(arguments)
    errors = any(not problem.warning for problem in problems)
    try:
        name = shown(agent_file(arguments)[0])
    except ConfigError:
        name = ""
    if arguments.json:
        print(
            json.dumps(
                {"file": name, "ok": not errors, "problems": [as_json(p) for p in problems]},
                indent=2,
                ensure_ascii=False,
            )
        )
    else:
        for problem in problems:
            print(line(problem, sys.stdout))
        said = count(problems)
        print(said if errors else paint(f"{name}: ok", "green", sys.stdout) + f", {said}")
    if errors:
        return 1
    return 2 if problems and arguments.strict else 0


def find_problems(arguments: argparse.Namespace) -> list[Problem]:
    """Every mistake in the file and in the providers it names."""
    try:
        loaded = load_source(arguments, refuse_unknown=True)
    except ConfigError as error:
        return list(error.problems)
    from flowcat_server.providers.resolve import check_providers

    found = [
        problem
        for file in (loaded, *loaded.agents.values())
        for problem in check_providers(file.config, file.document, os.environ)
    ]
    return [*loaded.warnings, *found]
