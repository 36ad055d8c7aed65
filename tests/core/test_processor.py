"""The chain."""

from __future__ import annotations

import pytest

from flowcat_server.core.frames import AudioIn, AudioOut, Digit, Frame
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


class Deaf(Processor):
    """Has nothing to do with sound."""

    sounds = ()

    def __init__(self) -> None:
        self.passed: list[Frame] = []

    def process(self, frame: Frame) -> None:
        self.passed.append(frame)
        self.emit(frame)


class Listener(Deaf):
    """Wants the caller's sound."""

    sounds = (AudioIn,)


def test_sound_goes_past_stages_that_do_not_want_it():
    found: list[Frame] = []
    source, deaf, listener = Processor(), Deaf(), Listener()
    link([source, deaf, listener], found.append)
    heard, said = AudioIn(b"a", 20), AudioOut(1, b"b", 0)
    source.emit_in(heard)
    source.emit_out(said)
    assert deaf.passed == []
    assert listener.passed == [heard]
    assert found == [heard, said]


def test_all_else_and_sound_that_is_emitted_plainly_passes_every_stage():
    found: list[Frame] = []
    source, deaf = Processor(), Deaf()
    link([source, deaf], found.append)
    frames: list[Frame] = [Digit("1", 5), AudioIn(b"a", 20)]
    for frame in frames:
        source.emit(frame)
    assert deaf.passed == found == frames


def test_a_stage_that_has_forgotten_holds_nothing():
    class Both(Deaf):
        __slots__ = ("held",)

    stage = Both()
    stage.held = [1]
    link([stage])
    stage.forget()
    assert not hasattr(stage, "held")
    assert not hasattr(stage, "passed")
    assert not hasattr(stage, "emit")
