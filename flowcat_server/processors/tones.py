"""Keys that a carrier does not tell of are heard in the caller's audio."""

from __future__ import annotations

from flowcat_server.core.audio import AudioFormat
from flowcat_server.core.dtmf import KeyListener
from flowcat_server.core.frames import AudioIn, Digit, Frame
from flowcat_server.core.processor import Processor


class ToneProcessor(Processor):
    """Turns the tones of keys into `Digit` frames; a carrier's own are dropped."""

    sounds = (AudioIn,)

    def __init__(self, audio: AudioFormat) -> None:
        """Listen to audio of a format."""
        self._listener = KeyListener(audio)

    def process(self, frame: Frame) -> None:
        if type(frame) is AudioIn:
            keys = self._listener.feed(frame.payload)
            self.emit_in(frame)
            for key in keys:
                self.emit(Digit(key, frame.at_ms))
        elif type(frame) is not Digit:
            self.emit(frame)
