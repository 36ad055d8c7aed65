"""A server under test on its core, and the generator on the other."""

from __future__ import annotations

import json
import subprocess
import sys

from bench.webrtc.point import Point, read
from bench.webrtc.subjects import Browsers
from bench.wire import running
from bench.wire.subjects import ROOT

WARM_CALLS, WARM_S = 4, 2


class Running(running.Running):
    """A subject's process while the block lasts."""

    subject: Browsers

    def __init__(self, subject: Browsers, *, core: int = running.SERVER_CORE) -> None:
        super().__init__(subject, core=core)

    def warm(self) -> None:
        """What only the first call costs must not be counted as a call's."""
        self.browsers(WARM_CALLS, WARM_S, 1)

    def browsers(
        self, calls: int, seconds: float, settle_s: float, core: int = running.LOAD_CORE
    ) -> Point:
        """So many calls for so many seconds."""
        talk_ms, cycle_ms = self.subject.talk
        ramp = min(20.0, max(5.0, calls / 3))
        command = ["taskset", "-c", str(core), sys.executable, "-m", "bench.webrtc.load"]
        for name, value in {
            "url": f"http://127.0.0.1:{self.port}{self.subject.path}", "calls": calls,
            "seconds": seconds, "settle": settle_s, "ramp": ramp, "pid": self.pid,
            "talk-ms": talk_ms, "cycle-ms": cycle_ms,
        }.items():  # fmt: skip
            command += [f"--{name}", str(value)]
        limit = calls / ramp + settle_s + seconds + 2 * running.MARGIN_S
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=limit, check=True, cwd=ROOT
        )
        return read(json.loads(done.stdout), echoes=self.subject.echoes)
