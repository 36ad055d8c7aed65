"""Several agents in one real server: a number, a header and a program pick who answers."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest

from flowcat_server.cli.load.run import Plan, run
from tests.e2e.conftest import Server, StartServer
from tests.fakes.desk import desk

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

MAIN = """\
agent: {name: front}
topology: {mode: echo}
records: {audio: none}
routes:
  agents: {sales: sales.yaml, support: support.yaml}
  rules:
    - {to: "+1555 0199", agent: sales}
"""
OTHER = "topology: {mode: echo}\nlimits: {max_calls: 1}\n"


def answered(server: Server) -> dict[str, int]:
    """Calls by the agent that answered."""
    metrics = server.get("/metrics")[1]
    found = re.findall(r'flowcat_agent_calls_total\{agent="(\w+)",.*\} (\d+)\.0', metrics)
    return {agent: int(count) for agent, count in found}


async def calls(server: Server, count: int) -> None:
    outcome = await run(Plan(server.url, count, seconds=0.3, ramp=1000.0, speech=b""))
    assert (outcome.live, dict(outcome.lost)) == (count, {})
    async with asyncio.timeout(10):
        while "flowcat_calls_active 0.0" not in server.get("/metrics")[1]:  # noqa: ASYNC110 - a test looks from outside
            await asyncio.sleep(0.1)


def files(tmp_path: Path) -> None:
    for name in ("sales", "support"):
        (tmp_path / f"{name}.yaml").write_text(OTHER)


async def test_a_number_picks_the_agent(tmp_path: Path, start_server: StartServer):
    files(tmp_path)
    server = start_server(MAIN)
    await calls(server, 3)
    assert answered(server) == {"sales": 3}
    said = server.text()
    assert "sales.yaml:2:1: warning: limits: is not read here" in said
    assert re.search(r"Agent +front .*\n +sales .*sales\.yaml\)\n +support ", said)
    assert '"agents": ["front", "sales", "support"]' in server.get("/api/info")[1]


async def test_a_program_picks_the_agent_and_its_silence_costs_a_moment(
    tmp_path: Path, start_server: StartServer
):
    files(tmp_path)
    answer: dict[str, Any] = {"agent": "support"}
    async with desk(answer) as there:
        server = start_server(MAIN + f"  webhook: {{url: '{there.url}', timeout: 500ms}}\n")
        await calls(server, 2)
        assert answered(server) == {"support": 2}
    await calls(server, 2)
    assert answered(server) == {"support": 2, "sales": 2}
    assert server.text().count("route_webhook_failed") == 2
