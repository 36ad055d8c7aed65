"""What a speech-to-speech session owes, is saying, and was asked; no I/O and no clock here."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from flowcat_server.core.interfaces import GoOn, Speak
from flowcat_server.core.playout import Playout
from flowcat_server.processors.dead_air import Debt

TURNS_KEPT = 16
"""Turns of the caller whose transcript is waited for."""


@dataclass(slots=True)
class Answer:
    """One response: what it is to say, and has said."""

    turn: int
    exact: str = ""
    """The words that were asked for; empty: its own."""
    pieces: list[int] = field(default_factory=list)
    """Said so far, also by sessions before."""

    def rest(self, playout: Playout) -> Speak | GoOn | None:
        """What the next session is to say where one broke off; None: nothing was said yet."""
        reply = playout.reply(self.turn)
        texts = [reply.pieces[piece].text for piece in self.pieces] if reply is not None else []
        said = " ".join(text for text in texts if text)
        rest = " ".join(self.exact.split()[len(said.split()) :])
        if rest:
            return Speak(rest)
        return GoOn(said) if said else None


class Answers:
    """The response under way, and the one that is owed next."""

    def __init__(self) -> None:
        self.owed: Answer | None = None
        self.response: Answer | None = None
        self.since_ms = 0
        """Since when the next sound is owed."""
        self.unasked: int | None = None
        """The reply under way, when the vendor began it before it told of any turn."""

    @property
    def due(self) -> Answer | None:
        """Of which a sound is owed."""
        return self.response or self.owed

    def owes(self) -> Debt | None:
        """The sound of an answer."""
        return Debt("realtime", self.since_ms) if self.due is not None else None

    def owe(self, answer: Answer, now_ms: int) -> Answer | None:
        """The vendor's next response; returns an earlier one, if it answers both at once."""
        earlier, self.owed = self.owed, answer
        self.since_ms = now_ms
        return earlier if earlier is not None and earlier.turn != answer.turn else None

    def respond(self, number: Callable[[], int]) -> tuple[Answer, bool]:
        """The vendor responds; says whether this is the first sign of the response.

        `number` gives the turn of one that nobody asked for.
        """
        if self.response is not None:
            return self.response, False
        answer, self.owed, self.unasked = self.owed, None, None
        if answer is None:
            answer = Answer(number())
            self.unasked = answer.turn
        self.response = answer
        return answer, True

    def end(self) -> Answer | None:
        """The response has ended, or the one that is owed had nothing to say."""
        answer, self.response = self.response, None
        if answer is None:
            answer, self.owed = self.owed, None
        return answer

    def break_off(self) -> Answer | None:
        """The session has failed: its answer is owed by the next one.

        Returns an answer that is not, since that one answers more.
        """
        answer, self.response, self.unasked = self.response, None, None
        if answer is None or self.owed is not None:
            return answer
        self.owed = answer
        return None

    def drop(self, *, by_voice: bool) -> bool:
        """The caller interrupted; says whether a response that was cut off has yet to end."""
        cut = self.response is not None or (by_voice and self.owed is not None)
        self.response = self.owed = self.unasked = None
        return cut


@dataclass(slots=True)
class Said:
    """A turn of the caller whose transcript is still to come."""

    item: str
    turn: int
    speech_end_ms: int
    decided_ms: int


class CallerTurns:
    """The turns of the caller whose words are not known yet."""

    def __init__(self) -> None:
        self._waiting: deque[Said] = deque(maxlen=TURNS_KEPT)
        self.voice_ms = 0
        """End of the caller's voice in the last of their turns."""
        self.again: Said | None = None
        """The turn whose audio was sent once more: the vendor will tell of it again."""

    def add(self, said: Said) -> None:
        """A turn has ended."""
        self._waiting.append(said)
        self.voice_ms = said.speech_end_ms

    def find(self, item: str) -> Said | None:
        """The turn that the vendor calls so; where it has no names, the oldest."""
        return next((s for s in self._waiting if not item or s.item in ("", item)), None)

    def told(self, said: Said) -> None:
        """Its words are known now."""
        self._waiting.remove(said)

    def forget(self) -> None:
        """Nobody will tell them any more."""
        self._waiting.clear()
        self.again = None

    def hear_again(self, turn: int) -> bool:
        """A session takes over: only the words of the turn to be answered will still be told.

        False if they are known.
        """
        said = next((said for said in self._waiting if said.turn == turn), None)
        self.forget()
        if said is not None:
            self.again = said
            self._waiting.append(said)
        return said is not None
