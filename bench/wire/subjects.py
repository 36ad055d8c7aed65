"""The servers that are compared, and what their callers do."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench.wire import native, sounds, venv

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
DOOR = "/telephony/ws/twilio"
TALK_MS, CYCLE_MS = 1600, 3200
"""Of callers whose voice is listened to: they speak half of the time."""
TURN_MS = 6080
"""Of callers who ask: every so often. Multiples of 160 ms end with a frame and with a chunk of the
voice detector, so that its grid adds nothing to the answer."""
PROVIDERS_MS = 320 + 100 + 265
"""In `agent.yaml`, from the caller's last sound to the answer's first: the silence that ends a
turn, the model's first token, the voice's first word."""
ANSWER_BYTES = 28_320
"""Of the answer in `agent.yaml`: each word as long as its letters and a gap, 60 ms a letter."""

Command = Callable[[int, Path], list[str]]


@dataclass(frozen=True)
class Subject:
    """One row of the comparison."""

    name: str
    title: str
    command: Command
    """Given a port and a directory for what it writes."""
    path: str = "/media"
    start: int = 100
    """Where the search begins."""
    limit: int = 3000
    load: Callable[[Path], list[str]] = lambda directory: []
    """More arguments of the generator."""
    settle_s: float = 2
    least_s: int = 0
    """A shorter measurement says nothing."""


def _python(module: str, *arguments: str) -> Command:
    return lambda port, directory: [sys.executable, "-m", module, str(port), *arguments]


def _ours(module: str, file: str, *settings: str) -> Command:
    def command(port: int, directory: Path) -> list[str]:
        words = [sys.executable, "-m", module, "run", str(HERE / file)]
        words += ["--bind", f"127.0.0.1:{port}", "--set", f"records.dir={directory / 'calls'}"]
        for setting in settings:
            words += ["--set", setting]
        return words

    return command


def _pipecat(*arguments: str) -> Command:
    peer = str(HERE / "peers" / "pipecat_twilio.py")
    return lambda port, directory: [str(venv.pipecat()), peer, str(port), *arguments]


def _cycle(sound: Callable[[Path], Path], talk_ms: int, cycle_ms: int) -> list[str]:
    voice = str(sound(native.directory()))
    return ["--voice", voice, "--talk-ms", str(talk_ms), "--cycle-ms", str(cycle_ms)]


def _agents(directory: Path) -> list[str]:
    words = ["--mode", "agent", *_cycle(sounds.steady, TALK_MS, TURN_MS)]
    return [*words, "--expect-ms", str(PROVIDERS_MS), "--answer-bytes", str(ANSWER_BYTES)]


SUBJECTS = (
    Subject(
        "c",
        "bare echo, C and epoll: the floor",
        lambda port, directory: [str(native.program("echo")), str(port)],
        start=800,
    ),
    Subject("aiohttp", "bare echo, aiohttp", _python("bench.wire.peers.bare"), start=300),
    Subject(
        "socket",
        "bare echo, this server's media socket",
        _python("bench.wire.peers.direct"),
        start=300,
    ),
    Subject(
        "ours",
        "**flowcat-server**, echo through the whole cascade",
        _ours("bench.wire.ours", "echo.yaml"),
        DOOR,
        start=200,
    ),
    Subject(
        "ours-vad",
        "**flowcat-server**, the same, Silero on callers who speak half the time",
        _ours("bench.wire.ours", "echo.yaml", "topology.vad.provider=silero"),
        DOOR,
        start=120,
        load=lambda directory: _cycle(sounds.syllables, TALK_MS, CYCLE_MS),
    ),
    Subject(
        "ours-agents",
        "**flowcat-server**, full agents, a turn every 6 s, recorded",
        _ours("flowcat_server", "agent.yaml"),
        DOOR,
        start=100,
        load=_agents,
        settle_s=8,
        least_s=13,
    ),
    Subject(
        "queues",
        "seven tasks and queues, aiohttp and our wire",
        _python("bench.wire.peers.queues"),
        start=100,
    ),
    Subject("pipecat", "pipecat, as it comes", _pipecat(), start=8),
    Subject(
        "pipecat-lean", "pipecat, observers and silence off", _pipecat("lean"), start=16
    ),
)  # fmt: skip
