"""Which agent file a command means, and the options that all of them share."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from pathlib import Path

from flowcat_server.config.files import read_text
from flowcat_server.config.load import Loaded, load
from flowcat_server.errors import ConfigError, Problem

_PACKAGE = Path(__file__).resolve().parent.parent
_ASSIGNMENT = re.compile(r"(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)\s*=\s*(.*)", re.DOTALL)


def add_source(parser: argparse.ArgumentParser) -> None:
    """Add ``[FILE] --config --set --env-file``."""
    parser.add_argument("file", nargs="?", metavar="FILE", help="agent file (YAML or JSON)")
    parser.add_argument("-c", "--config", metavar="FILE", help="the same, as an option")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="settings",
        help="set one value, such as topology.llm=openai/gpt-6-luna; may be repeated",
    )
    parser.add_argument(
        "--env-file", metavar="FILE", help="read environment variables from a file first"
    )


def agent_file(arguments: argparse.Namespace) -> tuple[Path, bool]:
    """The agent file, and whether it is the bundled one because there is no other."""
    if arguments.file and arguments.config and arguments.file != arguments.config:
        raise ConfigError("two agent files are given; a server runs one")
    named = arguments.config or arguments.file or os.environ.get("FLOWCAT_CONFIG")
    if named:
        return Path(named), False
    if Path("agent.yaml").is_file():
        return Path("agent.yaml"), False
    return bundled("default.yaml"), True


def bundled(name: str) -> Path:
    """A configuration that comes with the server: from the wheel, else the source tree."""
    for directory in (_PACKAGE / "_data" / "configs", _PACKAGE.parent / "configs"):
        if (directory / name).is_file():
            return directory / name
    raise ConfigError(
        "there is no agent.yaml here: name a file, or write one with: flowcat-server init"
    )


def load_source(arguments: argparse.Namespace, *, refuse_unknown: bool = False) -> Loaded:
    """Load what the arguments name. Raises `ConfigError`."""
    if arguments.env_file:
        read_environment(Path(arguments.env_file))
    path, is_bundled = agent_file(arguments)
    if is_bundled:
        print("flowcat-server: no agent.yaml here, so this is the bundled demo agent "
              "(flowcat-server init writes your own)", file=sys.stderr)  # fmt: skip
    settings = list(arguments.settings)
    bind = getattr(arguments, "bind", None)
    if bind:
        settings.append("server.bind=" + json.dumps(bind if ":" in bind else f":{bind}"))
    workers = getattr(arguments, "workers", None)
    if workers:
        settings.append(f"server.workers={workers}")
    return load(
        path,
        settings=settings,
        refuse_unknown=refuse_unknown,
        work_dir=Path.cwd() if is_bundled else None,
    )


def read_environment(path: Path) -> None:
    """Set the variables of a ``.env`` file that are not set yet. Raises `ConfigError`."""
    problems: list[Problem] = []
    for number, text in enumerate(read_text(path).splitlines(), start=1):
        line = text.strip()
        if not line or line.startswith("#"):
            continue
        match = _ASSIGNMENT.fullmatch(line)
        if match is None or "\0" in line:
            problems.append(Problem("must be NAME=value", file=str(path), line=number, column=1))
            continue
        os.environ.setdefault(match[1], _unquoted(match[2]))
    if problems:
        raise ConfigError(problems)


def _unquoted(text: str) -> str:
    value = text.strip()
    if len(value) >= 2 and value[0] == value[-1] and value[0] in "'\"":
        return value[1:-1]
    return re.split(r"\s+#", value, maxsplit=1)[0]
