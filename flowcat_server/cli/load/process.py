"""The server's processes on this machine, found by the port they listen on (proc(5))."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_LISTENS = "0A"
_PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class Usage:
    """Of all the processes."""

    cpu_s: float
    rss_kb: int
    processes: int


def listeners(port: int) -> list[int]:
    """Processes that listen on a TCP port; empty where that cannot be known."""
    inodes = set()
    for table in ("tcp", "tcp6"):
        with suppress(OSError):
            for row in (_PROC / "net" / table).read_text("ascii").splitlines()[1:]:
                fields = row.split()
                if fields[3] == _LISTENS and int(fields[1].rpartition(":")[2], 16) == port:
                    inodes.add(f"socket:[{fields[9]}]")
    found = []
    for process in _PROC.glob("[0-9]*") if inodes else ():
        with suppress(OSError):
            if any(os.readlink(fd) in inodes for fd in (process / "fd").iterdir()):
                found.append(int(process.name))
    return found


def usage(pids: list[int]) -> Usage | None:
    """Processor time and memory so far; None if none of them can be looked at."""
    ticks = pages = seen = 0
    for pid in pids:
        with suppress(OSError):
            fields = (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
            pages += int(fields[21])
            seen += 1
    if not seen:
        return None
    return Usage(ticks / os.sysconf("SC_CLK_TCK"), pages * os.sysconf("SC_PAGESIZE") // 1024, seen)
