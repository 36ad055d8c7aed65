"""Who owes the caller the next sound, and what fills the silence until it comes.

Theory of operation. Nobody keeps a flag. Each stage that may owe a sound says so when it is asked:
speech to text from the caller's pause to its transcript, the language model or a tool while a
reply is being made, the voice while it has words and no sound for them. The line is *quiet* when
nothing of the agent's waits to be heard, and has been so since the last sound of either side. One
timer per call looks at this where it may matter: when the caller has paused and while a reply is
under way.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from flowcat_server.core.frames import (
    AgentText,
    Frame,
    SpeechPaused,
    SpeechResumed,
    SpeechStarted,
    TurnDropped,
    TurnEnded,
)
from flowcat_server.core.playout import Playout
from flowcat_server.core.processor import Processor
from flowcat_server.processors.call import Call

LEAST_MS = 900
"""A stage that began to owe a sound in the middle of a silence is left in peace for so long: who
waits for the end of an unfinished sentence on purpose is not late yet."""

LEAST_VOICE_MS = 600
"""So long a voice may take for its first sound, however long the caller has waited before."""

Stage = Literal["stt", "llm", "tool", "tts", "realtime"]


@dataclass(frozen=True, slots=True)
class Debt:
    """A sound that is owed to the caller."""

    stage: Stage
    since_ms: int


@dataclass(frozen=True, slots=True)
class DeadAir:
    """What the caller hears while the agent is late. Milliseconds."""

    filler_after_ms: int
    fillers: Sequence[str]
    give_up_after_ms: int


class DeadAirProcessor(Processor):
    """Watches one call's silences. It stands behind whoever owes a reply."""

    sounds = ()

    def __init__(
        self,
        call: Call,
        rules: DeadAir,
        playout: Playout,
        owing: Sequence[Callable[[], Debt | None]],
        fill: Callable[[Debt, str], bool],
        give_up: Callable[[], bool],
    ) -> None:
        """Create the stage.

        Args:
            call: The owner.
            rules: How long a silence may last.
            playout: What waits to be heard.
            owing: Each stage's answer to whether it owes a sound; the nearest to the ear first.
            fill: Has a filler spoken; False: nobody can.
            give_up: Told of a debt that has become too old; False: it is waited for all the same.
        """
        self._call = call
        self._rules = rules
        self._playout = playout
        self._owing = owing
        self._fill = fill
        self._give_up = give_up
        self._least_ms = min(LEAST_MS, rules.filler_after_ms // 2)
        self._used = 0
        self._caller_ms = 0
        """The caller's last sound."""
        self._caller_speaks = False
        self._timer: asyncio.Handle | None = None
        self._due_ms = 0

    def process(self, frame: Frame) -> None:
        if type(frame) is SpeechStarted or type(frame) is SpeechResumed:
            self._caller_speaks = True
        elif type(frame) is TurnDropped:
            self._caller_speaks = False
        elif type(frame) is SpeechPaused:
            self._caller_speaks = False
            self._caller_ms = frame.at_ms
            self._look_at(frame.at_ms + self._rules.filler_after_ms)
        elif type(frame) is TurnEnded:
            if not frame.typed:
                self._caller_speaks = False
            self._caller_ms = frame.speech_end_ms
            self._look_at(self._call.now_ms() + self._least_ms)
        elif type(frame) is AgentText:
            self._look_at(self._call.now_ms() + self._rules.filler_after_ms)
        self.emit(frame)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def watch(self) -> None:
        """A sound is owed from now on that no frame tells of."""
        self._look_at(self._call.now_ms() + self._least_ms)

    def debt(self) -> Debt | None:
        """Who owes the caller a sound now; None: nobody, or it is being heard, or they speak."""
        if self._caller_speaks or self._playout.buffered_ms(self._call.now_ms()):
            return None
        return next((debt for owes in self._owing if (debt := owes()) is not None), None)

    def quiet_since_ms(self) -> int:
        """When the last sound of either side ended, or will end."""
        return max(self._caller_ms, self._playout.sound_ends_ms())

    def bearable_ms(self) -> int:
        """How long the next sound may take without a silence that is worse than a filler's."""
        now = self._call.now_ms()
        buffered = self._playout.buffered_ms(now)
        quiet_since = now + buffered if buffered else self.quiet_since_ms()
        left = quiet_since + self._rules.filler_after_ms + self._least_ms // 2 - now
        return max(left, LEAST_VOICE_MS)

    def _look_at(self, due_ms: int) -> None:
        if self._timer is not None:
            if self._due_ms <= due_ms:
                return
            self._timer.cancel()
        self._due_ms = due_ms
        self._timer = self._call.call_at(due_ms, self._look)

    def _look(self) -> None:
        self._timer = None
        now, rules, debt = self._call.now_ms(), self._rules, self.debt()
        if debt is None:
            buffered = self._playout.buffered_ms(now)
            if buffered or self._playout.active() is not None:
                self._look_at(now + buffered + self._least_ms)
            return
        give_up_ms = debt.since_ms + rules.give_up_after_ms
        if now >= give_up_ms and self._give_up():
            self._look_at(now + self._least_ms)
            return
        due = max(self.quiet_since_ms() + rules.filler_after_ms, debt.since_ms + self._least_ms)
        if now < due:
            self._look_at(min(due, give_up_ms) if give_up_ms > now else due)
            return
        if rules.fillers and self._fill(debt, rules.fillers[self._used % len(rules.fillers)]):
            self._used += 1
        self._look_at(now + self._least_ms)
