"""Who answered a call that we made, and what is done about it; beside the greeting.

Theory of operation. The agent greets at once (or, with `MachineRules.wait`, when it is known who
answered). What the callee says then, as everybody does who picks up, neither interrupts that
greeting nor is answered by itself: the greeting is the answer. Meanwhile the callee's first seconds
are measured (`core.amd`), transcripts are searched for a machine's words, and the carrier may tell
its own result (`told`). What was a person may still prove a machine, as long as the call has not
gone far; a machine never becomes a person.

To leave a message, the agent is cut off and hears nothing any more: whatever the machine says is
kept from it here. The message is spoken when the machine records: after its tone, when the
carrier says so, after a long silence, or when too much time has passed. The call ends when the
message has been heard to its last word.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from flowcat_server.core import ended, events
from flowcat_server.core.amd import AnswerDetector
from flowcat_server.core.audio import PCM_8K, AudioFormat, Transcoder
from flowcat_server.core.carrier import Answerer
from flowcat_server.core.frames import (
    AgentHeld,
    AgentResumed,
    AudioIn,
    Digit,
    Frame,
    Interrupted,
    TextIn,
    TurnDropped,
    TurnEnded,
    TurnSupposed,
)
from flowcat_server.core.language import TurnWords
from flowcat_server.core.processor import Processor
from flowcat_server.core.speech import Reply
from flowcat_server.processors.call import Call

Action = Literal["talk", "hang_up", "leave_message"]

_ANSWERABLE = frozenset({TurnEnded, TurnSupposed, Digit, TextIn})
_OVER_GREETING = frozenset({AgentHeld, AgentResumed, Interrupted, TurnSupposed})
TONE_WAIT_MS = 45_000
"""A machine that has not finished its greeting by then is spoken to all the same."""
WAIT_MS = 6_000
"""The agent greets by then, whoever it is."""
SETTLED_MS = 20_000
"""So late in a call a carrier's result changes nothing any more."""


@dataclass(slots=True, frozen=True)
class MachineRules:
    """What is done about who answers."""

    on_human: Action = "talk"
    on_machine: Action = "hang_up"
    on_unknown: Action = "talk"
    message: str = ""
    """What is left; call variables are filled in already."""
    own: bool = True
    """Measure who answered, whatever the carrier says."""
    wait: bool = False
    """The agent says nothing before it is known."""

    def action(self, answerer: Answerer) -> Action:
        """What is done about this one. Nobody talks to a fax machine."""
        if answerer == "fax":
            return "hang_up"
        return {"human": self.on_human, "machine": self.on_machine, "unknown": self.on_unknown}[
            answerer
        ]


class MachineProcessor(Processor):
    """Stands between the callee and whoever answers what they say."""

    def __init__(
        self,
        call: Call,
        rules: MachineRules,
        audio: AudioFormat,
        words: TurnWords | None,
        greet: Callable[[], None],
        cut: Callable[[], None],
        say: Callable[[str], int],
        greets: Callable[[], bool] = lambda: False,
        *,
        transcribed: bool = False,
    ) -> None:
        """Create the stage.

        Args:
            call: The owner.
            rules: What is done.
            audio: The call's input format.
            words: What machines and people say in the callee's language; None: not known.
            greet: Has the agent speak first.
            cut: Has it fall silent, and forget what it was about to say.
            say: Has a text spoken as a reply of its own; returns its number.
            greets: The agent's first words have not been heard to their end.
            transcribed: What is passed on is only written down, until a turn ends.
        """
        self._call = call
        self._rules = rules
        self._greet = greet
        self._cut = cut
        self._say = say
        self._greets = greets
        self._transcribed = transcribed
        self._known_ms: int | None = None
        """When it became known who answered."""
        self._detector = AnswerDetector(words) if rules.own else None
        self._transcoder = Transcoder(audio, PCM_8K)
        self._answerer: Answerer | None = None
        self._waiting = rules.wait
        self._leaving = False
        self._message: int | None = None
        """The reply that is the message."""
        self._timer: asyncio.Handle | None = None

    def begin(self) -> None:
        """The call was answered."""
        if not self._waiting:
            self._greet()
            return
        # Perhaps nothing is heard at all, or the carrier never says who it is.
        self._timer = self._call.call_at(
            self._call.now_ms() + WAIT_MS, lambda: self._found("unknown", "own", "time")
        )

    @property
    def holds(self) -> bool:
        """The callee is listened to here, and by nobody else."""
        return self._waiting or self._leaving

    def process(self, frame: Frame) -> None:
        detector = self._detector
        if type(frame) is AudioIn and detector is not None and self._listens:
            verdict = detector.hear(self._transcoder.feed(frame.payload), frame.at_ms)
            if verdict is not None:
                self._found(verdict.answerer, "own", verdict.why)
            elif self._leaving and self._message is None and detector.greeting_over():
                self._speak()
        if not self._keeps(frame):
            self.emit(frame)
        elif type(frame) is TurnEnded:
            self.emit(TurnDropped(frame.decided_ms))  # no reply is owed

    def on_event(self, event: events.CallEvent) -> None:
        """A subscriber of the call: transcripts of the callee are searched for words."""
        if isinstance(event, events.CallerText) and not event.typed:
            detector = self._detector
            verdict = detector.said(event.text) if detector is not None else None
            if verdict is not None:
                self._call.protect(self._found, verdict.answerer, "own", verdict.why)

    def told(self, answerer: Answerer, *, greeting_over: bool) -> None:
        """The carrier's own result."""
        if self._call.now_ms() < SETTLED_MS or self._leaving:
            self._found(answerer, "carrier", "greeting over" if greeting_over else "")
        if greeting_over and self._leaving:
            self._speak()

    def settled(self, reply: Reply) -> bool:
        """Whether this was the message, which has been heard: then the call ends."""
        if reply.turn != self._message:
            return False
        self._call.end(ended.MACHINE_MESSAGE_LEFT)
        return True

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    # --- inside -------------------------------------------------------------------------------

    def _keeps(self, frame: Frame) -> bool:
        """It is not for those who would answer it."""
        if self._waiting and self._transcribed:
            return type(frame) in _ANSWERABLE
        return self.holds or self._is_pickup(frame)

    def _is_pickup(self, frame: Frame) -> bool:
        """It comes of the "hello" with which the callee picks up, over our greeting."""
        if type(frame) is TurnEnded:
            known_ms = self._known_ms
            early = known_ms is None or frame.speech_end_ms < known_ms
            return early and not frame.typed and self._detector is not None and self._greets()
        if self._known_ms is not None or self._detector is None:
            return False
        return type(frame) in _OVER_GREETING and self._greets()

    @property
    def _listens(self) -> bool:
        detector = self._detector
        if self._leaving:
            return self._message is None
        return detector is not None and not detector.done

    def _found(self, answerer: Answerer, by: str, why: str) -> None:
        known = self._answerer
        if answerer == known or known in ("machine", "fax"):
            return
        if answerer == "unknown" and known is not None:
            return
        self._answerer = answerer
        if self._known_ms is None:
            self._known_ms = self._call.now_ms()
        self._call.publish(events.AnswerDetected(self._call.now_ms(), answerer, by, why))
        self._act(answerer, why)

    def _act(self, answerer: Answerer, why: str) -> None:
        match self._rules.action(answerer):
            case "hang_up":
                self._call.end(ended.MACHINE_HUNG_UP, why)
            case "leave_message":
                self._leave(at_once=answerer == "human")
            case "talk" if self._waiting:
                self._waiting = False
                self._greet()
            case _:
                pass

    def _leave(self, *, at_once: bool) -> None:
        """Get ready to leave the message."""
        if self._leaving:
            return
        if not self._waiting:
            self._cut()
        self._waiting, self._leaving = False, True
        self.emit(TurnDropped(self._call.now_ms()))
        if self._timer is not None:
            self._timer.cancel()
        if at_once:
            self._speak()
        else:
            self._timer = self._call.call_at(self._call.now_ms() + TONE_WAIT_MS, self._speak)

    def _speak(self) -> None:
        if self._message is None:
            self._message = self._say(self._rules.message)
