"""The file's own tools: described to the model, and run with a deadline."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from flowcat_server.core.agent import Agent
from flowcat_server.core.interfaces import ToolCall, ToolSpec
from flowcat_server.errors import ToolError

MAX_RESULT_CHARS = 8_000
"""What a model is shown of a tool's result; the rest is cut off, and says so."""


class Runner(Protocol):
    """One way to run a tool."""

    async def run(self, arguments: Mapping[str, Any], variables: Mapping[str, Any]) -> str:
        """Run with the model's arguments; raises `ToolError` with a text for the model."""


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool of the file."""

    spec: ToolSpec
    runner: Runner
    timeout_ms: int
    say: tuple[str, ...] = ()
    side_effect: bool = True
    """It changes something: it may not be run for an answer that is perhaps never given."""


class Toolbox:
    """All tools of an agent."""

    def __init__(self, tools: Sequence[Tool]) -> None:
        self._tools = {tool.spec.name: tool for tool in tools}

    @property
    def specs(self) -> Mapping[str, ToolSpec]:
        """What models are told, by name."""
        return {name: tool.spec for name, tool in self._tools.items()}

    @property
    def fillers(self) -> Mapping[str, tuple[str, ...]]:
        """What is spoken while a tool runs, by name."""
        return {name: tool.say for name, tool in self._tools.items() if tool.say}

    @property
    def harmless(self) -> frozenset[str]:
        """The names of those without side effect."""
        return frozenset(name for name, tool in self._tools.items() if not tool.side_effect)

    async def run(self, call: ToolCall, agent: Agent) -> str:
        """Run one call; raises `ToolError` for an unknown tool, a failure or a timeout."""
        tool = self._tools.get(call.name)
        if tool is None or call.name not in agent.node.tools:
            raise ToolError(f"There is no tool named {call.name} here.")
        missing = [
            name for name in tool.spec.parameters.get("required", ()) if name not in call.arguments
        ]
        if missing:
            raise ToolError(f"Missing arguments: {', '.join(missing)}.")
        try:
            async with asyncio.timeout(tool.timeout_ms / 1000):
                result = await tool.runner.run(call.arguments, agent.recorded_variables())
        except TimeoutError as error:
            raise ToolError(f"No answer within {tool.timeout_ms / 1000:g} seconds.") from error
        if len(result) > MAX_RESULT_CHARS:
            return result[:MAX_RESULT_CHARS] + " [cut off]"
        return result
