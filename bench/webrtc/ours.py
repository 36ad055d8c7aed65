"""``flowcat-server`` with one more stage: behind turn-taking, each caller's audio is said back.

    python -m bench.webrtc.ours run echo.yaml --bind 127.0.0.1:6210

Everything else is the real server: door, session, the cascade with all its stages, ledger, pacing.
What is said back has the rate of a voice (24 kHz); only what is loud enough is said, so that an
agent whose caller pauses is silent then.
"""

from __future__ import annotations

import audioop
import sys

from flowcat_server import calls
from flowcat_server.__main__ import main
from flowcat_server.core.frames import AudioIn, AudioOut, Frame
from flowcat_server.core.playout import Playout
from flowcat_server.core.processor import Processor
from flowcat_server.pipeline import CallLine

TURN = 1_000_000
"""No turn of a caller has this number."""
AUDIBLE = 60
"""RMS, of 32,767."""
HEARD_HZ, SPOKEN_HZ = 16_000, 24_000


class Repeat(Processor):
    """Passes the caller's audio on, and says it too."""

    def __init__(self, playout: Playout) -> None:
        playout.begin(TURN)
        self._piece = playout.add_piece(TURN, "") or 0
        self._state: object = None

    def process(self, frame: Frame) -> None:
        self.emit(frame)
        if type(frame) is AudioIn and audioop.rms(frame.payload, 2) > AUDIBLE:
            pcm, self._state = audioop.ratecv(frame.payload, 2, 1, HEARD_HZ, SPOKEN_HZ, self._state)
            self.emit(AudioOut(TURN, pcm, self._piece))


class EchoLine(CallLine):
    """The cascade with `Repeat` in it."""

    def _cascaded(self) -> list[Processor]:
        turn, *others = super()._cascaded()
        return [turn, Repeat(self.playout), *others]


if __name__ == "__main__":
    calls.CallLine = EchoLine  # type: ignore[misc]
    sys.exit(main())
