"""What the server and its synthesis process say to each other, over two pipes.

A message is a header (payload length, kind, request number; little-endian) and its payload.
Numbers are chosen by the server and used once; 0 is the process itself.

====== ======== ========= ===================================================================
kind   sent by  request   payload
====== ======== ========= ===================================================================
SETUP  server   0         JSON: paths of model and config, scales, threads
SPEAK  server   n         JSON: text, background
CANCEL server   n         empty; no answer follows
READY  process  0         JSON: sample_rate
WORDS  process  n         JSON: [[text, start_ms, end_ms], ...], before the audio they are in
AUDIO  process  n         PCM16 at `sample_rate`
DONE   process  n         empty
FAILED process  n or 0    text of the error
====== ======== ========= ===================================================================
"""

from __future__ import annotations

import struct
from enum import IntEnum

HEADER = struct.Struct("<IBI")
MAX_PAYLOAD = 1 << 22
"""Bytes. A longer one is not ours."""


class Kind(IntEnum):
    """Kinds of message."""

    SETUP = 1
    SPEAK = 2
    CANCEL = 3
    READY = 4
    WORDS = 5
    AUDIO = 6
    DONE = 7
    FAILED = 8


class WireError(ValueError):
    """Bytes that are not this protocol."""


def pack(kind: Kind, request: int, payload: bytes = b"") -> bytes:
    """One message."""
    return HEADER.pack(len(payload), kind, request) + payload


def unpack_header(header: bytes) -> tuple[int, Kind, int]:
    """Payload length, kind and request number. Raises `WireError`."""
    try:
        length, kind, request = HEADER.unpack(header)
        known = Kind(kind)
    except (struct.error, ValueError) as error:
        raise WireError(f"not a header: {header[:16]!r}") from error
    if length > MAX_PAYLOAD:
        raise WireError(f"payload of {length} bytes")
    return length, known, request
