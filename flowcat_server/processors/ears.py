"""Whether a speech-to-speech session listens at all: an open socket that says nothing is dead.

The vendor decides what is speech and what is a cough, so its silence after a sound of the caller
proves nothing. But it can be asked for a sign of life, and then silence does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from flowcat_server.processors.call import Call
from flowcat_server.processors.caller_audio import CallerAudio
from flowcat_server.processors.dead_air import Debt

UNNOTICED_MS = 1000
"""After the caller's last sound; vendors tell of a turn's end within 600 ms or so."""
SPEECH_MS = 250
"""Sound of the caller that is owed an answer; what is shorter may be a cough."""


class Ears:
    """Notices a vendor that does not notice the caller."""

    def __init__(self, call: Call, caller: CallerAudio, ask: Callable[[int], bool]) -> None:
        """Create it.

        Args:
            call: The owner.
            caller: The caller's voice.
            ask: Told when the caller fell silent; asks the vendor for a sign of life, or says
                False if that is not wanted now.
        """
        self._call = call
        self._caller = caller
        caller.on_voice = self._voice
        self._ask = ask
        self._timer: asyncio.Handle | None = None
        self._sign_ms = -1
        self.unnoticed_ms: int | None = None
        """The end of speech about which the vendor is silent, although it was asked."""

    def owes(self) -> Debt | None:
        """Any sign that the caller was heard."""
        return None if self.unnoticed_ms is None else Debt("realtime", self.unnoticed_ms)

    def sign(self) -> bool:
        """The vendor has said something; says whether that was in doubt."""
        self._sign_ms = self._call.now_ms()
        doubted, self.unnoticed_ms = self.unnoticed_ms is not None, None
        return doubted

    def forget(self) -> None:
        """The caller was told that they were not heard."""
        self.unnoticed_ms = None
        self._caller.noticed(speaking=False)

    def close(self) -> None:
        """The call is over."""
        if self._timer is not None:
            self._timer.cancel()

    def _voice(self) -> None:
        if self._timer is None:
            self._timer = self._call.call_at(self._call.now_ms() + UNNOTICED_MS, self._look)

    def _look(self) -> None:
        self._timer = None
        caller, now = self._caller, self._call.now_ms()
        voice = caller.last_voice_ms
        if now - voice < UNNOTICED_MS:
            self._timer = self._call.call_at(voice + UNNOTICED_MS, self._look)
            return
        silent = caller.voiced_ms >= SPEECH_MS and self._sign_ms < voice
        if silent and self.unnoticed_ms is None and self._ask(voice):
            self.unnoticed_ms = voice
