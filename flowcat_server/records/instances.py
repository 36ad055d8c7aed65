"""Which server process owns a call, and whether that process still lives.

Every process holds an exclusive ``flock`` on a file of its own in the records directory. The
kernel gives the lock back when the process dies, however it dies, so a restart can tell at once
that a call without an end was orphaned, also when process numbers repeat (containers). For a
process on another machine there is no such file here; it is dead when it has not refreshed its
row for `SILENT_MS`.
"""

from __future__ import annotations

import fcntl
import os
import secrets
from pathlib import Path

SILENT_MS = 90_000
REFRESH_MS = 20_000
_FOLDER = ".instances"


class Instance:
    """This process's mark."""

    def __init__(self, directory: Path) -> None:
        self.id = secrets.token_hex(8)
        self._path = directory / _FOLDER / self.id
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._file = os.open(self._path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def close(self, *, leaves_calls: bool = False) -> None:
        """Give the lock back. With `leaves_calls` the file stays, to say that the owner is dead."""
        if self._file >= 0:
            if not leaves_calls:
                self._path.unlink(missing_ok=True)
            os.close(self._file)
            self._file = -1


def is_alive(directory: Path, instance: str, seen_at: int, now: int) -> bool:
    """Whether the process that calls itself `instance` still runs.

    Args:
        directory: The records directory.
        instance: Its id.
        seen_at: When it last refreshed its row, milliseconds since 1970.
        now: Milliseconds since 1970.
    """
    path = directory / _FOLDER / instance
    try:
        file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return now - seen_at < SILENT_MS
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        return False
    finally:
        os.close(file)


def forget(directory: Path, instance: str) -> None:
    """Remove the mark of a dead process, after its calls were closed."""
    (directory / _FOLDER / instance).unlink(missing_ok=True)
