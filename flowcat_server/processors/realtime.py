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
from flowcat_server.errors import ProviderUnavailable
from flowcat_server.processors.actions import Actions
from flowcat_server.processors.call import Call
from flowcat_server.processors.deadlines import closing
from flowcat_server.processors.inbox import Inbox
from flowcat_server.processors.transcribe import choose_format

ITEMS_KEPT = 32
"""What the vendor says of older items is of no interest any more."""


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
        self._caller_turn = 0
        """The reply that will answer what the caller says, or said last."""
        self._speech_end_ms: int | None = None
        self._task = call.spawn("realtime", self._converse())

    def process(self, frame: Frame) -> None:
        if type(frame) is AudioIn:
            self._inbox.audio(self._in.feed(frame.payload), frame.at_ms)
        elif type(frame) is TextIn:
            self._interrupt()
            self._caller_turn = self._turn + 1
            self._caller_said(frame.text, frame.at_ms, final=True, typed=True)
            self._inbox.signal(Say(frame.text))
        elif type(frame) is Digit:
            self._call.publish(events.DigitPressed(frame.at_ms, frame.digit))
            self._inbox.signal(Say(f"[keypad: {frame.digit}]"))
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
        if not self._inbox.closed:
            raise ProviderUnavailable("realtime", "the session ended before the call")

    def _take(self, event: RealtimeEvent) -> None:
        now = self._call.now_ms()
        match event:
            case AgentAudio(audio, item):
                turn, piece = self._piece(item)
                self.emit(AudioOut(turn, self._out.feed(audio), piece))
            case AgentTranscript(text, item):
                turn, piece = self._piece(item)
                if self._playout.extend_piece(turn, piece, text):
                    self._call.publish(events.AgentText(now, turn, text))
            case CallerSpeaking(speaking):
                self._call.publish(events.CallerSpeaking(now, speaking=speaking))
                if speaking:
                    self._interrupt()
                    self._caller_turn = self._turn + 1
                else:
                    self._speech_end_ms = now
            case CallerTranscript(text, final):
                ended_ms = now if self._speech_end_ms is None else self._speech_end_ms
                self._caller_said(text, ended_ms, final=final)
            case ToolCall():
                self._tool_task = self._call.spawn(f"tool-{event.id}", self._tool(event))
            case ResponseEnded(item):
                if item in self._items:
                    turn, piece = self._items[item]
                    self.emit(AudioOut(turn, self._out.flush(), piece))
                    self.emit(PieceEnded(turn, piece))
                    self.emit(SpeechEnded(turn))
            case _:
                pass

    def _caller_said(self, text: str, ended_ms: int, *, final: bool, typed: bool = False) -> None:
        """A transcript; the answer to it may be under way already."""
        turn = self._caller_turn or self._turn + 1
        self._call.publish(
            events.CallerText(self._call.now_ms(), turn, text, final=final, typed=typed)
        )
        reply = self._playout.reply(turn)
        if final and (reply is None or not reply.settled):
            self.emit(TurnEnded(turn, text, ended_ms, ended_ms, ended_ms, typed=typed))

    def _piece(self, item: str) -> tuple[int, int]:
        if item not in self._items:
            self._turn += 1
            self._playout.begin(self._turn, interruptible=self._agent.node.allow_interrupt)
            self._items[item] = (self._turn, 0)
            if len(self._items) > ITEMS_KEPT:
                del self._items[next(iter(self._items))]
            self.emit(AgentText(self._turn, "", self._call.now_ms()))
        return self._items[item]

    def _interrupt(self) -> None:
        active = self._playout.active()
        if active is None or not self._playout.interruptible():
            return
        now = self._call.now_ms()
        for item, (turn, _) in self._items.items():
            reply = self._playout.reply(turn)
            if reply is not None and not reply.settled:
                self._inbox.signal(Truncate(item, self._playout.heard_so_far_ms(turn, now)))
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
