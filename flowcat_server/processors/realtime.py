"""Speech to speech: one session that hears, thinks and speaks, behind the same ledger."""

from __future__ import annotations

from flowcat_server.core import events
from flowcat_server.core.agent import Agent
from flowcat_server.core.audio import AudioFormat, Transcoder
from flowcat_server.core.frames import (
    AgentText,
    AudioIn,
    AudioOut,
    Digit,
    Frame,
    Interrupted,
    PieceEnded,
    SpeechEnded,
    TextIn,
    TurnEnded,
)
from flowcat_server.core.interfaces import (
    AgentAudio,
    AgentTranscript,
    CallerSpeaking,
    CallerTranscript,
    RealtimeEvent,
    RealtimeInput,
    RealtimeSetup,
    ResponseEnded,
    Say,
    SpeechToSpeech,
    ToolCall,
    ToolResult,
    Truncate,
    Update,
)
from flowcat_server.core.playout import Playout
from flowcat_server.core.processor import Processor
from flowcat_server.processors.actions import Actions
from flowcat_server.processors.call import Call
from flowcat_server.processors.deadlines import closing
from flowcat_server.processors.inbox import Inbox
from flowcat_server.processors.transcribe import choose_format


class RealtimeProcessor(Processor):
    """Feeds one speech-to-speech session and enters what it says in the ledger."""

    def __init__(
        self,
        call: Call,
        provider: SpeechToSpeech,
        agent: Agent,
        playout: Playout,
        source: AudioFormat,
        target: AudioFormat,
        actions: Actions,
    ) -> None:
        self._call = call
        self._provider = provider
        self._agent = agent
        self._playout = playout
        self._actions = actions
        self._input = choose_format(source, provider.formats)
        self._output = choose_format(target, provider.formats)
        self._in = Transcoder(source, self._input)
        self._out = Transcoder(self._output, target)
        self._inbox: Inbox[RealtimeInput] = Inbox(
            chunk_ms=provider.chunk_ms, bytes_per_ms=self._input.bytes_for(1000) / 1000
        )
        self._turn = 0
        self._items: dict[str, tuple[int, int]] = {}
        """The vendor's item to reply and piece of the ledger."""
        self._current: str | None = None
        self._speech_end_ms = 0
        self._task = call.spawn("realtime", self._converse())

    def process(self, frame: Frame) -> None:
        kind = type(frame)
        if kind is AudioIn:
            self._inbox.audio(self._in.feed(frame.payload), frame.at_ms)  # type: ignore[union-attr]
        elif kind is TextIn:
            self._interrupt()
            self._inbox.signal(Say(frame.text))  # type: ignore[union-attr]
        elif kind is Digit:
            self._call.publish(events.DigitPressed(frame.at_ms, frame.digit))  # type: ignore[union-attr]
            self._inbox.signal(Say(f"[keypad: {frame.digit}]"))  # type: ignore[union-attr]
        else:
            self.emit(frame)

    def close(self) -> None:
        self._inbox.close()

    async def _converse(self) -> None:
        agent = self._agent
        setup = RealtimeSetup(
            instructions=agent.system_prompt(),
            tools=agent.tools(),
            input=self._input,
            output=self._output,
            greeting=agent.render(agent.node.greeting),
        )
        async with closing(self._provider.converse(setup, self._inbox)) as session:
            async for event in session:
                self._take(event)

    def _take(self, event: RealtimeEvent) -> None:
        now = self._call.now_ms()
        match event:
            case AgentAudio(audio, item):
                turn, piece = self._piece(item)
                self.emit(AudioOut(turn, self._out.feed(audio), piece))
            case AgentTranscript(text, item):
                turn, piece = self._piece(item)
                self._playout.extend_piece(turn, piece, text)
                self._call.publish(events.AgentText(now, turn, text))
            case CallerSpeaking(speaking):
                self._call.publish(events.CallerSpeaking(now, speaking=speaking))
                if speaking:
                    self._interrupt()
                else:
                    self._speech_end_ms = now
            case CallerTranscript(text, final):
                self._caller_said(text, final=final)
            case ToolCall():
                self._tool_task = self._call.spawn(f"tool-{event.id}", self._tool(event))
            case ResponseEnded(item):
                if item in self._items:
                    turn, piece = self._items[item]
                    self.emit(PieceEnded(turn, piece))
                    self.emit(SpeechEnded(turn))
            case _:
                pass

    def _caller_said(self, text: str, *, final: bool) -> None:
        now = self._call.now_ms()
        turn = self._turn + 1
        self._call.publish(events.CallerText(now, turn, text, final=final))
        if final:
            end = self._speech_end_ms or now
            self.emit(TurnEnded(turn, text, end, min(end, now), now))

    def _piece(self, item: str) -> tuple[int, int]:
        if item not in self._items:
            self._turn += 1
            self._playout.begin(self._turn, interruptible=self._agent.node.allow_interrupt)
            self._items[item] = (self._turn, 0)
            self._current = item
            self.emit(AgentText(self._turn, "", self._call.now_ms()))
        return self._items[item]

    def _interrupt(self) -> None:
        active = self._playout.active()
        if active is None or self._current is None or not self._playout.interruptible():
            return
        now = self._call.now_ms()
        heard_ms = self._playout.heard_so_far_ms(active, now)
        self._inbox.signal(Truncate(self._current, heard_ms))
        self.emit(Interrupted(active, now))

    async def _tool(self, call: ToolCall) -> None:
        before = self._agent.node.id
        turn = self._playout.active() or self._turn
        outcome = await self._actions.run(turn, call)
        if self._agent.node.id != before:
            self._inbox.signal(Update(self._agent.system_prompt(), self._agent.tools()))
        result = outcome.result
        if outcome.speech:
            result += " Say exactly this: " + " ".join(outcome.speech)
        self._inbox.signal(
            ToolResult(call.id, result, respond=outcome.ask_again or bool(outcome.speech))
        )
