"""Opus through libopus itself, by ctypes.

PyAV ships libopus inside its wheels; calling it directly gives what PyAV's wrapper does not
expose (packet loss concealment and in-band FEC) and decodes straight to the rate asked for.
API: https://opus-codec.org/docs/opus_api-1.5/ ; packet layout: RFC 6716 section 3.
"""

from __future__ import annotations

import ctypes
import ctypes.util
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import structlog

from flowcat_server.errors import TransportError

log = structlog.get_logger()

CLOCK_RATE = 48_000
"""Hertz of Opus RTP timestamps, whatever rate is coded (RFC 7587 section 4.1)."""

FRAME_MS = 20
_MAX_PACKET = 1276
"""Largest Opus frame in bytes plus its TOC byte (RFC 6716 section 3.2.1)."""
_MAX_PACKET_MS = 120
_MAX_DTX = 2
"""Bytes: a packet this short carries no audio, transmission pauses after it (RFC 6716 2.1.9)."""

_APPLICATION_VOIP = 2048
_SIGNAL_VOICE = 3001
_SIGNAL_MUSIC = 3002
_SET_BITRATE = 4002
_SET_COMPLEXITY = 4010
_SET_INBAND_FEC = 4012
_SET_PACKET_LOSS_PERC = 4014
_SET_SIGNAL = 4024
_RESET_STATE = 4028

CLEAN_BITRATE = 64_000
"""While nothing is lost: as much as G.711, for which the transform codec alone is as good as
the speech codec at half of it, and takes a quarter of its time."""
LOSSY_BITRATE = 32_000
CLEAN_COMPLEXITY, LOSSY_COMPLEXITY = 4, 5
CLEAN_REPORTS = 3
"""So many reports in a row without loss end the forward error correction."""


def _candidates() -> Iterator[str]:
    try:
        import av
    except ImportError:  # pragma: no cover - aiortc requires PyAV
        pass
    else:
        package = Path(av.__file__).parent
        for pattern in ("av.libs/libopus*.so*", "av/.dylibs/libopus*.dylib", "av.libs/*opus*.dll"):
            yield from (str(path) for path in sorted(package.parent.glob(pattern)))
    found = ctypes.util.find_library("opus")
    if found:
        yield found


@cache
def library() -> ctypes.CDLL | None:
    """The loaded libopus, or None when this machine has none (logged once)."""
    for name in _candidates():
        try:
            lib = ctypes.CDLL(name)
            _declare(lib)
        except (OSError, AttributeError) as error:
            log.info("opus_library_unusable", name=name, error=str(error))
            continue
        return lib
    log.warning("opus_library_missing", effect="packet loss is not concealed, calls cost more CPU")
    return None


def _declare(lib: ctypes.CDLL) -> None:
    integer, pointer, text = ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p
    lib.opus_encoder_create.argtypes = [ctypes.c_int32, integer, integer, pointer]
    lib.opus_encoder_create.restype = pointer
    lib.opus_encoder_destroy.argtypes = [pointer]
    lib.opus_encoder_destroy.restype = None
    lib.opus_encode.argtypes = [pointer, text, integer, text, ctypes.c_int32]
    lib.opus_encode.restype = ctypes.c_int32
    lib.opus_decoder_create.argtypes = [ctypes.c_int32, integer, pointer]
    lib.opus_decoder_create.restype = pointer
    lib.opus_decoder_destroy.argtypes = [pointer]
    lib.opus_decoder_destroy.restype = None
    lib.opus_decode.argtypes = [pointer, text, ctypes.c_int32, text, integer, integer]
    # opus_encoder_ctl is variadic: only the fixed arguments are declared.
    lib.opus_encoder_ctl.argtypes = [pointer, integer]


def _require() -> ctypes.CDLL:
    lib = library()
    if lib is None:
        raise TransportError("libopus is not available")
    return lib


class Encoder:
    """Mono speech encoder: 20 ms of PCM16 in, one packet out. Not thread-safe.

    On a clean line the packets are CELT: cheap. Where packets get lost they are SILK, or SILK
    below CELT, of which each can carry a copy of the one before (in-band FEC, RFC 6716
    section 2.1.7), at half of the bitrate. libopus changes over without a click.
    """

    __slots__ = ("_clean_reports", "_lib", "_loss", "_lossy_only", "_max_bitrate", "_out",
                 "_samples", "_state")  # fmt: skip

    def __init__(self, sample_rate: int, *, max_bitrate: int | None = None) -> None:
        """`max_bitrate`: what the peer wants to get at most (RFC 7587 section 6.1)."""
        self._lib = _require()
        error = ctypes.c_int(0)
        state = self._lib.opus_encoder_create(
            sample_rate, 1, _APPLICATION_VOIP, ctypes.byref(error)
        )
        if not state:
            raise TransportError(f"opus_encoder_create failed: {error.value}")
        self._state: Any = ctypes.c_void_p(state)
        self._samples = sample_rate * FRAME_MS // 1000
        self._out = ctypes.create_string_buffer(_MAX_PACKET)
        self._max_bitrate = CLEAN_BITRATE if max_bitrate is None else max_bitrate
        self._lossy_only = self._max_bitrate < CLEAN_BITRATE
        self._loss = self._clean_reports = 0
        self._choose()

    def __del__(self) -> None:
        if getattr(self, "_state", None):
            self._lib.opus_encoder_destroy(self._state)

    def _control(self, request: int, *value: int) -> None:
        arguments = [ctypes.c_int32(number) for number in value]
        if self._lib.opus_encoder_ctl(self._state, request, *arguments) < 0:
            raise TransportError(f"opus_encoder_ctl {request} was refused")

    def _choose(self) -> None:
        clean = not self._loss and not self._lossy_only
        bitrate = CLEAN_BITRATE if clean else min(LOSSY_BITRATE, self._max_bitrate)
        self._control(_SET_BITRATE, bitrate)
        self._control(_SET_COMPLEXITY, CLEAN_COMPLEXITY if clean else LOSSY_COMPLEXITY)
        # libopus takes CELT for music at much lower bitrates than for what is called speech.
        self._control(_SET_SIGNAL, _SIGNAL_MUSIC if clean else _SIGNAL_VOICE)
        self._control(_SET_INBAND_FEC, 1 if self._loss else 0)
        self._control(_SET_PACKET_LOSS_PERC, self._loss)

    def encode(self, pcm: bytes) -> bytes:
        """One packet of exactly 20 ms."""
        size = self._lib.opus_encode(self._state, pcm, self._samples, self._out, _MAX_PACKET)
        if size < 0:
            raise TransportError(f"opus_encode failed: {size}")
        return ctypes.string_at(self._out, size)

    def expect_loss(self, percent: int) -> None:
        """Take a report of how many packets got lost; above 1 % there is in-band FEC."""
        if percent <= 1:
            self._clean_reports += 1
            if not self._loss or self._clean_reports < CLEAN_REPORTS:
                return
            percent = 0
        else:
            self._clean_reports = 0
        if (loss := min(percent, 30)) != self._loss:
            self._loss = loss
            self._choose()

    def reset(self) -> None:
        """Forget the past: the next packet does not depend on the ones before."""
        self._control(_RESET_STATE)


class Decoder:
    """Decodes to mono PCM16 at `sample_rate`. Not thread-safe."""

    __slots__ = ("_lib", "_out", "_rate", "_room", "_state")

    def __init__(self, sample_rate: int) -> None:
        self._lib = _require()
        error = ctypes.c_int(0)
        state = self._lib.opus_decoder_create(sample_rate, 1, ctypes.byref(error))
        if not state:
            raise TransportError(f"opus_decoder_create failed: {error.value}")
        self._state: Any = ctypes.c_void_p(state)
        self._rate = sample_rate
        self._room = sample_rate * _MAX_PACKET_MS // 1000
        self._out = ctypes.create_string_buffer(self._room * 2)

    def __del__(self) -> None:
        if getattr(self, "_state", None):
            self._lib.opus_decoder_destroy(self._state)

    def decode(self, packet: bytes) -> bytes:
        """PCM16 of one packet; empty when it is not Opus."""
        return self._decode(packet, self._room, fec=0)

    def recover(self, following: bytes, ticks: int) -> bytes:
        """The lost packet before `following`, from its in-band FEC or, without, concealed.

        `ticks` is the lost packet's length in 1/48000 s.
        """
        samples = ticks * self._rate // CLOCK_RATE
        return self._decode(following, samples, fec=1) or self.conceal(ticks)

    def conceal(self, ticks: int) -> bytes:
        """What may have been in `ticks` 1/48000 s of lost audio."""
        samples = ticks * self._rate // CLOCK_RATE
        return self._decode(None, samples, fec=0) or bytes(samples * 2)

    def _decode(self, packet: bytes | None, samples: int, *, fec: int) -> bytes:
        size = len(packet) if packet is not None else 0
        made = self._lib.opus_decode(
            self._state, packet, size, self._out, min(samples, self._room), fec
        )
        return ctypes.string_at(self._out, made * 2) if made > 0 else b""


_FRAME_TICKS = [
    # 1/48000 s per frame by TOC configuration number (RFC 6716 section 3.1, table 2).
    *([480, 960, 1920, 2880] * 3),
    *([480, 960] * 2),
    *([120, 240, 480, 960] * 4),
]


def packet_ticks(packet: bytes) -> int:
    """Length of a packet in 1/48000 s; 0 when it is not a valid Opus packet."""
    if not packet:
        return 0
    frame = _FRAME_TICKS[packet[0] >> 3]
    code = packet[0] & 3
    if code == 0:
        return frame
    if code != 3:
        return 2 * frame
    ticks = frame * (packet[1] & 0x3F) if len(packet) > 1 else 0
    return ticks if ticks <= _MAX_PACKET_MS * CLOCK_RATE // 1000 else 0


def is_dtx(packet: bytes) -> bool:
    """The sender pauses after this packet."""
    return len(packet) <= _MAX_DTX


@cache
def silence_packet(sample_rate: int) -> bytes:
    """20 ms of settled silence; may be sent as often as one likes."""
    encoder = Encoder(sample_rate)
    frame = bytes(sample_rate * FRAME_MS // 1000 * 2)
    packet = b""
    for _ in range(10):
        packet = encoder.encode(frame)
    return packet
