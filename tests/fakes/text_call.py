"""A call in text: walks an agent through its graph as a session does, without any audio."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import aclosing
from typing import Any

from flowcat_server.core.agent import TRANSFER, Agent, Profile
from flowcat_server.core.graph import Fact, Graph
from flowcat_server.core.interfaces import (
    LanguageModel,
    Message,
    Remember,
    TextDelta,
    ToolCall,
    ToolSpec,
)

SUNDAY = "2026-11-22"


class TextCall:
    """One call. `tools` are tools with the answers they give in turn."""

    def __init__(
        self,
        model: LanguageModel,
        graph: Graph,
        knowledge: tuple[Fact, ...] = (),
        variables: dict[str, Any] | None = None,
        tools: Sequence[tuple[ToolSpec, list[str]]] = (),
    ) -> None:
        self._model = model
        self._results = {spec.name: list(results) for spec, results in tools}
        specs = {spec.name: spec for spec, _ in tools}
        profile = Profile("test", graph, {"_today": SUNDAY}, specs, "", knowledge)
        self.agent = Agent(profile, variables)
        self.messages: list[Message] = []
        self.called: list[ToolCall] = []
        self.transferred = ""

    @property
    def node(self) -> str:
        return self.agent.node.id

    @property
    def variables(self) -> dict[str, Any]:
        return self.agent.recorded_variables()

    async def begin(self) -> str:
        greeting = self.agent.render(self.agent.node.greeting)
        if not greeting:
            return await self._reply()
        self.messages.append(Message("assistant", greeting))
        return greeting

    async def hear(self, text: str) -> str:
        self.messages.append(Message("user", text))
        return await self._reply()

    async def _reply(self) -> str:
        said: list[str] = []
        for _ in range(8):
            text, call = await self._ask()
            if text:
                said.append(text)
            if call is None:
                self.messages.append(Message("assistant", text))
                break
            self.messages.append(Message("assistant", text, tool_calls=(call,)))
            again, speech = self._run(call)
            said += speech
            if not again:
                break
        return " ".join(said)

    async def _ask(self) -> tuple[str, ToolCall | None]:
        request = self.agent.request("call", list(self.messages))
        text, call = "", None
        async with aclosing(self._model.reply(request)) as events:
            async for event in events:
                if isinstance(event, TextDelta):
                    text += event.text
                elif isinstance(event, Remember):
                    self.agent.remember(event.values)
                elif isinstance(event, ToolCall):
                    assert call is None
                    call = event
        return text, call

    def _run(self, call: ToolCall) -> tuple[bool, list[str]]:
        self.called.append(call)
        if edge := self.agent.edge(call.name):
            node = self.agent.enter(edge)
            self._result(call, f"You are now at: {node.name}.")
            speech = [self.agent.render(t) for t in (edge.speech, node.greeting) if t]
            if node.greeting:
                self.messages.append(Message("assistant", speech[-1]))
            return not node.greeting, speech
        if call.name.startswith(TRANSFER):
            self.transferred = call.name.removeprefix(TRANSFER)
            say = next(t.say for t in self.agent.node.transfers if t.name == self.transferred)
            return False, [say]
        self._result(call, self._results[call.name].pop(0))
        return True, []

    def _result(self, call: ToolCall, text: str) -> None:
        self.messages.append(Message("tool", text, tool_call_id=call.id))
