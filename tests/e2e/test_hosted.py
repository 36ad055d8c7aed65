"""Hosted providers behind a real server process, over the carrier's wire, against their fakes."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from tests.e2e.conftest import ROOT, Server, Speech, StartServer
from tests.fakes import anthropic_server, cartesia_server, elevenlabs_server
from tests.fakes.anthropic_server import AnthropicServer
from tests.fakes.cartesia_server import CartesiaServer
from tests.fakes.deepgram_server import DeepgramServer, say
from tests.fakes.elevenlabs_server import ElevenLabsServer
from tests.fakes.openai_server import OpenAiServer, chunk, sse, text_reply, tool_reply
from tests.fakes.sse_server import Answer, Wait
from tests.fakes.vendor_server import until
from tests.phone.line import Phone

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

KEYS = {
    "HOTEL_OPENAI_KEY": "openai-9c1f5e7a2b",
    "HOTEL_ANTHROPIC_KEY": "anthropic-4d8e0b6f31",
    "HOTEL_DEEPGRAM_KEY": "deepgram-7a3c9e5d02",
    "HOTEL_CARTESIA_KEY": "cartesia-1b6d8f4e93",
    "HOTEL_ELEVENLABS_KEY": "elevenlabs-5e2a7c9b40",
}
LETTER_MS = 25
"""The fake voices speak a word as its letters; so long is each."""
GREETING = "Hello from the inn."

AGENT = """
agent:
  graph_inline:
    nodes:
      - id: start
        type: startCall
        data:
          name: Front desk
          prompt: You are the front desk of the inn.
          greeting: "%(greeting)s"
          tools: [free_tables]
      - {id: booking, type: agentNode, data: {name: Booking, prompt: You book tables now.}}
      - {id: done, type: endCall, data: {name: End, prompt: Say goodbye.}}
    edges:
      - {id: b, source: start, target: booking, label: Book, data: {condition: A table is wanted}}
      - {id: d, source: booking, target: done, label: Goodbye, data: {condition: All is said}}
tools:
  - name: free_tables
    description: Look up the free tables.
    parameters: {people: {type: integer}}
    http: {method: GET, url: "%(tool)s/tables?people={{args.people}}"}
knowledge:
  - {name: wifi, questions: [what is the wifi password], answer: The wifi password is willow.}
topology:
  vad: energy
  stt:
    {provider: deepgram, model: nova-3, base_url: "%(deepgram)s", api_key_env: HOTEL_DEEPGRAM_KEY}
  llm: %(llm)s
  tts: %(tts)s
%(more)s
"""


def spoken(text: str, letter_ms: int = LETTER_MS) -> bytes:
    """Mu-law of a text as a fake voice says it."""
    return b"".join(word.encode() * (8 * letter_ms) for word in text.split())


class PacedCartesia(CartesiaServer):
    """Takes nearly as long to speak as to be heard, so that there is something to cancel."""

    async def _speak(
        self, ws: web.WebSocketResponse, request: web.Request, context: str, text: str, trouble: str
    ) -> None:
        at = 0.0
        for word in text.split():
            end = at + len(word) * LETTER_MS / 1000
            await ws.send_json(cartesia_server.timestamps(context, word, at, end))
            await ws.send_json(cartesia_server.chunk(context, spoken(word)))
            at = end
            await asyncio.sleep(len(word) * LETTER_MS * 0.8 / 1000)
        await ws.send_json(cartesia_server.done(context))


class Vendors:
    """All fakes of a test, and an HTTP service that the agent's tool asks."""

    def __init__(self) -> None:
        self.deepgram = DeepgramServer()
        self.voice: CartesiaServer | ElevenLabsServer | DeepgramServer = CartesiaServer()
        self.openai = OpenAiServer(KEYS["HOTEL_OPENAI_KEY"])
        self.anthropic = AnthropicServer(KEYS["HOTEL_ANTHROPIC_KEY"])
        self.asked: list[str] = []
        app = web.Application()
        app.router.add_get("/tables", self._tables)
        self._tool = TestServer(app, host="127.0.0.1")
        self._stack = AsyncExitStack()

    async def start(self) -> None:
        for server in {self.deepgram, self.voice, self.openai, self.anthropic}:
            await self._stack.enter_async_context(server)
        await self._tool.start_server()

    async def close(self) -> None:
        await self._stack.aclose()
        await self._tool.close()

    async def _tables(self, request: web.Request) -> web.Response:
        self.asked.append(request.query_string)
        return web.json_response({"free": ["window", "garden"]})

    def yaml(
        self, *, llm: str = "", tts: str = "", more: str = "", greeting: str = GREETING
    ) -> str:
        where = {"deepgram": self.deepgram.url, "tool": str(self._tool.make_url("")).rstrip("/")}
        llm = llm or (
            f"{{provider: openai, model: gpt-x, base_url: '{self.openai.base_url}', "
            "api_key_env: HOTEL_OPENAI_KEY}"
        )
        tts = tts or (
            f"{{provider: cartesia, base_url: '{self.voice.url}', api_key_env: HOTEL_CARTESIA_KEY}}"
        )
        return AGENT % {**where, "llm": llm, "tts": tts, "more": more, "greeting": greeting}

    def heard_by_deepgram(self) -> bytes:
        return b"".join(item for item in self.deepgram.received if isinstance(item, bytes))


@pytest.fixture
async def vendors(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Vendors]:
    for fake in (cartesia_server, elevenlabs_server):
        monkeypatch.setattr(fake, "PIECE", 8 * LETTER_MS)
    vendors = Vendors()
    yield vendors
    await vendors.close()


class Caller(Phone):
    """Speaks words that the fake transcriber reads."""

    async def asks(self, words: str) -> None:
        self.skip()
        self.say_mulaw(say(words))
        await self.said()

    def earpiece(self) -> bytes:
        return b"".join(self.heard.frames)

    async def hears_exactly(self, text: str, letter_ms: int = LETTER_MS) -> None:
        """The voice's own bytes come out of the earpiece."""
        wanted = spoken(text, letter_ms)
        async with asyncio.timeout(10):
            while wanted not in self.earpiece():  # noqa: ASYNC110
                await asyncio.sleep(0.02)


async def record(server: Server, call_sid: str = "CA" + "0" * 32) -> dict[str, Any]:
    """A call's record, once it has ended."""
    async with aiohttp.ClientSession() as session:
        for _ in range(100):
            async with session.get(f"{server.url}/api/calls") as response:
                calls = [
                    c for c in (await response.json())["calls"] if c["external_id"] == call_sid
                ]
            if calls and calls[0]["ended_reason"]:
                async with session.get(f"{server.url}/api/calls/{calls[0]['id']}") as response:
                    return {**calls[0], **await response.json()}
            await asyncio.sleep(0.05)
    raise AssertionError("the call has no record")


def assert_no_key(server: Server, *keys: str) -> None:
    """No key stands in anything that the server wrote or shows."""
    shown = [server.text().encode(), server.get("/metrics")[1].encode()]
    shown += [server.get("/api/calls")[1].encode()]
    shown += [path.read_bytes() for path in server.records.rglob("*") if path.is_file()]
    assert len(shown) > 3, "there are no records"
    for key in keys or KEYS.values():
        assert not any(key.encode() in text for text in shown), f"a key is shown: {key}"


# --- a whole call ---------------------------------------------------------------------------------


async def test_a_conversation_with_tools_a_graph_and_a_goodbye(
    vendors: Vendors, start_server: StartServer
):
    await vendors.start()
    second = Wait()
    first, rest = "A table for two is possible.", "Which room do you like?"
    vendors.openai.answers.extend(
        [
            Answer(
                [
                    sse(chunk({"role": "assistant", "content": first + " "}), done=False),
                    second,
                    sse(chunk({"content": rest}), chunk(finish="stop")),
                ]
            ),
            tool_reply(("free_tables", {"people": 2})),
            text_reply("There are ", "two tables."),
            tool_reply(("book", {})),
            text_reply("I book it now."),
            tool_reply(("goodbye", {})),
            text_reply("Thank you, goodbye."),
        ]
    )
    server = start_server(vendors.yaml(), **KEYS)
    async with aiohttp.ClientSession() as session, Caller(session, server.url) as phone:
        await phone.hears_exactly(GREETING)

        await phone.hears()
        await phone.asks("i want a table for two please")
        await phone.hears_exactly(first)  # while the model is still writing
        assert not second.event.is_set()
        second.event.set()
        await phone.hears_exactly(rest)

        await phone.hears()
        await phone.asks("two please")
        await phone.hears_exactly("There are two tables.")
        await phone.hears()
        await phone.asks("one two")
        await phone.hears_exactly("I book it now.")
        await phone.hears()
        await phone.asks("five please")
        await phone.hears_exactly("Thank you, goodbye.")
        await asyncio.wait_for(phone.hung_up.wait(), 5)

    heard = vendors.heard_by_deepgram()
    assert len(heard) > 8000 * 5
    assert bytes(phone.sent).startswith(heard), "the caller's mu-law was not passed on untouched"
    query = vendors.deepgram.queries[0]
    assert (query["encoding"], query["sample_rate"]) == (["mulaw"], ["8000"])
    assert "9c1f" not in str(vendors.deepgram.headers)
    assert KEYS["HOTEL_DEEPGRAM_KEY"] in vendors.deepgram.headers[0]["Authorization"]

    assert vendors.asked == ["people=2"]
    bodies = [request.body for request in vendors.openai.requests]
    systems = [body["messages"][0]["content"] for body in bodies]
    assert "front desk of the inn" in systems[0]
    assert "The wifi password is willow." in systems[0]
    assert {t["function"]["name"] for t in bodies[0]["tools"]} == {"book", "free_tables"}
    assert [m["role"] for m in bodies[2]["messages"][-2:]] == ["assistant", "tool"]
    assert '"garden"' in bodies[2]["messages"][-1]["content"]
    assert "You book tables now." in systems[4]
    assert {t["function"]["name"] for t in bodies[4]["tools"]} == {"goodbye"}
    assert "Say goodbye." in systems[6]
    assert bodies[3]["messages"][1:4] == [
        {"role": "assistant", "content": GREETING},
        {"role": "user", "content": "i want a table for two please"},
        {"role": "assistant", "content": f"{first} {rest}"},
    ]

    call = await record(server)
    assert call["ended_reason"] == "agent.ended"
    assert [turn["caller"] for turn in call["turns"]] == [
        "",
        "i want a table for two please",
        "two please",
        "one two",
        "five please",
    ]
    assert call["turns"][-1]["agent"] == "Thank you, goodbye."
    for turn in call["turns"][1:]:
        parts = dict(turn["latency"])
        assert parts.pop("total") == sum(parts.values())
        assert parts["endpointing"] >= 300
    assert_no_key(server)


async def test_the_start_screen_says_where_keys_come_from(
    vendors: Vendors, start_server: StartServer
):
    await vendors.start()
    server = start_server(vendors.yaml(), **KEYS)
    screen = server.text()
    assert re.search(r"Hears +deepgram/nova-3 +key from HOTEL_DEEPGRAM_KEY", screen)
    assert re.search(r"Thinks +openai/gpt-x +key from HOTEL_OPENAI_KEY", screen)
    assert re.search(r"Speaks +cartesia/\S+ +key from HOTEL_CARTESIA_KEY", screen)


async def test_an_interruption_reaches_the_vendors_and_the_next_request(
    vendors: Vendors, start_server: StartServer
):
    vendors.voice = PacedCartesia()
    await vendors.start()
    begun = "We have a very nice room over the garden with a view of the river and the old mill."
    vendors.openai.answers.extend(
        [
            Answer([sse(chunk({"content": begun + " And "}), done=False), Wait()]),
            text_reply("As you like."),
        ]
    )
    server = start_server(vendors.yaml(), **KEYS)
    async with aiohttp.ClientSession() as session, Caller(session, server.url) as phone:
        await phone.hears()
        await phone.asks("two please")
        await phone.hears_exactly("We have a very nice")
        phone.say_mulaw(say("four five six"))
        await asyncio.wait_for(vendors.openai.hung_up.wait(), 5)
        await until(lambda: any(order.get("cancel") for order in vendors.voice.received), 5)
        await until(lambda: phone.clears, 5)
        cut_at = phone.clears[0] * 160
        await phone.said()
        await phone.hears_exactly("As you like.")
    said = vendors.openai.requests[1].body["messages"][3:]
    assert [m["role"] for m in said] == ["assistant", "user"]
    assert said[1]["content"] == "four five six"
    heard, mark = said[0]["content"].split(" [", 1)
    assert mark == "interrupted by the caller]"
    assert begun.startswith(heard)
    # What the model is told is what came out of the earpiece, but for the word that was cut.
    words = begun.split()
    earpiece = phone.earpiece()[:cut_at]
    played = sum(spoken(" ".join(words[: n + 1])) in earpiece for n in range(len(words)))
    assert played <= len(heard.split()) <= played + 1
    assert 5 <= len(heard.split()) < len(begun.split())
    turn = (await record(server))["turns"][1]
    assert turn["interrupted"]
    assert turn["agent"] == heard


def _elevenlabs(vendors: Vendors) -> str:
    vendors.voice = ElevenLabsServer()
    return "provider: elevenlabs, api_key_env: HOTEL_ELEVENLABS_KEY"


def _aura(vendors: Vendors) -> str:
    vendors.voice = vendors.deepgram
    return "provider: deepgram, api_key_env: HOTEL_DEEPGRAM_KEY"


@pytest.mark.parametrize(("choose", "letter_ms"), [(_elevenlabs, LETTER_MS), (_aura, 5)])
async def test_other_voices(
    vendors: Vendors,
    start_server: StartServer,
    choose: Callable[[Vendors], str],
    letter_ms: int,
):
    tts = choose(vendors)
    await vendors.start()
    vendors.openai.answers.append(text_reply("There are two tables."))
    yaml = vendors.yaml(tts=f"{{{tts}, base_url: '{vendors.voice.url}'}}")
    server = start_server(yaml, **KEYS)
    async with aiohttp.ClientSession() as session, Caller(session, server.url) as phone:
        await phone.hears_exactly(GREETING, letter_ms)
        await phone.hears()
        await phone.asks("two please")
        await phone.hears_exactly("There are two tables.", letter_ms)
    assert [turn["agent"] for turn in (await record(server))["turns"]] == [
        GREETING,
        "There are two tables.",
    ]
    assert_no_key(server)


async def test_another_model(vendors: Vendors, start_server: StartServer):
    await vendors.start()
    vendors.anthropic.answers.extend(
        [
            anthropic_server.tool_reply("free_tables", {"people": 2}),
            anthropic_server.text_reply("There are ", "two tables. ", "Which one?"),
        ]
    )
    llm = (
        f"{{provider: anthropic, base_url: '{vendors.anthropic.url}', "
        "api_key_env: HOTEL_ANTHROPIC_KEY}"
    )
    server = start_server(vendors.yaml(llm=llm), **KEYS)
    async with aiohttp.ClientSession() as session, Caller(session, server.url) as phone:
        await phone.hears()
        await phone.asks("two please")
        await phone.hears_exactly("There are two tables. ")
        await phone.hears_exactly("Which one?")
    assert vendors.asked == ["people=2"]
    result = vendors.anthropic.requests[1].body["messages"][-1]["content"][-1]
    assert result["type"] == "tool_result"
    assert "garden" in str(result["content"])
    assert_no_key(server)


# --- the default file with one flag ---------------------------------------------------------------


@pytest.mark.models
async def test_the_default_agent_with_a_hosted_model(
    vendors: Vendors, start_server: StartServer, speech: Speech
):
    await vendors.start()
    vendors.openai.answers.append(text_reply("We are open ", "from eight to six."))
    line = await speech.say("What are your opening hours?")
    server = start_server(
        ROOT / "configs" / "default.yaml",
        "--set",
        "topology.llm=openai/gpt-x",
        "--set",
        f"topology.llm.base_url={vendors.openai.base_url}",
        "--set",
        "topology.llm.api_key_env=OPENAI_API_KEY",
        OPENAI_API_KEY=KEYS["HOTEL_OPENAI_KEY"],
    )
    assert "openai/gpt-x  key from OPENAI_API_KEY" in server.text()
    async with aiohttp.ClientSession() as session, Caller(session, server.url) as phone:
        await phone.hears()
        phone.skip()
        phone.say(line)
        await phone.said()
        start, end = await phone.hears()
        heard = await speech.hear(phone.heard.pcm(max(0, start - 10), end + 10))
    assert "open" in heard
    assert re.search("8|eight", heard)
    body = vendors.openai.requests[0].body
    assert body["model"] == "gpt-x"
    system = body["messages"][0]["content"]
    assert "12 Willow Lane" in system
    assert "opening hours" in body["messages"][-1]["content"].lower()
    tools = {tool["function"]["name"] for tool in body["tools"]}
    assert {"book_a_visit", "talk_to_a_colleague", "say_goodbye"} <= tools
    assert_no_key(server, KEYS["HOTEL_OPENAI_KEY"])


# --- trouble --------------------------------------------------------------------------------------


async def test_a_refused_key_ends_the_call_and_names_the_provider(
    vendors: Vendors, start_server: StartServer
):
    await vendors.start()
    wrong = "openai-wrong-33aa44bb"
    server = start_server(vendors.yaml(), **{**KEYS, "HOTEL_OPENAI_KEY": wrong})
    async with aiohttp.ClientSession() as session, Caller(session, server.url) as phone:
        await phone.hears()
        await phone.asks("two please")
        await asyncio.wait_for(phone.hung_up.wait(), 10)
    call = await record(server)
    assert call["ended_reason"] == "provider.failed"
    assert call["ended_detail"].startswith("llm openai: HTTP 401")
    assert_no_key(server, *KEYS.values(), wrong)


async def test_a_transcriber_that_drops_the_line_is_back_for_the_next_turn(
    vendors: Vendors, start_server: StartServer
):
    vendors.deepgram = DeepgramServer("cut", times=1, cut_after=8000)
    await vendors.start()
    vendors.openai.answers.append(text_reply("There are two tables."))
    server = start_server(vendors.yaml(), **KEYS)
    async with aiohttp.ClientSession() as session, Caller(session, server.url) as phone:
        await phone.hears()
        await until(lambda: vendors.deepgram.connections == 2, 5)
        await phone.asks("i want a table for two")
        await phone.hears_exactly("There are two tables.")
    call = await record(server)
    assert [turn["caller"] for turn in call["turns"]] == ["", "i want a table for two"]


async def test_a_voice_without_sound_gives_way_to_the_next(
    vendors: Vendors, start_server: StartServer
):
    vendors.voice = CartesiaServer("silent")
    await vendors.start()
    tts = (
        f"{{provider: cartesia, base_url: '{vendors.voice.url}', api_key_env: HOTEL_CARTESIA_KEY, "
        f"fallback: [{{provider: deepgram, base_url: '{vendors.deepgram.url}', "
        "api_key_env: HOTEL_DEEPGRAM_KEY}]}"
    )
    server = start_server(vendors.yaml(tts=tts), **KEYS)
    assert "(fallback)" in server.text()
    async with aiohttp.ClientSession() as session, Caller(session, server.url) as phone:
        await phone.hears_exactly(GREETING, 5)
    assert (await record(server))["turns"][0]["agent"] == GREETING
    assert "flowcat_provider_errors_total{" in server.get("/metrics")[1]


async def test_a_slow_model_is_covered_by_a_filler(vendors: Vendors, start_server: StartServer):
    await vendors.start()
    slow = Wait()
    vendors.openai.answers.append(Answer([slow, sse(chunk({"content": "Two tables."}))]))
    more = "turn: {dead_air: {filler_after: 600ms, filler: [One moment.]}}"
    server = start_server(vendors.yaml(more=more), **KEYS)
    async with aiohttp.ClientSession() as session, Caller(session, server.url) as phone:
        await phone.hears()
        await phone.asks("two please")
        await phone.hears_something()
        slow.event.set()
        await phone.hears_exactly("Two tables.")
    assert (await record(server))["turns"][1]["agent"] == "One moment. Two tables."


def test_keys_are_not_in_the_files_of_this_test(tmp_path: Path):
    """The search above would find a key that is there."""
    (tmp_path / "log").write_text(KEYS["HOTEL_OPENAI_KEY"], encoding="utf-8")
    (tmp_path / "calls").mkdir()

    class Leaky:
        records = tmp_path

        def text(self) -> str:
            return ""

        def get(self, path: str) -> tuple[int, str]:
            return 200, ""

    (tmp_path / "more").write_text("", encoding="utf-8")
    with pytest.raises(AssertionError, match="a key is shown"):
        assert_no_key(Leaky(), KEYS["HOTEL_OPENAI_KEY"])  # type: ignore[arg-type]
