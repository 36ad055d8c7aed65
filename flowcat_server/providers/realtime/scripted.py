"""`scripted`: a speech-to-speech model that hums the lines of a script.

It detects the caller's turns by loudness, is interrupted like the real ones, calls tools when the
script says so, and delivers its audio faster than it can be played.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator

from pydantic import Field

from flowcat_server.core import audio as sound
from flowcat_server.core.audio import AudioFormat
from flowcat_server.core.interfaces import (
    AgentAudio,
    AgentTranscript,
    Audio,
    CallerSpeaking,
    CallerTranscript,
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
from flowcat_server.providers.drills import FaultOptions, FaultPlan
from flowcat_server.providers.llm.scripted import ECHO, Reply
from flowcat_server.providers.registry import Provider, Settings

OPENING = "Hello."
"""Said when the model is to speak first and has no greeting."""

Planned = tuple[float, RealtimeEvent]
"""An event and the loop's time at which it is due."""


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
        trouble = self._faults.take()
        await trouble.before()
        loop = asyncio.get_running_loop()
        model = _Model(self._options, setup)
        if setup.greeting:
            model.say(setup.greeting, loop.time())
        reading = asyncio.ensure_future(inbox.get())
        told = False
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
                    yield event
                    if not told:
                        told = True
                        await trouble.during()
        finally:
            reading.cancel()

    async def close(self) -> None:
        """Nothing to stop."""


class _Model:
    """One session's state: the caller's turn and what is still to be said."""

    def __init__(self, options: ScriptedRealtimeOptions, setup: RealtimeSetup) -> None:
        self._options = options
        self._input: AudioFormat = setup.input
        self._output: AudioFormat = setup.output
        self._plan: deque[Planned] = deque()
        self._turns = 0
        self._items = 0
        self._caller = ""
        self._speaking = False
        self._quiet_ms = 0
        self._item = ""
        """What is being said; empty while silent."""
        self._tools: dict[str, Reply] = {}
        """Tool calls without a result yet."""

    def wait(self, now: float) -> float | None:
        """Seconds until the next event is due; None: nothing is planned."""
        return max(0.0, self._plan[0][0] - now) if self._plan else None

    def next(self, now: float) -> RealtimeEvent | None:
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
            self.say(item.text or OPENING, now)
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
        unsaid = (AgentAudio, AgentTranscript, ToolCall)
        cut = [(now, event) for _, event in self._plan if isinstance(event, ResponseEnded)]
        kept = [e for e in self._plan if not isinstance(e[1], (*unsaid, ResponseEnded))]
        self._plan = deque([*kept, *cut])

    def _answer(self, text: str, now: float) -> None:
        replies = self._options.replies
        chosen = replies[min(self._turns, len(replies) - 1)] if replies else ECHO
        self._turns += 1
        self._caller = text
        reply = Reply(say=chosen) if isinstance(chosen, str) else chosen
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
        for speech in tones.speak(
            text, self._output, ms_per_char=options.ms_per_char, tone_hz=options.tone_hz
        ):
            self._plan.append((due, AgentTranscript(speech.words[0].text + " ", item)))
            self._plan.append((due, AgentAudio(speech.audio, item)))
            due += options.realtime_factor * self._output.duration_ms(len(speech.audio)) / 1000
        if call is not None:
            self._plan.append((due, call))
        self._plan.append((due, ResponseEnded(item)))


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
