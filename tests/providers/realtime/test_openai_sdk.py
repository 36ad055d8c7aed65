"""OpenAI's own SDK as the judge: of every message of ours, and of the fake vendor."""

import asyncio
import base64
from collections.abc import AsyncIterator
from typing import Any

import pytest
from openai import AsyncOpenAI
from openai.types.realtime import RealtimeServerEvent
from openai.types.realtime.realtime_client_event_param import RealtimeClientEventParam
from pydantic import TypeAdapter

from flowcat_server.core.audio import MULAW_8K, encode
from flowcat_server.core.interfaces import (
    AgentAudio,
    Audio,
    Correct,
    GoOn,
    Message,
    Probe,
    RealtimeInput,
    RealtimeSetup,
    ResponseEnded,
    Say,
    ToolCall,
    ToolResult,
    Truncate,
    Update,
)
from flowcat_server.providers.http import Http
from flowcat_server.providers.realtime.openai import PROVIDER
from tests.fakes.inbox import Inbox
from tests.fakes.model_requests import LOOK_UP
from tests.fakes.openai_realtime_server import RealtimeServer, Reply
from tests.fakes.settings import settings

CLIENT_EVENT: TypeAdapter[object] = TypeAdapter(RealtimeClientEventParam)
SERVER_EVENT: TypeAdapter[object] = TypeAdapter(RealtimeServerEvent)
LOUD = encode((8000).to_bytes(2, "little") * 2400, "mulaw")
"""300 ms that wake the fake's voice activity detection."""


@pytest.fixture
async def server() -> AsyncIterator[RealtimeServer]:
    async with RealtimeServer(key="sk-right") as running:
        yield running


async def our_call(server: RealtimeServer) -> None:
    """A call of ours that uses every message there is."""
    http, inbox = Http(), Inbox[RealtimeInput]()
    hold = asyncio.Event()
    server.key = ""
    server.hears.append("Two words")
    server.replies.extend(
        [
            Reply("Good day."),
            Reply("A moment.", calls=[("look_up", '{"day": "Friday"}')]),
            Reply("At nine or ten.", audio_ms=300, hold=hold),
        ]
    )
    model = PROVIDER.create(
        settings(
            PROVIDER,
            name="openai",
            http=http,
            base_url=server.base_url,
            language="en",
            noise_reduction="far_field",
            speed=1.1,
            reasoning_effort="low",
            max_output_tokens=500,
            turn_detection={"threshold": 0.6, "prefix_padding_ms": 200, "silence_duration_ms": 400},
            extra={"truncation": "auto"},
        )
    )
    before = (
        Message("user", "Hello?"),
        Message("assistant", "Wait.", (ToolCall("call-7", "look_up", {"day": "Friday"}),)),
        Message("tool", "9:00", tool_call_id="call-7"),
        Message("assistant", "At nine", interrupted=True),
    )
    setup = RealtimeSetup("Answer.", (LOOK_UP,), MULAW_8K, MULAW_8K, "Good day.", before)
    ended = 0
    items: list[str] = []
    async for event in model.converse(setup, inbox):
        if isinstance(event, AgentAudio) and event.item not in items:
            items.append(event.item)
            if len(items) == 3:
                inbox.put(Truncate(items[2], 20), Truncate(items[1], 0), Update("Book.", ()))
        elif isinstance(event, ToolCall):
            inbox.put(ToolResult(event.id, "9:00"))
        elif isinstance(event, ResponseEnded):
            ended += 1
            if ended == 1:
                inbox.put(Probe(), Correct(3, "At"))
                inbox.put(Audio(LOUD, 300), Audio(MULAW_8K.silence(300), 600))
            elif ended == 5:
                break
            elif ended == 3:
                inbox.put(Say("Yes."))
            elif ended == 4:
                inbox.put(GoOn("Yes"))
    await http.close()


async def test_every_message_of_ours_is_one_of_the_sdks(server: RealtimeServer):
    async with asyncio.timeout(10):
        await our_call(server)
    for message in server.received:
        CLIENT_EVENT.validate_python(message)
    assert {message["type"] for message in server.received} == {
        "session.update",
        "input_audio_buffer.append",
        "response.create",
        "response.cancel",
        "conversation.item.create",
        "conversation.item.truncate",
        "conversation.item.delete",
    }


async def test_every_event_of_the_fake_is_one_of_the_sdks(server: RealtimeServer):
    async with asyncio.timeout(10):
        await our_call(server)
    for event in server.sent:
        SERVER_EVENT.validate_python(event)
    assert not [event for event in server.sent if event["type"] == "error"]
    assert len({event["type"] for event in server.sent}) > 12


async def test_the_sdk_can_hold_a_conversation_with_the_fake(server: RealtimeServer):
    server.hears.append("Are you open?")
    server.replies.append(Reply("Yes, we are.", audio_ms=120))
    events: list[Any] = []
    async with (
        AsyncOpenAI(api_key="sk-right", websocket_base_url=server.base_url) as client,
        client.realtime.connect(model="gpt-realtime-2.1") as connection,
    ):
        await connection.session.update(
            session={
                "type": "realtime",
                "audio": {
                    "input": {"format": {"type": "audio/pcmu"}},
                    "output": {"format": {"type": "audio/pcmu"}},
                },
            }
        )
        for payload in (LOUD, MULAW_8K.silence(300)):
            await connection.input_audio_buffer.append(audio=base64.b64encode(payload).decode())
        async for event in connection:
            events.append(event)
            if event.type == "response.done":
                break
    audio = b"".join(
        base64.b64decode(event.delta)
        for event in events
        if event.type == "response.output_audio.delta"
    )
    assert audio == MULAW_8K.silence(120)
    heard = [event for event in events if event.type.endswith("transcription.completed")]
    assert heard[0].transcript == "Are you open?"
    # The address and the key stand where ours stand.
    assert server.query == {"model": "gpt-realtime-2.1"}
    assert server.headers["authorization"] == "Bearer sk-right"
