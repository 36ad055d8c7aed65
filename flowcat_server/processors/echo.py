"""``topology.mode: echo``: the caller hears themselves. For load tests and line checks."""

from __future__ import annotations

from flowcat_server.core.audio import AudioFormat, Transcoder
from flowcat_server.core.frames import AudioIn, AudioOut, Frame
from flowcat_server.core.playout import Playout
from flowcat_server.core.processor import Processor

ECHO_TURN = 0
MOST_WAITING_MS = 200


class EchoProcessor(Processor):
    """Every frame of the caller becomes a frame of the agent.

    What waits to be sent is bounded: frames beyond it are left out, so that after a stall the
    echo is not late for ever.
    """

    def __init__(self, playout: Playout, source: AudioFormat, target: AudioFormat) -> None:
        self._transcoder = Transcoder(source, target)
        self._playout = playout
        self._most = target.bytes_for(MOST_WAITING_MS)
        playout.begin(ECHO_TURN)
        self._piece = playout.add_piece(ECHO_TURN, "") or 0

    def process(self, frame: Frame) -> None:
        if type(frame) is AudioIn:
            if self._playout.queued() >= self._most:
                return
            self.emit(AudioOut(ECHO_TURN, self._transcoder.feed(frame.payload), self._piece))
        else:
            self.emit(frame)
