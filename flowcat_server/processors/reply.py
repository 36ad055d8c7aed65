"""Thinking: one task per reply that streams the model, runs tools and walks the graph."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

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
from flowcat_server.processors.deadlines import Deadline, timed

log = structlog.get_logger()

MAX_ROUNDS = 8
"""Model requests within one reply; a model that calls tools for ever is stopped here."""
UNFINISHED = "Not finished: the caller interrupted. It may or may not have taken effect."
"""Told to the model of a tool that was cut off."""


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
        self.said = 0
        """Sentences of its own that were handed to speech (fillers do not count)."""
        self.calls: Sequence[ToolCall] = ()
        """Tool calls being carried out."""
        self.results: dict[int, str] = {}
        self.task: asyncio.Task[None] | None = None
        self.timers: list[asyncio.Handle] = []


class ReplyProcessor(Processor):
    """Turns a finished caller's turn into sentences.

    Replies are made one after the other. A caller who goes on before the agent has said anything
    gets one reply to all of it; a reply that has begun, or that runs a tool, is finished first.
    """

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
        self._making: list[_Reply] = []

    def process(self, frame: Frame) -> None:
        self.emit(frame)
        if type(frame) is TurnEnded:
            self._conversation.caller(frame.text)
            superseded = self._supersede()
            self._start(frame.turn)
            for reply in superseded:  # only now: with no reply open, a call that ends would end
                self.emit(ReplyEnded(reply.turn))
        elif type(frame) is Interrupted:
            self._drop_all()

    def greet(self) -> None:
        """The call begins: enter the start node and speak first."""
        self._actions.enter_node()
        self._start(0)

    def begin(self, turn: int) -> None:
        """Open a reply in the ledger and in the conversation."""
        self._playout.begin(turn, interruptible=self._agent.node.allow_interrupt)
        self._conversation.reply_begins(turn)

    def close(self) -> None:
        self._drop_all()

    def _start(self, turn: int) -> None:
        self.begin(turn)
        reply = _Reply(turn)
        earlier = [other.task for other in self._making if other.task is not None]
        reply.task = self._call.spawn(f"reply-{turn}", self._run(reply, earlier))
        self._making.append(reply)
        if not earlier:
            self._watch(reply)

    def _supersede(self) -> list[_Reply]:
        """Drop the replies of which nothing was said or done yet."""
        idle = [reply for reply in self._making if not reply.said and not reply.calls]
        for reply in idle:
            self._drop(reply)
        if idle and self._actions.closing:
            self._actions.revive()
        return idle

    def _drop(self, reply: _Reply) -> None:
        """Stop making a reply, at once."""
        self._done(reply)
        if reply.task is not None:
            reply.task.cancel()
        if reply.calls:
            self._end_round(reply)

    def _drop_all(self) -> None:
        for reply in list(self._making):
            self._drop(reply)

    def _done(self, reply: _Reply) -> None:
        self._making.remove(reply)
        for timer in reply.timers:
            timer.cancel()

    # --- dead air -------------------------------------------------------------------------------

    def _watch(self, reply: _Reply) -> None:
        now, rules = self._call.now_ms(), self._dead_air
        reply.timers = [
            self._call.call_at(now + rules.filler_after_ms, partial(self._fill, reply)),
            self._call.call_at(now + rules.give_up_after_ms, partial(self._give_up, reply)),
        ]

    def _pick(self, texts: Sequence[str]) -> str:
        if not texts:
            return ""
        text = texts[self._used % len(texts)]
        self._used += 1
        return text

    def _fill(self, reply: _Reply) -> None:
        if not reply.said:
            self._emit_text(reply.turn, self._pick(self._dead_air.fillers))

    def _give_up(self, reply: _Reply) -> None:
        if reply.said:
            return
        if reply.calls:  # a tool is not cut off; it has a deadline of its own
            self._fill(reply)
            due = self._call.now_ms() + self._dead_air.give_up_after_ms
            reply.timers = [self._call.call_at(due, partial(self._give_up, reply))]
            return
        self._drop(reply)
        self._apologize(reply, "reply_too_late", "No reply in time.")
        self.emit(ReplyEnded(reply.turn))

    def _apologize(self, reply: _Reply, code: str, text: str) -> None:
        self._call.publish(events.Notice(self._call.now_ms(), "warning", code, text))
        self._emit_text(reply.turn, self._pick(self._dead_air.apologies))

    # --- the reply's task -------------------------------------------------------------------------

    async def _run(self, reply: _Reply, earlier: Sequence[asyncio.Task[None]]) -> None:
        if earlier:
            await asyncio.wait(earlier)
            self._watch(reply)
        agent = self._agent
        if reply.turn == 0 and agent.node.greeting:
            self._say_all(reply, agent.render(agent.node.greeting))
        else:
            await self._think(reply)
        if not reply.said and reply.turn and not self._actions.closing:
            self._apologize(reply, "reply_empty", "The model had nothing to say.")
        self._done(reply)
        self.emit(ReplyEnded(reply.turn))

    async def _think(self, reply: _Reply) -> None:
        for _ in range(MAX_ROUNDS):
            calls = await self._ask(reply)
            if not calls or not await self._act(reply, calls):
                return
        log.warning("reply_rounds_exceeded", turn=reply.turn, rounds=MAX_ROUNDS)

    async def _ask(self, reply: _Reply) -> list[ToolCall]:
        """Ask the model, or the next one from the moment it fails.

        A failure in the middle of an answer ends the answer there.
        """
        while True:
            said = reply.said
            try:
                return await self._ask_model(reply, self._models[0])
            except ProviderError as error:
                if len(self._models) == 1:
                    raise
                self._models.pop(0)
                self._call.trouble("llm", "llm_fallback", error)
                if reply.said > said:
                    return []

    async def _ask_model(self, reply: _Reply, model: Model) -> list[ToolCall]:
        """One request; speaks its text and returns the tool calls it made."""
        request = self._agent.request(self._call.id, self._conversation.messages())
        splitter = SentenceSplitter()
        calls: list[ToolCall] = []
        started = False
        async with timed(model.provider.reply(request), model.deadline, model.name) as stream:
            async for event in stream:
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
        """Carry out what the model called; True if it is to be asked again.

        A way to another node is taken last: the other calls were meant for the node they were
        made in.
        """
        reply.calls, reply.results = calls, {}
        again = True
        order = sorted(range(len(calls)), key=lambda index: self._actions.moves(calls[index]))
        for index in order:
            call = calls[index]
            self._say(reply, self._actions.filler(call))
            outcome = await self._actions.run(reply.turn, call)
            for text in outcome.speech:
                self._say_all(reply, text)
            reply.results[index] = outcome.result
            again = again and outcome.ask_again
        self._end_round(reply)
        return again

    def _end_round(self, reply: _Reply) -> None:
        """Enter the round in the conversation, with what is known of its results."""
        calls, reply.calls = reply.calls, ()
        results = [reply.results.get(index, UNFINISHED) for index in range(len(calls))]
        self._conversation.tool_round(reply.turn, calls, results)

    def _say(self, reply: _Reply, text: str) -> None:
        if text:
            reply.said += 1
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
