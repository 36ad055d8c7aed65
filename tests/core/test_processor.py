"""The chain."""

from __future__ import annotations

import pytest

from flowcat_server.core.frames import Digit, Frame
from flowcat_server.core.processor import Processor, link, unlink


class Twice(Processor):
    def process(self, frame: Frame) -> None:
        self.emit(frame)
        self.emit(frame)


class Broken(Processor):
    def process(self, frame: Frame) -> None:
        raise ValueError("broken")


def test_frames_pass_in_order_to_the_sink():
    out: list[Frame] = []
    entry = link([Processor(), Twice(), Processor()], out.append)
    one, two = Digit("1", 0), Digit("2", 0)
    entry(one)
    entry(two)
    assert out == [one, one, two, two]


def test_a_fault_rises_to_whoever_pushed_the_frame():
    with pytest.raises(ValueError, match="broken"):
        link([Processor(), Broken()])(Digit("1", 0))


def test_what_leaves_the_last_stage_without_a_sink_is_dropped():
    link([Processor()])(Digit("1", 0))


def test_a_chain_that_was_cut_passes_nothing_on():
    out: list[Frame] = []
    stages = [Processor(), Processor()]
    entry = link(stages, out.append)
    unlink(stages)
    entry(Digit("1", 0))
    assert out == []


def test_no_stages_are_the_sink_itself():
    out: list[Frame] = []
    link([], out.append)(Digit("1", 0))
    assert len(out) == 1
