"""The one contract of the audio path.

``process(frame)`` is synchronous and may call ``self.emit(frame)`` any number of times. `link`
wires each ``emit`` straight to the next ``process``: the order of frames is the order of calls,
an error rises to whoever pushed the frame, and a barge-in has run through the whole chain before
the next message is read. A processor that must wait starts a task through the session and emits
from it, on the loop's own thread.

Sound is most of what flows, and most stages only pass it on. A stage that says so in `sounds` is
left out of its way: who emits sound by `emit_in` or `emit_out` calls the next stage that wants it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

from flowcat_server.core.frames import AudioIn, AudioOut, Frame

Emit = Callable[[Frame], None]


class Processor:
    """Takes frames, emits frames; the default passes every frame on."""

    __slots__ = ("emit", "emit_in", "emit_out")

    sounds: ClassVar[tuple[type[AudioIn | AudioOut], ...]] = (AudioIn, AudioOut)
    """The sound that this stage has to see."""
    emit: Emit
    """To the next stage."""
    emit_in: Callable[[AudioIn], None]
    """The same for the caller's sound alone, past all stages that do not have to see it."""
    emit_out: Callable[[AudioOut], None]
    """The same for the agent's."""

    def process(self, frame: Frame) -> None:
        """Handle one frame. Must not block and must not await."""
        self.emit(frame)

    def close(self) -> None:
        """The call is over: drop references and stop what was started. Called once."""

    def forget(self) -> None:
        """Let go of everything, slots included. The last call of all."""
        for kind in type(self).__mro__:
            for name in getattr(kind, "__slots__", ()):
                if hasattr(self, name) and not name.startswith("__"):
                    delattr(self, name)
        getattr(self, "__dict__", {}).clear()


def _drop(frame: Frame) -> None:
    del frame


def link(processors: Sequence[Processor], sink: Emit = _drop) -> Emit:
    """Wire the processors in order and return the entry of the chain.

    Frames that leave the last processor go to `sink`.
    """
    entry = sound_in = sound_out = sink
    for processor in reversed(processors):
        processor.emit, processor.emit_in, processor.emit_out = entry, sound_in, sound_out
        entry = processor.process
        if AudioIn in processor.sounds:
            sound_in = entry
        if AudioOut in processor.sounds:
            sound_out = entry
    return entry


def unlink(processors: Sequence[Processor]) -> None:
    """Cut the chain apart, so that a finished call leaves no reference cycle behind."""
    for processor in processors:
        processor.emit = processor.emit_in = processor.emit_out = _drop
