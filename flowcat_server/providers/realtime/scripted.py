"""`scripted`: a speech-to-speech model that hums the lines of a script.

It detects the caller's turns by loudness, is interrupted like the real ones, calls tools when the
script says so, and delivers its audio faster than it can be played.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass

from pydantic import Field

from flowcat_server.core import audio as sound
from flowcat_server.core.audio import AudioFormat
from flowcat_server.core.interfaces import (
    AgentAudio,
    AgentTranscript,
    Alive,
    Audio,
    CallerSpeaking,
    CallerTranscript,
    GoOn,
    Message,
    Probe,
    RealtimeEvent,
    RealtimeInbox,
    RealtimeInput,
    RealtimeSetup,
    ResponseEnded,
    Say,
    Speak,
    ToolCall,
    ToolResult,
    Truncate,
)
from flowcat_server.providers import tones
from flowcat_server.providers.drills import FaultOptions, FaultPlan, Trouble
from flowcat_server.providers.llm.scripted import ECHO, Reply
from flowcat_server.providers.registry import Provider, Settings

OPENING = "Hello."
"""Said when the model is to speak first and has no greeting."""


@dataclass(frozen=True, slots=True)
class _Fault:
    """Where in an answer it goes wrong."""

    trouble: Trouble
    begun: bool

    async def happen(self) -> None:
        """Fail, or fall silent."""
        await (self.trouble.during() if self.begun else self.trouble.before())


Planned = tuple[float, RealtimeEvent | _Fault]
"""What happens, and the loop's time at which it is due."""


class ScriptedRealtimeOptions(FaultOptions):
    """What is heard and said, and how late."""

    hears: tuple[str, ...] = ()
    """Transcripts of the caller's turns, one each; empty texts once they are used up."""
    replies: tuple[str | Reply, ...] = ()
    """The nth answers the caller's nth turn; after the last, the last again. None: repeat the
    caller's words."""
    threshold: int = Field(default=500, ge=1, le=32767)
    """Root mean square of 16-bit samples above which the caller is speaking."""
    silence_ms: int = Field(default=400, ge=0)
    """Silence that ends the caller's turn."""
    first_audio_ms: int = Field(default=0, ge=0)
    realtime_factor: float = Field(default=0.0, ge=0.0)
    """Time taken per time of audio: 0 is at once, 1 is just in time."""
    ms_per_char: int = Field(default=60, ge=1, le=500)
    tone_hz: int = Field(default=440, ge=50, le=3500)


class ScriptedRealtime:
    """Hears, thinks and hums."""

    formats = tones.FORMATS
    chunk_ms = 60

    def __init__(self, options: ScriptedRealtimeOptions) -> None:
        self._options = options
        self._faults = FaultPlan(options)

    async def start(self) -> None:
        """Nothing to check."""

    async def converse(
        self, setup: RealtimeSetup, inbox: RealtimeInbox
    ) -> AsyncGenerator[RealtimeEvent, None]:
        """One session."""
        await self._faults.connect()
        loop = asyncio.get_running_loop()
        model = _Model(self._options, self._faults, setup)
        if setup.greeting:
            model.say(setup.greeting, loop.time())
        reading = asyncio.ensure_future(inbox.get())
        try:
            while True:
                await asyncio.wait((reading,), timeout=model.wait(loop.time()))
                if reading.done():
                    items = reading.result()
                    if not items:
                        return
                    for item in items:
                        model.feed(item, loop.time())
                    reading = asyncio.ensure_future(inbox.get())
                while (event := model.next(loop.time())) is not None:
                    if isinstance(event, _Fault):
                        await event.happen()
                    else:
                        yield event
        finally:
            reading.cancel()

    async def close(self) -> None:
        """Nothing to stop."""


class _Model:
    """One session's state: the caller's turn and what is still to be said."""

    def __init__(
        self, options: ScriptedRealtimeOptions, faults: FaultPlan, setup: RealtimeSetup
    ) -> None:
        self._options, self._faults = options, faults
        self._input: AudioFormat = setup.input
        self._output: AudioFormat = setup.output
        self._plan: deque[Planned] = deque()
        self._items = 0
        self._turns, self._caller = _heard(setup.history)
        self._tool_result = _result(setup.history)
        self._speaking = False
        self._quiet_ms = 0
        self._item = ""
        """What is being said; empty while silent."""
        self._tools: dict[str, Reply] = {}
        """Tool calls without a result yet."""

    def wait(self, now: float) -> float | None:
        """Seconds until the next event is due; None: nothing is planned."""
        return max(0.0, self._plan[0][0] - now) if self._plan else None

    def next(self, now: float) -> RealtimeEvent | _Fault | None:
        """The next event, if it is due."""
        if not self._plan or self._plan[0][0] > now:
            return None
        event = self._plan.popleft()[1]
        if isinstance(event, ResponseEnded) and event.item == self._item:
            self._item = ""
        return event

    def feed(self, item: RealtimeInput, now: float) -> None:
        """Take input."""
        if isinstance(item, Audio):
            self._listen(item, now)
        elif isinstance(item, Truncate):
            if item.item == self._item:
                self._interrupt(now)
        elif isinstance(item, Say):
            self._answer(item.text, now)
        elif isinstance(item, Speak):
            self._speak(item.text, now)
        elif isinstance(item, GoOn):
            words = self._reply(self._turns - 1).say if self._turns else OPENING
            said = len(item.said.split())
            self.say(" ".join(self._fill(words, "").split()[said:]), now)
        elif isinstance(item, Probe):
            self._plan.appendleft((now, Alive()))
        elif isinstance(item, ToolResult):
            reply = self._tools.pop(item.call_id, None)
            if item.respond:
                then = reply.then if reply is not None else ""
                self.say(self._fill(then, item.result), now)

    def _listen(self, item: Audio, now: float) -> None:
        pcm = sound.decode(item.payload, self._input.encoding)
        if sound.rms(pcm) > self._options.threshold:
            self._quiet_ms = 0
            if not self._speaking:
                self._speaking = True
                self._plan.appendleft((now, CallerSpeaking(True)))
                self._interrupt(now)
            return
        self._quiet_ms += self._input.duration_ms(len(item.payload))
        if self._speaking and self._quiet_ms >= self._options.silence_ms:
            self._speaking = False
            self._plan.append((now, CallerSpeaking(False)))
            heard = self._options.hears
            text = heard[self._turns] if self._turns < len(heard) else ""
            self._plan.append((now, CallerTranscript(text, final=True)))
            self._answer(text, now)

    def _interrupt(self, now: float) -> None:
        """Forget what was still to be said, as the vendors do when their detection fires."""
        unsaid = (AgentAudio, AgentTranscript, ToolCall, _Fault)
        cut = [(now, event) for _, event in self._plan if isinstance(event, ResponseEnded)]
        kept = [e for e in self._plan if not isinstance(e[1], (*unsaid, ResponseEnded))]
        self._plan = deque([*kept, *cut])

    def _speak(self, text: str, now: float) -> None:
        """Say these words, or what the conversation asks for."""
        result, self._tool_result = self._tool_result, None
        if text or not self._turns:
            self.say(text or OPENING, now)
        elif result is not None:
            self.say(self._fill(self._reply(self._turns - 1).then, result), now)
        else:  # the session before has heard the question
            self._turns -= 1
            self._answer(self._caller, now)

    def _reply(self, turn: int) -> Reply:
        replies = self._options.replies
        chosen = replies[min(turn, len(replies) - 1)] if replies else ECHO
        return Reply(say=chosen) if isinstance(chosen, str) else chosen

    def _answer(self, text: str, now: float) -> None:
        reply = self._reply(self._turns)
        self._turns += 1
        self._caller = text
        call = None
        if reply.tool:
            call = ToolCall(f"scripted-{self._turns}", reply.tool, dict(reply.arguments))
            self._tools[call.id] = reply
        self.say(self._fill(reply.say, ""), now, call)

    def _fill(self, text: str, result: str) -> str:
        return text.replace("{caller}", self._caller).replace("{result}", result)

    def say(self, text: str, now: float, call: ToolCall | None = None) -> None:
        """Plan one answer: what it says, then what it calls."""
        options = self._options
        due, item = now, ""
        if text.strip():
            self._items += 1
            self._item = item = f"item-{self._items}"
            due += options.first_audio_ms / 1000
        trouble = self._faults.take()
        self._plan.append((due, _Fault(trouble, begun=False)))
        words = list(
            tones.speak(
                text, self._output, ms_per_char=options.ms_per_char, tone_hz=options.tone_hz
            )
        )
        for number, speech in enumerate(words, 1):
            self._plan.append((due, AgentTranscript(speech.words[0].text + " ", item)))
            self._plan.append((due, AgentAudio(speech.audio, item)))
            due += options.realtime_factor * self._output.duration_ms(len(speech.audio)) / 1000
            if number == (len(words) + 1) // 2:
                self._plan.append((due, _Fault(trouble, begun=True)))
        if call is not None:
            self._plan.append((due, call))
        self._plan.append((due, ResponseEnded(item)))


def _heard(history: Sequence[Message]) -> tuple[int, str]:
    """How many turns of the caller an earlier session has heard, and the last of them."""
    texts = [message.text for message in history if message.role == "user"]
    return len(texts), texts[-1] if texts else ""


def _result(history: Sequence[Message]) -> str | None:
    """What a tool has returned that is yet to be answered."""
    return history[-1].text if history and history[-1].role == "tool" else None


def create(settings: Settings) -> ScriptedRealtime:
    """Create the provider."""
    return ScriptedRealtime(settings.options)


PROVIDER = Provider(
    create=create,
    options=ScriptedRealtimeOptions,
    local=True,
    status="built-in",
    title="Hums the lines of a script; for tests, demos, load and fault drills.",
)
