"""What becomes of speech over the agent: silence at once, and then an interruption or not.

Theory of operation. When the caller begins to speak over the agent, the agent is *held*: it falls
silent within a frame, and nothing is decided yet. Then one of three things happens:

    held --words, or long speech that nobody doubts--------------> interrupted  (`Interrupted`)
         --the caller pauses and has said nothing that counts----> goes on      (`AgentResumed`)
         --`resume_after` has passed and it is still unclear-----> goes on

Nothing that counts is: no words at all (a cough), a backchannel ("mhm"), the agent's own echo.
A transcriber that answers only at pauses is asked in between as well (`SpeechProbed`). What it
makes of half a second of sound is a guess, so two such answers have to agree; where they do not
for a second, it was no caller. Words that come late interrupt all the same.

A backchannel is an answer when the agent is just finishing a question, and when it is silent.
While an answer is only being made, words stop it like any other; a backchannel is left to the
end of the turn, and so is a short word.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from flowcat_server.core.frames import AgentHeld, AgentResumed, Frame, Interrupted, SpeechProbed

PROBE_MS = 400
"""Speech after which the transcriber is asked for words; the next time after as much again."""
DOUBT_MS = 800
"""Sound of this length in which a transcriber finds no words is none of the caller's."""
SHORT_MS = 250
"""Speech shorter than this does not interrupt an answer of which nothing is heard yet."""
NEW_MS = 160
"""The latest sound by which the caller is told from the agent's echo under it."""
HOLDS = 3
"""After so many false alarms in one reply only words stop the agent: better than to stammer."""


@dataclass(frozen=True, slots=True)
class BargeInRules:
    """What interrupts. Milliseconds."""

    enabled: bool = True
    min_speech_ms: int = 1000
    min_words: int = 0
    resume_after_ms: int = 1500


class Floor(Protocol):
    """What has to be known of the agent; the playout ledger knows it."""

    def active(self) -> int | None:
        """The newest reply that is being made or heard."""

    def sounding(self) -> int | None:
        """The oldest reply under way that has audio."""

    def interruptible(self) -> bool:
        """Whether every reply under way may be interrupted."""

    def asks(self, now_ms: int) -> bool:
        """Whether the agent is about to finish a question."""


class BargeIn:
    """One call's speech over the agent. Every method returns the frames it caused."""

    __slots__ = (
        "_alarmed",
        "_alarms",
        "_answering",
        "_backchannel",
        "_begun_ms",
        "_echo",
        "_echo_ms",
        "_floor",
        "_given_up",
        "_guess",
        "_held_at",
        "_number",
        "_onset_ms",
        "_opened_ms",
        "_over",
        "_probe",
        "_probe_after_ms",
        "_rules",
        "_until_ms",
    )

    def __init__(
        self,
        rules: BargeInRules,
        floor: Floor,
        *,
        number: Callable[[], int],
        backchannel: Callable[[str], bool],
        echo: Callable[[int, int, str], bool],
    ) -> None:
        """Create it.

        Args:
            rules: What interrupts.
            floor: What the agent does.
            number: A new number for a question to the transcriber.
            backchannel: Whether a text is only that of a listener.
            echo: Whether sound between two times, with this transcript, is the agent's own.
        """
        self._rules = rules
        self._floor = floor
        self._number = number
        self._backchannel = backchannel
        self._echo = echo
        self._held_at: int | None = None
        self._alarmed: int | None = None
        self._alarms = 0
        """The reply that was held last, and how often in vain."""
        self._over = False
        """The open turn began over the agent's speech."""
        self._answering = False
        self._probe: int | None = None
        self._probe_after_ms = PROBE_MS
        self._guess: str | None = None
        """What the last probe of this stretch of speech was answered."""
        self._given_up = False
        """This stretch of speech was taken for nothing."""
        self._onset_ms = self._begun_ms = self._until_ms = 0
        self._opened_ms: int | None = None
        """The onset of the open turn."""
        self._echo_ms = 0

    @property
    def echo_ms(self) -> int:
        """How long the open turn was nothing but the agent's echo, before the caller joined in."""
        return self._echo_ms

    @property
    def over(self) -> bool:
        """The open turn began over the agent's speech, and may be nothing."""
        return self._over

    def voice(self, onset_ms: int, at_ms: int, text: str, now_ms: int) -> list[Frame]:
        """The caller has been speaking from `onset_ms` to `at_ms`, and now speaks over the agent.

        To be called for every voiced chunk.
        """
        if onset_ms != self._onset_ms:
            self._onset_ms = onset_ms
            if not self._held:
                self._next_run()
        if self._opened_ms is None:
            self._opened_ms = onset_ms
        self._until_ms = at_ms
        floor = self._floor
        turn = floor.active()
        if turn is None:  # all of it had been heard
            return self._let_go(now_ms)
        if not self._over and floor.sounding() is not None:
            self._over = True
            self._answering = floor.asks(now_ms)
        if not self._may_interrupt():
            return []
        frames = self._hold(turn, at_ms, now_ms)
        if self._long(text):
            return self._commit(turn, at_ms)
        return frames + self._ask(at_ms)

    def transcript(self, text: str, pause: int | None, now_ms: int) -> list[Frame]:
        """What the caller has said so far; `pause` is the number of the question it answers."""
        turn = self._floor.active()
        if turn is None or not self._may_interrupt() or not (self._over or self._held):
            return []
        if pause is None or pause != self._probe:
            return self._commit(turn, now_ms) if self._interrupts(text) else []
        self._probe = None
        before, self._guess = self._guess, text
        if self._interrupts(text) and before is not None and _agree(before, text):
            return self._commit(turn, now_ms)
        return self._let_go(now_ms) if self._length_ms >= DOUBT_MS and not text else []

    def verdict(self, text: str, now_ms: int) -> tuple[bool, list[Frame]]:
        """The caller has paused, and this is all that was said.

        Returns whether it is to be forgotten, as something that asks for no answer.
        """
        self._answering = self._answering or self._floor.asks(now_ms)
        frames = self._let_go(now_ms)
        return self._over and self._idle(text), frames

    def tick(self, now_ms: int, *, speaking: bool) -> list[Frame]:
        """Time has passed."""
        due = self.deadline_ms()
        if due is None or now_ms < due:
            return []
        turn = self._floor.active()
        if speaking and turn is not None and self._guess is None and self._may_interrupt():
            return self._commit(turn, now_ms)  # nobody says what it is, so it is believed
        return self._let_go(now_ms)

    def deadline_ms(self) -> int | None:
        """When `tick` is wanted."""
        return None if self._held_at is None else self._held_at + self._rules.resume_after_ms

    def close(self) -> None:
        """The caller's turn is over, one way or another."""
        self._over = self._answering = False
        self._held_at = self._opened_ms = None
        self._echo_ms = 0
        self._onset_ms = -1

    # --- inside -----------------------------------------------------------------------------

    def _next_run(self) -> None:
        """The caller begins to speak, or goes on after a pause."""
        self._begun_ms = self._onset_ms
        self._probe = self._guess = None
        self._probe_after_ms = PROBE_MS
        self._given_up = False

    @property
    def _held(self) -> bool:
        return self._held_at is not None

    @property
    def _length_ms(self) -> int:
        """Of the caller's speech, without the echo before it."""
        return self._until_ms - self._begun_ms

    def _may_interrupt(self) -> bool:
        return self._rules.enabled and self._floor.interruptible()

    def _idle(self, text: str) -> bool:
        """Whether nothing was said that asks for anything."""
        if not any(character.isalnum() for character in text):
            return True
        if self._backchannel(text) and not self._answering:
            return True
        return self._echo(self._begun_ms, self._until_ms, text)

    def _interrupts(self, text: str) -> bool:
        """Whether words were said that are meant for the agent."""
        if not text or len(text.split()) < self._rules.min_words:
            return False
        if self._idle(text):
            return False
        # Where nothing is heard yet, a short word is no reason to stop a tool.
        return self._floor.sounding() is not None or self._length_ms >= SHORT_MS

    def _long(self, text: str) -> bool:
        """Whether the caller has been speaking for so long that it must be meant."""
        if not self._held or self._guess is not None:
            return False
        rules = self._rules
        return self._length_ms >= rules.min_speech_ms and len(text.split()) >= rules.min_words

    def _hold(self, turn: int, at_ms: int, now_ms: int) -> list[Frame]:
        """Fall silent, unless this is the agent's own sound or was nothing before."""
        if self._held or self._given_up:
            return []
        if self._alarmed != turn:
            self._alarmed, self._alarms = turn, 0
        begun_ms = max(self._onset_ms, at_ms - NEW_MS)
        if self._alarms >= HOLDS:
            return []
        if self._echo(begun_ms, at_ms, ""):
            self._echo_ms = at_ms - (self._opened_ms or 0)
            return []
        self._held_at, self._begun_ms = now_ms, begun_ms
        return [AgentHeld(turn, at_ms)]

    def _ask(self, at_ms: int) -> list[Frame]:
        """Ask for words, where they do not come by themselves."""
        if self._probe is not None or self._length_ms < self._probe_after_ms:
            return []
        if not self._held and self._echo(self._onset_ms, at_ms, ""):
            return []
        # Nobody waits for the answer when the agent has gone on: then ask less and less often.
        self._probe_after_ms = self._length_ms + (PROBE_MS if self._held else self._length_ms)
        self._probe = self._number()
        return [SpeechProbed(at_ms, self._probe)]

    def _commit(self, turn: int, at_ms: int) -> list[Frame]:
        self._held_at = None
        self._over = self._answering = False
        return [Interrupted(turn, at_ms)]

    def _let_go(self, now_ms: int) -> list[Frame]:
        """A false alarm: the agent goes on."""
        if self._held_at is None:
            return []
        self._held_at = None
        self._given_up = True
        self._alarms += 1
        return [AgentResumed(now_ms)]


def _agree(before: str, after: str) -> bool:
    """Whether two guesses at the same speech, the second with more of it, begin alike."""
    first, second = (
        {word.strip(".,;:!?…\"'-") for word in text.lower().split()[:3]} for text in (before, after)
    )
    return bool(first & second)
