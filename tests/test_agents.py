"""Several agents in one process: what they share, and what each has of its own."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from flowcat_server.agents import Agents
from flowcat_server.config.load import load
from flowcat_server.errors import ConfigError
from flowcat_server.providers.http import Http
from flowcat_server.startup import Built, Progress, build
from tests.callscript import loaded, parts

LISTENS = "topology: {vad: energy, stt: scripted, llm: scripted, tts: scripted}\n"
MAIN = (
    "agent: {name: desk, prompt: Be kind.}\n"
    "routes: {agents: {sales: sales.yaml, support: support.yaml}}\n" + LISTENS
)


async def built(folder: Path, **files: str) -> Built:
    for name, text in {"agent": MAIN, **files}.items():
        (folder / f"{name}.yaml").write_text(text)
    file = load(folder / "agent.yaml", environ={})
    http = Http()
    try:
        return await build(file, http, Progress(io.StringIO()))
    finally:
        await http.close()


async def test_providers_that_are_asked_for_in_the_same_words_are_one(tmp_path: Path):
    other = LISTENS.replace("tts: scripted", "tts: {provider: scripted, options: {tone_hz: 300}}")
    house = await built(
        tmp_path,
        sales="agent: {prompt: Sell.}\n" + LISTENS,
        support="agent: {prompt: Help.}\n" + other,
    )
    desk, sales, support = house.agents
    for kind in ("stt", "llm", "tts"):
        mine, theirs = getattr(desk, kind)[0], getattr(sales, kind)[0]
        assert mine.plug is theirs.plug
        assert mine.breaker is theirs.breaker
    assert desk.vad is sales.vad is support.vad
    assert support.llm[0].plug is desk.llm[0].plug
    assert support.tts[0].plug is not desk.tts[0].plug
    started = [(used.kind, used.name) for used in house.used]
    assert sorted(started) == [
        ("llm", "scripted"), ("stt", "scripted"), ("tts", "scripted"), ("tts", "scripted"),
        ("vad", "energy"),
    ]  # fmt: skip
    assert len(house.closers) == len(started)
    await house.close()


async def test_health_is_shared_only_under_the_same_rules(tmp_path: Path):
    house = await built(
        tmp_path,
        sales="agent: {prompt: Sell.}\nturn: {breaker: {failures: 9}}\n" + LISTENS,
        support="agent: {prompt: Help.}\n" + LISTENS,
    )
    desk, sales, support = house.agents
    assert desk.llm[0].breaker is support.llm[0].breaker
    assert desk.llm[0].breaker is not sales.llm[0].breaker
    await house.close()


async def test_a_spare_in_the_same_words_is_another_one(tmp_path: Path):
    spare = LISTENS.replace("llm: scripted", "llm: {provider: scripted, fallback: [scripted]}")
    house = await built(
        tmp_path,
        agent=MAIN.replace(LISTENS, spare),
        sales="agent: {prompt: Sell.}\n" + spare,
        support="agent: {prompt: Help.}\n" + LISTENS,
    )
    desk, sales, support = house.agents
    assert desk.llm[0].plug is not desk.llm[1].plug
    assert desk.llm[0].breaker is not desk.llm[1].breaker
    assert [each.plug for each in desk.llm] == [each.plug for each in sales.llm]
    assert support.llm[0].plug is desk.llm[0].plug
    await house.close()


async def test_each_agent_has_its_own_prompt_and_the_name_it_is_routed_by(tmp_path: Path):
    house = await built(
        tmp_path,
        sales="agent: {name: else, prompt: Sell.}\n" + LISTENS,
        support="agent: {prompt: Help.}\ntopology: {mode: echo}\n",
    )
    agents = house.agents
    assert agents.names == ("desk", "sales", "support")
    assert [each.profile.name for each in agents] == ["desk", "sales", "support"]
    sales = agents.get("sales")
    assert sales is not None
    assert sales.profile.graph.nodes[sales.profile.graph.start].prompt == "Sell."
    assert agents.get("") is agents.default is house.parts
    assert agents.get("else") is None
    await house.close()


async def test_a_provider_that_an_agent_cannot_have_is_a_clear_error(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"sales\.yaml: topology\.llm"):
        await built(
            tmp_path,
            sales="agent: {prompt: Sell.}\ntopology: {llm: nonsense}\n",
            support="agent: {prompt: Help.}\n" + LISTENS,
        )


async def test_one_file_is_one_agent():
    only = await parts(loaded("agent: {name: desk, prompt: x}\n" + LISTENS))
    agents = Agents(only)
    assert agents.names == (only.profile.name,)
    assert list(agents) == [only]
