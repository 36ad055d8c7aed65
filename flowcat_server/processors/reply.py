"""Thinking: one task per reply that streams the model, runs tools and walks the graph."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace

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
    SpeechResumed,
    TurnDropped,
    TurnEnded,
    TurnSupposed,
)
from flowcat_server.core.interfaces import (
    LanguageModel,
    ModelEvent,
    ModelRequest,
    Remember,
    TextDelta,
    ToolCall,
    Usage,
)
from flowcat_server.core.playout import Playout
from flowcat_server.core.processor import Processor
from flowcat_server.core.sentences import SentenceSplitter
from flowcat_server.core.usage import UsageMeter
from flowcat_server.errors import ProviderError, ProviderTimeout
from flowcat_server.processors.actions import Actions
from flowcat_server.processors.call import Call
from flowcat_server.processors.dead_air import Debt
from flowcat_server.processors.deadlines import Deadline, closing, timed
from flowcat_server.processors.guess import Guess
from flowcat_server.processors.hedge import Hedge
from flowcat_server.processors.lineup import Lineup, Member
from flowcat_server.processors.rescue import Rescue

log = structlog.get_logger()

MAX_ROUNDS = 8
"""Model requests within one reply; a model that calls tools for ever is stopped here."""
UNFINISHED = "Not finished: the caller interrupted. It may or may not have taken effect."
"""Told to the model of a tool that was cut off."""


GO_ON = """\
You had begun to answer the caller's last words when a fault cut you off. The caller has heard \
this much of your answer: "{said}" Go on from there. Do not repeat it, and do not mention the \
fault."""
"""Told to the model that takes over in the middle of an answer."""


class _Reply:
    """One reply in the making."""

    def __init__(self, turn: int) -> None:
        self.turn = turn
        self.said = 0
        """Sentences of its own that were handed to speech (fillers do not count)."""
        self.answer: list[str] = []
        """Of them, those that answer the request under way."""
        self.before: frozenset[str] = frozenset()
        """Of those, what a model had said before it failed."""
        self.since_ms: int | None = None
        """Since when it owes its next words; None: an earlier reply is made first."""
        self.calls: Sequence[ToolCall] = ()
        """Tool calls being carried out."""
        self.guess: Guess | None = None
        """Where its answer comes from, if it was begun before the turn had ended."""
        self.results: dict[int, str] = {}
        self.task: asyncio.Task[None] | None = None


class ReplyProcessor(Processor):
    """Turns a finished caller's turn into sentences.

    Replies are made one after the other. A caller who goes on before the agent has said anything
    gets one reply to all of it; a reply that has begun, or that runs a tool, is finished first.
    """

    sounds = ()

    def __init__(
        self,
        call: Call,
        models: Lineup[LanguageModel],
        agent: Agent,
        conversation: Conversation,
        playout: Playout,
        actions: Actions,
        rescue: Rescue,
        usage: UsageMeter,
        hedge_after_ms: int = 0,
        *,
        speculates: bool = False,
    ) -> None:
        """Create the stage.

        Args:
            call: The owner.
            models: The language model and its fallbacks.
            agent: Where the call is in the graph.
            conversation: What was said so far.
            playout: The ledger; a reply exists there from its first moment.
            actions: Carries out tool calls.
            rescue: What becomes of a turn without an answer.
            usage: Told of tokens.
            hedge_after_ms: How late a model may be before the next is asked beside it; 0: never.
            speculates: Begin a reply when the caller seems to have finished.
        """
        self._call = call
        self._models = models
        self._agent = agent
        self._conversation = conversation
        self._playout = playout
        self._actions = actions
        self._rescue = rescue
        self._usage = usage
        self._hedge_after_ms = hedge_after_ms
        self._speculates = speculates
        self._guess: Guess | None = None
        """A reply to the turn that seems to be over."""
        self._making: list[_Reply] = []
        self._asked = ""
        """The model that answers the request under way."""

    def process(self, frame: Frame) -> None:
        self.emit(frame)
        if type(frame) is TurnEnded:
            self._conversation.caller(frame.text)
            if self._rescue.over:  # nothing new is begun, but each turn has its reply
                self.begin(frame.turn)
                self.emit(ReplyEnded(frame.turn))
                return
            superseded = self._supersede()
            self._start(frame.turn)
            for reply in superseded:  # only now: with no reply open, a call that ends would end
                self.emit(ReplyEnded(reply.turn))
        elif type(frame) is TurnSupposed:
            self._suppose(frame.text)
        elif type(frame) is SpeechResumed or type(frame) is TurnDropped:
            self._drop_guess()
        elif type(frame) is Interrupted:
            self._drop_all()

    def greet(self, opening: str = "") -> None:
        """The call begins: enter the node and speak first; `opening` in place of its greeting."""
        self._actions.enter_node()
        if not opening:
            self._start(0)
            return
        self.begin(0)
        self._emit_text(0, opening)
        self.emit(ReplyEnded(0))

    def begin(self, turn: int, late: int | None = None) -> None:
        """Open a reply in the ledger and in the conversation.

        `late`: the reply before whose next words this one is heard.
        """
        self._playout.begin(turn, interruptible=self._agent.interruptible(first=turn == 0))
        if late is None:
            self._conversation.reply_begins(turn)
        else:
            self._conversation.interjected(turn, late)

    def abandon(self) -> None:
        """The call's last words are under way: make no more replies."""
        for reply in list(self._making):
            self._drop(reply)
            self.emit(ReplyEnded(reply.turn))

    def close(self) -> None:
        self._drop_guess()
        self._drop_all()

    # --- for the watch over dead air --------------------------------------------------------------

    def owes(self) -> Debt | None:
        """The words that a model or a tool owes."""
        reply = self._late()
        if reply is None or reply.since_ms is None:
            return None
        return Debt("tool" if reply.calls else "llm", reply.since_ms)

    def fill(self, text: str) -> None:
        """Say something while the reply being made is late."""
        reply = self._late()
        if reply is not None:
            self._emit_text(reply.turn, text)

    def give_up(self) -> bool:
        """No model has answered for too long; False: a reply that has begun is not given up.

        Neither is a tool cut off: it has a deadline of its own.
        """
        reply = self._late()
        if reply is None or reply.said or reply.calls or reply.since_ms is None:
            return False
        waited = self._call.now_ms() - reply.since_ms
        error = ProviderTimeout(self._models.current.name, f"no reply within {waited} ms")
        error.stage = "llm"
        self._drop(reply)
        self._lost(reply, error)
        return True

    def _late(self) -> _Reply | None:
        """The reply that is being made now; later ones wait for it."""
        return next((reply for reply in self._making if reply.since_ms is not None), None)

    # --- replies ----------------------------------------------------------------------------------

    def _start(self, turn: int) -> None:
        self.begin(turn)
        reply = _Reply(turn)
        earlier = [other.task for other in self._making if other.task is not None]
        reply.task = self._call.spawn(f"reply-{turn}", self._run(reply, earlier))
        self._making.append(reply)
        if not earlier:
            reply.since_ms = self._call.now_ms()

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
        self._making.remove(reply)
        if reply.task is not None:
            reply.task.cancel()
        if reply.guess is not None:
            reply.guess.drop()
        if reply.calls:
            self._end_round(reply)

    def _drop_all(self) -> None:
        for reply in list(self._making):
            self._drop(reply)

    # --- guesses ----------------------------------------------------------------------------------

    def _suppose(self, text: str) -> None:
        """Ask the model before the turn has ended, if that can be of use."""
        if not self._speculates or self._making or self._rescue.over or self._actions.closing:
            return
        if self._guess is not None:
            if self._guess.says(text):
                return
            self._drop_guess()
        request = self._agent.request(self._call.id, self._conversation.messages(supposed=text))
        model = self._models.current
        self._guess = Guess(
            self._call,
            request,
            lambda: timed(model.plug.reply(request), model.deadline, model.name),
            self._actions,
        )

    def _drop_guess(self) -> None:
        guess, self._guess = self._guess, None
        if guess is not None:
            guess.drop()
            model = self._models.current
            model.breaker.guesses_dropped += 1
            self._usage.of("llm", model.name).add_tokens(guess.used)

    def _take_guess(self, request: ModelRequest) -> Guess | None:
        """The answer that is under way already, if it is one to this request."""
        guess = self._guess
        if guess is None or not guess.answers(request):
            self._drop_guess()
            return None
        self._guess = None
        self._models.current.breaker.guesses_used += 1
        return guess

    def _lost(self, reply: _Reply, error: ProviderError) -> None:
        """Nobody could answer; the caller is told."""
        self._emit_text(reply.turn, self._rescue.turn_failed(error))
        self.emit(ReplyEnded(reply.turn))
        if self._rescue.over:
            self.abandon()

    # --- the reply's task -------------------------------------------------------------------------

    async def _run(self, reply: _Reply, earlier: Sequence[asyncio.Task[None]]) -> None:
        if earlier:
            await asyncio.wait(earlier)
            reply.since_ms = self._call.now_ms()
        agent = self._agent
        try:
            if reply.turn == 0 and agent.node.greeting:
                self._say_all(reply, agent.render(agent.node.greeting))
            else:
                await self._think(reply)
        except ProviderError as error:
            self._making.remove(reply)
            self._lost(reply, error)
            return
        self._rescue.turn_went_well()
        if not reply.said and reply.turn and not self._actions.closing:
            now = self._call.now_ms()
            text = "The model had nothing to say."
            self._call.publish(events.Notice(now, "warning", "reply_empty", text))
            self._emit_text(reply.turn, self._rescue.apology())
        self._making.remove(reply)
        self.emit(ReplyEnded(reply.turn))

    async def _think(self, reply: _Reply) -> None:
        for _ in range(MAX_ROUNDS):
            calls = await self._ask(reply)
            if not calls or not await self._act(reply, calls):
                return
        log.warning("reply_rounds_exceeded", turn=reply.turn, rounds=MAX_ROUNDS)

    async def _ask(self, reply: _Reply) -> list[ToolCall]:
        """Ask the model, or the next one from the moment it fails."""
        self._models.begin()
        reply.answer, reply.before = [], frozenset()
        while True:
            try:
                calls = await self._ask_model(reply)
            except ProviderError as error:
                if not self._models.failed(error):
                    raise
                await asyncio.sleep(self._models.delay_ms / 1000)
            else:
                self._models.succeeded()
                return calls

    async def _ask_model(self, reply: _Reply) -> list[ToolCall]:
        """One request; speaks its text and returns the tool calls it made."""
        splitter = SentenceSplitter()
        calls: list[ToolCall] = []
        started = False
        used = Usage()
        self._asked = self._models.current.name
        request = self._request(reply)
        reply.guess = self._take_guess(request)
        try:
            async with self._events(request, reply.guess) as stream:
                async for event in stream:
                    if not started:
                        started = True
                        self.emit(ModelStarted(reply.turn, self._call.now_ms()))
                    if type(event) is Usage:
                        used = event
                    self._take(reply, event, splitter, calls)
        finally:
            self._usage.of("llm", self._asked).add_tokens(used)
        self._say_once(reply, splitter.flush())
        return calls

    def _request(self, reply: _Reply) -> ModelRequest:
        """What the model is to know; one that takes over learns what has been said already."""
        messages = self._conversation.messages()
        # What this reply has said so far, fillers perhaps, is no message to answer, and vendors
        # differ in what they make of an answer behind which nobody has spoken.
        while messages and messages[-1].role == "assistant" and not messages[-1].tool_calls:
            messages.pop()
        request = self._agent.request(self._call.id, messages)
        if not reply.answer:
            return request
        reply.before = frozenset(reply.answer)
        said = GO_ON.format(said=" ".join(reply.answer))
        return replace(request, system=f"{request.system}\n\n{said}")

    def _events(
        self, request: ModelRequest, guess: Guess | None
    ) -> AbstractAsyncContextManager[AsyncGenerator[ModelEvent, None]]:
        """The stream of the model in use, raced by the next one where that is wanted."""
        models, deadline = self._models, self._models.deadline

        def begin() -> AbstractAsyncContextManager[AsyncGenerator[ModelEvent, None]]:
            return ask(current, deadline) if guess is None else closing(guess.stream())

        def ask(
            model: Member[LanguageModel], deadline: Deadline
        ) -> AbstractAsyncContextManager[AsyncGenerator[ModelEvent, None]]:
            return timed(model.plug.reply(request), deadline, model.name)

        current, spare = models.current, models.spare()
        if not self._hedge_after_ms or spare is None:
            return begin()

        def won(number: int) -> None:
            if number:
                self._asked = spare.name
                models.overtaken()

        hedge = Hedge(
            self._call,
            begin,
            lambda: ask(spare, spare.deadline),
            self._hedge_after_ms,
            won,
        )
        return closing(hedge.stream())

    def _take(
        self, reply: _Reply, event: ModelEvent, splitter: SentenceSplitter, calls: list[ToolCall]
    ) -> None:
        match event:
            case TextDelta(text):
                for sentence in splitter.feed(text):
                    self._say_once(reply, sentence)
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
            ahead = reply.guess.result(call) if reply.guess is not None else None
            outcome = await self._actions.run(reply.turn, call, ahead)
            for text in outcome.speech:
                self._say_all(reply, text)
            reply.said += outcome.done
            reply.results[index] = outcome.result
            again = again and outcome.ask_again
        self._end_round(reply)
        reply.since_ms = self._call.now_ms()
        return again

    def _end_round(self, reply: _Reply) -> None:
        """Enter the round in the conversation, with what is known of its results."""
        calls, reply.calls = reply.calls, ()
        results = [reply.results.get(index, UNFINISHED) for index in range(len(calls))]
        self._conversation.tool_round(reply.turn, calls, results)

    def _say_once(self, reply: _Reply, text: str) -> None:
        """A sentence of the model's; one that takes over may begin at the beginning again."""
        if text and text not in reply.before:
            reply.answer.append(text)
            self._say(reply, text)

    def _say(self, reply: _Reply, text: str) -> None:
        if text:
            reply.said += 1
            reply.since_ms = self._call.now_ms()
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
