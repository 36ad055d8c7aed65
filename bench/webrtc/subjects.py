"""The servers that are compared, and what their callers do."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from bench.wire.subjects import Command, Subject

HERE = Path(__file__).parent
TALK_MS, CYCLE_MS = 3400, 4000
"""Of callers who speak all the time: they breathe."""
HALF_MS = (1600, 3200)
"""Of callers who speak half of the time."""
TURN_MS = (1600, 6000)
"""Of callers who ask."""
ALIKE = 0.65
"""An echo whose loudness follows that of what was said less closely is not one."""


@dataclass(frozen=True)
class Browsers(Subject):
    """One row of the comparison."""

    path: str = "/webrtc/offer"
    start: int = 10
    limit: int = 400
    talk: tuple[int, int] = (TALK_MS, CYCLE_MS)
    """Milliseconds of each cycle in which a caller speaks, and of the cycle."""
    echoes: bool = True
    """What is said comes back."""


def _ours(module: str, file: str) -> Command:
    def command(port: int, directory: Path) -> list[str]:
        words = [sys.executable, "-m", module, "run", str(HERE / file)]
        words += ["--bind", f"127.0.0.1:{port}"]
        return [*words, "--set", f"records.dir={directory / 'calls'}"]

    return command


SUBJECTS = (
    Browsers(
        "stock",
        "aiortc as it comes, said back",
        lambda port, directory: [sys.executable, "-m", "bench.webrtc.stock", str(port)],
    ),
    Browsers(
        "ours",
        "**flowcat-server**, said back through the whole cascade",
        _ours("bench.webrtc.ours", "echo.yaml"),
    ),
    Browsers(
        "ours-half",
        "**flowcat-server**, the same, of callers who speak half of the time",
        _ours("bench.webrtc.ours", "echo.yaml"),
        talk=HALF_MS,
    ),
    Browsers(
        "ours-silent",
        "**flowcat-server**, an agent that only listens",
        _ours("flowcat_server", "echo.yaml"),
        echoes=False,
    ),
    Browsers(
        "ours-agents",
        "**flowcat-server**, full agents, a turn every 6 s, recorded",
        _ours("flowcat_server", "agent.yaml"),
        talk=TURN_MS,
        settle_s=8,
        least_s=12,
        echoes=False,
    ),
)
