"""The default agent with the real embedding model: accuracy, whole calls, and what it costs."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import yaml

from flowcat_server.config.load import Loaded, load
from flowcat_server.core.agent import Agent, Profile
from flowcat_server.core.interfaces import Message
from flowcat_server.errors import AssetError
from flowcat_server.providers.assets import verify
from flowcat_server.providers.llm._intents.embedding import MODEL, Cached, MiniLm
from flowcat_server.providers.llm._intents.settings import IntentsOptions
from flowcat_server.providers.llm.intents import Intents
from tests.fakes.text_call import TextCall

pytestmark = pytest.mark.models

CORPUS = Path("tests/corpus/intents")
SAME = {"book_a_visit": "book", "talk_to_a_colleague": "human", "say_goodbye": "goodbye"}


def corpus(name: str) -> Any:
    return yaml.safe_load((CORPUS / f"{name}.yaml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def embedder() -> Cached:
    pytest.importorskip("onnxruntime")
    try:
        return Cached(MiniLm(verify(MODEL)))
    except AssetError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def loaded() -> Loaded:
    return load("configs/default.yaml", environ={})


@pytest.fixture
async def model(embedder: Cached, loaded: Loaded) -> Any:
    options = IntentsOptions.model_validate(loaded.config.topology.llm.options)
    intents = Intents(options, lambda: embedder)
    await intents.start()
    await intents.prepare(loaded.graph, loaded.knowledge)
    yield intents
    await intents.close()


def agent_of(loaded: Loaded) -> Agent:
    variables = loaded.config.agent.seed_vars
    return Agent(Profile("clinic", loaded.graph, variables, {}, "", loaded.knowledge))


async def understood(model: Intents, loaded: Loaded, text: str) -> set[str]:
    request = agent_of(loaded).request("call", [Message("user", text)])
    dialogue = model._ready()
    return {SAME.get(target.key, target.key) for target in dialogue.understand(request)} or {"none"}


def wanted(entry: dict[str, Any]) -> Iterator[set[str]]:
    means = entry["means"] if isinstance(entry["means"], list) else [entry["means"]]
    for meaning in means:
        yield set(meaning.split("+"))


@pytest.mark.parametrize(("group", "floor"), [("start", 0.85), ("garbled", 0.75), ("fresh", 0.65)])
async def test_understands_sentences_it_was_not_made_with(model, loaded, capsys, group, floor):
    entries = corpus("held_out")[group]
    wrong = [
        (entry["say"], entry["means"], found)
        for entry in entries
        if (found := await understood(model, loaded, entry["say"])) not in list(wanted(entry))
    ]
    rate = 1 - len(wrong) / len(entries)
    with capsys.disabled():
        print(f"\nintents, {group}: {rate:.1%} of {len(entries)} sentences")
    assert rate >= floor, wrong


def test_the_held_out_sentences_are_not_in_the_agent_file(loaded):
    known = {question.lower() for fact in loaded.knowledge for question in fact.questions}
    known |= {example.lower() for edge in loaded.graph.edges for example in edge.examples}
    for entry in corpus("held_out")["start"]:
        assert entry["say"].lower().rstrip("?.!") not in known


@pytest.mark.parametrize("dialogue", corpus("dialogues"), ids=lambda dialogue: dialogue["name"])
async def test_holds_whole_calls(model, loaded, dialogue):
    call = TextCall(model, loaded.graph, loaded.knowledge, dict(loaded.config.agent.seed_vars))
    assert (await call.begin()).startswith("Hello, this is Sam at the Willow Lane Clinic.")
    for turn in dialogue["turns"]:
        said = await call.hear(turn["caller"])
        assert re.search(turn.get("agent", ""), said), (turn["caller"], said)
        assert call.node == turn.get("node", call.node), (turn["caller"], said)
        assert turn.get("variables", {}).items() <= call.variables.items()
        assert call.transferred == turn.get("transferred", "")


async def test_a_reply_takes_milliseconds(model, loaded, capsys):
    talk = TextCall(model, loaded.graph, loaded.knowledge)
    await talk.begin()
    texts = [entry["say"] for entry in corpus("held_out")["start"][:40]]
    took = []
    for text in texts:
        request = agent_of(loaded).request("call", [Message("user", f"{text} Really.")])
        start = time.perf_counter()
        model._ready().respond(request, date(2026, 11, 22))
        took.append((time.perf_counter() - start) * 1000)
    median = sorted(took)[len(took) // 2]
    with capsys.disabled():
        print(f"\nintents, one reply: median {median:.1f} ms, longest {max(took):.1f} ms")
    assert median < 60


async def test_every_sentence_said_stands_in_the_file_or_in_the_wordings(model, loaded):
    """What is said about the clinic comes from the file, word for word."""
    call = TextCall(model, loaded.graph, loaded.knowledge, dict(loaded.config.agent.seed_vars))
    await call.begin()
    for fact in loaded.knowledge:
        if fact.id != "emergencies":
            said = await call.hear(fact.questions[0])
            assert fact.answer in said, (fact.questions[0], said)
