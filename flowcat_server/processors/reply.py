"""Thinking: one task per reply that streams the model, runs tools and walks the graph."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import structlog

from flowcat_server.core import events
from flowcat_server.core.agent import Agent
from flowcat_server.core.conversation import Conversation
from flowcat_server.core.frames import (
    AgentText,
    Frame,
    Interrupted,
    ModelStarted,
    ReplyEnded,
    TurnEnded,
)
from flowcat_server.core.interfaces import (
    LanguageModel,
    ModelEvent,
    Remember,
    TextDelta,
    ToolCall,
)
from flowcat_server.core.playout import Playout
from flowcat_server.core.processor import Processor
from flowcat_server.core.sentences import SentenceSplitter
from flowcat_server.errors import ProviderError
from flowcat_server.processors.actions import Actions
from flowcat_server.processors.call import Call
from flowcat_server.processors.deadlines import Deadline, closing, timed

log = structlog.get_logger()

MAX_ROUNDS = 8
"""Model requests within one reply; a model that calls tools for ever is stopped here."""


@dataclass(frozen=True, slots=True)
class Model:
    """A language model and how long it may be silent."""

    name: str
    provider: LanguageModel
    deadline: Deadline


@dataclass(frozen=True, slots=True)
class DeadAir:
    """What the caller hears while the agent takes too long. Milliseconds."""

    filler_after_ms: int
    fillers: Sequence[str]
    give_up_after_ms: int
    apologies: Sequence[str]


class _Reply:
    """One reply in the making."""

    def __init__(self, turn: int) -> None:
        self.turn = turn
        self.spoken = False
        """Words of its own were handed to speech (fillers do not count)."""


class ReplyProcessor(Processor):
    """Turns a finished caller's turn into sentences."""

    def __init__(
        self,
        call: Call,
        models: Sequence[Model],
        agent: Agent,
        conversation: Conversation,
        playout: Playout,
        actions: Actions,
        dead_air: DeadAir,
    ) -> None:
        """Create the stage.

        Args:
            call: The owner.
            models: The language model and its fallbacks, in order.
            agent: Where the call is in the graph.
            conversation: What was said so far.
            playout: The ledger; a reply exists there from its first moment.
            actions: Carries out tool calls.
            dead_air: Fillers and apologies.
        """
        self._call = call
        self._models = list(models)
        self._agent = agent
        self._conversation = conversation
        self._playout = playout
        self._actions = actions
        self._dead_air = dead_air
        self._used = 0
        self._task: asyncio.Task[None] | None = None
        self._timers: list[asyncio.Handle] = []

    def process(self, frame: Frame) -> None:
        self.emit(frame)
        if type(frame) is TurnEnded:
            self._cancel()
            self._conversation.caller(frame.text)
            self._start(frame.turn)
        elif type(frame) is Interrupted:
            self._cancel()

    def greet(self) -> None:
        """The call begins: enter the start node and speak first."""
        self._actions.enter_node()
        self._start(0)

    def begin(self, turn: int) -> None:
        """Open a reply in the ledger and in the conversation."""
        self._playout.begin(turn, interruptible=self._agent.node.allow_interrupt)
        self._conversation.reply_begins(turn)

    def close(self) -> None:
        self._cancel()

    def _start(self, turn: int) -> None:
        self.begin(turn)
        reply = _Reply(turn)
        self._task = self._call.spawn(f"reply-{turn}", self._run(reply))
        now = self._call.now_ms()
        self._timers = [
            self._call.call_at(now + self._dead_air.filler_after_ms, lambda: self._fill(reply)),
            self._call.call_at(now + self._dead_air.give_up_after_ms, lambda: self._give_up(reply)),
        ]

    def _cancel(self) -> None:
        for timer in self._timers:
            timer.cancel()
        if self._task is not None:
            self._task.cancel()
            self._task = None

    # --- dead air -------------------------------------------------------------------------------

    def _pick(self, texts: Sequence[str]) -> str:
        self._used += 1
        return texts[self._used % len(texts)] if texts else ""

    def _fill(self, reply: _Reply) -> None:
        if not reply.spoken:
            self._emit_text(reply.turn, self._pick(self._dead_air.fillers))

    def _give_up(self, reply: _Reply) -> None:
        if reply.spoken or self._task is None or self._task.done():
            return
        self._task.cancel()
        self._task = None
        self._call.publish(
            events.Notice(self._call.now_ms(), "warning", "reply_too_late", "No reply in time.")
        )
        self._emit_text(reply.turn, self._pick(self._dead_air.apologies))
        self.emit(ReplyEnded(reply.turn))

    # --- the reply's task -------------------------------------------------------------------------

    async def _run(self, reply: _Reply) -> None:
        agent = self._agent
        if reply.turn == 0 and agent.node.greeting:
            self._say_all(reply, agent.render(agent.node.greeting))
        else:
            for _ in range(MAX_ROUNDS):
                calls = await self._ask(reply)
                if not calls or not await self._act(reply, calls):
                    break
            else:
                log.warning("reply_rounds_exceeded", turn=reply.turn, rounds=MAX_ROUNDS)
        self.emit(ReplyEnded(reply.turn))

    async def _ask(self, reply: _Reply) -> list[ToolCall]:
        """Ask the model, or the next one if it fails before it has said anything."""
        while True:
            model = self._models[0]
            spoken = len(self._pieces(reply))
            try:
                return await self._ask_model(reply, model)
            except ProviderError as error:
                if len(self._models) == 1 or len(self._pieces(reply)) > spoken:
                    raise
                self._models.pop(0)
                self._call.trouble("llm", "llm_fallback", error)

    def _pieces(self, reply: _Reply) -> Sequence[object]:
        entry = self._playout.reply(reply.turn)
        return entry.pieces if entry else ()

    async def _ask_model(self, reply: _Reply, model: Model) -> list[ToolCall]:
        """One request; speaks its text and returns the tool calls it made."""
        request = self._agent.request(self._call.id, self._conversation.messages())
        splitter = SentenceSplitter()
        calls: list[ToolCall] = []
        started = False
        async with closing(model.provider.reply(request)) as stream:
            async for event in timed(stream, model.deadline, model.name):
                if not started:
                    started = True
                    self.emit(ModelStarted(reply.turn, self._call.now_ms()))
                self._take(reply, event, splitter, calls)
        self._say(reply, splitter.flush())
        return calls

    def _take(
        self, reply: _Reply, event: ModelEvent, splitter: SentenceSplitter, calls: list[ToolCall]
    ) -> None:
        match event:
            case TextDelta(text):
                for sentence in splitter.feed(text):
                    self._say(reply, sentence)
            case ToolCall():
                calls.append(event)
            case Remember(values):
                self._actions.remember(values)
            case _:
                pass

    async def _act(self, reply: _Reply, calls: Sequence[ToolCall]) -> bool:
        """Carry out what the model called; True if it is to be asked again."""
        results: list[str] = []
        again = True
        for call in calls:
            self._say(reply, self._actions.filler(call))
            outcome = await self._actions.run(reply.turn, call)
            for text in outcome.speech:
                self._say_all(reply, text)
            results.append(outcome.result)
            again = again and outcome.ask_again
        self._conversation.tool_round(reply.turn, calls, results)
        return again

    def _say(self, reply: _Reply, text: str) -> None:
        if text:
            reply.spoken = True
            self._emit_text(reply.turn, text)

    def _say_all(self, reply: _Reply, text: str) -> None:
        """Fixed words, sentence by sentence like the model's."""
        splitter = SentenceSplitter()
        for sentence in splitter.feed(text):
            self._say(reply, sentence)
        self._say(reply, splitter.flush())

    def _emit_text(self, turn: int, text: str) -> None:
        if text:
            self.emit(AgentText(turn, text, self._call.now_ms()))
