from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest
from pydantic import ValidationError

from flowcat_server.core.graph import Node
from flowcat_server.core.interfaces import (
    Message,
    ModelRequest,
    TextDelta,
    ToolCall,
    Usage,
)
from flowcat_server.errors import ProviderProtocol, ProviderUnavailable
from flowcat_server.providers.llm.scripted import PROVIDER
from tests.fakes.settings import settings


def request(*messages: Message, node: str = "a") -> ModelRequest:
    return ModelRequest(
        system="be brief",
        messages=messages,
        tools=(),
        call_id="call",
        node=Node(id=node, kind="agent", name=node),
        edges=(),
        variables={},
    )


def user(text: str) -> Message:
    return Message("user", text)


def model(**options):
    return PROVIDER.create(settings(PROVIDER, **options))


async def events(llm, asked):
    async with aclosing(llm.reply(asked)) as stream:
        return [event async for event in stream]


async def said(llm, *messages, node="a"):
    found = await events(llm, request(*messages, node=node))
    return "".join(event.text for event in found if isinstance(event, TextDelta))


async def test_the_reply_is_streamed_word_by_word_with_usage():
    assert await events(model(replies=["Good morning to you."]), request(user("hi there"))) == [
        TextDelta("Good"),
        TextDelta(" morning"),
        TextDelta(" to"),
        TextDelta(" you."),
        Usage(input_tokens=4, output_tokens=4),
    ]


async def test_the_number_of_caller_messages_decides_and_the_last_reply_stays():
    llm = model(replies=["one", "two"])
    talk = [user("a"), Message("assistant", "one"), user("b"), Message("assistant"), user("c")]
    assert await said(llm, *talk[:1]) == "one"
    assert await said(llm, *talk[:3]) == "two"
    assert await said(llm, *talk) == "two"
    assert await said(llm, *talk[:1]) == "one"


async def test_a_script_can_begin_again():
    assert await said(model(replies=["one", "two"], loop=True), *[user("x")] * 3) == "one"


async def test_it_opens_when_nobody_has_spoken():
    assert await said(model(replies=["one"], opening="Welcome!")) == "Welcome!"


@pytest.mark.parametrize("options", [{}, {"echo": True, "replies": ["never"]}])
async def test_it_repeats_the_caller(options):
    assert await said(model(**options), user("two beers")) == "You said: two beers"


async def test_patterns_come_before_the_script_and_may_be_bound_to_a_node():
    llm = model(
        replies=["script"],
        match=[{"if": "PRICE|cost", "say": "Ten."}, {"if": "bye", "node": "end", "say": "Bye!"}],
    )
    assert await said(llm, user("what does it Cost?")) == "Ten."
    assert await said(llm, user("bye")) == "script"
    assert await said(llm, user("bye"), node="end") == "Bye!"


async def test_a_tool_is_called_once_and_its_result_continues_the_reply():
    llm = model(
        replies=[
            {"say": "Looking.", "tool": "find", "arguments": {"n": 1}, "then": "Found {result}."}
        ]
    )
    first = await events(llm, request(user("find it")))
    call = next(event for event in first if isinstance(event, ToolCall))
    assert (call.name, call.arguments) == ("find", {"n": 1})
    assert first[0] == TextDelta("Looking.")
    again = [
        user("find it"),
        Message("assistant", "Looking.", tool_calls=(call,)),
        Message("tool", "gold", tool_call_id=call.id),
    ]
    after = await events(llm, request(*again))
    assert not any(isinstance(event, ToolCall) for event in after)
    assert await said(llm, *again) == "Found gold."


async def test_two_rounds_of_a_call_have_different_tool_ids():
    llm = model(replies=[{"tool": "find"}])
    calls = []
    for count in (1, 2):
        found = await events(llm, request(*[user("x")] * count))
        calls += [event.id for event in found if isinstance(event, ToolCall)]
    assert len(set(calls)) == 2


def test_a_bad_pattern_is_a_mistake_in_the_file():
    with pytest.raises(ValidationError, match="not a regular expression"):
        model(match=[{"if": "(", "say": "x"}])


@pytest.mark.parametrize(
    ("fault", "error"), [("garbage", ProviderProtocol), ("close", ProviderUnavailable)]
)
async def test_a_stream_breaks_after_its_first_word(fault, error):
    llm = model(replies=["one two"], fail=fault)
    async with aclosing(llm.reply(request(user("x")))) as stream:
        assert await anext(stream) == TextDelta("one")
        with pytest.raises(error):
            await anext(stream)


async def test_a_stalled_stream_can_be_closed():
    llm = model(replies=["one two"], fail="half_dead")
    async with aclosing(llm.reply(request(user("x")))) as stream:
        assert await anext(stream) == TextDelta("one")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                await anext(stream)


async def test_slow_is_late_and_then_good():
    loop = asyncio.get_running_loop()
    began = loop.time()
    assert await said(model(replies=["x"], fail="slow", slow_ms=30), user("y")) == "x"
    assert loop.time() - began >= 0.028
