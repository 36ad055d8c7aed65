from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest

from flowcat_server.core.audio import MULAW_8K
from flowcat_server.core.interfaces import (
    AgentAudio,
    AgentTranscript,
    Audio,
    CallerSpeaking,
    CallerTranscript,
    RealtimeSetup,
    ResponseEnded,
    Say,
    ToolCall,
    ToolResult,
)
from flowcat_server.errors import ProviderUnavailable
from flowcat_server.providers import tones
from flowcat_server.providers.realtime.scripted import PROVIDER
from tests.fakes.inbox import Inbox
from tests.fakes.settings import settings

VOICE = tones.burst(MULAW_8K, 440, 300)


def setup(greeting=""):
    return RealtimeSetup("be brief", (), MULAW_8K, MULAW_8K, greeting)


def turn(at_ms=0):
    """A spoken turn of the caller: 300 ms of voice and 500 ms of silence."""
    return (Audio(VOICE, at_ms + 300), Audio(MULAW_8K.silence(500), at_ms + 800))


async def until_ended(stream):
    events = []
    async with asyncio.timeout(2):
        async for event in stream:
            events.append(event)
            if isinstance(event, ResponseEnded):
                break
    return events


def text(events):
    return "".join(event.text for event in events if isinstance(event, AgentTranscript)).strip()


async def test_it_greets_with_audio_and_text():
    model = PROVIDER.create(settings(PROVIDER))
    async with aclosing(model.converse(setup("Hello there"), Inbox())) as stream:
        events = await until_ended(stream)
    assert text(events) == "Hello there"
    sound = b"".join(event.audio for event in events if isinstance(event, AgentAudio))
    assert MULAW_8K.duration_ms(len(sound)) == 12 * 60


async def test_a_turn_is_heard_transcribed_and_answered():
    model = PROVIDER.create(settings(PROVIDER, hears=["two beers"], replies=["Coming up"]))
    async with aclosing(model.converse(setup(), Inbox(*turn()))) as stream:
        events = await until_ended(stream)
    assert events[:3] == [
        CallerSpeaking(True),
        CallerSpeaking(False),
        CallerTranscript("two beers", final=True),
    ]
    assert text(events) == "Coming up"


async def test_typed_words_are_answered():
    model = PROVIDER.create(settings(PROVIDER))
    async with aclosing(model.converse(setup(), Inbox(Say("two beers")))) as stream:
        assert text(await until_ended(stream)) == "You said: two beers"


async def test_the_caller_stops_it_and_the_rest_is_never_sent():
    model = PROVIDER.create(settings(PROVIDER, realtime_factor=1.0, replies=["ok"]))
    inbox = Inbox()
    async with aclosing(model.converse(setup("one two three"), inbox)) as stream:
        greeting = (await anext(stream)).item
        assert isinstance(await anext(stream), AgentAudio)
        inbox.put(*turn())
        events = await until_ended(stream)
        assert events == [CallerSpeaking(True), ResponseEnded(greeting)] or events == [
            CallerSpeaking(True),
            CallerSpeaking(False),
            CallerTranscript("", final=True),
            ResponseEnded(greeting),
        ]
        answer = await until_ended(stream)
    assert text(answer) == "ok"
    assert all(event.item != greeting for event in answer if isinstance(event, AgentAudio))


async def test_a_tool_is_called_and_its_result_spoken():
    model = PROVIDER.create(
        settings(PROVIDER, replies=[{"say": "Wait.", "tool": "find", "then": "It is {result}."}])
    )
    inbox = Inbox(Say("find"))
    async with aclosing(model.converse(setup(), inbox)) as stream:
        events = await until_ended(stream)
        assert text(events) == "Wait."
        call = events[-2]
        assert isinstance(call, ToolCall)
        assert call.name == "find"
        inbox.put(ToolResult(call.id, "gold"))
        assert text(await until_ended(stream)) == "It is gold."


async def test_the_session_ends_with_the_call():
    inbox = Inbox()
    inbox.end()
    async with aclosing(PROVIDER.create(settings(PROVIDER)).converse(setup(), inbox)) as stream:
        assert [event async for event in stream] == []


async def test_the_line_breaks():
    model = PROVIDER.create(settings(PROVIDER, fail="close"))
    with pytest.raises(ProviderUnavailable):
        async with aclosing(model.converse(setup("Hello"), Inbox())) as stream:
            await until_ended(stream)
