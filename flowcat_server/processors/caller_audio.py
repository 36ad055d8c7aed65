"""What a speech-to-speech session hears of the caller, and when they last made a sound."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from itertools import islice

from flowcat_server.core.audio import AudioFormat, Transcoder
from flowcat_server.core.frames import AudioIn
from flowcat_server.core.interfaces import Vad

KEPT_MS = 60_000
"""Of what the caller has said and nobody has answered, the last is kept: for a session that takes
over, and while the agent may not be interrupted."""
QUIET_KEPT_MS = 1_000
"""The same where they were silent since: the beginning of a word is noticed late."""
STALE_MS = 1_500
"""A session that takes over tells late of the caller's voice; what ended so long ago is over."""
VOICED = 0.5
"""Probability from which a chunk counts as the caller's voice."""


class CallerAudio:
    """Converts the caller's audio for the vendor; can hold it back, and send it once more."""

    def __init__(self, source: AudioFormat, vad: Vad | None) -> None:
        """Start; `connect` says who listens.

        Args:
            source: The call's format.
            vad: Measures when the caller's voice ended; None: nobody does.
        """
        self._source = source
        self._kept: deque[AudioIn] = deque()
        self._kept_bytes = 0
        self._most_bytes = source.bytes_for(KEPT_MS)
        self._quiet_bytes = source.bytes_for(QUIET_KEPT_MS)
        self._unsent = 0
        """Of the frames kept, the last so many have not been sent."""
        self._answered_ms = -1
        self._repeated = False
        """The session will first tell of speech that was sent once more."""
        self.on_voice: Callable[[], None] = lambda: None
        """Called for each voiced chunk."""
        self._vad = vad.open(self._on_chunk) if vad is not None else None
        self._to_vad = Transcoder(source, vad.format) if vad is not None else None
        self.last_voice_ms = -1
        """End of the last voiced chunk; -1: none yet."""
        self.voiced_ms = 0
        """Voice since `noticed`."""

    def connect(self, target: AudioFormat, send: Callable[[bytes, int], None]) -> None:
        """A session begins: it is sent whatever nobody has answered.

        Args:
            target: The vendor's format.
            send: Takes audio for the vendor and the time of its last sample.
        """
        self._transcoder = Transcoder(self._source, target)
        self._send = send
        self._unsent = len(self._kept)
        self._repeated = self.last_voice_ms > self._answered_ms

    def hear(self, frame: AudioIn, *, hold: bool) -> None:
        """The next audio; what was held back goes first as soon as `hold` is off."""
        if self._vad is not None and self._to_vad is not None:
            self._vad.feed(self._to_vad.feed(frame.payload), frame.at_ms)
        self._kept.append(frame)
        self._kept_bytes += len(frame.payload)
        if hold or self._unsent:
            self._unsent += 1
            if not hold:
                self.send()
        else:
            self._send(self._transcoder.feed(frame.payload), frame.at_ms)
        self._forget()

    def send(self) -> None:
        """Send what was held back."""
        unsent, self._unsent = self._unsent, 0
        for frame in islice(self._kept, len(self._kept) - unsent, None):
            self._send(self._transcoder.feed(frame.payload), frame.at_ms)

    @property
    def held(self) -> bool:
        """Some of it has not been sent."""
        return self._unsent > 0

    def answered(self, until_ms: int) -> None:
        """What the caller said up to then need not be heard by anybody else."""
        self._answered_ms = max(self._answered_ms, until_ms)
        self._forget()

    def noticed(self, *, speaking: bool) -> None:
        """The vendor has told that the caller begins to speak, or has finished."""
        self.voiced_ms = 0
        self._repeated = self._repeated and speaking

    def stale(self, now_ms: int) -> bool:
        """The caller's voice that the session tells of has long ended."""
        return self._repeated and 0 <= self.last_voice_ms < now_ms - STALE_MS

    def close(self) -> None:
        """The call is over."""
        self._kept.clear()
        self.on_voice = lambda: None
        if self._vad is not None:
            self._vad.close()

    def _forget(self) -> None:
        kept = self._kept
        while kept and kept[0].at_ms <= self._answered_ms:
            self._kept_bytes -= len(kept.popleft().payload)
        quiet = self._vad is not None and self.last_voice_ms <= self._answered_ms
        limit = self._quiet_bytes if quiet and not self._unsent else self._most_bytes
        while self._kept_bytes > limit:
            self._kept_bytes -= len(kept.popleft().payload)
        self._unsent = min(self._unsent, len(kept))

    def _on_chunk(self, at_ms: int, probability: float) -> None:
        if probability >= VOICED and self._vad is not None:
            self.last_voice_ms = at_ms
            self.voiced_ms += self._vad.chunk_ms
            self.on_voice()
