"""``topology.mode: echo``: the caller hears themselves. For load tests and line checks."""

from __future__ import annotations

from flowcat_server.core.audio import AudioFormat, Transcoder
from flowcat_server.core.frames import AudioIn, AudioOut, Frame
from flowcat_server.core.playout import Playout
from flowcat_server.core.processor import Processor

ECHO_TURN = 0
MOST_WAITING_MS = 200
WINDOW_MS = 500


class EchoProcessor(Processor):
    """Every frame of the caller becomes a frame of the agent.

    What waits to be sent is bounded. And what waited all through the last `WINDOW_MS` is waiting
    in vain: so much is left out, so that neither a stall nor a line that opens a moment after
    the caller's own makes the echo late for ever.
    """

    sounds = (AudioIn,)

    def __init__(self, playout: Playout, source: AudioFormat, target: AudioFormat) -> None:
        self._transcoder = Transcoder(source, target)
        self._playout = playout
        self._source = source
        self._most = target.bytes_for(MOST_WAITING_MS)
        self._least = self._most
        self._skip = 0
        self._heard_ms = 0
        playout.begin(ECHO_TURN)
        self._piece = playout.add_piece(ECHO_TURN, "") or 0

    def process(self, frame: Frame) -> None:
        if type(frame) is not AudioIn:
            self.emit(frame)
            return
        waiting = self._playout.queued()
        self._watch(waiting, self._source.duration_ms(len(frame.payload)))
        audio = self._transcoder.feed(frame.payload)
        if waiting >= self._most:
            return
        if self._skip >= len(audio) > 0:
            self._skip -= len(audio)
            return
        self.emit_out(AudioOut(ECHO_TURN, audio, self._piece))

    def _watch(self, waiting: int, heard_ms: int) -> None:
        self._least = min(self._least, waiting)
        self._heard_ms += heard_ms
        if self._heard_ms >= WINDOW_MS:
            self._skip = self._least
            self._least, self._heard_ms = self._most, 0
