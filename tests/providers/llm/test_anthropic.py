"""The Anthropic client against a vendor whose answers the test writes."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from flowcat_server.core.interfaces import Message, TextDelta, ToolCall, Usage
from flowcat_server.errors import (
    ProviderBusy,
    ProviderError,
    ProviderProtocol,
    ProviderRefused,
    ProviderUnavailable,
)
from flowcat_server.providers.http import Http
from flowcat_server.providers.llm._anthropic import MessageReply, wire_messages
from flowcat_server.providers.llm._messages import NO_RESULT, OPENING, SILENCE
from flowcat_server.providers.llm._visible import INTERRUPTED
from flowcat_server.providers.llm.anthropic import PROVIDER, AnthropicModel, Options
from tests.fakes.anthropic_server import (
    Answer,
    AnthropicServer,
    error_reply,
    event,
    start,
    stop,
    text_block,
    text_reply,
    tool_block,
    tool_reply,
)
from tests.fakes.model_requests import HELLO, LOOK_UP, collect, request, text_of
from tests.fakes.settings import KEY, settings
from tests.fakes.sse_server import Cut, Wait


@pytest.fixture
async def http() -> AsyncIterator[Http]:
    client = Http()
    yield client
    await client.close()


@pytest.fixture
async def server() -> AsyncIterator[AnthropicServer]:
    async with AnthropicServer() as running:
        yield running


def connect(server: AnthropicServer, http: Http, **block: Any) -> AnthropicModel:
    base_url = block.pop("base_url", server.url)
    return AnthropicModel(
        settings(PROVIDER, name="anthropic", http=http, base_url=base_url, **block)
    )


# --- replies ----------------------------------------------------------------------------------


async def test_streams_text_as_it_comes(server: AnthropicServer, http: Http):
    gate = Wait()
    block = text_block(0, "Good ", "day.")
    pieces = [start(12, cached=100), event("ping"), *block[:2], gate, *block[2:], *stop()]
    server.answers.append(Answer(pieces))
    async with aclosing(connect(server, http).reply(HELLO)) as events:
        assert await anext(events) == Usage(112, 1, 100)
        assert await anext(events) == TextDelta("Good ")
        gate.event.set()
        assert [item async for item in events] == [TextDelta("day."), Usage(112, 5, 100)]


async def test_joins_the_pieces_of_a_tool_call(server: AnthropicServer, http: Http):
    pieces = [
        start(),
        *text_block(0, "One moment."),
        *tool_block(1, "look_up", {"day": "Friday", "hours": [9, 10]}),
        *tool_block(2, "end_call", {}),
        *stop("tool_use"),
    ]
    server.answers.append(Answer(pieces))
    events = await collect(connect(server, http), request(tools=(LOOK_UP,)))
    assert text_of(events) == "One moment."
    assert events[-2:] == [
        ToolCall("toolu_1", "look_up", {"day": "Friday", "hours": [9, 10]}),
        ToolCall("toolu_2", "end_call", {}),
    ]


async def test_thinking_and_unknown_events_are_not_said(server: AnthropicServer, http: Http):
    pieces = [
        start(),
        event("content_block_start", index=0, content_block={"type": "thinking", "thinking": ""}),
        event("content_block_delta", index=0, delta={"type": "thinking_delta", "thinking": "hm"}),
        event("content_block_delta", index=0, delta={"type": "signature_delta", "signature": "x"}),
        event("content_block_stop", index=0),
        event("future_event", index=9),
        *text_block(1, "At nine. ", INTERRUPTED),
        *stop(),
    ]
    server.answers.append(Answer(pieces))
    assert text_of(await collect(connect(server, http))) == "At nine. "


async def test_the_connection_is_used_again(server: AnthropicServer, http: Http):
    server.answers.extend([text_reply("One."), text_reply("Two.")])
    model = connect(server, http)
    await model.start()
    await collect(model)
    await collect(model)
    assert len(server.peers) == 3
    assert len(set(server.peers)) == 1


# --- requests ---------------------------------------------------------------------------------


async def sent(server: AnthropicServer, http: Http, **block: Any) -> dict[str, Any]:
    server.answers.append(text_reply("Hi."))
    await collect(connect(server, http, **block), request(tools=(LOOK_UP,)))
    return server.requests[-1].body


async def test_sends_what_the_api_demands_and_nothing_unset(server: AnthropicServer, http: Http):
    assert await sent(server, http) == {
        "model": "claude-haiku-5-5",
        "max_tokens": 1024,
        "stream": True,
        "system": "You answer the phone.",
        "messages": [{"role": "user", "content": [{"type": "text", "text": OPENING}]}],
        "tools": [
            {
                "name": "look_up",
                "description": "Look up free times.",
                "input_schema": LOOK_UP.parameters,
            }
        ],
        "thinking": {"type": "disabled"},
        "cache_control": {"type": "ephemeral"},
    }
    assert server.requests[0].headers["authorization"] == f"Bearer {KEY}"
    assert server.requests[0].headers["anthropic-version"] == "2026-10-21"


async def test_options_change_the_body(server: AnthropicServer, http: Http):
    body = await sent(
        server,
        http,
        base_url=f"{server.url}/v1/",
        max_tokens=50,
        thinking={"type": "adaptive"},
        effort="medium",
        cache=False,
        version="2023-06-01",
        temperature=0.2,
        stop=("END",),
        headers={"anthropic-beta": "x"},
        extra={"metadata": {"user_id": "7"}},
    )
    assert body["max_tokens"] == 50
    assert (body["temperature"], body["stop_sequences"]) == (0.2, ["END"])
    assert body["metadata"] == {"user_id": "7"}
    assert (body["thinking"], body["output_config"]) == ({"type": "adaptive"}, {"effort": "medium"})
    assert "cache_control" not in body
    headers = server.requests[0].headers
    assert headers["anthropic-beta"] == "x"
    assert (headers["x-api-key"], headers["anthropic-version"]) == (KEY, "2023-06-01")
    assert "authorization" not in headers


@pytest.mark.parametrize("model", ["claude-sonnet-5-5", "claude-opus-5-5", "claude-fable-5-1"])
async def test_models_that_cannot_stop_thinking_think_little(
    server: AnthropicServer, http: Http, model: str
):
    body = await sent(server, http, model=model)
    assert "thinking" not in body
    assert body["output_config"] == {"effort": "low"}


def test_sampling_with_the_current_version_is_a_mistake_in_the_file():
    with pytest.raises(ValidationError, match="2023-06-01"):
        Options(temperature=0.5)


# --- the conversation -------------------------------------------------------------------------

CALL = ToolCall("c1", "look_up", {"day": "Friday"})


def outline(*messages: Message) -> list[tuple[str, list[Any]]]:
    return [
        (
            turn["role"],
            [block.get("text") or block.get("content") or block["id"] for block in turn["content"]],
        )
        for turn in wire_messages(messages)
    ]


def test_roles_alternate_and_begin_and_end_with_the_user():
    assert outline(
        Message("assistant", "Good day."),
        Message("user", "Hm."),
        Message("user", "Open?"),
        Message("assistant", "Yes, we"),
        Message("assistant", "are", interrupted=True),
    ) == [
        ("user", [OPENING]),
        ("assistant", ["Good day."]),
        ("user", ["Hm.", "Open?"]),
        ("assistant", ["Yes, we", f"are {INTERRUPTED}"]),
        ("user", [SILENCE]),
    ]


def test_tool_results_come_first_in_the_next_user_message():
    other = ToolCall("c2", "end_call", {})
    turns = wire_messages(
        [
            Message("user", "Friday?"),
            Message("assistant", "A moment.", tool_calls=(CALL, other)),
            Message("user", "Hello?"),
            Message("tool", "9:00", tool_call_id="c1"),
        ]
    )
    assert [turn["role"] for turn in turns] == ["user", "assistant", "user"]
    assert turns[1]["content"][1:] == [
        {"type": "tool_use", "id": "c1", "name": "look_up", "input": {"day": "Friday"}},
        {"type": "tool_use", "id": "c2", "name": "end_call", "input": {}},
    ]
    assert turns[2]["content"] == [
        {"type": "tool_result", "tool_use_id": "c1", "content": "9:00"},
        {"type": "tool_result", "tool_use_id": "c2", "content": NO_RESULT},
        {"type": "text", "text": "Hello?"},
    ]


def test_ids_of_another_vendor_are_made_acceptable():
    odd = ToolCall("call.1/é", "look_up", {})
    turns = wire_messages(
        [
            Message("assistant", tool_calls=(odd,)),
            Message("tool", "one", tool_call_id=odd.id),
            Message("assistant", tool_calls=(CALL, CALL)),
            Message("tool", "two", tool_call_id="c1"),
            Message("tool", "three", tool_call_id="c1"),
        ]
    )
    blocks = [block for turn in turns for block in turn["content"]]
    uses = [block["id"] for block in blocks if block["type"] == "tool_use"]
    results = [block["tool_use_id"] for block in blocks if block["type"] == "tool_result"]
    assert uses == results
    assert len(set(uses)) == 3
    assert all(use.replace("_", "").isascii() and "/" not in use for use in uses)


ROLE = st.sampled_from(["user", "assistant", "tool"])
MESSAGE = st.builds(
    lambda role, text, ids, answer, cut: Message(
        role,
        text,
        tool_calls=tuple(ToolCall(i, "f", {}) for i in ids) if role == "assistant" else (),
        tool_call_id=answer if role == "tool" else "",
        interrupted=cut and role == "assistant",
    ),
    ROLE,
    st.sampled_from(["", " ", "a"]),
    st.lists(st.sampled_from("abé"), max_size=2),
    st.sampled_from("abc"),
    st.booleans(),
)


@given(st.lists(MESSAGE, max_size=8))
def test_any_conversation_becomes_an_acceptable_one(messages: list[Message]):
    turns = wire_messages(messages)
    roles = [turn["role"] for turn in turns]
    assert roles == ["user", "assistant"] * (len(roles) // 2) + ["user"]
    open_ids: list[str] = []
    for turn in turns:
        assert turn["content"]
        blocks = turn["content"]
        results = [block["tool_use_id"] for block in blocks if block["type"] == "tool_result"]
        assert [block["type"] for block in blocks[: len(results)]] == ["tool_result"] * len(results)
        assert results == open_ids
        open_ids = [block["id"] for block in blocks if block["type"] == "tool_use"]
        assert all(block["text"].strip() for block in blocks if block["type"] == "text")
    assert not open_ids


# --- failures ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "kind", "says"),
    [
        (error_reply(400, "invalid_request_error", "credit is low"), ProviderRefused, "credit"),
        (error_reply(404, "not_found_error", "model: x"), ProviderRefused, "model: x"),
        (error_reply(429, "rate_limit_error", "slow down"), ProviderBusy, "slow down"),
        (error_reply(529, "overloaded_error", "Overloaded"), ProviderUnavailable, "Overloaded"),
        (error_reply(500, "api_error", "oops"), ProviderUnavailable, "oops"),
        (Answer([b"<html>"], content_type="text/html"), ProviderProtocol, "text/html"),
    ],
)
async def test_refusals_are_named(
    server: AnthropicServer, http: Http, answer: Answer, kind: type[ProviderError], says: str
):
    server.answers.append(answer)
    with pytest.raises(kind, match=says) as caught:
        await collect(connect(server, http))
    assert type(caught.value) is kind


async def test_a_wrong_key_is_refused_and_not_repeated(http: Http):
    async with AnthropicServer(key="another") as server:
        with pytest.raises(ProviderRefused, match=r"invalid credentials \[key\]") as caught:
            await collect(connect(server, http))
    assert KEY not in str(caught.value)


MIDDLE = [start(), *text_block(0, "We open ")[:2]]


def error_event(kind: str) -> bytes:
    return event("error", error={"type": kind, "message": "no"})


@pytest.mark.parametrize(
    ("rest", "kind"),
    [
        ([Cut()], ProviderUnavailable),
        ([], ProviderUnavailable),
        (stop()[:1], ProviderUnavailable),
        ([error_event("overloaded_error")], ProviderUnavailable),
        ([error_event("api_error")], ProviderUnavailable),
        ([error_event("rate_limit_error")], ProviderBusy),
        ([error_event("invalid_request_error")], ProviderRefused),
        ([error_event("authentication_error")], ProviderRefused),
        (stop("refusal"), ProviderRefused),
        ([b"data: {no\n\n"], ProviderProtocol),
        ([b"data: 5\n\n"], ProviderProtocol),
        ([event("content_block_delta", index=0)], ProviderProtocol),
        ([event("content_block_delta", index=0, delta=5)], ProviderProtocol),
        ([event("content_block_start", index=1, content_block=5)], ProviderProtocol),
        ([event("message_delta", delta=None)], ProviderProtocol),
        ([*tool_block(1, "f", {"a": 1})[:-2], *stop("max_tokens")], ProviderProtocol),
    ],
)
async def test_what_was_said_before_a_failure_was_said(
    server: AnthropicServer, http: Http, rest: list[Any], kind: type[ProviderError]
):
    server.answers.append(Answer([*MIDDLE, *rest]))
    said: list[str] = []

    async def listen() -> None:
        async with aclosing(connect(server, http).reply(HELLO)) as events:
            async for item in events:
                said.append(text_of([item]))  # noqa: PERF401  what came before the error counts

    with pytest.raises(kind) as caught:
        await listen()
    assert "".join(said) == "We open "
    assert type(caught.value) is kind


async def test_a_reply_cut_by_its_length_is_kept(server: AnthropicServer, http: Http):
    server.answers.append(Answer([start(), *text_block(0, "We open"), *stop("max_tokens")]))
    assert text_of(await collect(connect(server, http))) == "We open"


async def test_a_tool_reply_of_the_fake_is_read(server: AnthropicServer, http: Http):
    server.answers.append(tool_reply("look_up", {"day": "Friday"}, text="Wait."))
    assert ToolCall("toolu_1", "look_up", {"day": "Friday"}) in await collect(connect(server, http))


@pytest.mark.parametrize("before", [[], MIDDLE], ids=["before the headers", "in mid-sentence"])
async def test_a_consumer_that_gives_up_frees_the_vendor(
    server: AnthropicServer, http: Http, before: list[bytes]
):
    server.answers.append(Answer([*before, Wait()]))
    reading = asyncio.create_task(collect(connect(server, http)))
    await server.asked.wait()
    await asyncio.sleep(0.005)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    async with asyncio.timeout(2):
        await server.hung_up.wait()


JSON = st.recursive(
    st.none() | st.integers() | st.sampled_from(["text", "tool_use", "text_delta", "{", "x"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "type",
                    "text",
                    "id",
                    "name",
                    "partial_json",
                    "usage",
                    "input_tokens",
                    "index",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=8,
)
KINDS = st.sampled_from(
    [
        "message_start",
        "content_block_start",
        "content_block_delta",
        "message_delta",
        "message_stop",
        "ping",
    ]
)


@given(
    st.lists(
        st.tuples(
            KINDS,
            st.dictionaries(
                st.sampled_from(
                    [
                        "message",
                        "content_block",
                        "delta",
                        "usage",
                        "index",
                    ]
                ),
                JSON,
            ),
        ),
        max_size=5,
    )
)
def test_any_events_are_events_or_one_of_the_shape_errors(parts: list[tuple[str, dict[str, Any]]]):
    reply = MessageReply()
    try:
        for kind, fields in parts:
            list(reply.feed({"type": kind, **fields}))
        list(reply.finish())
    except (ValueError, TypeError, KeyError, IndexError, AttributeError):
        return
