"""Builds the programs in `native/` with the machine's own compiler, when they are wanted."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

SOURCES = Path(__file__).parent / "native"
PROGRAMS = {
    "load": ("load.c", "phone.c", "samples.c", "wire.c"),
    "start": ("start.c", "phone.c", "samples.c", "wire.c"),
    "echo": ("echo.c", "wire.c"),
}
FLAGS = ("-O2", "-std=gnu11", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror")
BUILD_S = 120


class NoCompiler(Exception):
    """There is no C compiler here, or it does not take the sources."""


def directory() -> Path:
    """``$XDG_CACHE_HOME/flowcat-bench/wire``, made if absent."""
    root = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    path = Path(root, "flowcat-bench", "wire")
    path.mkdir(parents=True, exist_ok=True)
    return path


def program(name: str, target: Path | None = None) -> Path:
    """The path of a program, built anew if a source is newer.

    Args:
        name: A key of `PROGRAMS`.
        target: Where it is kept; the default is `directory`.
    """
    path = (target or directory()) / name
    newest = max(file.stat().st_mtime for file in SOURCES.iterdir())
    if path.is_file() and path.stat().st_mtime >= newest:
        return path
    compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        raise NoCompiler("no C compiler found; install gcc or set CC")
    new = path.with_suffix(f".{os.getpid()}")
    sources = [str(SOURCES / source) for source in PROGRAMS[name]]
    command = [*compiler.split(), *FLAGS, "-o", str(new), *sources, "-lm"]
    built = subprocess.run(command, capture_output=True, text=True, timeout=BUILD_S, check=False)
    if built.returncode:
        raise NoCompiler(f"{' '.join(command)}\n{built.stderr}")
    new.replace(path)
    return path
