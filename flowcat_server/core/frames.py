"""Everything that flows through a call's pipeline.

All times are integer milliseconds of the call's clock (0 = the call was accepted).
A `turn` numbers the agent's replies, starting with 0 for the greeting; the caller's turn n is
answered by reply n.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from flowcat_server.core.interfaces import Word


class AudioIn(msgspec.Struct, gc=False):
    """Sound from the caller, in the call's input format, passed on untouched.

    This and `AudioOut` are made fifty times a second for every call, and hold nothing that could
    refer back to them.
    """

    payload: bytes
    at_ms: int
    """When the last sample of the payload was due to arrive (taken from its position in the
    stream, so that a blocked loop does not change it)."""


@dataclass(slots=True)
class Digit:
    """One DTMF key: 0-9, *, #, A-D."""

    digit: str
    at_ms: int


@dataclass(slots=True)
class TextIn:
    """What the caller typed instead of saying it."""

    text: str
    at_ms: int


@dataclass(slots=True)
class SpeechStarted:
    """The VAD is sure that the caller speaks."""

    at_ms: int
    """Start of the speech in the audio."""


@dataclass(slots=True)
class SpeechPaused:
    """The caller has been silent long enough for a speculative transcript."""

    at_ms: int
    """End of the last voiced sample."""
    pause: int
    """Numbers the pauses of a call; a transcript names the pause it covers."""


@dataclass(slots=True)
class SpeechResumed:
    """The caller went on after a `SpeechPaused`: what was decoded for it is incomplete."""

    at_ms: int


@dataclass(slots=True)
class SpeechProbed:
    """The caller speaks on; whether there are words in it has to be known now."""

    at_ms: int
    pause: int
    """As in `SpeechPaused`."""


@dataclass(slots=True)
class TurnDropped:
    """What sounded like speech held no words: no reply is owed."""

    at_ms: int


@dataclass(slots=True)
class TurnSupposed:
    """The caller has paused and may have finished: a reply may be begun, and nothing more."""

    text: str
    at_ms: int


@dataclass(slots=True)
class TurnEnded:
    """The caller has finished; a reply is owed."""

    turn: int
    text: str
    speech_end_ms: int
    """Last voiced sample of the caller (typed text: when it arrived)."""
    endpoint_ms: int
    """When the silence had lasted long enough; `decided_ms` is later if the transcript was."""
    decided_ms: int
    """When the end of the turn was decided."""
    typed: bool = False


@dataclass(slots=True)
class AgentHeld:
    """The caller begins to speak over reply `turn`: it falls silent, until it is known what for."""

    turn: int
    at_ms: int


@dataclass(slots=True)
class AgentResumed:
    """It was nothing: the agent goes on at the word where it fell silent."""

    at_ms: int


@dataclass(slots=True)
class Interrupted:
    """The caller spoke over the agent: nothing of reply `turn` or earlier may be sent any more."""

    turn: int
    at_ms: int


@dataclass(slots=True)
class ModelStarted:
    """The first token of a reply arrived."""

    turn: int
    at_ms: int


@dataclass(slots=True)
class AgentText:
    """A speakable piece of a reply: a sentence or a clause."""

    turn: int
    text: str
    at_ms: int


@dataclass(slots=True)
class ReplyEnded:
    """The model has nothing more to say in this turn."""

    turn: int


class AudioOut(msgspec.Struct, gc=False):
    """Speech of the agent, in the call's output format, any length."""

    turn: int
    payload: bytes
    piece: int
    """Which `AgentText` of the turn it speaks, counted from 0."""
    words: tuple[Word, ...] = ()


@dataclass(slots=True)
class PieceEnded:
    """All audio of one `AgentText` has been emitted."""

    turn: int
    piece: int


@dataclass(slots=True)
class SpeechEnded:
    """All audio of a reply has been emitted."""

    turn: int


Frame = (
    AudioIn
    | Digit
    | TextIn
    | SpeechStarted
    | SpeechPaused
    | SpeechResumed
    | SpeechProbed
    | TurnDropped
    | TurnSupposed
    | TurnEnded
    | AgentHeld
    | AgentResumed
    | Interrupted
    | ModelStarted
    | AgentText
    | ReplyEnded
    | AudioOut
    | PieceEnded
    | SpeechEnded
)
