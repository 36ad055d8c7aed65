from __future__ import annotations

import threading
from datetime import date, datetime
from zoneinfo import ZoneInfo

import pytest
from pydantic import ValidationError

from flowcat_server.config.load import load
from flowcat_server.core.graph import Edge, Fact, Graph, Node
from flowcat_server.errors import ProviderRefused, ProviderUnavailable
from flowcat_server.providers.llm._intents.embedding import Cached
from flowcat_server.providers.llm._intents.settings import IntentsOptions
from flowcat_server.providers.llm._intents.sound import code, likeness
from flowcat_server.providers.llm.intents import PROVIDER, Intents, today
from tests.fakes.model_requests import HELLO, collect, text_of
from tests.fakes.settings import settings
from tests.fakes.word_vectors import WordVectors


def test_is_local_and_needs_no_key():
    assert PROVIDER.local
    assert not PROVIDER.key_required
    assert PROVIDER.extra == "intents"


async def test_refuses_to_answer_before_it_was_started():
    model = PROVIDER.create(settings(PROVIDER))
    with pytest.raises(ProviderUnavailable, match="not started"):
        await collect(model)
    await model.close()


async def test_prepared_phrases_are_not_embedded_again_in_a_call():
    vectors = WordVectors()
    model = Intents(IntentsOptions(), lambda: vectors)
    await model.start()
    edge = Edge("e", "a", "b", "Buy shoes", examples=("I want shoes",), tool_name="buy_shoes")
    nodes = {"a": Node("a", "start", "A", greeting="Hi."), "b": Node("b", "end", "B")}
    await model.prepare(Graph(nodes, (edge,), "a"), (Fact("size", ("which sizes",), "All."),))
    assert {"I want shoes", "Buy shoes", "which sizes"} <= set(vectors.embedded)
    await model.close()


async def test_preparing_names_an_unusable_node():
    model = Intents(IntentsOptions(), WordVectors)
    await model.start()
    nodes = {"a": Node("a", "start", "A", data={"faq": [{"q": "why"}]})}
    with pytest.raises(ProviderRefused, match=r"node 'a': data\.faq\.0"):
        await model.prepare(Graph(nodes, (), "a"))
    await model.close()


async def test_works_off_the_event_loop():
    threads = set()

    class Watched(WordVectors):
        def embed(self, texts):
            threads.add(threading.current_thread())
            return super().embed(texts)

    model = Intents(IntentsOptions(), Watched)
    await model.start()
    assert text_of(await collect(model, HELLO))
    assert threads
    assert threading.main_thread() not in threads
    await model.close()


async def test_is_refused_after_it_was_closed():
    model = Intents(IntentsOptions(), WordVectors)
    await model.start()
    await model.close()
    with pytest.raises(ProviderUnavailable):
        await collect(model, HELLO)


@pytest.mark.parametrize(
    "options",
    [
        {"faq": [{"q": "why"}]},
        {"thresholds": {"edge": 2}},
        {"language": "xx"},
        {"tresholds": {}},
        {"threads": 0},
    ],
)
def test_wrong_options_are_refused(options):
    with pytest.raises(ValidationError):
        PROVIDER.options.model_validate(options)


def test_today_comes_from_the_call():
    assert today({"_today": "2026-02-28"}) == date(2026, 2, 28)
    for name in ("Pacific/Kiritimati", "Pacific/Pago_Pago"):
        zone = ZoneInfo(name)
        before = datetime.now(zone).date()
        assert before <= today({"timezone": name}) <= datetime.now(zone).date()
    assert today({"timezone": "Nowhere/At_All"}) in (today({}), today({}))


def test_the_cache_forgets_what_was_unused_for_longest():
    vectors = WordVectors()
    cached = Cached(vectors, size=2)
    for text in ("a", "b", "a", "c", "a", "b"):
        cached.embed([text])
    assert vectors.embedded == ["a", "b", "c", "b"]


@pytest.mark.parametrize(
    ("heard", "meant"),
    [
        ("can you say that a gain", "can you say that again"),
        ("is there barking", "is there parking"),
        ("I have chess pain", "I have chest pain"),
        ("what's you're a dress", "what's your address"),
    ],
)
def test_misheard_sentences_sound_like_what_was_meant(heard, meant):
    assert likeness(code(heard), code(meant), 0.8) >= 0.8


@pytest.mark.parametrize(
    ("one", "other"),
    [("is there parking", "is there a bus"), ("yes", "yet"), ("", ""), ("no", "now")],
)
def test_other_and_short_sentences_do_not(one, other):
    assert likeness(code(one), code(other), 0.8) in (0.0, 1.0 if code(one) == code(other) else 0.0)


@pytest.mark.parametrize("name", ["default", "echo"])
def test_the_shipped_agents_load_without_a_warning(name):
    loaded = load(f"configs/{name}.yaml", environ={})
    assert not [str(problem) for problem in loaded.warnings]
