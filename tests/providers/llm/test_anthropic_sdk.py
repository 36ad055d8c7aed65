"""Anthropic's own SDK as the judge: of our requests, and of the fake that stands for the vendor."""

import json
from collections.abc import AsyncIterator

import pytest
from anthropic import AsyncAnthropic, AuthenticationError, RateLimitError
from anthropic.types import MessageParam, RawMessageStreamEvent
from anthropic.types.message_create_params import MessageCreateParamsStreaming
from pydantic import TypeAdapter

from flowcat_server.core.interfaces import Message, ToolCall
from flowcat_server.providers.llm.anthropic import Options, request_body
from tests.fakes.anthropic_server import AnthropicServer, error_reply, text_reply, tool_reply
from tests.fakes.model_requests import LOOK_UP, request

BODY = TypeAdapter(MessageCreateParamsStreaming)
MESSAGE = TypeAdapter(MessageParam)
EVENT: TypeAdapter[object] = TypeAdapter(RawMessageStreamEvent)


@pytest.fixture
async def server() -> AsyncIterator[AnthropicServer]:
    async with AnthropicServer(key="sk-right") as running:
        yield running


@pytest.fixture
async def sdk(server: AnthropicServer) -> AsyncIterator[AsyncAnthropic]:
    async with AsyncAnthropic(base_url=server.url, api_key="sk-right", max_retries=0) as client:
        yield client


def test_our_request_is_one_the_sdk_could_have_sent():
    messages = [
        Message("assistant", "Good day."),
        Message("user", "Friday?"),
        Message("assistant", "A moment.", tool_calls=(ToolCall("c1", "look_up", {"day": "x"}),)),
        Message("tool", "9:00", tool_call_id="c1"),
        Message("assistant", "At nine", interrupted=True),
    ]
    options = Options(stop=("END",), effort="low")
    body = request_body(request(*messages, tools=(LOOK_UP,)), "claude-haiku-5-5", options)
    BODY.validate_python(body)
    for message in body["messages"]:
        checked = MESSAGE.validate_python(message)
        list(checked["content"])


@pytest.mark.parametrize(
    "answer", [text_reply("Good ", "day."), tool_reply("look_up", {"day": "Friday"}, "Wait.")]
)
def test_the_fakes_events_are_the_vendors(answer):
    for piece in answer.pieces:
        data = json.loads(piece.split(b"data: ", 1)[1])
        if data["type"] != "ping":
            EVENT.validate_python(data, strict=True)


async def test_the_sdk_reads_the_fakes_text(server: AnthropicServer, sdk: AsyncAnthropic):
    server.answers.append(text_reply("Good ", "day."))
    async with sdk.messages.stream(
        model="claude-haiku-5-5",
        max_tokens=1024,
        messages=[{"role": "user", "content": [{"type": "text", "text": "Hello?"}]}],
        thinking={"type": "disabled"},
    ) as stream:
        message = await stream.get_final_message()
    assert message.content[0].type == "text"
    assert message.content[0].text == "Good day."
    assert (message.usage.input_tokens, message.usage.output_tokens) == (12, 5)
    # What the SDK sends is what we send, field by field.
    asked = request(Message("user", "Hello?"), system="")
    assert server.requests[0].body == request_body(asked, "claude-haiku-5-5", Options(cache=False))
    assert server.requests[0].headers["anthropic-version"] == Options().version
    assert server.requests[0].headers["authorization"] == "Bearer sk-right"


async def test_the_sdk_reads_the_fakes_tool_calls(server: AnthropicServer, sdk: AsyncAnthropic):
    server.answers.append(tool_reply("look_up", {"day": "Friday"}, "Wait."))
    async with sdk.messages.stream(
        model="claude-haiku-5-5", max_tokens=10, messages=[{"role": "user", "content": "Hello?"}]
    ) as stream:
        message = await stream.get_final_message()
    assert message.stop_reason == "tool_use"
    assert message.content[1].type == "tool_use"
    assert message.content[1].input == {"day": "Friday"}


async def test_the_sdk_understands_the_fakes_refusals(server: AnthropicServer, sdk: AsyncAnthropic):
    server.answers.append(error_reply(429, "rate_limit_error", "slow down"))
    with pytest.raises(RateLimitError, match="slow down"):
        await sdk.messages.create(
            model="m", max_tokens=1, messages=[{"role": "user", "content": "Hello?"}], stream=True
        )
    with pytest.raises(AuthenticationError, match="invalid credentials"):
        await sdk.with_options(api_key="wrong").messages.create(
            model="m", max_tokens=1, messages=[{"role": "user", "content": "Hello?"}], stream=True
        )
