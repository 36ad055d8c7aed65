"""``flowcat-server`` with the echo stage of `bench.wire.ours` and another policy of collection.

    python -m bench.gc.server POLICY run agent.yaml --bind 127.0.0.1:6210

SIGUSR1 asks for a full collection: what it costs is seen whether or not one is due in a minute.
"""

from __future__ import annotations

import gc
import signal
import sys

from bench.wire.ours import EchoLine
from flowcat_server import calls, server
from flowcat_server.__main__ import main

PYTHONS = (700, 10, 10)
"""As the interpreter starts."""


def _never() -> None:
    gc.collect()
    gc.freeze()
    gc.disable()


def _settle(thresholds: tuple[int, int, int], *, freeze: bool) -> None:
    gc.collect()
    if freeze:
        gc.freeze()
    gc.set_threshold(*thresholds)


POLICIES = {
    "python": lambda: _settle(PYTHONS, freeze=False),
    "frozen": lambda: _settle(PYTHONS, freeze=True),
    "ours": server._settle_memory,
    "large": lambda: _settle((50_000, 20, 100), freeze=True),
    "never": _never,
}

if __name__ == "__main__":
    signal.signal(signal.SIGUSR1, lambda number, frame: gc.collect())
    server._settle_memory = POLICIES[sys.argv.pop(1)]
    calls.CallLine = EchoLine  # type: ignore[misc]
    sys.exit(main())
