from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from flowcat_server.core.agent import Agent, Profile
from flowcat_server.core.graph import Graph, Node
from flowcat_server.core.interfaces import ToolCall, ToolSpec
from flowcat_server.errors import ToolError
from flowcat_server.tools.toolbox import MAX_RESULT_CHARS, Tool, Toolbox
from tests import virtual


class Runner:
    """Answers with a text, after a while."""

    def __init__(self, result: str = "ok", takes_s: float = 0.0) -> None:
        self.result, self.takes_s = result, takes_s
        self.seen: list[tuple[dict[str, Any], dict[str, Any]]] = []

    async def run(self, arguments: Mapping[str, Any], variables: Mapping[str, Any]) -> str:
        self.seen.append((dict(arguments), dict(variables)))
        await asyncio.sleep(self.takes_s)
        return self.result


SPEC = ToolSpec(
    "book",
    "Book a table.",
    {
        "type": "object",
        "properties": {"day": {"type": "string"}, "people": {}},
        "required": ["day", "people"],
    },
)
ALL = {"day": "Friday", "people": 4}


def toolbox(runner: Runner, **options: Any) -> Toolbox:
    return Toolbox([Tool(SPEC, runner, **{"timeout_ms": 1000, **options})])


def agent(box: Toolbox, *allowed: str, **variables: Any) -> Agent:
    graph = Graph({"s": Node("s", "start", "Start", tools=allowed)}, (), "s")
    return Agent(Profile("test", graph, {"clinic": "Willow"}, box.specs), variables)


async def test_a_tool_is_given_its_arguments_and_the_calls_public_variables():
    runner = Runner()
    box = toolbox(runner)
    result = await box.run(ToolCall("1", "book", ALL), agent(box, "book", name="Ada", _memory=1))
    assert result == "ok"
    assert runner.seen == [(ALL, {"clinic": "Willow", "name": "Ada"})]


@pytest.mark.parametrize("allowed", [(), ("other",), ("Book",)])
async def test_a_node_that_does_not_name_a_tool_has_none(allowed: tuple[str, ...]):
    runner = Runner()
    box = toolbox(runner)
    with pytest.raises(ToolError, match="no tool named book"):
        await box.run(ToolCall("1", "book", ALL), agent(box, *allowed))
    assert runner.seen == []


@pytest.mark.parametrize("name", ["cancel", "", "book ", "__init__"])
async def test_an_unknown_tool_is_told(name: str):
    box = toolbox(Runner())
    with pytest.raises(ToolError, match="no tool named"):
        await box.run(ToolCall("1", name, ALL), agent(box, "book", name))


@pytest.mark.parametrize(
    ("arguments", "missing"), [({}, "day, people"), ({"day": "Friday"}, "people")]
)
async def test_missing_arguments_are_named_and_nothing_runs(
    arguments: dict[str, Any], missing: str
):
    runner = Runner()
    box = toolbox(runner)
    with pytest.raises(ToolError, match=f"Missing arguments: {missing}\\."):
        await box.run(ToolCall("1", "book", arguments), agent(box, "book"))
    assert runner.seen == []


async def test_a_long_result_is_cut_and_says_so():
    box = toolbox(Runner("x" * (MAX_RESULT_CHARS + 1)))
    result = await box.run(ToolCall("1", "book", ALL), agent(box, "book"))
    assert result == "x" * MAX_RESULT_CHARS + " [cut off]"
    box = toolbox(Runner("x" * MAX_RESULT_CHARS))
    assert len(await box.run(ToolCall("1", "book", ALL), agent(box, "book"))) == MAX_RESULT_CHARS


def test_a_tool_has_its_deadline():
    async def main() -> None:
        for takes, in_time in ((1.4, True), (1.6, False)):
            box = toolbox(Runner(takes_s=takes), timeout_ms=1500)
            running = box.run(ToolCall("1", "book", ALL), agent(box, "book"))
            if in_time:
                assert await running == "ok"
            else:
                with pytest.raises(ToolError, match=r"No answer within 1\.5 seconds"):
                    await running

    virtual.run(main())


async def test_cancelling_the_reply_cancels_the_tool():
    box = toolbox(Runner(takes_s=3600), timeout_ms=3_600_000)
    task = asyncio.create_task(box.run(ToolCall("1", "book", ALL), agent(box, "book")))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def test_what_models_are_told_and_what_is_spoken_meanwhile():
    quiet = Tool(ToolSpec("look", "Look."), Runner(), 10)
    box = Toolbox([Tool(SPEC, Runner(), 10, ("One moment.",)), quiet])
    assert dict(box.specs) == {"book": SPEC, "look": quiet.spec}
    assert dict(box.fillers) == {"book": ("One moment.",)}
