"""What is heard when, as a script for the turn detector; time is that of the audio."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeVar

from flowcat_server.config.language import turn_words
from flowcat_server.core.audio import PCM_8K
from flowcat_server.core.echo import Echo
from flowcat_server.core.endpointing import Endpointing
from flowcat_server.core.frames import Frame, Interrupted, SpeechPaused, SpeechProbed
from flowcat_server.core.keypad import Keys
from flowcat_server.core.turn import TurnDetector, TurnRules

CHUNK_MS = 32
WORDS = turn_words("en")
ENDPOINTING = Endpointing(400, 1200, 1500, WORDS)

Kind = TypeVar("Kind")


@dataclass
class Script:
    """Drives a detector. The agent is what the attributes say."""

    rules: TurnRules = field(default_factory=TurnRules)
    speaks: int | None = None
    """The reply that is heard."""
    makes: int | None = None
    """A reply that is being made; nothing is heard of it yet."""
    protected: bool = False
    keys: Keys | None = None
    """The agent listens for keys."""
    about_to_ask: bool = False
    echo_until: int = 0
    """What is heard before this is the agent's own sound."""
    says: str = ""
    """The agent's words."""
    now: int = 0
    frames: list[Frame] = field(default_factory=list)

    def __post_init__(self) -> None:
        assert WORDS is not None
        self.detector = TurnDetector(
            self.rules,
            floor=self,
            endpointing=ENDPOINTING,
            keys=lambda: self.keys,
            backchannel=WORDS.is_backchannel,
            echo=lambda from_ms, to_ms, text: to_ms <= self.echo_until,
            after_echo=Echo(PCM_8K, lambda: self.says).after,
        )

    # --- the agent ------------------------------------------------------------------------

    def active(self) -> int | None:
        return self.speaks if self.makes is None else self.makes

    def sounding(self) -> int | None:
        return self.speaks

    def interruptible(self) -> bool:
        return not self.protected

    def asks(self, now_ms: int) -> bool:
        return self.about_to_ask and now_ms <= self.now

    # --- the caller -----------------------------------------------------------------------

    def audio(self, ms: int, probability: float) -> Script:
        for _ in range(ms // CHUNK_MS):
            self.now += CHUNK_MS
            self.take(self.detector.voice(self.now, probability, CHUNK_MS, self.now))
        return self

    def speech(self, ms: int) -> Script:
        return self.audio(ms, 0.9)

    def silence(self, ms: int) -> Script:
        return self.audio(ms, 0.05)

    def transcript(self, text: str, *, segment: int = 0, answers: bool = True) -> Script:
        """The transcriber answers the last pause, or tells of words by itself."""
        pause = self.last(SpeechPaused).pause if answers else None
        self.take(self.detector.transcript(text, segment, pause, self.now))
        return self

    def guess(self, text: str) -> Script:
        """The transcriber answers the last question in mid-speech."""
        probe = self.last(SpeechProbed).pause
        self.take(self.detector.transcript(text, 0, probe, self.now))
        return self

    def press(self, key: str) -> list[Frame]:
        """A key; what comes of it."""
        frames = self.detector.digit(key, self.now)
        self.take(frames)
        return frames

    def wakes(self) -> Script:
        """Only the clock goes on, until the detector wants to be woken."""
        due = self.detector.deadline_ms()
        assert due is not None
        self.now = max(self.now, due)
        self.take(self.detector.tick(self.now))
        return self

    def take(self, frames: list[Frame]) -> None:
        """What the detector decided; an agent that is interrupted is silent."""
        self.frames += frames
        if any(isinstance(frame, Interrupted) for frame in frames):
            self.speaks = self.makes = None

    # --- what came of it ------------------------------------------------------------------

    def last(self, kind: type[Kind]) -> Kind:
        return next(frame for frame in reversed(self.frames) if isinstance(frame, kind))

    def kinds(self) -> list[str]:
        return [type(frame).__name__ for frame in self.frames]
