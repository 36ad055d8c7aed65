"""Asterisk's AudioSocket: a TCP connection for each call, in frames of kind, length and body.

``AudioSocket(<uuid>,host:port)`` in the dialplan, or ``Dial(AudioSocket/host:port/<uuid>)``. A
frame is one byte of kind, two of length (big-endian), and the body::

    01 0010 <16 bytes: the call's UUID, first>      03 0001 35          a key, "5"
    10 0140 <320 bytes: 20 ms of L16, 8 kHz>        00 0000             hang-up
    11..18  the same at 12, 16, 24, 32, 44.1, 48, 96 and 192 kHz        ff  error

PCM is little-endian. To Asterisk go only audio, of the kind that it sends, and ``00``. It plays
frames as they come and gives up after two seconds of nothing: so one goes out every 20 ms,
silence if there is nothing to say. There is no password: only addresses that are allowed may
connect. https://docs.asterisk.org/Configuration/Channel-Drivers/AudioSocket/.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from flowcat_server.carriers._values import fault, key
from flowcat_server.core.audio import AudioFormat
from flowcat_server.core.carrier import (
    Account,
    Carrier,
    CarrierStream,
    Fed,
    Ignored,
    Message,
    Refuse,
    Request,
    Sending,
    Started,
    Stopped,
)

HANG_UP, CALL, KEY, ERROR = 0x00, 0x01, 0x03, 0xFF
AUDIO = {
    0x10: 8000,
    0x11: 12000,
    0x12: 16000,
    0x13: 24000,
    0x14: 32000,
    0x15: 44100,
    0x16: 48000,
    0x17: 96000,
    0x18: 192000,
}
"""Kinds of audio, and their rates in Hertz."""
HEADER = struct.Struct(">BH")


class Frames:
    """Cuts what arrives into whole frames."""

    __slots__ = ("_rest",)

    def __init__(self) -> None:
        self._rest = b""
        """The beginning of a frame; a frame's length bounds it."""

    def cut(self, data: bytes) -> list[bytes]:
        """The frames that are whole now."""
        buffer = self._rest + data if self._rest else data
        frames = []
        start = 0
        while len(buffer) - start >= HEADER.size:
            end = start + HEADER.size + int.from_bytes(buffer[start + 1 : start + 3], "big")
            if end > len(buffer):
                break
            frames.append(buffer[start:end])
            start = end
        self._rest = buffer[start:]
        return frames


class Stream:
    """One connection; its messages are whole frames."""

    __slots__ = ("_call", "_kind")

    def __init__(self) -> None:
        self._call = ""
        self._kind = 0
        """Of the audio; 0: none has come."""

    def feed(self, message: str | bytes, binary: bool = False) -> Fed:  # noqa: FBT001, FBT002, RUF100 - one call a frame
        """What one frame means; its body if it is audio. Never raises."""
        del binary
        if isinstance(message, str) or len(message) < HEADER.size:
            return fault("no frame")
        kind = message[0]
        if kind == self._kind and kind:
            return message[3:] or Ignored("audio without samples")
        return self._other(kind, message[3:])

    def _other(self, kind: int, body: bytes) -> Fed:
        if kind == CALL:
            return self._name(body)
        if kind == HANG_UP:
            return Stopped()
        if kind == KEY:
            return key(body.decode("ascii", "replace"))
        if kind in AUDIO:
            return self._start(kind)
        return fault("the carrier reports an error" if kind == ERROR else "unknown kind of frame")

    def _name(self, body: bytes) -> Fed:
        if self._call:
            return fault("second UUID")
        if len(body) != 16:
            return Refuse("no UUID")
        self._call = str(UUID(bytes=body))
        return Ignored("UUID")

    def _start(self, kind: int) -> Fed:
        """The first audio says at which rate the call is heard."""
        if not self._call:
            return Refuse("audio before the UUID")
        if self._kind:
            return fault("audio of another rate")
        self._kind = kind
        audio = AudioFormat("pcm16", AUDIO[kind])
        frame = audio.bytes_for(20)
        return Started(
            call_id=self._call,
            stream_id=self._call,
            input_format=audio,
            output_format=audio,
            sending=Sending(
                ahead_ms=20,
                chunk_ms=20,
                first_ms=20,
                unit=frame,
                least=frame,
                most=frame,
                marks=False,
                forgets=False,
                fills=True,
            ),
        )

    def accept(self) -> Sequence[Message]:
        """Nothing: Asterisk waits for nothing."""
        return ()

    def audio(self, payload: bytes) -> bytes:
        """A frame of the kind that was heard."""
        return HEADER.pack(self._kind, len(payload)) + payload

    def mark(self, name: str) -> None:
        """There are no marks."""
        del name

    def clear(self) -> None:
        """Nothing is buffered that could be taken back."""

    def dtmf(self, digits: str) -> Sequence[Message]:
        """Keys cannot be sent."""
        del digits
        return ()

    def end(self, reason: str, target: str = "") -> Sequence[Message]:
        """Hangs up."""
        del reason, target
        return [HEADER.pack(HANG_UP, 0)]


@dataclass(frozen=True, slots=True, kw_only=True)
class AudioSocket(Carrier):
    """A switch of one's own, over bare TCP."""

    def open(self, account: Account, handshake: Request) -> CarrierStream:
        """A new connection."""
        del account, handshake
        return Stream()


CARRIER = AudioSocket(
    name="audiosocket",
    title="Asterisk AudioSocket",
    wire="TCP, on `carriers.audiosocket.bind`",
    audio="L16, 8 kHz; 12 to 192 kHz where the dialplan asks for it",
    docs="https://docs.asterisk.org/Configuration/Channel-Drivers/AudioSocket/",
    paste="host and port of AudioSocket(<uuid>,host:port) in the dialplan",
    credential="allow_from",
    over="tcp",
    has_webhook=False,
    handshake_suffices=True,
)
