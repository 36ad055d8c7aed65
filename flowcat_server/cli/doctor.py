"""``flowcat-server doctor``: would this agent run well on this machine?"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING

from flowcat_server.cli.console import line, paint
from flowcat_server.cli.source import add_source, load_source
from flowcat_server.errors import ConfigError

if TYPE_CHECKING:  # what it looks at is slow to import: only where it is used
    from flowcat_server.cli.symptoms import Finding

_COLOURS = {"ok": "green", "warning": "yellow", "fault": "red"}


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    parser = commands.add_parser(
        "doctor",
        help="look for what is missing on this machine",
        description="Exit code 0: it would run; 1: at least one fault.",
        allow_abbrev=False,
    )
    add_source(parser)
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    parser.set_defaults(handler=run)


def run(arguments: argparse.Namespace) -> int:
    """Print every finding, with what to do about it."""
    from flowcat_server.cli.symptoms import Finding, of_agent, of_machine

    findings = list(of_machine())
    try:
        loaded = load_source(arguments)
    except ConfigError as error:
        findings += [
            Finding("configuration", "fault", line(problem, sys.stdout))
            for problem in error.problems
            if not problem.warning
        ]
    else:
        findings += of_agent(loaded)
    if arguments.json:
        print(json.dumps([finding.as_json() for finding in findings], indent=2))
    else:
        _print(findings)
    return 1 if any(finding.status == "fault" for finding in findings) else 0


def _print(findings: Iterable[Finding]) -> None:
    for finding in findings:
        status = paint(f"{finding.status:<8}", _COLOURS[finding.status], sys.stdout)
        print(f"{status} {finding.name}: {finding.detail}")
        if finding.advice:
            print(f"         {paint(finding.advice, 'dim', sys.stdout)}")
