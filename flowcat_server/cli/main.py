"""Chooses the command; the one place where the command line's errors become exit codes."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from flowcat_server import __version__
from flowcat_server.cli import bench, call, calls, check, doctor, init, run, schema, show, version
from flowcat_server.cli.console import print_problems
from flowcat_server.config.suggest import did_you_mean
from flowcat_server.errors import ConfigError, FlowcatError

COMMANDS = ("run", "check", "show", "schema", "init", "doctor", "call", "calls", "bench", "version")
_EPILOG = """\
Without a command, the agent is run: flowcat-server agent.yaml
Without a file, $FLOWCAT_CONFIG is used, else agent.yaml, else the bundled demo agent.
Exit codes: 0 all well, 1 the answer is no, 2 wrong arguments or configuration, 130 Ctrl-C.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")
    try:
        arguments = parse(sys.argv[1:] if argv is None else argv)
        code: int = arguments.handler(arguments)
        sys.stdout.flush()
    except ConfigError as error:
        print_problems(error.problems, sys.stderr)
        return 2
    except FlowcatError as error:
        print(f"flowcat-server: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader (`| head`) has gone; keep the interpreter's exit from complaining about it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except SystemExit as stop:  # argparse: help and version leave with 0, wrong arguments with 2
        return stop.code if isinstance(stop.code, int) else 2
    return code


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The arguments, with `handler` set to the command's function."""
    return build_parser().parse_args(with_command(argv))


def with_command(argv: Sequence[str]) -> list[str]:
    """The arguments with ``run`` put in front where no command is named.

    A first word that is an existing file is an agent file, whatever it is called.
    """
    words = list(argv)
    if not words:
        return ["run"]
    first = words[0]
    if first in ("-h", "--help", "--version"):
        return words
    if Path(first).is_file():
        return ["run", *words]
    if first in COMMANDS:
        return words
    if first.startswith("-") or "/" in first or Path(first).suffix in (".yaml", ".yml", ".json"):
        return ["run", *words]
    return words


class _Parser(argparse.ArgumentParser):
    """Names the nearest command where there is no such command."""

    def error(self, message: str) -> NoReturn:
        wrong = message.partition("invalid choice: '")[2].partition("'")[0]
        if wrong:
            message = (
                f"{wrong!r} is neither a file nor a command{did_you_mean(wrong, COMMANDS)} "
                f"(commands: {', '.join(COMMANDS)})"
            )
        super().error(message)


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    parser = _Parser(
        prog="flowcat-server",
        description="A self-hosted voice-agent server: one YAML file, one process.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"flowcat-server {__version__}")
    commands = parser.add_subparsers(
        metavar="COMMAND", required=True, parser_class=argparse.ArgumentParser
    )
    run.add_parser(commands)
    check.add_parser(commands)
    show.add_parser(commands)
    schema.add_parser(commands)
    init.add_parser(commands)
    doctor.add_parser(commands)
    call.add_parser(commands)
    calls.add_parser(commands)
    bench.add_parser(commands)
    version.add_parser(commands)
    return parser
