"""Phone companies' message formats: bytes and text in, events out. No I/O, no clock.

One module for each carrier; its name is the carrier's name in URLs and in the agent file, and its
`CARRIER` is all that the server knows of it. What carriers have in common is in the modules whose
names begin with an underscore.
"""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache

from flowcat_server.core.carrier import Carrier


@cache
def names() -> tuple[str, ...]:
    """Every carrier's name, in order."""
    found = (module.name for module in pkgutil.iter_modules(__path__))
    return tuple(sorted(name for name in found if not name.startswith("_")))


@cache
def find(name: str) -> Carrier | None:
    """The carrier of this name."""
    if name not in names():
        return None
    carrier: Carrier = importlib.import_module(f"{__name__}.{name}").CARRIER
    return carrier
