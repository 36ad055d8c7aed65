"""Every plug of the server on one page.

A provider object is created once per process from its options and shared by all calls; what
belongs to one call lives in the stream, voice or generator it hands out. All audio crosses in
the `AudioFormat` that was agreed when the stream was opened.

Rules for every implementation:

- An async generator is closed by its consumer (``aclosing``), at any moment, also in the middle
  of an item; closing cancels the work at the vendor and frees what it held.
- Vendor errors leave as `flowcat_server.errors.ProviderError`, raised ``from`` the original.
  ``asyncio.CancelledError`` always passes.
- Work of more than about a millisecond leaves the event loop.
- No deadline is kept here: whoever consumes a generator times its first item and its gaps.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Hashable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

import msgspec

from flowcat_server.core.audio import AudioFormat
from flowcat_server.core.graph import Edge, Fact, Graph, Node

# --- voice activity ---------------------------------------------------------------------------


class Vad(Protocol):
    """One shared voice-activity model."""

    format: AudioFormat
    """What `VadStream.feed` takes; PCM16."""

    def open(self, on_chunk: Callable[[int, float], None]) -> VadStream:
        """Start a stream. `on_chunk(at_ms, probability)` is called on the loop's thread.

        `at_ms` is the time given with the audio that completed the chunk, minus what of that
        audio lies behind the chunk. Chunks arrive in order and none is missing.
        """

    async def start(self) -> None:
        """Load and warm the model. Called once, before any `open`."""

    async def close(self) -> None:
        """Stop for good."""


class VadStream(Protocol):
    """The voice activity of one call."""

    chunk_ms: int
    """Length of audio behind each probability."""

    def feed(self, pcm: bytes, at_ms: int) -> None:
        """Take audio whose last sample is at `at_ms`. Never blocks."""

    def close(self) -> None:
        """No more audio; no more calls back."""


# --- end of turn ------------------------------------------------------------------------------


class TurnModel(Protocol):
    """Hears whether a caller who has paused has finished; one for all calls."""

    window_ms: int
    """How much of the caller it is given, at most."""

    async def start(self) -> None:
        """Load the model; once per process, before the first call."""

    async def finished(self, payload: bytes, audio: AudioFormat, owner: Hashable) -> bool:
        """Whether a turn that ends with this sound is over; `owner` is the call."""

    async def close(self) -> None:
        """Stop for good."""


# --- speech to text ---------------------------------------------------------------------------


class Audio(msgspec.Struct, gc=False):
    """Caller audio for a stream of a provider."""

    payload: bytes
    at_ms: int


@dataclass(slots=True, frozen=True)
class Pause:
    """The caller paused: say as soon as possible what has been said so far.

    The answer is a `Transcript` with this number in `Transcript.pause` (also when its text is
    empty).
    """

    number: int


@dataclass(slots=True, frozen=True)
class Resume:
    """The caller went on speaking after a `Pause`; its answer is no longer wanted."""


@dataclass(slots=True, frozen=True)
class EndOfTurn:
    """The caller's turn is over; the next audio belongs to a new one. Forget segments."""


SttInput = Audio | Pause | Resume | EndOfTurn


class SttInbox(Protocol):
    """Where a speech-to-text stream finds its input; bounded, oldest audio is dropped first."""

    async def get(self) -> list[SttInput]:
        """Everything that arrived since the last call, in order; waits for at least one item.

        Audio is gathered to `SttCaps.chunk_ms` before the reader is woken; a signal wakes it at
        once. An empty list means that the call is over: return.
        """


@dataclass(slots=True, frozen=True)
class Transcript:
    """What the caller said, or seems to have said so far."""

    text: str
    segment: int
    """Segments of a turn are joined in order; a later transcript of a segment replaces it."""
    final: bool
    """The segment will not change any more."""
    pause: int | None = None
    """The `Pause` this answers: it covers all audio before that pause."""


@dataclass(slots=True, frozen=True)
class SttCaps:
    """What a speech-to-text provider can do."""

    formats: tuple[AudioFormat, ...]
    """Accepted input formats, best first."""
    chunk_ms: int = 100
    """How much audio to gather before waking the stream; 0: only signals wake it."""
    speech_only: bool = False
    """True: give it only audio in and shortly before speech (local models)."""
    keeps_partials: bool = True
    """Emits transcripts while the caller speaks."""


class SpeechToText(Protocol):
    """Hears."""

    caps: SttCaps

    async def start(self) -> None:
        """Load models or check settings; once per process, before the first call."""

    def transcribe(self, inbox: SttInbox, audio: AudioFormat) -> AsyncIterator[Transcript]:
        """One stream per call, until the inbox ends. Errors end the stream."""

    async def close(self) -> None:
        """Stop for good."""


# --- language model ---------------------------------------------------------------------------


@dataclass(slots=True, frozen=True)
class ToolSpec:
    """A function the model may call."""

    name: str
    description: str
    parameters: Mapping[str, Any] = field(
        default_factory=lambda: {"type": "object", "properties": {}}
    )
    """JSON Schema of the arguments."""


@dataclass(slots=True, frozen=True)
class ToolCall:
    """The model wants a tool run. `arguments` is the parsed JSON object."""

    id: str
    name: str
    arguments: Mapping[str, Any]


@dataclass(slots=True, frozen=True)
class Message:
    """One entry of the conversation, as the model is to see it."""

    role: Literal["user", "assistant", "tool"]
    text: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    """Assistant messages only."""
    tool_call_id: str = ""
    """Tool messages only: which call this answers."""
    interrupted: bool = False
    """Assistant messages only: the caller cut it off; `text` is what was heard."""


@dataclass(slots=True, frozen=True)
class ModelRequest:
    """Everything a language model needs for one reply."""

    system: str
    messages: Sequence[Message]
    tools: Sequence[ToolSpec]
    call_id: str
    node: Node
    edges: Sequence[Edge]
    """The node's outgoing edges; each also stands in `tools` under its `tool_name`."""
    variables: Mapping[str, Any]
    """Call variables, including what `Remember` stored."""
    knowledge: Sequence[Fact] = ()
    """Facts of the agent file. They also stand in `system`, for models that read."""


@dataclass(slots=True, frozen=True)
class TextDelta:
    """A piece of the reply's text."""

    text: str


@dataclass(slots=True, frozen=True)
class Remember:
    """Values the model extracted: merged into the call's variables.

    Names that begin with ``_`` are the provider's own memory and are not recorded.
    """

    values: Mapping[str, Any]


@dataclass(slots=True, frozen=True)
class Usage:
    """Tokens used by a request; the last one counts."""

    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0


ModelEvent = TextDelta | ToolCall | Remember | Usage


class LanguageModel(Protocol):
    """Thinks."""

    async def start(self) -> None:
        """Load models or check settings; once per process, before the first call."""

    def reply(self, request: ModelRequest) -> AsyncIterator[ModelEvent]:
        """Stream one reply. Ends when the model has finished."""

    async def close(self) -> None:
        """Stop for good."""


@runtime_checkable
class Warms(Protocol):
    """A provider that can open its connection before it is needed."""

    async def warm(self) -> None:
        """Connect ahead of time; best effort, bounded, never fails."""


@runtime_checkable
class KnowsAgent(Protocol):
    """A language model that gets ready for an agent before its first call."""

    async def prepare(self, graph: Graph, knowledge: Sequence[Fact]) -> None:
        """Called once per agent, after `start`; raises `ProviderRefused` for one it cannot use."""


# --- text to speech ---------------------------------------------------------------------------


@dataclass(slots=True, frozen=True)
class Word:
    """When a word is spoken, relative to the start of its utterance."""

    text: str
    start_ms: int
    end_ms: int


@dataclass(slots=True, frozen=True)
class Speech:
    """A piece of synthesized audio, any length, in the voice's format."""

    audio: bytes
    words: tuple[Word, ...] = ()


class Voice(Protocol):
    """The agent's voice in one call."""

    format: AudioFormat
    """What `synthesize` returns."""

    def synthesize(self, text: str) -> AsyncIterator[Speech]:
        """Speak one sentence or clause. No audio at all for speakable text is an error."""


class TextToSpeech(Protocol):
    """Speaks."""

    formats: tuple[AudioFormat, ...]
    """Output formats on offer, best first."""

    async def start(self) -> None:
        """Load models or check settings; once per process, before the first call."""

    async def prepare(self, texts: Sequence[str]) -> None:
        """Synthesize fixed texts ahead of time, where the provider keeps a cache."""

    def open(self, audio: AudioFormat) -> AbstractAsyncContextManager[Voice]:
        """Open a voice for one call; `audio` is one of `formats`. Connects while it rings."""

    async def close(self) -> None:
        """Stop for good."""


# --- speech to speech -------------------------------------------------------------------------


@dataclass(slots=True, frozen=True)
class RealtimeSetup:
    """What a speech-to-speech session begins with."""

    instructions: str
    tools: Sequence[ToolSpec]
    input: AudioFormat
    output: AudioFormat
    greeting: str = ""
    """Non-empty: the model opens the conversation with these words; else it waits to be spoken
    to, or for a `Speak`."""
    history: Sequence[Message] = ()
    """What was said before, where the session takes over from another: only what was heard, but
    of a reply that is still being heard all of it. A `Correct` names a message by its place."""


@dataclass(slots=True, frozen=True)
class ToolResult:
    """Answer to a `ToolCall` of a speech-to-speech session."""

    call_id: str
    result: str
    respond: bool = True
    """Ask the model to speak after it."""


@dataclass(slots=True, frozen=True)
class Truncate:
    """The caller interrupted: of item `item`, only `heard_ms` was played."""

    item: str
    heard_ms: int


@dataclass(slots=True, frozen=True)
class Say:
    """The caller typed this. What is being said goes on, unless a `Truncate` came first."""

    text: str


@dataclass(slots=True, frozen=True)
class Speak:
    """The model is to speak now, although the caller said nothing."""

    text: str = ""
    """The exact words; empty: whatever fits its instructions, such as the answer to the last
    message of the history."""


@dataclass(slots=True, frozen=True)
class GoOn:
    """Another session's answer broke off behind `said`, the last words of the history: go on."""

    said: str


@dataclass(slots=True, frozen=True)
class Correct:
    """Of the reply that stands at `index` of the history, only `text` was heard; empty: nothing."""

    index: int
    text: str


@dataclass(slots=True, frozen=True)
class Probe:
    """Give a sign of life: answer `Alive` as soon as the vendor has."""


@dataclass(slots=True, frozen=True)
class Update:
    """New instructions and tools (another node of the graph)."""

    instructions: str
    tools: Sequence[ToolSpec]


RealtimeInput = Audio | ToolResult | Truncate | Say | Speak | GoOn | Correct | Probe | Update


class RealtimeInbox(Protocol):
    """Input of a speech-to-speech session; bounded, oldest audio is dropped first."""

    async def get(self) -> list[RealtimeInput]:
        """As `SttInbox.get`: empty means the call is over."""


@dataclass(slots=True, frozen=True)
class AgentAudio:
    """Sound of the agent."""

    audio: bytes
    item: str
    """The vendor's id of what is being said; comes back in `Truncate`."""


@dataclass(slots=True, frozen=True)
class AgentTranscript:
    """Text of what the agent is saying, in pieces."""

    text: str
    item: str


@dataclass(slots=True, frozen=True)
class CallerTranscript:
    """What the caller said; may come long after the answer has begun."""

    text: str
    final: bool
    item: str = field(default="", compare=False)
    """The vendor's id of the caller's turn, as in `CallerSpeaking`; empty: turns come in order."""


@dataclass(slots=True, frozen=True)
class CallerSpeaking:
    """The vendor's turn detection heard the caller begin or stop.

    A vendor that answers a turn does so unasked after its end.
    """

    speaking: bool
    item: str = field(default="", compare=False)
    """The vendor's id of the caller's turn."""


@dataclass(slots=True, frozen=True)
class ResponseEnded:
    """The agent has finished an answer (its audio may still be playing), or was cut off.

    One for every answer, behind its audio, text and tool calls.
    """

    item: str
    """The last item of the answer; empty when it had no audio."""


@dataclass(slots=True, frozen=True)
class Alive:
    """The vendor has answered a `Probe`."""


RealtimeEvent = (
    AgentAudio
    | AgentTranscript
    | CallerTranscript
    | CallerSpeaking
    | ToolCall
    | ResponseEnded
    | Alive
    | Usage
)


class SpeechToSpeech(Protocol):
    """One model that hears, thinks and speaks."""

    formats: tuple[AudioFormat, ...]
    """Formats taken and given, best first."""
    chunk_ms: int
    """How much input audio to gather before the session is woken."""

    async def start(self) -> None:
        """Check settings; once per process."""

    def converse(self, setup: RealtimeSetup, inbox: RealtimeInbox) -> AsyncIterator[RealtimeEvent]:
        """One session, until the inbox ends. Another is begun when it ends before."""

    async def close(self) -> None:
        """Stop for good."""


# --- transport --------------------------------------------------------------------------------


class PlayoutSource(Protocol):
    """Where a transport takes the agent's audio from."""

    def pull(self, now_ms: int, size: int) -> bytes:
        """Up to `size` bytes that are to be sent now; empty when nothing is queued."""

    def queued(self) -> int:
        """Bytes that `pull` could return at once."""

    def lead_ms(self, now_ms: int) -> int:
        """How far what was sent reaches beyond what has been played."""

    def take_mark(self) -> str | None:
        """The mark to send after what was just pulled, or None."""


class CallSink(Protocol):
    """What a transport reports to: the session."""

    def now_ms(self) -> int:
        """The call's clock."""

    def receive_audio(self, payload: bytes) -> None:
        """The next piece of the caller's audio, in the transport's input format."""

    def receive_digit(self, digit: str) -> None:
        """A DTMF key."""

    def receive_text(self, text: str) -> None:
        """Typed text."""

    def receive_mark(self, name: str) -> None:
        """A mark came back."""

    def lost(self, reason: str) -> None:
        """The far end is gone. `reason` is one of `flowcat_server.core.ended`'s."""


class Transport(Protocol):
    """One call's way to the far end. All methods run on the loop's thread and never block."""

    @property
    def input_format(self) -> AudioFormat:
        """What the caller's audio comes in."""

    @property
    def output_format(self) -> AudioFormat:
        """What the agent's audio is taken in."""

    @property
    def buffers(self) -> bool:
        """The far end buffers what it is sent: send ahead, mark, clear."""

    @property
    def delay_ms(self) -> int:
        """From handing over a sample to the caller's ear, estimated."""

    def attach(self, sink: CallSink, source: PlayoutSource) -> None:
        """Begin: audio goes to `sink`, speech is taken from `source`."""

    def wake(self) -> None:
        """Speech was queued: send the first of it now."""

    def clear(self) -> None:
        """Barge-in: the far end must forget what it has not played."""

    async def wait_connected(self) -> None:
        """Return when audio can flow; raises `TransportError` when it never will."""

    async def hang_up(self, reason: str) -> None:
        """End the call at the far end, politely. Idempotent, bounded in time."""
