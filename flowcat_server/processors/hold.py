"""A caller who waits: hears a sound that makes way for speech, and is not listened to.

Both stages are linked in only while somebody waits, so that they cost other calls nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from flowcat_server.core.audio import SILENCE_BYTE, AudioFormat
from flowcat_server.core.frames import AudioIn, AudioOut, Digit, Frame, TextIn
from flowcat_server.core.hold import HoldSound
from flowcat_server.core.interfaces import Transport
from flowcat_server.core.playout import Playout
from flowcat_server.core.processor import Processor
from flowcat_server.processors.call import Call

LOOK_MS = 100


class Hold:
    """Who waits in one call, and why."""

    def __init__(
        self,
        call: Call,
        playout: Playout,
        transport: Transport,
        sound: Callable[[AudioFormat], bytes],
    ) -> None:
        """Begin with nobody waiting.

        Args:
            call: The owner.
            playout: Where the sound is heard.
            transport: The way to the far end.
            sound: What a caller hears, in a format; empty: nothing.
        """
        self._call = call
        self._playout = playout
        self._transport = transport
        self._sound = sound
        self._made: HoldSound | None = None
        self._timer: asyncio.Handle | None = None
        self.on = False
        """The caller waits."""

    def begin(self) -> None:
        """The caller begins to wait."""
        self.on = True
        self.rest()

    def end(self) -> None:
        """The caller waits no longer."""
        self.on = False
        self.make_way()

    def rest(self) -> None:
        """A caller who waits hears the sound again, once all that was said has been heard."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self.on or self._playout.waiting is not None:
            return
        now = self._call.now_ms()
        left_ms = self._playout.buffered_ms(now)
        if left_ms:
            self._timer = self._call.call_at(now + max(left_ms, LOOK_MS), self.rest)
            return
        if self._made is None:
            audio = self._transport.output_format
            sound = self._sound(audio)
            if not sound:
                return
            self._made = HoldSound(sound, audio)
        self._playout.waiting = self._made
        self._transport.wake()

    def close(self) -> None:
        """The call is over."""
        if self._timer is not None:
            self._timer.cancel()
        vars(self).clear()

    def make_way(self) -> None:
        """There is something to say; the sound comes back when it has been heard."""
        if self.on and self._timer is None:
            self._timer = self._call.call_at(self._call.now_ms() + LOOK_MS, self.rest)
        if self._playout.make_way(self._call.now_ms()) and self._transport.buffers:
            self._transport.clear()


class HoldProcessor(Processor):
    """Has the sound make way for the agent's speech."""

    sounds = (AudioOut,)

    def __init__(self, hold: Hold) -> None:
        self._hold = hold

    def process(self, frame: Frame) -> None:
        if type(frame) is AudioOut and frame.payload:
            self._hold.make_way()
            self.emit_out(frame)
        else:
            self.emit(frame)


class DeafProcessor(Processor):
    """Keeps a caller who waits from the stages behind: they hear silence, in step with time."""

    sounds = (AudioIn,)

    def __init__(self, audio: AudioFormat) -> None:
        """The caller's audio comes in a format."""
        self._silence = SILENCE_BYTE[audio.encoding]

    def process(self, frame: Frame) -> None:
        if type(frame) is AudioIn:
            self.emit_in(AudioIn(self._silence * len(frame.payload), frame.at_ms))
        elif type(frame) is not Digit and type(frame) is not TextIn:
            self.emit(frame)
