"""Speech to speech behind a real server process, over the carrier's wire, with a fake vendor."""

from __future__ import annotations

import asyncio
import base64
import random
from collections.abc import AsyncIterator

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from flowcat_server.core.audio import encode
from tests.e2e.conftest import StartServer
from tests.e2e.test_hosted import assert_no_key, record
from tests.fakes.openai_realtime_server import RealtimeServer, Reply
from tests.phone.line import Phone

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(90)]

KEY = "realtime-6f0b3d9e17"
TONE = (b"\x00\x40" * 4 + b"\x00\xc0" * 4) * 500
"""Half a second of a loud square wave: the fake vendor hears by loudness."""

AGENT = """
agent:
  graph_inline:
    nodes:
      - id: start
        type: startCall
        data: {prompt: You are the front desk., greeting: Hello from the inn., tools: [free_tables]}
      - {id: done, type: endCall, data: {prompt: Say goodbye.}}
    edges:
      - {id: d, source: start, target: done, label: Goodbye, data: {condition: All is said}}
tools:
  - name: free_tables
    description: Look up the free tables.
    parameters: {people: {type: integer}}
    http: {method: GET, url: "TOOL/tables?people={{args.people}}"}
topology:
  mode: realtime
  provider: openai
  base_url: "VENDOR"
  api_key_env: INN_KEY
  timeout: 3s
"""


def noise(seed: int, ms: int) -> bytes:
    """Mu-law that is like no other: found in the earpiece, it came through untouched."""
    return random.Random(seed).randbytes(8 * ms)


@pytest.fixture
async def vendor() -> AsyncIterator[RealtimeServer]:
    async with RealtimeServer(KEY) as server:
        yield server


@pytest.fixture
async def tables() -> AsyncIterator[TestServer]:
    async def answer(request: web.Request) -> web.Response:
        return web.json_response({"free": ["garden"], "asked": request.query_string})

    app = web.Application()
    app.router.add_get("/tables", answer)
    async with TestServer(app, host="127.0.0.1") as server:
        yield server


def yaml(vendor: RealtimeServer, tool: str = "http://127.0.0.1:9") -> str:
    return AGENT.replace("VENDOR", vendor.base_url).replace("TOOL", tool.rstrip("/"))


async def hears(phone: Phone, audio: bytes) -> int:
    """Wait until this came out of the earpiece; the frame after it."""
    async with asyncio.timeout(10):
        while (at := b"".join(phone.heard.frames).find(audio)) < 0:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    return (at + len(audio)) // 160


async def asks(phone: Phone) -> None:
    phone.say(TONE)
    await phone.said()


async def test_a_conversation_with_a_tool_and_a_goodbye(
    vendor: RealtimeServer, tables: TestServer, start_server: StartServer
):
    sounds = [noise(seed, 600) for seed in range(5)]
    vendor.hears.extend(["two tables please", "that is all"])
    vendor.replies.extend(
        [
            Reply("Hello from the inn.", audio=sounds[0]),
            Reply("Let me look.", audio=sounds[1], calls=[("free_tables", '{"people": 2}')]),
            Reply("The garden is free.", audio=sounds[2]),
            Reply(calls=[("goodbye", "{}")]),
            Reply("Goodbye to you.", audio=sounds[3]),
        ]
    )
    server = start_server(yaml(vendor, str(tables.make_url(""))), INN_KEY=KEY)
    assert "key from INN_KEY" in server.text()
    assert "fillers, apologies and last words: they need a voice" in server.text()
    async with aiohttp.ClientSession() as session, Phone(session, server.url) as phone:
        await hears(phone, sounds[0])
        await asyncio.sleep(0.3)
        await asks(phone)
        await hears(phone, sounds[1])
        await hears(phone, sounds[2])
        await asyncio.sleep(0.3)
        await asks(phone)
        await hears(phone, sounds[3])
        await asyncio.wait_for(phone.hung_up.wait(), 5)

    assert vendor.query["model"]
    opened = vendor.all("session.update")[0]["session"]
    assert opened["audio"]["input"]["format"] == {"type": "audio/pcmu"}
    assert opened["audio"]["output"]["format"] == {"type": "audio/pcmu"}
    assert "You are the front desk." in opened["instructions"]
    assert {tool["name"] for tool in opened["tools"]} == {"free_tables", "goodbye"}
    appended = [base64.b64decode(m["audio"]) for m in vendor.all("input_audio_buffer.append")]
    heard = b"".join(appended)
    assert len(heard) > 8000 * 2
    assert bytes(phone.sent).startswith(heard), "the caller's mu-law was not passed on untouched"

    results = [
        message["item"]["output"]
        for message in vendor.all("conversation.item.create")
        if message["item"]["type"] == "function_call_output"
    ]
    assert '"asked": "people=2"' in results[0]
    moved = vendor.all("session.update")[-1]["session"]
    assert "Say goodbye." in moved["instructions"]
    assert moved["tools"] == []

    call = await record(server)
    assert call["ended_reason"] == "agent.ended"
    assert [(turn["caller"], turn["agent"]) for turn in call["turns"]] == [
        ("", "Hello from the inn."),
        ("two tables please", "Let me look. The garden is free."),
        ("that is all", "Goodbye to you."),
    ]
    for turn in call["turns"][1:]:
        parts = dict(turn["latency"])
        assert parts.pop("total") == sum(parts.values())
        assert 150 <= parts["endpointing"] <= 500  # the fake waits for 200 ms of silence
    assert_no_key(server, KEY)


async def test_the_vendor_is_told_to_the_millisecond_what_was_heard(
    vendor: RealtimeServer, start_server: StartServer
):
    story, answer = noise(1, 6000), noise(2, 400)
    vendor.hears.append("stop please")
    vendor.replies.extend(
        [
            Reply("This is a long story about the old mill at the river.", audio=story),
            Reply("As you like.", audio=answer),
        ]
    )
    server = start_server(yaml(vendor), INN_KEY=KEY)
    async with aiohttp.ClientSession() as session, Phone(session, server.url) as phone:
        await hears(phone, story[: 8 * 2000])
        await asks(phone)
        await hears(phone, answer)
    (cut,) = vendor.all("conversation.item.truncate")
    earpiece = b"".join(phone.heard.frames)
    start = earpiece.find(story[:160])
    played_ms = next(
        ms for ms in range(0, 6000, 20) if story[8 * ms : 8 * ms + 160] not in earpiece
    )
    assert start >= 0
    assert played_ms < 4000, "the agent was not cut off"
    assert abs(cut["audio_end_ms"] - played_ms) <= 60, (cut["audio_end_ms"], played_ms)
    turns = (await record(server))["turns"]
    assert turns[0]["interrupted"]
    assert turns[0]["agent"]
    assert "This is a long story about the old mill at the river.".startswith(turns[0]["agent"])
    assert turns[0]["agent"] != "This is a long story about the old mill at the river."
    assert (turns[1]["caller"], turns[1]["agent"]) == ("stop please", "As you like.")


@pytest.mark.parametrize("trouble", ["key", "mute"])
async def test_trouble_ends_the_call_and_names_the_vendor(
    vendor: RealtimeServer, start_server: StartServer, trouble: str
):
    greeting = noise(1, 400)
    vendor.replies.append(Reply("Hello.", audio=greeting))
    server = start_server(yaml(vendor), INN_KEY="realtime-wrong-key" if trouble == "key" else KEY)
    async with aiohttp.ClientSession() as session, Phone(session, server.url) as phone:
        if trouble == "mute":  # hears nothing, says nothing, answers no probe
            await hears(phone, greeting)
            await asyncio.sleep(0.3)
            vendor.mute.set()
            await asks(phone)
        await asyncio.wait_for(phone.hung_up.wait(), 20)
    call = await record(server)
    assert call["ended_reason"] == "provider.failed"
    assert call["ended_detail"].startswith("realtime openai: ")
    assert_no_key(server, KEY, "realtime-wrong-key")


@pytest.mark.parametrize("trouble", ["hang_up", "cut"])
async def test_a_connection_that_breaks_is_opened_again_and_the_call_goes_on(
    vendor: RealtimeServer, start_server: StartServer, trouble: str
):
    greeting, answer = noise(1, 400), noise(2, 400)
    vendor.hears.append("are you there")
    vendor.replies.extend([Reply("Hello.", audio=greeting), Reply("Yes.", audio=answer)])
    server = start_server(yaml(vendor), INN_KEY=KEY)
    async with aiohttp.ClientSession() as session, Phone(session, server.url) as phone:
        await hears(phone, greeting)
        await asyncio.sleep(0.3)
        await vendor.hang_up() if trouble == "hang_up" else vendor.cut()
        await asks(phone)
        await hears(phone, answer)
    call = await record(server)
    assert [(turn["caller"], turn["agent"]) for turn in call["turns"]] == [
        ("", "Hello."),
        ("are you there", "Yes."),
    ]
    (told,) = vendor.all("conversation.item.create")
    assert told["item"]["content"] == [{"type": "output_text", "text": "Hello."}]
    assert 'kind="realtime"' in server.get("/metrics")[1]


async def test_a_dead_vendor_is_replaced_within_the_turn(
    vendor: RealtimeServer, start_server: StartServer
):
    greeting, answer = noise(1, 400), noise(2, 400)
    vendor.replies.append(Reply("Hello.", audio=greeting))
    async with RealtimeServer(KEY) as spare:
        spare.hears.append("are you there")
        spare.replies.append(Reply("Here I am.", audio=answer))
        config = yaml(vendor) + (
            f'  fallback: [{{provider: openai, base_url: "{spare.base_url}", '
            "api_key_env: INN_KEY}]\n"
            "  tts: {provider: scripted, options: {first_audio_ms: 100}}\n"
        )
        server = start_server(config, INN_KEY=KEY)
        assert "they need a voice" not in server.text()
        async with aiohttp.ClientSession() as session, Phone(session, server.url) as phone:
            await hears(phone, greeting)
            await asyncio.sleep(0.3)
            vendor.mute.set()
            await asks(phone)
            spoke = phone.said_until
            heard = await hears(phone, answer)
        frames = (index for index in range(spoke, heard) if phone.heard.audible(index))
        sounds = [spoke, *frames]
        gaps = [20 * (after - before) for before, after in zip(sounds, sounds[1:], strict=False)]
        assert max(gaps) <= 2500, gaps
        appended = spare.all("input_audio_buffer.append")
        sent = b"".join(base64.b64decode(message["audio"]) for message in appended)
    assert encode(TONE, "mulaw") in sent
    assert spare.session["instructions"].startswith(vendor.session["instructions"])
    told = [message["item"]["content"][0] for message in spare.all("conversation.item.create")]
    assert told[0] == {"type": "output_text", "text": "Hello."}
    call = await record(server)
    assert call["turns"][-1]["caller"] == "are you there"
    assert call["turns"][-1]["agent"] == "Here I am."
    assert any("One moment." in turn["agent"] for turn in call["turns"])
