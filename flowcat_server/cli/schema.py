"""``flowcat-server schema``: JSON Schema of the agent file, for editors."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from flowcat_server.config.schema import json_schema
from flowcat_server.errors import ConfigError


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    parser = commands.add_parser(
        "schema",
        help="print the JSON Schema of the agent file",
        description="Editors use it when the file begins with: "
        "# yaml-language-server: $schema=./flowcat.schema.json",
    )
    parser.add_argument("-o", "--output", metavar="FILE", help="write it to a file")
    parser.set_defaults(handler=run)


def run(arguments: argparse.Namespace) -> int:
    """Print or write the schema."""
    text = json.dumps(json_schema(), indent=2) + "\n"
    if not arguments.output:
        print(text, end="")
        return 0
    try:
        Path(arguments.output).write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{arguments.output} cannot be written: {error.strerror}") from error
    return 0
