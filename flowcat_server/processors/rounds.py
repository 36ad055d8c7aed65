"""Tools of a speech-to-speech session: what a response calls is run, its results go back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import structlog

from flowcat_server.core.agent import Agent
from flowcat_server.core.conversation import Conversation
from flowcat_server.core.interfaces import RealtimeInput, ToolCall, ToolResult, Update
from flowcat_server.processors.actions import Actions, Outcome
from flowcat_server.processors.call import Call
from flowcat_server.processors.dead_air import Debt
from flowcat_server.processors.reply import MAX_ROUNDS, UNFINISHED

log = structlog.get_logger()


@dataclass(slots=True)
class _Round:
    """The tool calls of one response."""

    turn: int
    calls: Sequence[ToolCall]
    number: int
    """Of the reply's rounds, counted from 1."""
    since_ms: int
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    task: asyncio.Task[None] | None = None


class ToolRounds:
    """What a response calls is a round; a caller who types may cause another beside it."""

    def __init__(
        self,
        call: Call,
        agent: Agent,
        actions: Actions,
        conversation: Conversation,
        signal: Callable[[RealtimeInput], None],
        done: Callable[[int, bool], None],
    ) -> None:
        """Create the set.

        Args:
            call: The owner.
            agent: Where the call is in the graph; the vendor has the current node's instructions.
            actions: Carries out tool calls.
            conversation: Where they are entered with their results.
            signal: Takes input for the vendor.
            done: Told the reply whose tools have returned, and whether it goes on.
        """
        self._call = call
        self._agent = agent
        self._actions = actions
        self._conversation = conversation
        self._signal = signal
        self._done = done
        self._called: list[ToolCall] = []
        self._running: list[_Round] = []
        self._last = (-1, 0)
        """The last round's reply and number."""
        self._told_node = agent.node.id

    def call(self, call: ToolCall) -> None:
        """The response under way calls a tool, to be run when it has ended."""
        self._called.append(call)

    def forget(self) -> None:
        """That response will not end."""
        self._called.clear()

    def begin(self, turn: int) -> bool:
        """Carry out what a response of a reply has called; False: nothing."""
        calls, self._called = self._called, []
        if not calls:
            return False
        self._last = turn, self._last[1] + 1 if self._last[0] == turn else 1
        work = _Round(turn, calls, self._last[1], self._call.now_ms())
        self._running.append(work)
        work.task = self._call.spawn(f"tools-{turn}", self._act(work))
        return True

    @property
    def turn(self) -> int | None:
        """The reply whose tools are being run; None: none are."""
        return self._running[0].turn if self._running else None

    def owes(self) -> Debt | None:
        """The result of a tool."""
        return Debt("tool", self._running[0].since_ms) if self._running else None

    async def returned(self) -> None:
        """Wait until no tool is running."""
        while self._running:
            await asyncio.wait([work.task for work in self._running if work.task is not None])

    def drop(self) -> None:
        """The caller interrupted: tools are stopped, the vendor gets what results there are."""
        self.forget()
        dropped, self._running = self._running, []
        self._last = (-1, 0)
        for work in dropped:
            if work.task is not None:
                work.task.cancel()
            self._tell_results(work, respond=False)

    def tell_node(self) -> None:
        """Give the vendor the instructions of the node where the conversation is."""
        if self._agent.node.id != self._told_node:
            self._told_node = self._agent.node.id
            self._signal(Update(self._agent.system_prompt(), self._agent.tools()))

    async def _act(self, work: _Round) -> None:
        # A way to another node is taken last: the other calls were meant for the node before.
        try:
            for call in sorted(work.calls, key=self._actions.moves):
                work.outcomes[call.id] = await self._actions.run(work.turn, call)
        finally:
            if work in self._running:
                self._running.remove(work)
        self.tell_node()
        outcomes = work.outcomes.values()
        again = all(o.ask_again for o in outcomes) or any(o.speech for o in outcomes)
        if again and work.number >= MAX_ROUNDS:
            log.warning("reply_rounds_exceeded", turn=work.turn, rounds=MAX_ROUNDS)
            again = False
        self._tell_results(work, respond=again)
        self._done(work.turn, again)

    def _tell_results(self, work: _Round, *, respond: bool) -> None:
        last = work.calls[-1]
        outcomes = [work.outcomes.get(call.id) for call in work.calls]
        results = [_told(o) if o is not None else UNFINISHED for o in outcomes]
        self._conversation.tool_round(work.turn, work.calls, results)
        for call, result in zip(work.calls, results, strict=True):
            self._signal(ToolResult(call.id, result, respond=respond and call is last))


def _told(outcome: Outcome) -> str:
    """What the model is told; words that the file prescribes are its to speak."""
    if not outcome.speech:
        return outcome.result
    return f"{outcome.result} Say exactly these words now: {' '.join(outcome.speech)}"
