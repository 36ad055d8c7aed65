"""What a speech-to-speech session hears of the caller, and when they last made a sound."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from flowcat_server.core.audio import AudioFormat, Transcoder
from flowcat_server.core.frames import AudioIn
from flowcat_server.core.interfaces import Audio, Vad

HELD_MS = 60_000
"""Of what the caller says into a reply that may not be interrupted, the last of it is kept."""
VOICED = 0.5
"""Probability from which a chunk counts as the caller's voice."""


class CallerAudio:
    """Converts the caller's audio for the vendor, and can hold it back for a while."""

    def __init__(
        self,
        source: AudioFormat,
        target: AudioFormat,
        send: Callable[[bytes, int], None],
        vad: Vad | None,
    ) -> None:
        """Start.

        Args:
            source: The call's format.
            target: The vendor's format.
            send: Takes audio for the vendor and the time of its last sample.
            vad: Measures when the caller's voice ended; None: nobody does.
        """
        self._transcoder = Transcoder(source, target)
        self._target = target
        self._send = send
        self._held: deque[Audio] = deque()
        self._held_bytes = 0
        self._vad = vad.open(self._on_chunk) if vad is not None else None
        self._to_vad = Transcoder(source, vad.format) if vad is not None else None
        self.last_voice_ms = -1
        """End of the last voiced chunk; -1: none yet."""

    def hear(self, frame: AudioIn, *, hold: bool) -> None:
        """The next audio; what was held back goes first as soon as `hold` is off."""
        if self._vad is not None and self._to_vad is not None:
            self._vad.feed(self._to_vad.feed(frame.payload), frame.at_ms)
        payload = self._transcoder.feed(frame.payload)
        if hold:
            self._hold(Audio(payload, frame.at_ms))
            return
        while self._held:
            held = self._held.popleft()
            self._send(held.payload, held.at_ms)
        self._held_bytes = 0
        self._send(payload, frame.at_ms)

    def close(self) -> None:
        """The call is over."""
        self._held.clear()
        if self._vad is not None:
            self._vad.close()

    def _hold(self, audio: Audio) -> None:
        self._held.append(audio)
        self._held_bytes += len(audio.payload)
        while self._held_bytes > self._target.bytes_for(HELD_MS):
            self._held_bytes -= len(self._held.popleft().payload)

    def _on_chunk(self, at_ms: int, probability: float) -> None:
        if probability >= VOICED:
            self.last_voice_ms = at_ms
