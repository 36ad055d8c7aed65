"""A server under test on its core, and the generator on the other."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from bench.wire import native
from bench.wire.point import Point, read
from bench.wire.subjects import ROOT, Subject

SERVER_CORE, LOAD_CORE = 0, 1
READY_S = 60
RAMP = 100
"""Calls begun each second; fewer where there are few."""
MARGIN_S = 30
"""A generator that takes so much longer than its measurement hangs."""


class Broken(Exception):
    """The server did not start."""


def hurry(nice: int) -> None:
    """Let this process and its children go before others; 0 leaves things as they are.

    Where sessions are scheduled as groups (sched(7), autogroup) the group is what counts.
    """
    if nice:
        os.setpriority(os.PRIO_PROCESS, 0, nice)
        with suppress(OSError):
            Path("/proc/self/autogroup").write_text(str(nice), encoding="ascii")


class Running:
    """A subject's process, pinned to its core, while the block lasts."""

    def __init__(self, subject: Subject, *, core: int | str = SERVER_CORE) -> None:
        """`core`: one, or several as taskset(1) writes them."""
        self.subject = subject
        self._core = core
        self._directory = tempfile.TemporaryDirectory(prefix="flowcat-bench-")
        self.port = _free_port()

    def __enter__(self) -> Running:
        directory = Path(self._directory.name)
        self._log = directory / "log"
        command = self.subject.command(self.port, directory)
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                ["taskset", "-c", str(self._core), *command], cwd=ROOT, stdout=log, stderr=log
            )
        try:
            self._wait()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.wait()
        self._directory.cleanup()

    def _wait(self) -> None:
        limit = time.monotonic() + READY_S
        while time.monotonic() < limit and self._process.poll() is None:
            with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                time.sleep(1)  # what is left to do after the port is open
                return
            time.sleep(0.1)
        raise Broken(f"{self.subject.name} did not start:\n{self._log.read_text()[-2000:]}")

    @property
    def pid(self) -> int:
        """Of the server; `taskset` has become it."""
        return self._process.pid

    def rss_kb(self) -> int:
        """Memory of the process."""
        pages = Path(f"/proc/{self.pid}/statm").read_text(encoding="ascii").split()[1]
        return int(pages) * os.sysconf("SC_PAGESIZE") // 1024

    def measure(
        self,
        calls: int,
        seconds: int,
        *more: str,
        core: int = LOAD_CORE,
        prefix: Sequence[str] = (),
    ) -> Point:
        """So many calls for so many seconds; `prefix` goes before the generator's command."""
        subject = self.subject
        command = [*prefix, "taskset", "-c", str(core), str(native.program("load"))]
        ramp = min(RAMP, max(10, calls / 2))
        for name, value in {
            "port": self.port, "path": subject.path, "calls": calls, "seconds": seconds,
            "ramp": ramp, "settle": subject.settle_s, "pid": self.pid,
        }.items():  # fmt: skip
            command += [f"--{name}", str(value)]
        command += [*subject.load(Path(self._directory.name)), *more]
        limit = calls / ramp + subject.settle_s + seconds + MARGIN_S
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit, check=True)
        return read(json.loads(done.stdout))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
