"""What a model may do besides speaking: walk the graph, remember, run tools, end, pass on."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from flowcat_server.core import ended, events
from flowcat_server.core.agent import END_CALL, REMEMBER, SEND_KEYS, TRANSFER, Agent
from flowcat_server.core.dtmf import parse_keys
from flowcat_server.core.graph import Edge, TransferTarget
from flowcat_server.core.interfaces import ToolCall
from flowcat_server.core.playout import Playout
from flowcat_server.errors import ProviderError, ToolError
from flowcat_server.processors.call import Call

ToolRunner = Callable[[ToolCall, Agent], Awaitable[str]]
"""Runs a tool named in the file and returns what the model is told; raises `ToolError`."""
ToolResult = str | ToolError
"""What the model is told, or why the tool failed."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a tool call came to."""

    result: str
    """Told to the model."""
    speech: tuple[str, ...] = ()
    """Spoken at once, in these words."""
    ask_again: bool = True
    """The model is to go on with the result; False: everything has been said."""
    done: bool = False
    """It answers the caller's turn without a word."""


class Actions:
    """Carries out tool calls for one call; shared by cascaded and speech-to-speech pipelines."""

    def __init__(
        self,
        call: Call,
        agent: Agent,
        playout: Playout,
        run_tool: ToolRunner,
        fillers: Mapping[str, tuple[str, ...]],
        harmless: Collection[str] = (),
    ) -> None:
        """Create the set.

        Args:
            call: The owner.
            agent: Where the call is in the graph.
            playout: Open replies become uninterruptible on nodes that say so.
            run_tool: Runs the file's own tools.
            fillers: By tool name, what is spoken while it runs.
            harmless: The tools without side effect.
        """
        self._call = call
        self._agent = agent
        self._playout = playout
        self._run_tool = run_tool
        self._fillers = fillers
        self._harmless = harmless
        self._used = 0
        self.send_keys: Callable[[str], None] = lambda keys: None
        """Presses keys when what was said before has been heard."""
        self.tool_runs: Callable[[bool], None] = lambda running: None
        """Told when one of the file's own tools begins and ends."""
        self.transfer: TransferTarget | None = None
        """Where the call goes when the current reply has been heard."""
        self.ending = False
        """The call ends when the current reply has been heard."""
        self.failure: ProviderError | None = None
        """It was given up for this: it ends or is passed on, also when the caller objects."""

    def filler(self, call: ToolCall) -> str:
        """What to say while a tool runs; empty when it needs none."""
        texts = self._fillers.get(call.name, ())
        if not texts or self._agent.edge(call.name) is not None:
            return ""
        text = texts[self._used % len(texts)]
        self._used += 1
        return self._agent.render(text)

    def harmless(self, call: ToolCall) -> bool:
        """Whether a call may be run for an answer that is perhaps never given."""
        return call.name in self._harmless and call.name in self._agent.node.tools

    def moves(self, call: ToolCall) -> bool:
        """Whether a tool call leads to another node, where other tools are on offer."""
        return self._agent.edge(call.name) is not None

    @property
    def closing(self) -> bool:
        """Nothing more has to be said: the call ends or is passed on after this reply."""
        return self.ending or self.transfer is not None

    def finish(self) -> None:
        """The last words have been heard: pass the call on, or end it."""
        if self.transfer is not None:
            self._call.pass_on(self.transfer, self.failure.detail if self.failure else "")
        elif self.failure is not None:
            self._call.fail(self.failure)
        elif self.ending:
            self._call.end(ended.AGENT_ENDED)

    def transfer_failed(self, target: TransferTarget) -> bool:
        """Nobody was reached; False: the call had been given up, and ends without another word."""
        self.transfer = None
        if self.failure is not None:
            self._call.fail(self.failure)
            return False
        self.ending = target.then == "end"
        return True

    def revive(self) -> None:
        """The caller spoke into the goodbye: the call goes on where it was before."""
        self.transfer = None
        self.ending = False
        if self._agent.go_back():
            self.enter_node()

    async def attempt(self, call: ToolCall) -> ToolResult:
        """Run one of the file's own tools, and tell nobody."""
        try:
            return await self._run_tool(call, self._agent)
        except ToolError as error:
            return error

    async def run(
        self, turn: int, call: ToolCall, ahead: Awaitable[ToolResult] | None = None
    ) -> Outcome:
        """Carry out one tool call of reply `turn`. Tool failures are results, not errors.

        `ahead`: the attempt that has been under way since before the turn's end.
        """
        edge = self._agent.edge(call.name)
        if edge is not None:
            return self._follow(turn, edge)
        if call.name == END_CALL:
            self.ending = True
            reply = self._playout.reply(turn)
            speaking = reply is not None and not reply.settled and bool(reply.pieces)
            return Outcome(
                "The call ends when your goodbye has been heard.", ask_again=not speaking
            )
        if call.name == REMEMBER:
            wanted = {slot.name for slot in self._agent.node.slots}
            self.remember({name: v for name, v in call.arguments.items() if name in wanted})
            return Outcome("Stored.")
        if call.name == SEND_KEYS and SEND_KEYS in self._agent.node.tools:
            return self._press(call.arguments)
        if call.name.startswith(TRANSFER):
            return self._transfer(call.name.removeprefix(TRANSFER))
        return Outcome(await self._run(call, ahead or self.attempt(call)))

    def remember(self, values: Mapping[str, Any]) -> None:
        """Merge values into the call's variables."""
        changed = self._agent.remember(values)
        if changed:
            self._call.publish(events.Variables(self._call.now_ms(), changed))

    def enter_node(self) -> None:
        """Tell the world where the conversation is."""
        node = self._agent.node
        self._call.publish(events.NodeEntered(self._call.now_ms(), node.id, node.name))

    def _follow(self, turn: int, edge: Edge) -> Outcome:
        agent = self._agent
        node = agent.enter(edge)
        self.enter_node()
        reply = self._playout.reply(turn)
        if reply is not None and not agent.interruptible(first=True):
            reply.interruptible = False
        self.ending = agent.finished
        speech = [agent.render(edge.speech)] if edge.speech else []
        if node.greeting:
            speech.append(agent.render(node.greeting))
            return Outcome(f"You are now at: {node.name}.", tuple(speech), ask_again=False)
        return Outcome(f"You are now at: {node.name}.", tuple(speech))

    def _press(self, arguments: Mapping[str, Any]) -> Outcome:
        try:
            keys = parse_keys(str(arguments.get("keys", "")))
        except ValueError as error:
            return Outcome(f"The keys were not pressed: {error}.")
        self.send_keys(keys)
        return Outcome("The keys are being pressed.", ask_again=False, done=True)

    def _transfer(self, name: str) -> Outcome:
        target = next((t for t in self._agent.node.transfers if t.name == name), None)
        if target is None:
            return Outcome(f"There is no transfer target {name!r} here.")
        self.transfer = target
        speech = (self._agent.render(target.say),) if target.say else ()
        return Outcome("The call is being passed on.", speech, ask_again=False)

    async def _run(self, call: ToolCall, attempt: Awaitable[ToolResult]) -> str:
        start = self._call.now_ms()
        self._call.publish(events.ToolStarted(start, call.id, call.name, call.arguments))
        result, ok = "cancelled", False
        self.tool_runs(True)
        try:
            outcome = await attempt
            ok = isinstance(outcome, str)
            result = outcome if isinstance(outcome, str) else f"The tool failed: {outcome}"
        finally:
            self.tool_runs(False)
            now = self._call.now_ms()
            self._call.publish(
                events.ToolEnded(now, call.id, call.name, result, ok=ok, duration_ms=now - start)
            )
        return result
