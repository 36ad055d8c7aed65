"""The caller's side of the recording; the agent's side is a view of the playout."""

from __future__ import annotations

from typing import Protocol

from flowcat_server.core.audio import AudioFormat
from flowcat_server.core.frames import AudioIn, Frame
from flowcat_server.core.processor import Processor


class Recorder(Protocol):
    """A stereo recording. Positions are samples of the call's clock at the recording's rate."""

    sample_rate: int

    def caller(self, position: int, payload: bytes) -> None:
        """Caller audio that starts at `position`. Never blocks."""

    def agent(self, position: int, payload: bytes) -> None:
        """Agent audio that will sound from `position` on. Never blocks."""

    def agent_cleared(self, position: int) -> None:
        """Of the agent's audio, nothing after `position` was heard."""


class RecordProcessor(Processor):
    """Writes what the caller said; audio is passed on untouched."""

    __slots__ = (
        "_bytes_per_s",
        "_per_ms",
        "_recorder",
    )

    sounds = (AudioIn,)

    def __init__(self, recorder: Recorder, audio: AudioFormat) -> None:
        self._recorder = recorder
        self._per_ms = recorder.sample_rate / 1000
        self._bytes_per_s = audio.bytes_for(1000)

    def process(self, frame: Frame) -> None:
        if type(frame) is AudioIn:
            payload = frame.payload
            start_ms = frame.at_ms - len(payload) * 1000 // self._bytes_per_s
            self._recorder.caller(int(max(0, start_ms) * self._per_ms), payload)
            emit_in = self.emit_in
            emit_in(frame)
        else:
            self.emit(frame)
