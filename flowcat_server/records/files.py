"""Names and fate of a call's files. Names are made of our own ids only, never of what was sent."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath

from flowcat_server.errors import RecordsError
from flowcat_server.records import wav

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


def check_id(call_id: str) -> None:
    """Raise RecordsError for an id that cannot be a file name."""
    if not _ID.fullmatch(call_id):
        raise RecordsError(f"not a call id: {call_id!r}")


def recording_name(call_id: str, accepted_at: int) -> str:
    """``2026-11-22/<id>.wav``; the day is UTC's."""
    check_id(call_id)
    day = datetime.fromtimestamp(accepted_at / 1000, UTC).strftime("%Y-%m-%d")
    return f"{day}/{call_id}.wav"


def resolve(directory: Path, name: str) -> Path | None:
    """The file of that name, or None for no name or one that leads out of the directory."""
    parts = PurePosixPath(name).parts
    if not name or ".." in parts or PurePosixPath(name).is_absolute():
        return None
    return directory.joinpath(*parts)


def remove(directory: Path, names: Iterable[str]) -> tuple[int, int]:
    """Delete recordings and folders that became empty; returns how many files and bytes."""
    count = size = 0
    for name in names:
        path = resolve(directory, name)
        if path is None:
            continue
        for file in (path, path.with_suffix(".part")):
            try:
                length = file.stat().st_size
                file.unlink()
            except FileNotFoundError:
                continue
            count += 1
            size += length
        if path.parent != directory:
            _remove_if_empty(path.parent)
    return count, size


def _remove_if_empty(folder: Path) -> None:
    try:
        folder.rmdir()
    except OSError:
        return


def repair(directory: Path, name: str) -> int:
    """Make the recording of a killed process whole; returns its length in ms, 0 without one."""
    path = resolve(directory, name)
    if path is None:
        return 0
    path.with_suffix(".part").unlink(missing_ok=True)
    try:
        return wav.repair(path)
    except (OSError, RecordsError):
        return 0
