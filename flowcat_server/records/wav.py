"""The 44-byte header of a PCM WAV file, and repairing it.

RIFF and fmt chunks as in "Multimedia Programming Interface and Data Specifications 1.0"
(IBM, Microsoft, 1991) with WAVE_FORMAT_PCM. Sizes are 32 bits: a file ends at 4 GiB.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path

from flowcat_server.errors import RecordsError

HEADER_SIZE = 44
MAX_DATA = 0xFFFFFFFF - HEADER_SIZE
_HEADER = struct.Struct("<4sI4s4sIHHIIHH4sI")


def header(sample_rate: int, channels: int, data_size: int) -> bytes:
    """Header of 16-bit PCM with `data_size` bytes of samples."""
    frame = channels * 2
    return _HEADER.pack(
        b"RIFF",
        HEADER_SIZE - 8 + data_size,
        b"WAVE",
        b"fmt ",
        16,
        1,
        channels,
        sample_rate,
        sample_rate * frame,
        frame,
        16,
        b"data",
        data_size,
    )


def repair(path: Path) -> int:
    """Set the sizes in the header from the file's length; returns the duration in ms.

    Raises:
        RecordsError: the file was not written by this module.
        OSError: it cannot be read or written.
    """
    with path.open("r+b") as file:
        found = file.read(HEADER_SIZE)
        if len(found) < HEADER_SIZE:
            raise RecordsError(f"{path.name} holds no WAV header")
        fields = _HEADER.unpack(found)
        riff, kind, fmt, channels, rate, bits, data = (
            fields[0], fields[2], fields[3], fields[6], fields[7], fields[10], fields[11],
        )  # fmt: skip
        known = (riff, kind, fmt, data) == (b"RIFF", b"WAVE", b"fmt ", b"data")
        if not known or bits != 16 or channels not in {1, 2} or not rate:
            raise RecordsError(f"{path.name} is not a recording of ours")
        length = os.fstat(file.fileno()).st_size
        samples = min(length - HEADER_SIZE, MAX_DATA) // (channels * 2)
        file.truncate(HEADER_SIZE + samples * channels * 2)
        file.seek(0)
        file.write(header(rate, channels, samples * channels * 2))
    return int(samples * 1000 // rate)
