"""The end of the chain: enters speech in the ledger and reports what was heard of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from flowcat_server.core import events
from flowcat_server.core.agent import Agent
from flowcat_server.core.frames import (
    AgentHeld,
    AgentResumed,
    AgentText,
    AudioOut,
    Frame,
    Interrupted,
    ModelStarted,
    PieceEnded,
    SpeechEnded,
    TurnEnded,
)
from flowcat_server.core.interfaces import Transport
from flowcat_server.core.playout import Playout
from flowcat_server.core.processor import Processor
from flowcat_server.core.speech import Reply
from flowcat_server.processors.call import Call


@dataclass(slots=True)
class _Timeline:
    """Timestamps of one turn, from the caller's last voiced sample on."""

    caller: str = ""
    started_ms: int = 0
    speech_end_ms: int | None = None
    endpoint_ms: int = 0
    decided_ms: int = 0
    token_ms: int | None = None
    sentence_ms: int | None = None

    def latency(self, reply: Reply) -> events.Latency | None:
        """The parts, as differences of one chain of timestamps."""
        if self.speech_end_ms is None or reply.first_sent_ms is None:
            return None
        if reply.first_pushed_ms is None or self.sentence_ms is None:
            return None
        # A filler may have been spoken before the model's first token.
        token = self.sentence_ms if self.token_ms is None else min(self.token_ms, self.sentence_ms)
        return events.Latency(
            endpointing_ms=self.endpoint_ms - self.speech_end_ms,
            stt_tail_ms=self.decided_ms - self.endpoint_ms,
            llm_first_token_ms=token - self.decided_ms,
            llm_first_sentence_ms=self.sentence_ms - token,
            tts_first_audio_ms=reply.first_pushed_ms - self.sentence_ms,
            send_ms=reply.first_sent_ms - reply.first_pushed_ms,
        )


class PlayProcessor(Processor):
    """Keeps the ledger in step with the chain and turns its changes into events."""

    __slots__ = (
        "_agent",
        "_call",
        "_on_settled",
        "_playout",
        "_speaking",
        "_timelines",
        "_timer",
        "_transport",
    )

    sounds = (AudioOut,)

    def __init__(
        self,
        call: Call,
        playout: Playout,
        transport: Transport,
        agent: Agent | None,
        on_settled: Callable[[Reply], None],
    ) -> None:
        self._call = call
        self._playout = playout
        self._transport = transport
        self._agent = agent
        self._on_settled = on_settled
        self._timelines: dict[int, _Timeline] = {}
        self._speaking: int | None = None
        self._timer: asyncio.Handle | None = None

    def process(self, frame: Frame) -> None:
        if type(frame) is AudioOut:
            now, words = self._call.now_ms(), frame.words
            if self._playout.push(frame.turn, frame.piece, frame.payload, now, words):
                if self._speaking is None:
                    self._speak()
                self._transport.wake()
            return  # it goes no further: it is in the ledger
        match frame:
            case AgentText(turn, text, at_ms):
                if self._playout.add_piece(turn, text) is not None:
                    timeline = self._timeline(turn)
                    if timeline.sentence_ms is None:
                        timeline.sentence_ms = at_ms
                    if text:
                        self._call.publish(events.AgentText(at_ms, turn, text))
            case PieceEnded(turn, piece):
                self._playout.piece_complete(turn, piece)
            case SpeechEnded(turn):
                self._playout.reply_complete(turn)
                self._transport.wake()
                self.watch()
            case ModelStarted(turn, at_ms):
                timeline = self._timeline(turn)
                if timeline.token_ms is None:
                    timeline.token_ms = at_ms
            case TurnEnded():
                timeline = self._timeline(frame.turn)
                timeline.caller = frame.text
                timeline.started_ms = timeline.speech_end_ms = frame.speech_end_ms
                timeline.endpoint_ms, timeline.decided_ms = frame.endpoint_ms, frame.decided_ms
            case AgentHeld():
                self._hold()
            case AgentResumed():
                self._go_on()
            case Interrupted():
                self.interrupt()
            case _:
                pass
        self.emit(frame)

    def interrupt(self) -> None:
        """Cut off what is playing: the far end first, then the books."""
        if self._playout.active() is None:
            return
        if not (self._playout.held and self._transport.buffers):  # else it has been cleared
            self._transport.clear()
        for reply in self._playout.clear(self._call.now_ms()):
            self._settled(reply)

    def _hold(self) -> None:
        """Fall silent for the moment."""
        now = self._call.now_ms()
        if self._playout.hold(now):
            self._transport.clear()
        if self._speaking is not None:
            self._call.publish(events.AgentPaused(now, paused=True, turn=self._speaking))

    def _go_on(self) -> None:
        now = self._call.now_ms()
        self._playout.resume()
        if self._speaking is not None:
            self._call.publish(events.AgentPaused(now, paused=False, turn=self._speaking))
        self._transport.wake()
        self.watch()

    def watch(self) -> None:
        """See whether replies have been heard to their end; come back when they should have."""
        now = self._call.now_ms()
        for reply in self._playout.settle(now):
            self._settled(reply)
        due = self._playout.settles_at_ms(now)
        if due is None:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._call.call_at(max(due, now + 1), self._on_timer)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _on_timer(self) -> None:
        self._timer = None
        self.watch()

    def _timeline(self, turn: int) -> _Timeline:
        return self._timelines.setdefault(turn, _Timeline(started_ms=self._call.now_ms()))

    def _speak(self) -> None:
        """One reply speaks at a time: the oldest that has audio."""
        if self._speaking is None:
            self._speaking = self._playout.sounding()
            if self._speaking is not None:
                now = self._call.now_ms()
                self._call.publish(events.AgentSpeaking(now, speaking=True, turn=self._speaking))

    def _settled(self, reply: Reply) -> None:
        now = self._call.now_ms()
        if self._speaking == reply.turn:
            self._speaking = None
            self._call.publish(events.AgentSpeaking(now, speaking=False, turn=reply.turn))
            self._speak()
        heard = reply.heard_text
        self._call.publish(
            events.AgentHeard(
                now,
                reply.turn,
                heard,
                unheard=reply.unheard_text,
                interrupted=reply.interrupted,
                heard_ms=reply.heard_ms,
                source=reply.source,
            )
        )
        timeline = self._timelines.pop(reply.turn, _Timeline(started_ms=now))
        self._call.publish(
            events.TurnCompleted(
                now,
                reply.turn,
                timeline.caller,
                heard,
                timeline.started_ms,
                interrupted=reply.interrupted,
                latency=timeline.latency(reply),
                node=self._agent.node.id if self._agent else "",
            )
        )
        self._on_settled(reply)
