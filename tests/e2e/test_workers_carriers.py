"""Two workers and what carriers ask and tell: each request goes to whoever the kernel picks."""

from __future__ import annotations

import asyncio
import json
import time
import xml.etree.ElementTree as ET
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import aiohttp
import pytest

from tests.e2e.conftest import Server, launch
from tests.e2e.test_workers import lines, settle, wait_for
from tests.fakes.carrier_api import Api, carrier_api
from tests.fakes.dialler import Dialler, dialler
from tests.fakes.doors import PUBLIC
from tests.fakes.peers import Leg, Peer, Telnyx, media, ring, send
from tests.fakes.switchboard import (
    Colleague,
    asked_next,
    leg_event,
    listening,
    until,
    warm_yaml,
)
from tests.routes.test_outbound import ALLOW, KEYS, OURS, TO

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

AGENT = """
agent: {prompt: Be kind., greeting: Good morning.}
topology:
  vad: {provider: scripted}
  stt: {provider: scripted, options: {lines: [hello], loop: true}}
  llm: {provider: scripted, options: {replies: [Thank you.], loop: true}}
  tts: {provider: scripted, options: {ms_per_char: 10}}
records: {audio: none}
"""


class Clock:
    """The time, for carriers that sign it."""

    @property
    def now(self) -> float:
        return time.time()


class Outside:
    """The server as a carrier and an operator see it. Every request opens a connection anew."""

    def __init__(self, server: Server, client: aiohttp.ClientSession) -> None:
        self.url, self.public = server.url, PUBLIC
        self.client, self.clock = client, Clock()
        self.server = server

    async def get(self, path: str) -> dict[str, Any]:
        async with self.client.get(self.url + path) as response:
            return dict(await response.json())

    async def post(self, path: str, body: object, key: str = "") -> tuple[int, dict[str, Any]]:
        headers = {"Idempotency-Key": key} if key else {}
        async with self.client.post(self.url + path, json=body, headers=headers) as response:
            text = await response.text()
            return response.status, json.loads(text) if text else {}

    async def transfer(self, call: str, to: str) -> None:
        status, _ = await self.post(f"/api/calls/{call}/transfer", {"to": to})
        assert status == 202

    async def spread(self, wanted: list[int]) -> None:
        await settle(self.client, self.server, wanted)

    async def live(self) -> list[str]:
        """The calls' ids."""
        calls = (await self.get("/api/calls"))["calls"]
        return [call["id"] for call in calls if call["live"]]

    async def becomes(self, call: str, status: str) -> dict[str, Any]:
        async with asyncio.timeout(10):
            while True:
                shown = await self.get(f"/api/calls/{call}")
                if shown["call"]["status"] == status:
                    return shown
                await asyncio.sleep(0.02)

    async def said(self, call: str, text: str) -> None:
        """Wait until the agent has said something in a call."""
        async with asyncio.timeout(10):
            while True:
                turns = (await self.get(f"/api/calls/{call}"))["turns"]
                if any(text in (turn["agent"] or "") for turn in turns):
                    return
                await asyncio.sleep(0.02)


@asynccontextmanager
async def two_workers(folder: Path, yaml: str) -> AsyncIterator[Outside]:
    server = await asyncio.to_thread(launch, folder, yaml, "--workers", "2")
    try:
        await asyncio.to_thread(wait_for, server, "workers_ready")
        async with lines() as client:
            yield Outside(server, client)
    finally:
        await asyncio.to_thread(server.stop)


# --- calls that the server makes ------------------------------------------------------------------


@asynccontextmanager
async def calling(folder: Path, rules: str = ALLOW) -> AsyncIterator[tuple[Any, Dialler]]:
    peer = Peer()
    async with dialler(peer) as api:
        more = {**KEYS["twilio"], "from_number": OURS, "api_url": api.url}
        extra = ", ".join(f"{name}: {json.dumps(value)}" for name, value in more.items())
        carriers = f"carriers: {{twilio: {{{peer.block}, {extra}}}}}\n"
        server = f"server: {{public_url: '{PUBLIC}'}}\n"
        async with two_workers(folder, AGENT + carriers + server + rules) as outside:
            api.house = outside  # type: ignore[assignment]
            yield outside, api


async def test_calls_out_are_followed_answered_and_judged_by_the_worker_that_made_them(
    tmp_path: Path,
):
    async with calling(tmp_path) as (outside, api), AsyncExitStack() as stack:
        made = []
        for number in range(4):
            status, call = await outside.post("/api/calls", {"to": TO})
            assert status == 201, call
            made.append(call["id"])
            await api.reports(CallStatus="ringing")
            await outside.becomes(call["id"], "ringing")
            if number == 3:
                await api.reports(CallStatus="busy")
                continue
            if number == 2:
                await api.reports(AnsweredBy="machine_start")
            leg = await stack.enter_async_context(api.talks())
            if number == 2:
                await leg.closed()
            else:
                stack.callback(asyncio.create_task(listening(leg)).cancel)
                await outside.said(call["id"], "Good morning.")
        await outside.spread([1, 1])
        busy = await outside.becomes(made[3], "busy")
        assert not busy["turns"]
        machine = await outside.becomes(made[2], "completed")
        assert machine["call"]["answered_by"] == "machine"
        for call in made[:2]:
            assert (await outside.get(f"/api/calls/{call}"))["call"]["live"]
        await api.reports(CallStatus="completed")  # of a call that is over


async def test_a_request_sent_twice_makes_one_call_and_the_rate_is_that_of_all(tmp_path: Path):
    rules = ALLOW.replace("{allow", "{max_per_minute: 3, allow")
    async with calling(tmp_path, rules) as (outside, api):
        both = [outside.post("/api/calls", {"to": TO}, key="once") for _ in range(6)]
        answers = await asyncio.gather(*both)
        assert {status for status, _ in answers} == {201}
        assert len({call["id"] for _, call in answers}) == 1
        assert len(api.dials) == 1
        others = [await outside.post("/api/calls", {"to": TO}) for _ in range(6)]
        assert [status for status, _ in others] == [201, 201, 429, 429, 429, 429]
        assert len(api.dials) == 3


# --- calls that are passed on ---------------------------------------------------------------------


@asynccontextmanager
async def caller(outside: Any, peer: Peer, call: str) -> AsyncIterator[tuple[Leg, str]]:
    """A call that has heard its greeting, and what the server calls it."""
    before = set(await outside.live())
    rung = await ring(outside, peer, call)
    async with media(outside, peer, call, peer.place(rung.text)) as leg:
        deaf = asyncio.create_task(listening(leg))
        (known,) = await one_more(outside, before)
        await outside.said(known, "Hello.")
        yield leg, known
        deaf.cancel()


async def one_more(outside: Any, before: set[str]) -> set[str]:
    async with asyncio.timeout(10):
        while True:
            new = set(await outside.live()) - before
            if new:
                return new
            await asyncio.sleep(0.02)


def number_and_address(api: Api) -> tuple[str, str]:
    """Whom the carrier was to dial last, and where it asks when that is over."""
    dial = ET.fromstring(parse_qs(api.requests[-1][3])["Twiml"][0])[0]
    return "".join(dial.itertext()), dial.attrib["action"]


async def test_a_caller_whom_nobody_took_comes_back_to_the_conversation(tmp_path: Path):
    peer = Peer()
    async with carrier_api() as api, two_workers(tmp_path, warm_yaml(peer, api)) as outside:
        for _ in range(4):
            call = peer.new_call()
            async with caller(outside, peer, call) as (leg, known):
                await outside.transfer(known, "desk")
                await outside.becomes(known, "completed")
                await leg.closed()
            number, url = number_and_address(api)
            assert number.endswith("15550123")
            before = set(await outside.live())
            said = {"CallSid": call, "DialCallStatus": "busy"}
            rung = await asked_next(outside, peer, url, said)  # type: ignore[arg-type]
            assert rung.status == 200, rung
            async with media(outside, peer, call, peer.place(rung.text)) as leg:  # type: ignore[arg-type]
                deaf = asyncio.create_task(listening(leg))
                (back,) = await one_more(outside, before)
                await outside.said(back, "Nobody is there.")
                shown = await outside.get(f"/api/calls/{back}")
                assert shown["call"]["from"] == "+15550100", "this worker knows the conversation"
                deaf.cancel()
            await outside.spread([0, 0])


async def test_a_colleague_is_asked_wherever_their_call_arrives(tmp_path: Path):
    peer = Peer()
    async with carrier_api() as api, two_workers(tmp_path, warm_yaml(peer, api)) as outside:
        for taken in (True, False, True, False):
            api.requests.clear()
            colleague = Colleague(outside, peer, api)  # type: ignore[arg-type]
            call = peer.new_call()
            async with caller(outside, peer, call) as (_, known):
                before = set(await outside.live())
                await outside.transfer(known, "ada")
                place = await colleague.answers()
                async with media(outside, peer, colleague.call, place) as other:  # type: ignore[arg-type]
                    deaf = asyncio.create_task(listening(other))
                    (second,) = await one_more(outside, before)
                    await outside.said(second, "A call for you.")
                    if taken:
                        await other.send(json.dumps({"event": "dtmf", "dtmf": {"digit": "1"}}))
                        await outside.becomes(known, "completed")
                    deaf.cancel()
                if not taken:  # they hung up
                    await outside.said(known, "Ada is away.")
            rooms = [ET.fromstring(parse_qs(body)["Twiml"][0])[0][0].text
                     for _, path, _, body in api.requests if "Twiml" in body]  # fmt: skip
            assert len(rooms) == (2 if taken else 0)
            assert len(set(rooms)) <= 1, "both are in one room"
            await outside.spread([0, 0])


async def test_what_became_of_a_dial_is_heard_by_the_worker_that_waits_for_it(tmp_path: Path):
    peer = Telnyx()
    async with carrier_api() as api, two_workers(tmp_path, warm_yaml(peer, api)) as outside:
        for cause in ("user_busy", "", "no_answer", ""):
            call = peer.new_call()
            async with caller(outside, peer, call) as (leg, known):
                await outside.transfer(known, "desk")
                state = await transfer_state(api, call)
                told = (
                    leg_event("call.hangup", state, hangup_cause=cause)
                    if cause
                    else leg_event("call.bridged", state)
                )
                rung = await send(outside, told, peer.sign(told, "", outside.clock.now))  # type: ignore[arg-type]
                assert rung.status == 204
                if cause:
                    await outside.said(known, "Nobody is there.")
                else:
                    await outside.becomes(known, "completed")
                    await leg.closed()
            await outside.spread([0, 0])


async def transfer_state(api: Api, call: str) -> str:
    """What the carrier says of the number that it was asked to dial for a call."""
    path = f"/calls/{call}/actions/transfer"
    await until(lambda: bool(api.requests) and api.requests[-1][1] == path)
    return str(api.requests[-1][3]["target_leg_client_state"])
