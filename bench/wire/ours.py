"""``flowcat-server`` with one more stage: behind turn-taking, each caller's audio is said back.

    python -m bench.wire.ours run agent.yaml --bind 127.0.0.1:6210

Everything else is the real server: door, session, the cascade with all its stages, ledger,
pacing, marks. A frame passes recording (if it is on), turn-taking with voice detection and the
level meter of echo detection, and the inbox of the transcriber; what is said back goes to play
past the stages that only pass sound on, as any sound does (`core.processor`).
"""

from __future__ import annotations

import sys

from flowcat_server import calls
from flowcat_server.__main__ import main
from flowcat_server.core.frames import AudioIn, AudioOut, Frame
from flowcat_server.core.playout import Playout
from flowcat_server.core.processor import Processor
from flowcat_server.pipeline import CallLine

TURN = 1_000_000
"""No turn of a caller has this number."""


class Repeat(Processor):
    """Passes the caller's audio on, and says it too."""

    __slots__ = ("_piece",)

    sounds = (AudioIn,)

    def __init__(self, playout: Playout) -> None:
        playout.begin(TURN)
        self._piece = playout.add_piece(TURN, "") or 0

    def process(self, frame: Frame) -> None:
        if type(frame) is AudioIn:
            self.emit_in(frame)
            self.emit_out(AudioOut(TURN, frame.payload, self._piece))
        else:
            self.emit(frame)


class EchoLine(CallLine):
    """The cascade with `Repeat` in it."""

    def _cascaded(self) -> list[Processor]:
        turn, *others = super()._cascaded()
        return [turn, Repeat(self.playout), *others]


if __name__ == "__main__":
    calls.CallLine = EchoLine  # type: ignore[misc]
    sys.exit(main())
