"""Flowcat's own playground page against this server: its requests, its order, its frames.

The client does what that page's script does: an offer with all its candidates and nothing else in
the body, then the events' socket, then whatever comes; it hangs up by closing.
"""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest
from aiohttp import WSMsgType

from flowcat_server.core.audio import PCM_16K
from tests.e2e.conftest import Server, Speech, StartServer
from tests.e2e.pages import fetch, live_calls, share_heard, transcripts, utterances
from tests.transports.webrtc.peers import Client, Mouth, until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

TOOLS = """
agent: {{name: tools, prompt: Talk., greeting: Hello there.}}
tools:
  - {{name: find_slot, python: "{module}:find_slot"}}
topology:
  mode: cascaded
  vad: {{provider: energy}}
  stt: {{provider: scripted, options: {{lines: [is Friday free]}}}}
  llm:
    provider: scripted
    options:
      match: [{{if: friday, tool: find_slot, arguments: {{day: Friday}}, then: "{{result}}"}}]
  tts: {{provider: scripted}}
"""


class Playground:
    """The page's script in Python."""

    def __init__(self, http: aiohttp.ClientSession, server: Server, client: Client) -> None:
        self._http, self._server, self.client = http, server, client
        self.log: list[tuple[str, str]] = []
        self.frames: list[dict[str, Any]] = []
        self._interim = False
        self._reader: asyncio.Task[None] | None = None

    async def start(self) -> str:
        async with self._http.post(
            f"{self._server.url}/webrtc/offer",
            data=json.dumps({"sdp": await self.client.offer()}),
            headers={"content-type": "application/json"},
        ) as response:
            assert response.status == 200, await response.text()
            assert response.content_type == "application/json"
            answer = await response.json()
        await self.client.take(answer["sdp"])
        socket = await self._http.ws_connect(f"{self._server.url}/webrtc/events/{answer['pc_id']}")
        self._reader = asyncio.create_task(self._read(socket))
        return str(answer["pc_id"])

    async def _read(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        async for message in socket:
            assert message.type is WSMsgType.TEXT
            self._handle(json.loads(message.data))

    def _handle(self, message: dict[str, Any]) -> None:
        self.frames.append(message)
        assert set(message) == {"type", "payload"}
        kind, payload = message["type"], message["payload"]
        match kind:
            case "rtf-user-transcription":
                assert payload["user_id"]
                assert payload["timestamp"]
                if self._interim:
                    self.log.pop()
                self.log.append(("user", payload["text"]))
                self._interim = not payload["final"]
            case "rtf-bot-text":
                self.log.append(("bot", payload["text"]))
            case "rtf-function-call-start" | "rtf-function-call-end":
                self.log.append(("tool", payload["function_name"]))
            case _:
                assert kind.startswith("rtf-")

    def count(self, kind: str) -> int:
        """How many frames of a kind have come."""
        return sum(frame["type"] == kind for frame in self.frames)

    async def until(self, who: str, word: str, timeout: float = 15.0) -> str:
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            for said_by, text in self.log:
                if said_by == who and word in text.lower():
                    return text
            await asyncio.sleep(0.02)
        raise TimeoutError(f"no {word!r} of {who}: {self.log}")

    async def stop(self) -> None:
        """The page closes its socket and its connection; it says nothing."""
        assert self._reader is not None
        self._reader.cancel()
        await self.client.close()


@pytest.mark.models
async def test_the_playground_holds_a_conversation(receptionist: Server, speech: Speech):
    question = await speech.say("What are your opening hours?", PCM_16K)
    mouth = Mouth(PCM_16K.silence(6_000) + question + PCM_16K.silence(20_000))
    async with aiohttp.ClientSession() as http:
        page = Playground(http, receptionist, Client(mouth))
        pc_id = await page.start()
        await page.until("bot", "how can i help")
        asked = await page.until("user", "opening hours", timeout=20)
        assert share_heard("What are your opening hours?", asked) >= 0.8
        await page.until("bot", "monday")
        await until(lambda: page.count("rtf-bot-stopped-speaking") == 2, 20)
        async with http.get(f"{receptionist.url}/webrtc/events/{pc_id}") as second:
            assert second.status == 404
        samples = np.frombuffer(bytes(page.client.ears), "<i2")
        await page.stop()
        begun = time.monotonic()
        while await live_calls(receptionist):
            assert time.monotonic() - begun < 2
            await asyncio.sleep(0.05)
    heard = await transcripts(speech, utterances(samples, 48_000))
    said = [" ".join(text for who, text in page.log[:2]), " ".join(t for _, t in page.log[3:])]
    assert [who for who, _ in page.log] == ["bot", "bot", "user", *["bot"] * (len(page.log) - 3)]
    assert len(heard) == 2
    for text, sound in zip(said, heard, strict=True):
        assert share_heard(text, sound) >= 0.55, (text, sound)
    kinds = [frame["type"] for frame in page.frames]
    assert page.count("rtf-bot-started-speaking") == page.count("rtf-bot-stopped-speaking") == 2
    assert kinds.index("rtf-bot-started-speaking") < kinds.index("rtf-bot-stopped-speaking")
    (call,) = (await fetch(receptionist, "/api/calls?limit=1"))["calls"]
    assert call["ended_reason"] == "caller.hung_up"


async def test_tools_are_told_as_the_playground_knows_them(
    start_server: StartServer, tmp_path: Path
):
    (tmp_path / "slots.py").write_text(
        'def find_slot(day: str) -> dict:\n    return {"free": day, "at": "ten"}\n'
    )
    server = start_server(TOOLS.format(module="slots"), PYTHONPATH=str(tmp_path))
    spoken = np.random.default_rng(1).normal(0, 6_000, 16_000).astype("<i2").tobytes()
    mouth = Mouth(PCM_16K.silence(2_500) + spoken + PCM_16K.silence(10_000))
    async with aiohttp.ClientSession() as http:
        page = Playground(http, server, Client(mouth))
        await page.start()
        await page.until("bot", "ten")
        await page.stop()
    told = [frame for frame in page.frames if "function-call" in frame["type"]]
    assert [frame["type"] for frame in told] == [
        "rtf-function-call-start",
        "rtf-function-call-start",
        "rtf-function-call-end",
    ]
    assert [frame["payload"]["function_name"] for frame in told] == ["find_slot"] * 3
    _, started, ended = (frame["payload"] for frame in told)
    assert started["arguments"] == {"day": "Friday"}
    assert ended["tool_call_id"] == started["tool_call_id"]
    assert json.loads(ended["result"]) == {"free": "Friday", "at": "ten"}
    assert not ended["cancelled"]


@pytest.mark.parametrize(
    ("body", "status"),
    [('{"sdp": "nonsense"}', 422), ("{}", 422), ("not json", 422), ('{"sdp": 5}', 422)],
)
async def test_a_bad_offer_is_refused_in_words(start_server: StartServer, body: str, status: int):
    server = start_server("topology: {mode: echo}\n")
    async with (
        aiohttp.ClientSession() as http,
        http.post(f"{server.url}/webrtc/offer", data=body) as response,
    ):
        assert response.status == status
        assert len((await response.text()).split()) > 2
        async with http.get(f"{server.url}/webrtc/events/pc-1") as unknown:
            assert unknown.status == 404
