"""The echo: complete, and not late for ever."""

from __future__ import annotations

from itertools import pairwise

import pytest

from flowcat_server.core.audio import PCM_16K, PCM_24K
from flowcat_server.core.frames import AudioIn, AudioOut, Digit, Frame
from flowcat_server.core.playout import Playout
from flowcat_server.core.processor import link
from flowcat_server.processors.echo import ECHO_TURN, MOST_WAITING_MS, EchoProcessor

FRAME = PCM_16K.bytes_for(20)
PIECE = PCM_24K.bytes_for(20)


class Line:
    """A transport that asks for 20 ms every 20 ms, once it is open."""

    def __init__(self) -> None:
        self.playout = Playout(PCM_24K, delay_ms=60, marks=False)
        self.echo = EchoProcessor(self.playout, PCM_16K, PCM_24K)
        link([self.echo], self._emit)
        self.now_ms = 0
        self.passed: list[Frame] = []

    def _emit(self, frame: Frame) -> None:
        if isinstance(frame, AudioOut):
            self.playout.push(ECHO_TURN, frame.piece, frame.payload, self.now_ms)
        else:
            self.passed.append(frame)

    def run(self, frames: int, *, open: bool = True) -> list[int]:
        """What waits after each of so many frames, in milliseconds."""
        waiting = []
        for _ in range(frames):
            self.now_ms += 20
            self.echo.process(AudioIn(b"\1\0" * (FRAME // 2), self.now_ms))
            if open:
                self.playout.pull(self.now_ms, PIECE)
            waiting.append(PCM_24K.duration_ms(self.playout.queued()))
        return waiting


def test_an_open_line_keeps_nothing_waiting() -> None:
    assert max(Line().run(500)) <= 20


@pytest.mark.parametrize("closed_ms", [100, 300, 2_000])
def test_a_line_that_opens_late_is_not_late_for_ever(closed_ms: int) -> None:
    line = Line()
    assert max(line.run(closed_ms // 20, open=False)) <= MOST_WAITING_MS
    assert max(line.run(200)[75:]) <= 20


def test_waiting_of_a_moment_is_no_reason_to_leave_out_anything() -> None:
    """Packets that come in bunches: 100 ms nothing, then five at once."""
    line = Line()
    for _ in range(100):
        line.run(5, open=False)
        sent = [len(line.playout.pull(line.now_ms, PIECE)) for _ in range(5)]
        assert all(a >= b for a, b in pairwise(sent))
        assert sum(sent) >= 4 * PIECE


def test_other_frames_pass() -> None:
    line = Line()
    line.echo.process(Digit("5", 20))
    assert line.passed == [Digit("5", 20)]
