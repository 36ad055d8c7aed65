"""OpenAI's own SDK as the judge: of our requests, and of the fake that stands for the vendor."""

from collections.abc import AsyncIterator
from typing import get_args

import pytest
from openai import AsyncOpenAI, AuthenticationError, RateLimitError
from openai.types.chat import ChatCompletionChunk, ChatCompletionMessageParam
from openai.types.chat.completion_create_params import CompletionCreateParamsStreaming
from openai.types.shared.chat_model import ChatModel
from pydantic import TypeAdapter

from flowcat_server.core.interfaces import Message, ToolCall
from flowcat_server.providers.llm._vendors import VENDORS
from flowcat_server.providers.llm.openai import ChatOptions, Dialect, request_body
from tests.fakes.model_requests import LOOK_UP, request
from tests.fakes.openai_server import (
    OpenAiServer,
    chunk,
    error_reply,
    text_reply,
    tool_reply,
    usage,
)

BODY = TypeAdapter(CompletionCreateParamsStreaming)
MESSAGE = TypeAdapter(ChatCompletionMessageParam)
CALL = ToolCall("c1", "look_up", {"day": "Friday"})


@pytest.fixture
async def server() -> AsyncIterator[OpenAiServer]:
    async with OpenAiServer(key="sk-right") as running:
        yield running


@pytest.fixture
async def sdk(server: OpenAiServer) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=server.base_url, api_key="sk-right", max_retries=0) as client:
        yield client


def test_our_request_is_one_the_sdk_could_have_sent():
    messages = [
        Message("assistant", "Good day."),
        Message("user", "Friday?"),
        Message("assistant", "A moment.", tool_calls=(CALL,)),
        Message("tool", "9:00", tool_call_id="c1"),
        Message("assistant", "At nine", interrupted=True),
        Message("user", "Yes."),
    ]
    options = ChatOptions(
        temperature=0.4,
        top_p=0.9,
        seed=1,
        stop=("END",),
        max_tokens=99,
        reasoning_effort="low",
        parallel_tool_calls=False,
        service_tier="priority",
        frequency_penalty=0.1,
        presence_penalty=0.1,
    )
    body = request_body(
        request(*messages, tools=(LOOK_UP,)),
        "gpt-6-luna",
        options,
        Dialect(max_tokens="max_completion_tokens"),
    )
    known = CompletionCreateParamsStreaming.__annotations__.keys()
    assert body.keys() <= known
    BODY.validate_python(body)
    # The SDK's model leaves `messages` unchecked until it is iterated.
    for message in body["messages"]:
        MESSAGE.validate_python(message, strict=False)
        assert message["role"] in ("system", "user", "assistant", "tool")


def test_the_fakes_chunks_are_the_vendors():
    chunks = [
        chunk({"role": "assistant", "content": "Hi"}),
        chunk({"tool_calls": [{"index": 0, "id": "a", "type": "function"}]}),
        chunk(finish="stop"),
        chunk(usage=usage(1, 2, 1)),
    ]
    for item in chunks:
        ChatCompletionChunk.model_validate(item, strict=True, extra="forbid")


async def test_the_sdk_reads_the_fakes_text(server: OpenAiServer, sdk: AsyncOpenAI):
    server.answers.append(text_reply("Good ", "day."))
    stream = await sdk.chat.completions.create(
        model="gpt-6-luna",
        messages=[{"role": "user", "content": "Hello?"}],
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = [item async for item in stream]
    text = "".join(choice.delta.content or "" for item in chunks for choice in item.choices)
    assert text == "Good day."
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.prompt_tokens == 12
    # What the SDK sends is what we send, field by field.
    ours = request_body(
        request(Message("user", "Hello?"), system=""), "gpt-6-luna", ChatOptions(), Dialect()
    )
    assert server.requests[0].body == ours
    assert server.requests[0].path == "/v1/chat/completions"


async def test_the_sdk_reads_the_fakes_tool_calls(server: OpenAiServer, sdk: AsyncOpenAI):
    server.answers.append(tool_reply(("look_up", {"day": "Friday"}), ("end_call", {})))
    async with sdk.chat.completions.stream(
        model="gpt-6-luna", messages=[{"role": "user", "content": "Hello?"}]
    ) as stream:
        completion = await stream.get_final_completion()
    calls = completion.choices[0].message.tool_calls or []
    assert [(call.function.name, call.function.arguments) for call in calls] == [
        ("look_up", '{"day": "Friday"}'),
        ("end_call", "{}"),
    ]


async def test_the_sdk_understands_the_fakes_refusals(server: OpenAiServer, sdk: AsyncOpenAI):
    server.answers.append(error_reply(429, "slow down", "requests", "rate_limit_exceeded"))
    messages: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Hello?"}]
    with pytest.raises(RateLimitError, match="slow down"):
        await sdk.chat.completions.create(model="m", messages=messages, stream=True)
    with pytest.raises(AuthenticationError, match="Incorrect API key"):
        await sdk.with_options(api_key="sk-wrong-key").chat.completions.create(
            model="m", messages=messages, stream=True
        )


def test_the_default_model_is_one_the_sdk_knows():
    assert VENDORS["openai"].default_model in get_args(ChatModel)
