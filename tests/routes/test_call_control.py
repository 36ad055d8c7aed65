"""Keys that go out, and calls that are controlled through the API."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from flowcat_server.core import ended
from flowcat_server.core.audio import MULAW_8K
from flowcat_server.core.dtmf import KeyListener
from tests.fakes.doors import API_TOKEN, Doors, doors
from tests.fakes.peers import (
    Leg,
    Peer,
    Plivo,
    SignalWire,
    Telnyx,
    Vonage,
)
from tests.fakes.switchboard import (
    carrier_api,
    listening,
    said,
    talking,
    yaml,
)


class Ear:
    """All that a far end is sent."""

    def __init__(self, leg: Leg) -> None:
        self.leg = leg
        self.sound = b""
        self.texts: list[dict[str, Any]] = []

    async def listen(self) -> None:
        async for message in self.leg.socket:
            fields = json.loads(message.data) if isinstance(message.data, str) else {}
            self.texts.append(fields)
            if fields.get("event") in ("dtmf", "sendDTMF"):
                continue
            self.sound += self.leg.stream.hear(message.data).audio
            if fields.get("event") == "mark":
                await self.leg.send(json.dumps({"event": "mark", "mark": fields["mark"]}))


async def test_keys_go_out_as_each_carrier_takes_them(tmp_path: Path):
    for peer in (Telnyx(), Vonage(), Plivo(), SignalWire(), Peer()):
        async with carrier_api() as api, doors(tmp_path / peer.name, yaml(peer, api)) as house:
            call = peer.new_call()
            async with talking(house, peer, call) as (leg, session):
                pressed = asyncio.create_task(said(session, "[keys: 4 2 #]"))
                await asyncio.sleep(0)
                ear = Ear(leg)
                listens = asyncio.create_task(ear.listen())
                session.send_keys("42#")
                await pressed
                await asyncio.sleep(0.05)
                listens.cancel()
            if peer.name == "telnyx":
                assert api.requests[-1][1:] == (
                    f"/calls/{call}/actions/send_dtmf", "Bearer KEY", {"digits": "42#"}
                )  # fmt: skip
            elif peer.name == "vonage":
                assert api.requests[-1][1] == f"/v1/calls/{call}/dtmf"
                assert api.requests[-1][3] == {"digits": "42#"}
            elif peer.name == "plivo":
                assert {"event": "sendDTMF", "dtmf": "42#"} in ear.texts
            elif peer.name == "signalwire":
                digits = [
                    text["dtmf"]["digit"] for text in ear.texts if text.get("event") == "dtmf"
                ]
                assert digits == ["4", "2", "#"]
            else:
                listener = KeyListener(MULAW_8K)
                assert listener.feed(ear.sound + MULAW_8K.silence(100)) == "42#"
                assert ear.sound


# --- the API --------------------------------------------------------------------------------------


async def post(house: Doors, path: str, body: object = None) -> tuple[int, str]:
    headers = {"Authorization": f"Bearer {API_TOKEN}"}
    data = None if body is None else json.dumps(body)
    async with house.client.post(house.url + path, data=data, headers=headers) as response:
        return response.status, await response.text()


async def test_the_api_controls_a_live_call(tmp_path: Path):
    peer = Peer()
    async with carrier_api() as api, doors(tmp_path, yaml(peer, api)) as house:
        call = peer.new_call()
        async with talking(house, peer, call) as (leg, session):
            deaf = asyncio.create_task(listening(leg))
            one = f"/api/calls/{session.id}"
            await said(session, "Hello.")
            assert await post(house, f"{one}/hold") == (204, "")
            assert (await post(house, f"{one}/hold"))[0] == 409
            assert await post(house, f"{one}/resume") == (204, "")
            assert (await post(house, f"{one}/resume"))[0] == 409
            for wrong in ({"keys": "+44"}, {"keys": ""}, {"keys": 42}, {}, [], "4", None):
                status, text = await post(house, f"{one}/keys", wrong)
                assert (status, json.loads(text)["error"]) == (422, "invalid_request"), wrong
            pressed = asyncio.create_task(said(session, "[keys: 7]"))
            await asyncio.sleep(0)
            assert (await post(house, f"{one}/keys", {"keys": "7"}))[0] == 202
            await pressed
            status, text = await post(house, f"{one}/transfer", {"to": "+15550666"})
            assert (status, "desk, ada" in json.loads(text)["message"]) == (422, True)
            assert (await post(house, f"{one}/transfer", {"to": "desk"}))[0] == 202
            await house.settled(0)
            deaf.cancel()
        assert session.reason == ended.AGENT_TRANSFERRED
        assert "15550666" not in str(api.requests)
        for action in ("hold", "resume", "keys", "transfer"):
            assert (await post(house, f"{one}/{action}", {"to": "desk", "keys": "1"}))[0] == 404
        async with house.client.post(f"{house.url}{one}/hold") as response:
            assert response.status in (401, 404)
