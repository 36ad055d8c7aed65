"""The one contract of the audio path.

``process(frame)`` is synchronous and may call ``self.emit(frame)`` any number of times. `link`
wires each ``emit`` straight to the next ``process``: the order of frames is the order of calls,
an error rises to whoever pushed the frame, and a barge-in has run through the whole chain before
the next message is read. A processor that must wait starts a task through the session and emits
from it, on the loop's own thread.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from flowcat_server.core.frames import Frame

Emit = Callable[[Frame], None]


class Processor:
    """Takes frames, emits frames; the default passes every frame on."""

    emit: Emit

    def process(self, frame: Frame) -> None:
        """Handle one frame. Must not block and must not await."""
        self.emit(frame)

    def close(self) -> None:
        """The call is over: drop references and stop what was started. Called once."""


def _drop(frame: Frame) -> None:
    del frame


def link(processors: Sequence[Processor], sink: Emit = _drop) -> Emit:
    """Wire the processors in order and return the entry of the chain.

    Frames that leave the last processor go to `sink`.
    """
    entry = sink
    for processor in reversed(processors):
        processor.emit = entry
        entry = processor.process
    return entry


def unlink(processors: Sequence[Processor]) -> None:
    """Cut the chain apart, so that a finished call leaves no reference cycle behind."""
    for processor in processors:
        processor.emit = _drop
