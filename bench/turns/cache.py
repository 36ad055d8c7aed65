"""Where generated sound is kept between runs; everything in it can be made again."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from bench.turns.sound import Sound

VERSION = 1
"""Raise it when a recipe changes: what was kept is then made anew."""


def directory() -> Path:
    """``$XDG_CACHE_HOME/flowcat-bench/turns``, made if absent."""
    root = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    path = Path(root, "flowcat-bench", "turns")
    path.mkdir(parents=True, exist_ok=True)
    return path


def kept(key: tuple[object, ...], make: Callable[[], tuple[Sound, Any]]) -> tuple[Sound, Any]:
    """A sound and what is known of it (JSON), from the cache or from `make`."""
    name = hashlib.sha256(json.dumps([VERSION, *key], default=str).encode()).hexdigest()[:24]
    path = directory() / f"{name}.npz"
    if path.is_file():
        with np.load(path) as file:
            return file["sound"], json.loads(str(file["about"]))
    sound, about = make()
    partial = path.with_name(f"{name}.{os.getpid()}.part.npz")
    np.savez(partial, sound=sound, about=json.dumps(about))
    partial.replace(path)
    return sound, about
