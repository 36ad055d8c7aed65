"""What a call tells the world: one stream of events, many readers.

The page, Flowcat's playground, records, metrics and logs are adapters over this stream. Times
are integer milliseconds of the call's clock.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True, frozen=True)
class CallProgress:
    """A call that we make has come so far."""

    at_ms: int
    """0 before it is answered: the call's clock starts then."""
    status: str
    """``dialling``, ``ringing``, ``answered``, ``completed``, ``busy``, ``no-answer``, ``failed``
    or ``canceled``."""
    dialled_ms: int
    """Since it was dialled."""
    detail: str = ""
    """The carrier's word for why it failed."""


@dataclass(slots=True, frozen=True)
class CallStarted:
    """The call was accepted and its pipeline runs."""

    at_ms: int
    call_id: str
    agent: str
    channel: str
    """``twilio``, ``webrtc``, ``loopback``, ..."""
    from_number: str = ""
    to_number: str = ""


@dataclass(slots=True, frozen=True)
class CallerSpeaking:
    """The caller began (`speaking`) or stopped."""

    at_ms: int
    speaking: bool


@dataclass(slots=True, frozen=True)
class CallerText:
    """Transcript of the caller; interim texts of a turn replace each other."""

    at_ms: int
    turn: int
    text: str
    final: bool
    typed: bool = False


@dataclass(slots=True, frozen=True)
class AgentText:
    """A piece of a reply was handed to speech."""

    at_ms: int
    turn: int
    text: str


@dataclass(slots=True, frozen=True)
class AgentSpeaking:
    """The agent's audio began to play, or has played to its end."""

    at_ms: int
    speaking: bool
    turn: int


@dataclass(slots=True, frozen=True)
class AgentPaused:
    """The agent fell silent because the caller made a sound (`paused`), or goes on after it."""

    at_ms: int
    paused: bool
    turn: int


@dataclass(slots=True, frozen=True)
class AgentHeard:
    """A reply is over: what of it the caller heard."""

    at_ms: int
    turn: int
    text: str
    """Heard words."""
    unheard: str = ""
    """Generated, but never heard."""
    interrupted: bool = False
    heard_ms: int = 0
    source: str = "estimate"
    """How it is known: ``mark``, ``paced`` or ``estimate``."""


@dataclass(slots=True, frozen=True)
class NodeEntered:
    """The conversation moved to a node of the graph."""

    at_ms: int
    node: str
    name: str


@dataclass(slots=True, frozen=True)
class ToolStarted:
    """A tool runs."""

    at_ms: int
    tool_call_id: str
    name: str
    arguments: Mapping[str, Any]


@dataclass(slots=True, frozen=True)
class ToolEnded:
    """A tool returned, failed or was cancelled."""

    at_ms: int
    tool_call_id: str
    name: str
    result: str
    ok: bool = True
    duration_ms: int = 0


@dataclass(slots=True, frozen=True)
class Latency:
    """Where the time of a turn went; the parts add up to `total_ms` exactly.

    From the caller's last voiced sample to the first sample of the answer handed to the wire.
    """

    endpointing_ms: int
    """Waiting to be sure that the caller had finished."""
    stt_tail_ms: int
    """Waiting for the transcript after that."""
    llm_first_token_ms: int
    llm_first_sentence_ms: int
    tts_first_audio_ms: int
    send_ms: int

    @property
    def total_ms(self) -> int:
        """Sum of all parts."""
        return (
            self.endpointing_ms
            + self.stt_tail_ms
            + self.llm_first_token_ms
            + self.llm_first_sentence_ms
            + self.tts_first_audio_ms
            + self.send_ms
        )

    def parts(self) -> dict[str, int]:
        """The parts in order, by name."""
        return {
            "endpointing": self.endpointing_ms,
            "stt_tail": self.stt_tail_ms,
            "llm_first_token": self.llm_first_token_ms,
            "llm_first_sentence": self.llm_first_sentence_ms,
            "tts_first_audio": self.tts_first_audio_ms,
            "send": self.send_ms,
        }


@dataclass(slots=True, frozen=True)
class TurnCompleted:
    """A caller's turn and the reply to it are over."""

    at_ms: int
    turn: int
    caller: str
    agent: str
    """Heard words."""
    started_ms: int
    interrupted: bool = False
    latency: Latency | None = None
    """None where the agent spoke unasked (greeting) or nothing was sent."""
    node: str = ""


@dataclass(slots=True, frozen=True)
class Variables:
    """Call variables were set."""

    at_ms: int
    values: Mapping[str, Any]


@dataclass(slots=True, frozen=True)
class DigitPressed:
    """A DTMF key."""

    at_ms: int
    digit: str


@dataclass(slots=True, frozen=True)
class AnswerDetected:
    """It is known, or known better, who answered a call that we made."""

    at_ms: int
    answerer: str
    """``human``, ``machine``, ``fax`` or ``unknown``."""
    by: str
    """``own`` or ``carrier``."""
    why: str = ""
    """``short answer``, ``long greeting``, ``tone``, ``words``, ``silence``, ..."""


@dataclass(slots=True, frozen=True)
class Notice:
    """Something a person should know: a provider failed, a model is only a demo."""

    at_ms: int
    level: str
    """``info``, ``warning`` or ``error``."""
    code: str
    text: str


@dataclass(slots=True, frozen=True)
class UsageCounted:
    """What one provider was used for in the whole call; told at its end."""

    at_ms: int
    kind: str
    """``stt``, ``llm``, ``tts``, ``realtime``, or ``heard``: what reached the caller's ear."""
    provider: str
    """With its model, such as ``openai/gpt-4o-mini``."""
    characters: int = 0
    """Given to the voice; of ``heard``: of the words that were heard."""
    audio_ms: int = 0
    """Given to speech to text; made by the voice; both ways of speech to speech."""
    input_tokens: int = 0
    """Where the provider tells."""
    output_tokens: int = 0
    cached_tokens: int = 0


@dataclass(slots=True, frozen=True)
class CallEnded:
    """The call is over."""

    at_ms: int
    reason: str
    """One of `flowcat_server.core.ended`."""
    detail: str = ""
    variables: Mapping[str, Any] = field(default_factory=dict)


CallEvent = (
    CallProgress
    | CallStarted
    | CallerSpeaking
    | CallerText
    | AgentText
    | AgentSpeaking
    | AgentPaused
    | AgentHeard
    | NodeEntered
    | ToolStarted
    | ToolEnded
    | TurnCompleted
    | Variables
    | DigitPressed
    | AnswerDetected
    | Notice
    | UsageCounted
    | CallEnded
)

EVENT_NAMES: dict[type, str] = {
    CallProgress: "call_progress",
    CallStarted: "call_started",
    CallerSpeaking: "caller_speaking",
    CallerText: "caller_text",
    AgentText: "agent_text",
    AgentSpeaking: "agent_speaking",
    AgentPaused: "agent_paused",
    AgentHeard: "agent_heard",
    NodeEntered: "node_entered",
    ToolStarted: "tool_started",
    ToolEnded: "tool_ended",
    TurnCompleted: "turn_completed",
    Variables: "variables",
    DigitPressed: "digit_pressed",
    AnswerDetected: "answer_detected",
    Notice: "notice",
    UsageCounted: "usage_counted",
    CallEnded: "call_ended",
}
