"""The OpenAI-compatible client against a vendor whose answers the test writes."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowcat_server.core.interfaces import Message, TextDelta, ToolCall, Usage
from flowcat_server.errors import (
    ConfigError,
    ProviderBusy,
    ProviderError,
    ProviderProtocol,
    ProviderRefused,
    ProviderUnavailable,
)
from flowcat_server.providers.http import Http
from flowcat_server.providers.llm._chat import ChatReply, chat_messages, deep_merge
from flowcat_server.providers.llm._messages import NO_RESULT, OPENING, SILENCE
from flowcat_server.providers.llm._vendors import VENDORS
from flowcat_server.providers.llm._visible import INTERRUPTED
from flowcat_server.providers.llm.openai import OpenAiModel
from tests.fakes.model_requests import HELLO, LOOK_UP, collect, request, text_of
from tests.fakes.openai_server import (
    Answer,
    OpenAiServer,
    chunk,
    error_reply,
    sse,
    text_reply,
    tool_reply,
    usage,
)
from tests.fakes.settings import KEY, settings
from tests.fakes.sse_server import Cut, Wait


@pytest.fixture
async def http() -> AsyncIterator[Http]:
    client = Http()
    yield client
    await client.close()


@pytest.fixture
async def server() -> AsyncIterator[OpenAiServer]:
    async with OpenAiServer() as running:
        yield running


def connect(server: OpenAiServer, http: Http, vendor: str = "openai", **block: Any) -> OpenAiModel:
    provider = VENDORS[vendor]
    base_url = block.pop("base_url", server.base_url)
    resolved = settings(provider, name=vendor, http=http, base_url=base_url, **block)
    model = provider.create(resolved)
    assert isinstance(model, OpenAiModel)
    return model


# --- replies ----------------------------------------------------------------------------------


async def test_streams_text_as_it_comes(server: OpenAiServer, http: Http):
    gate = Wait()
    server.answers.append(
        Answer([sse(chunk({"content": "Good "}), done=False), gate, *text_reply("day.").pieces])
    )
    async with aclosing(connect(server, http).reply(HELLO)) as events:
        assert await anext(events) == TextDelta("Good ")
        gate.event.set()
        assert [event async for event in events] == [TextDelta("day."), Usage(12, 1, 0)]


async def test_joins_the_fragments_of_several_tool_calls(server: OpenAiServer, http: Http):
    calls = [("look_up", {"day": "Friday", "hours": [9, 10]}), ("end_call", {})]
    server.answers.append(tool_reply(*calls, text="One moment."))
    events = await collect(connect(server, http), request(tools=(LOOK_UP,)))
    assert text_of(events) == "One moment."
    assert [event for event in events if isinstance(event, ToolCall)] == [
        ToolCall("call_0", "look_up", {"day": "Friday", "hours": [9, 10]}),
        ToolCall("call_1", "end_call", {}),
    ]


def fragments(*items: dict[str, Any]) -> list[dict[str, Any]]:
    return [chunk({"tool_calls": [item]}) for item in items]


ODD_CALLS = {
    "no index": fragments(
        {"id": "a", "function": {"name": "one", "arguments": '{"x":'}},
        {"function": {"arguments": "1}"}},
        {"id": "b", "function": {"name": "two", "arguments": ""}},
    ),
    "index 0 for all": fragments(
        {"index": 0, "id": "a", "function": {"name": "one", "arguments": '{"x":1}'}},
        {"index": 0, "id": "b", "function": {"name": "two", "arguments": "{}"}},
    ),
    "id and name in every fragment": fragments(
        {"index": 0, "id": "a", "function": {"name": "one", "arguments": '{"x"'}},
        {"index": 0, "id": "a", "function": {"name": "one", "arguments": ":1}"}},
        {"index": 1, "id": "b", "function": {"name": "two", "arguments": " "}},
    ),
    "arguments as an object": fragments(
        {"index": 0, "id": "a", "function": {"name": "one", "arguments": {"x": 1}}},
        {"index": 1, "id": "b", "function": {"name": "two", "arguments": {}}},
    ),
    "interleaved": fragments(
        {"index": 1, "id": "a", "function": {"name": "one", "arguments": '{"x"'}},
        {"index": 4, "id": "b", "function": {"name": "two"}},
        {"index": 1, "function": {"arguments": ":1}"}},
    ),
}


@pytest.mark.parametrize("chunks", ODD_CALLS.values(), ids=ODD_CALLS)
def test_reads_the_tool_calls_of_vendors_that_do_it_otherwise(chunks: list[dict[str, Any]]):
    reply = ChatReply()
    assert [event for item in chunks for event in reply.feed(item)] == []
    assert list(reply.finish()) == [ToolCall("a", "one", {"x": 1}), ToolCall("b", "two", {})]


def test_a_tool_call_without_an_id_gets_one():
    replies = [ChatReply(), ChatReply()]
    for reply in replies:
        list(reply.feed(chunk({"tool_calls": [{"index": 0, "function": {"name": "one"}}]})))
    ids = {event.id for reply in replies for event in reply.finish()}  # type: ignore[union-attr]
    assert len(ids) == 2


async def test_reasoning_is_never_said(server: OpenAiServer, http: Http):
    deltas = [
        {"reasoning_content": "They want"},
        {"reasoning": "the hours"},
        {"content": "<thi"},
        {"content": "nk>Nine.</think>"},
        {"content": [{"type": "thinking", "thinking": []}, {"type": "text", "text": "At "}]},
        {"content": "nine."},
    ]
    server.answers.append(Answer([sse(*map(chunk, deltas), chunk(finish="stop"))]))
    assert text_of(await collect(connect(server, http))) == "At nine."


async def test_cumulative_usage_ends_with_the_last(server: OpenAiServer, http: Http):
    chunks = [
        chunk({"content": "Hi"}, usage=usage(12, 1)),
        chunk({"content": "."}, usage=usage(12, 2)),
        chunk(finish="stop", usage={**usage(12, 2, 8)}),
    ]
    server.answers.append(Answer([sse(*chunks)]))
    events = await collect(connect(server, http))
    assert [event for event in events if isinstance(event, Usage)][-1] == Usage(12, 2, 8)


async def test_the_connection_is_used_again(server: OpenAiServer, http: Http):
    server.answers.extend([text_reply("One."), text_reply("Two.")])
    model = connect(server, http)
    await model.start()
    await collect(model)
    await collect(model)
    assert len(server.peers) == 3
    assert len(set(server.peers)) == 1


async def test_a_kept_connection_that_was_dropped_is_replaced(server: OpenAiServer, http: Http):
    server.answers.extend([text_reply("One."), Answer([Cut()]), text_reply("Two.")])
    model = connect(server, http)
    await collect(model)
    assert text_of(await collect(model)) == "Two."


async def test_a_vendor_that_drops_every_request_is_unavailable(server: OpenAiServer, http: Http):
    server.answers.extend([Answer([Cut()])] * 3)
    with pytest.raises(ProviderUnavailable):
        await collect(connect(server, http))
    assert len(server.requests) == 2


async def test_a_vendor_that_keeps_the_stream_open_does_not_hold_the_reply(
    server: OpenAiServer, http: Http
):
    server.answers.append(Answer([*text_reply("Done.").pieces, Wait()]))
    async with asyncio.timeout(2):
        assert text_of(await collect(connect(server, http))) == "Done."


async def test_a_vendor_that_is_away_does_not_stop_the_start(http: Http):
    model = connect(OpenAiServer(), http, base_url="http://127.0.0.1:9/v1")
    await model.start()
    with pytest.raises(ProviderUnavailable):
        await collect(model)


# --- requests ---------------------------------------------------------------------------------


async def sent(
    server: OpenAiServer, http: Http, vendor: str = "openai", **block: Any
) -> dict[str, Any]:
    server.answers.append(text_reply("Hi."))
    await collect(connect(server, http, vendor, **block), request(tools=(LOOK_UP,)))
    return server.requests[-1].body


async def test_what_is_not_set_is_not_sent(server: OpenAiServer, http: Http):
    body = await sent(server, http)
    assert body == {
        "model": "gpt-6-luna",
        "stream": True,
        "stream_options": {"include_usage": True},
        "reasoning_effort": "none",
        "messages": [
            {"role": "system", "content": "You answer the phone."},
            {"role": "user", "content": OPENING},
        ],
        "tools": [
            {
                "type": "function",
                "function": {
                    "name": "look_up",
                    "description": "Look up free times.",
                    "parameters": LOOK_UP.parameters,
                },
            }
        ],
    }


@pytest.mark.parametrize(
    ("vendor", "model", "effort"),
    [
        ("openai", "gpt-6-luna", "none"),
        ("openai", "gpt-5.4-mini-2026-03-17", "none"),
        ("openai", "gpt-6-astra", None),
        ("openai", "gpt-6.1-sol", None),
        ("openai", "gpt-4.1", None),
        ("openai", "gpt-5", None),
        ("groq", "openai/gpt-oss-120b", "low"),
        ("groq", "llama-3.3-70b-versatile", None),
        ("ollama", "gpt-oss:20b", None),
    ],
)
async def test_reasons_as_little_as_the_model_can(
    server: OpenAiServer, http: Http, vendor: str, model: str, effort: str | None
):
    assert (await sent(server, http, vendor, model=model)).get("reasoning_effort") == effort


async def test_options_reach_the_body_under_the_vendors_names(server: OpenAiServer, http: Http):
    options = {"temperature": 0.3, "max_tokens": 200, "seed": 7, "presence_penalty": 0.5}
    openai = await sent(server, http, "openai", **options, reasoning_effort="low")
    assert openai["max_completion_tokens"] == 200
    assert "max_tokens" not in openai
    assert (openai["temperature"], openai["seed"]) == (0.3, 7)
    assert openai["reasoning_effort"] == "low"
    mistral = await sent(server, http, "mistral", **options)
    assert (mistral["max_tokens"], mistral["random_seed"]) == (200, 7)
    assert not {"seed", "stream_options"} & mistral.keys()
    cerebras = await sent(server, http, "cerebras", **options)
    assert "presence_penalty" not in cerebras


async def test_extra_is_merged_over_the_body(server: OpenAiServer, http: Http):
    extra = {
        "chat_template_kwargs": {"enable_thinking": False},
        "stream_options": {"more": 1},
        "model": "other",
    }
    body = await sent(server, http, "openai-compatible", model="qwen3", extra=extra)
    assert body["chat_template_kwargs"] == {"enable_thinking": False}
    assert body["stream_options"] == {"include_usage": True, "more": 1}
    assert body["model"] == "other"


def test_merging_leaves_both_sides_as_they_were():
    base = {"a": {"b": 1}, "c": [1]}
    assert deep_merge(base, {"a": {"d": 2}, "c": [2]}) == {"a": {"b": 1, "d": 2}, "c": [2]}
    assert base == {"a": {"b": 1}, "c": [1]}


@pytest.mark.parametrize(
    ("vendor", "header", "value"),
    [
        ("openai", "authorization", f"Bearer {KEY}"),
        ("azure", "api-key", KEY),
        ("sarvam", "api-subscription-key", KEY),
    ],
)
async def test_the_key_goes_where_the_vendor_wants_it(
    server: OpenAiServer, http: Http, vendor: str, header: str, value: str
):
    await sent(server, http, vendor, model="m", headers={"X-Team": "voice"})
    headers = server.requests[0].headers
    assert headers[header] == value
    assert headers["x-team"] == "voice"


async def test_no_key_no_header(server: OpenAiServer, http: Http):
    await sent(server, http, "openai-compatible", model="m")
    assert "authorization" not in server.requests[0].headers


async def test_the_query_of_the_base_url_is_kept(server: OpenAiServer, http: Http):
    await sent(server, http, "azure", model="m", base_url=f"{server.base_url}/?api-version=v1")
    assert server.requests[0].path == "/v1/chat/completions"
    assert server.requests[0].query == {"api-version": "v1"}


def test_azure_needs_an_endpoint(monkeypatch: pytest.MonkeyPatch):
    azure = VENDORS["azure"]
    monkeypatch.delenv("AZURE_OPENAI_ENDPOINT", raising=False)
    with pytest.raises(ConfigError, match="AZURE_OPENAI_ENDPOINT"):
        azure.create(settings(azure, model="m"))
    monkeypatch.setenv("AZURE_OPENAI_ENDPOINT", "https://ours.openai.azure.com/")
    assert azure.create(settings(azure, model="m"))._url.path == "/openai/v1/chat/completions"


@pytest.mark.parametrize("url", ["", "localhost:8000/v1", "ftp://host/v1", "http://"])
def test_a_base_url_that_is_none_is_a_mistake_in_the_file(url: str):
    provider = VENDORS["openai-compatible"]
    with pytest.raises(ConfigError, match="base_url"):
        provider.create(settings(provider, model="m", base_url=url))


# --- the conversation -------------------------------------------------------------------------

CALL = ToolCall("c1", "look_up", {"day": "Friday"})


def test_maps_a_conversation():
    messages = [
        Message("user", "A table?"),
        Message("assistant", "", tool_calls=(CALL,)),
        Message("tool", "9:00", tool_call_id="c1"),
        Message("assistant", "At nine or", interrupted=True),
        Message("user", "Nine."),
    ]
    function = {"name": "look_up", "arguments": '{"day":"Friday"}'}
    assert chat_messages("", messages) == [
        {"role": "user", "content": "A table?"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "c1", "type": "function", "function": function}],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "9:00"},
        {"role": "assistant", "content": f"At nine or {INTERRUPTED}"},
        {"role": "user", "content": "Nine."},
    ]


def test_every_tool_call_has_one_answer_behind_it():
    other = ToolCall("c2", "end_call", {})
    messages = [
        Message("assistant", "A moment.", tool_calls=(CALL, other)),
        Message("user", "Hello?"),
        Message("tool", "9:00", tool_call_id="c1"),
        Message("tool", "of nobody", tool_call_id="c9"),
    ]
    wire = chat_messages("", messages)
    assert [(item["role"], item["content"]) for item in wire] == [
        ("assistant", "A moment."),
        ("tool", "9:00"),
        ("tool", NO_RESULT),
        ("user", "Hello?"),
    ]


def test_ids_that_a_server_uses_again_keep_their_own_answers():
    messages = [
        Message("assistant", tool_calls=(CALL,)),
        Message("tool", "first", tool_call_id="c1"),
        Message("assistant", tool_calls=(CALL,)),
        Message("tool", "second", tool_call_id="c1"),
    ]
    wire = chat_messages("", messages)
    assert [item["content"] for item in wire if item["role"] == "tool"] == ["first", "second"]


def test_strict_roles_alternate():
    messages = [
        Message("assistant", "Good day."),
        Message("user", "Hm."),
        Message("user", "Are you open?"),
        Message("assistant", "Yes."),
    ]
    wire = chat_messages("S", messages, strict_roles=True)
    assert [(item["role"], item["content"]) for item in wire] == [
        ("system", "S"),
        ("user", OPENING),
        ("assistant", "Good day."),
        ("user", "Hm.\nAre you open?"),
        ("assistant", "Yes."),
        ("user", SILENCE),
    ]


async def test_a_vendor_without_tools_is_sent_none(server: OpenAiServer, http: Http):
    server.answers.append(text_reply("Yes."))
    messages = [
        Message("user", "Open?"),
        Message("assistant", "", tool_calls=(CALL,)),
        Message("tool", "9:00", tool_call_id="c1"),
    ]
    await collect(connect(server, http, "perplexity"), request(*messages, tools=(LOOK_UP,)))
    body = server.requests[0].body
    assert "tools" not in body
    assert [item["role"] for item in body["messages"]] == ["system", "user"]


# --- failures ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "kind", "says"),
    [
        (error_reply(404, "no model x", "invalid_request_error"), ProviderRefused, "no model x"),
        (error_reply(400, "too long", code="context_length_exceeded"), ProviderRefused, "too long"),
        (error_reply(429, "slow down", "requests", "rate_limit_exceeded"), ProviderBusy, "slow"),
        (error_reply(429, "pay", "insufficient_quota"), ProviderRefused, "pay"),
        (error_reply(503, "loading"), ProviderUnavailable, "loading"),
        (Answer([b"<html>Bad Gateway"], 502, "text/html"), ProviderUnavailable, "Bad Gateway"),
        (Answer([b'{"detail":"no"}'], 422, "application/json"), ProviderRefused, "no"),
        (Answer([b'{"message":"no"}'], 401, "application/json"), ProviderRefused, "no"),
        (Answer([b'[{"error":{"message":"no"}}]'], 400), ProviderRefused, "no"),
        (Answer([b"\xff{"], 500), ProviderUnavailable, "500"),
        (Answer([], 302, headers={"Location": "http://127.0.0.1:9/"}), ProviderRefused, "302"),
        (Answer([b"<html>log in"], content_type="text/html"), ProviderProtocol, "text/html"),
        (
            Answer([b'{"error":{"message":"no model","code":404}}'], 200, "application/json"),
            ProviderRefused,
            "no model",
        ),
        (Answer([b'{"choices":[]}'], 200, "application/json"), ProviderProtocol, "not a stream"),
    ],
)
async def test_refusals_are_named(
    server: OpenAiServer, http: Http, answer: Answer, kind: type[ProviderError], says: str
):
    server.answers.append(answer)
    with pytest.raises(kind, match=says) as caught:
        await collect(connect(server, http))
    assert type(caught.value) is kind


async def test_a_refused_key_is_not_repeated(http: Http):
    async with OpenAiServer(key="sk-another-0123456789") as server:
        with pytest.raises(ProviderRefused, match="401") as caught:
            await collect(connect(server, http))
    assert KEY not in str(caught.value)
    assert "[key]" in str(caught.value)


MIDDLE = sse(chunk({"content": "We open "}), done=False)


def error_chunk(**error: Any) -> bytes:
    return sse({"error": error}, done=False)


@pytest.mark.parametrize(
    ("rest", "kind"),
    [
        ([Cut()], ProviderUnavailable),
        ([], ProviderUnavailable),
        ([error_chunk(message="overloaded", type="server_error")], ProviderUnavailable),
        ([error_chunk(message="no", code=429)], ProviderBusy),
        ([error_chunk(message="no", code="rate_limit_exceeded")], ProviderBusy),
        ([error_chunk(message="no", type="invalid_request_error")], ProviderRefused),
        ([b'data: {"error": "broken"}\n\n'], ProviderUnavailable),
        ([b'event: error\ndata: {"message": "broken"}\n\n'], ProviderUnavailable),
        ([b"data: {not json\n\n"], ProviderProtocol),
        ([b"data: [1]\n\n"], ProviderProtocol),
        ([b'data: {"choices": 5}\n\n'], ProviderProtocol),
        ([b'data: {"choices": [5]}\n\n'], ProviderProtocol),
        ([b'data: {"choices": [{"delta": {"tool_calls": [5]}}]}\n\n'], ProviderProtocol),
        ([b"data: \xff\n\n"], ProviderProtocol),
        ([b"data: " + b"[" * 100_000 + b"\n\n"], ProviderProtocol),
        ([sse(chunk(finish="error"))], ProviderUnavailable),
        ([sse(chunk(finish="content_filter"))], ProviderRefused),
        ([sse(chunk({"tool_calls": [{"index": 0}]}))], ProviderProtocol),
        ([sse(*fragments({"function": {"name": "f", "arguments": "{"}}))], ProviderProtocol),
        ([sse(*fragments({"function": {"name": "f", "arguments": "[]"}}))], ProviderProtocol),
    ],
)
async def test_what_was_said_before_a_failure_was_said(
    server: OpenAiServer, http: Http, rest: list[Any], kind: type[ProviderError]
):
    server.answers.append(Answer([MIDDLE, *rest]))
    async with aclosing(connect(server, http).reply(HELLO)) as events:
        assert await anext(events) == TextDelta("We open ")
        with pytest.raises(kind) as caught:
            await anext(events)
    assert type(caught.value) is kind


async def test_a_reply_cut_by_its_length_is_kept(server: OpenAiServer, http: Http):
    server.answers.append(Answer([MIDDLE, sse(chunk(finish="length"))]))
    assert text_of(await collect(connect(server, http))) == "We open "


@pytest.mark.parametrize("before", [[], [MIDDLE]], ids=["before the headers", "in mid-sentence"])
async def test_a_consumer_that_gives_up_frees_the_vendor(
    server: OpenAiServer, http: Http, before: list[bytes]
):
    server.answers.append(Answer([*before, Wait()]))
    model = connect(server, http)
    reading = asyncio.create_task(collect(model))
    await server.asked.wait()
    await asyncio.sleep(0.005)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    async with asyncio.timeout(2):
        await server.hung_up.wait()


async def test_closing_the_generator_frees_the_vendor_at_once(server: OpenAiServer, http: Http):
    server.answers.append(Answer([MIDDLE, Wait()]))
    async with aclosing(connect(server, http).reply(HELLO)) as events:
        await anext(events)
    async with asyncio.timeout(2):
        await server.hung_up.wait()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "choices",
                    "delta",
                    "content",
                    "tool_calls",
                    "index",
                    "id",
                    "function",
                    "name",
                    "arguments",
                    "usage",
                    "finish_reason",
                    "prompt_tokens",
                    "prompt_tokens_details",
                    "type",
                    "text",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(st.lists(st.dictionaries(st.sampled_from(["choices", "usage"]), JSON), max_size=4))
def test_any_chunks_are_events_or_one_of_the_shape_errors(chunks: list[dict[str, Any]]):
    reply = ChatReply()
    try:
        for item in chunks:
            list(reply.feed(item))
        list(reply.finish())
    except (ValueError, TypeError, KeyError, IndexError, AttributeError):
        return
