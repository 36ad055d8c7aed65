"""``flowcat-server run``: answer calls."""

from __future__ import annotations

import argparse
import sys

from flowcat_server.cli.console import print_problems
from flowcat_server.cli.source import add_source, load_source
from flowcat_server.errors import ConfigError


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    parser = commands.add_parser("run", help="answer calls (the default)", allow_abbrev=False)
    add_source(parser)
    parser.add_argument("--bind", metavar="ADDRESS", help="address to listen on, such as :6210")
    parser.add_argument(
        "--workers", metavar="N", help="processes that share the port; auto: one for each core"
    )
    parser.add_argument(
        "--strict", action="store_true", help="do not start when there are warnings"
    )
    parser.set_defaults(handler=run)


def run(arguments: argparse.Namespace) -> int:
    """Load the agent and serve until told to stop."""
    loaded = load_source(arguments, refuse_unknown=arguments.strict)
    if arguments.strict and loaded.warnings:
        raise ConfigError(loaded.warnings)
    print_problems(loaded.warnings, sys.stderr)
    from flowcat_server.server import run as serve  # loads everything; not for --help

    return serve(loaded)
