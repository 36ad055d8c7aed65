"""Asterisk's AudioSocket: frames on a TCP connection."""

from __future__ import annotations

from collections.abc import Mapping
from uuid import UUID

from flowcat_server.carriers.audiosocket import AUDIO, CALL, HANG_UP, HEADER, KEY
from flowcat_server.cli.far_side.model import FarSide, Heard, RawStream, Unexpected
from flowcat_server.core.audio import PCM_8K, AudioFormat
from flowcat_server.core.carrier import Account, Message

_AUDIO_8K = 0x10


class AudioSocketStream(RawStream):
    """Frames of L16, 8 kHz."""

    def __init__(
        self, call: str, parameters: Mapping[str, str], account: Account | None = None
    ) -> None:
        super().__init__(call, parameters, account)
        self._uuid = UUID(call)

    @property
    def says(self) -> AudioFormat:
        """Its usual format."""
        return PCM_8K

    def start(self) -> list[Message]:
        """The call's UUID, and a first frame, by which the rate is known."""
        return [_frame(CALL, self._uuid.bytes), self.say(self.says.silence(self.chunk_ms))]

    def say(self, audio: bytes) -> Message:
        """A frame of audio."""
        self.sent += 1
        return _frame(_AUDIO_8K, audio)

    def key(self, digit: str) -> Message | None:
        """A key."""
        return _frame(KEY, digit.encode())

    def unknown(self, size: int) -> Message | None:
        """None: frames are no messages that a proxy could cut."""
        del size
        return None

    def stop(self) -> list[Message]:
        """A hang-up."""
        return [_frame(HANG_UP)]

    def hear(self, message: Message) -> Heard:
        """What a frame means. Raises `Unexpected`."""
        assert isinstance(message, bytes)  # noqa: S101 - frames are bytes
        kind, body = message[0], message[HEADER.size :]
        if kind == HANG_UP:
            return Heard(ending=True)
        if kind not in AUDIO or not body:
            raise Unexpected(f"a frame of kind {kind:#04x}")
        return Heard(audio=body)


def _frame(kind: int, body: bytes = b"") -> bytes:
    return HEADER.pack(kind, len(body)) + body


class _AudioSocketSide(FarSide):
    __slots__ = ()

    def new_call(self, unique: str) -> str:
        """A UUID."""
        return str(UUID(unique))


AUDIOSOCKET = _AudioSocketSide(name="audiosocket", stream=AudioSocketStream, asks=False)
