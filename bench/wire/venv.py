"""A Python environment of its own for a peer, so that ours stays as it is."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache
from pathlib import Path

from bench.wire.native import directory

PACKAGES = ("pipecat-ai[websocket]", "uvicorn", "uvloop")
INSTALL_S = 900


@cache
def pipecat() -> Path:
    """The interpreter with pipecat's current release; made on first use."""
    return _environment("pipecat", PACKAGES)


def version(python: Path, package: str) -> str:
    """What is installed there."""
    code = f"from importlib.metadata import version; print(version({package!r}))"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def _environment(name: str, packages: tuple[str, ...]) -> Path:
    where = directory() / f"{name}-venv"
    python, done = where / "bin" / "python", where / "installed.json"
    if done.is_file() and json.loads(done.read_text()) == list(packages):
        return python
    print(f"installing {', '.join(packages)} into {where}", file=sys.stderr)
    for command in (
        [sys.executable, "-m", "venv", "--clear", str(where)],
        [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages],
    ):
        subprocess.run(command, check=True, timeout=INSTALL_S)
    done.write_text(json.dumps(packages))
    return python
