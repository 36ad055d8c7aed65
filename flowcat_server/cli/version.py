"""``flowcat-server version``."""

from __future__ import annotations

import argparse
import json
import platform

from flowcat_server import __version__


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    parser = commands.add_parser("version", help="print the version")
    parser.add_argument("--json", action="store_true", help="print it as JSON, with Python's")
    parser.set_defaults(handler=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the version."""
    if arguments.json:
        print(json.dumps({"version": __version__, "python": platform.python_version()}))
    else:
        print(f"flowcat-server {__version__}")
    return 0
