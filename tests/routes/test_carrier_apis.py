"""What is asked of carriers' APIs while a call goes on, against an API that remembers it."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jwt
import pytest

from flowcat_server.config.carriers import Carriers
from flowcat_server.core import ended
from flowcat_server.core.graph import TransferTarget
from tests.fakes.carrier_api import Api, carrier_api
from tests.fakes.doors import ECHO, PUBLIC, Doors, doors
from tests.fakes.peers import (
    PEERS,
    Asked,
    Asterisk,
    Cloudonix,
    Peer,
    Place,
    Plivo,
    SignalWire,
    Telnyx,
    Vonage,
    media,
    ring,
    send,
)
from tests.fakes.rsa_key import PEM, PRIVATE


def yaml(peer: Peer, api: Api, **more: str) -> str:
    extra = ", ".join(f"{name}: {json.dumps(value)}" for name, value in more.items())
    block = f"{peer.block}, api_url: '{api.url}'" + (f", {extra}" if extra else "")
    return peer.yaml.replace(peer.block, block)


async def live(house: Doors, peer: Peer, call: str) -> Place:
    rung = await ring(house, peer, call)
    assert rung.status == 200, rung
    return peer.place(rung.text)


# --- Telnyx Call Control --------------------------------------------------------------------------


def initiated(call: str, direction: str = "incoming") -> Asked:
    payload = {
        "call_control_id": call,
        "direction": direction,
        "from": "+15550100",
        "to": "+15550199",
        "state": "parked",
    }
    body = json.dumps({"data": {"event_type": "call.initiated", "id": "1", "payload": payload}})
    return Asked("POST", "/telephony/answer/telnyx", body.encode(), "application/json")


async def test_a_call_control_call_is_answered_through_the_api_and_its_socket_takes_the_token(
    tmp_path: Path,
):
    peer = Telnyx()
    async with carrier_api() as api, doors(tmp_path, yaml(peer, api, api_key="KEY")) as house:
        asked = initiated("v3:call")
        headers = peer.sign(asked, "", house.clock.now)
        rung = await send(house, asked, headers)
        assert (rung.status, rung.text) == (200, "")
        ((method, path, authorization, body),) = api.requests
        assert (method, path) == ("POST", "/calls/v3:call/actions/answer")
        assert authorization == "Bearer KEY"
        place = Place(body["stream_url"])
        async with media(house, peer, "v3:call", place) as leg:
            await leg.say(peer.frame)
            assert await leg.hears(len(peer.frame)) == peer.frame
            (session,) = house.calls.live.values()
            session.pass_on(TransferTarget("desk", "+15550123"))
            async with asyncio.timeout(5):
                while len(api.requests) < 2:  # noqa: ASYNC110 - a test looks from outside
                    await asyncio.sleep(0.01)
            _, path, _, body = api.requests[-1]
            assert path == "/calls/v3:call/actions/transfer"
            state = body.pop("target_leg_client_state")
            assert body == {"to": "+15550123", "from": "+15550199", "timeout_secs": 30}
            payload = {"call_control_id": "v3:other", "client_state": state}
            told = {"data": {"event_type": "call.bridged", "id": "2", "payload": payload}}
            bridged = replace(asked, body=json.dumps(told).encode())
            await send(house, bridged, peer.sign(bridged, "", house.clock.now))
            await leg.closed()
        await house.settled(0)
        assert session.reason == ended.AGENT_TRANSFERRED


async def test_a_call_control_call_that_is_none_of_ours_is_left_alone(tmp_path: Path):
    peer = Telnyx()
    async with carrier_api() as api, doors(tmp_path, yaml(peer, api, api_key="KEY")) as house:
        asked = initiated("v3:call", "outgoing")
        rung = await send(house, asked, peer.sign(asked, "", house.clock.now))
        assert rung.status == 204
        assert (api.requests, house.calls.count) == ([], 0)


async def test_what_call_control_reports_to_the_same_address_is_taken(tmp_path: Path):
    peer = Telnyx()
    async with carrier_api() as api, doors(tmp_path, yaml(peer, api, api_key="KEY")) as house:
        asked = initiated("v3:call")
        await send(house, asked, peer.sign(asked, "", house.clock.now))
        assert house.calls.count == 1
        for kind in ("call.answered", "streaming.started", "call.hangup"):
            body = asked.body.replace(b"call.initiated", kind.encode())
            event = Asked("POST", asked.path, body, "application/json")
            rung = await send(house, event, peer.sign(event, "", house.clock.now))
            assert rung.status == 204, kind
        assert house.calls.count == 0  # hung up before its socket came


async def test_without_an_api_key_a_call_control_call_is_refused_with_the_reason(tmp_path: Path):
    peer = Telnyx()
    async with carrier_api() as api, doors(tmp_path, yaml(peer, api)) as house:
        asked = initiated("v3:call")
        rung = await send(house, asked, peer.sign(asked, "", house.clock.now))
        assert rung.status == 503
        assert "carriers.telnyx.api_key" in rung.text
        assert api.requests == []


async def test_a_full_server_rejects_a_call_control_call(tmp_path: Path):
    peer = Telnyx()
    async with carrier_api() as api:
        full = yaml(peer, api, api_key="KEY") + "limits: {max_calls: 1}\n"
        async with doors(tmp_path, full) as house:
            for call in ("v3:one", "v3:two"):
                asked = initiated(call)
                await send(house, asked, peer.sign(asked, "", house.clock.now))
            assert [path.rpartition("/")[2] for _, path, _, _ in api.requests] == [
                "answer",
                "reject",
            ]


# --- the end --------------------------------------------------------------------------------------


async def test_a_call_that_outlives_its_socket_is_hung_up_through_the_api(tmp_path: Path):
    peer = Vonage()
    more = {"application_id": "app-1", "private_key": PEM}
    async with carrier_api() as api, doors(tmp_path, yaml(peer, api, **more)) as house:
        call = peer.new_call()
        place = await live(house, peer, call)
        async with media(house, peer, call, place) as leg:
            await house.settled(1)
            (session,) = house.calls.live.values()
            session.end(ended.AGENT_ENDED)
            await leg.closed()
        await house.settled(0)
        ((method, path, authorization, body),) = api.requests
        assert (method, path, body) == ("PUT", f"/v1/calls/{call}", {"action": "hangup"})
        options: Any = {"verify_exp": False, "verify_iat": False}
        said = jwt.decode(
            authorization.removeprefix("Bearer "), PRIVATE.public_key(), ["RS256"], options=options
        )
        assert said["application_id"] == "app-1"


WITH_API = [peer for peer in PEERS if "api_url" in type(Carriers().block(peer.name)).model_fields]


@pytest.mark.parametrize("peer", WITH_API, ids=lambda peer: peer.name)
async def test_a_caller_who_hangs_up_costs_no_request(tmp_path: Path, peer: Peer):
    async with carrier_api() as api, doors(tmp_path, yaml(peer, api)) as house:
        call = peer.new_call()
        place = await live(house, peer, call)
        async with media(house, peer, call, place):
            await house.settled(1)
        await house.settled(0)
        assert api.requests == []


MOVES: list[tuple[Peer, dict[str, str], str]] = [
    (SignalWire(), {"project_id": "p", "api_token": "t"}, "/Accounts/p/Calls/"),
    (Cloudonix(), {"domain": "d", "api_token": "t"}, "/calls/d/sessions/"),
    (Vonage(), {"application_id": "app-1", "private_key": PEM}, "/v1/calls/"),
]


@pytest.mark.parametrize(("peer", "more", "path"), MOVES, ids=[peer.name for peer, _, _ in MOVES])
async def test_a_call_is_passed_on_before_its_socket_closes(
    tmp_path: Path, peer: Peer, more: dict[str, str], path: str
):
    async with carrier_api() as api, doors(tmp_path, yaml(peer, api, **more)) as house:
        call = peer.new_call()
        place = await live(house, peer, call)
        async with media(house, peer, call, place) as leg:
            await house.settled(1)
            (session,) = house.calls.live.values()
            session.pass_on(TransferTarget("desk", "+15550123"))
            await leg.closed()
        await house.settled(0)
        ((_, asked, _, body),) = api.requests
        assert asked.startswith(path)
        assert call in asked
        assert "15550123" in str(body)


async def test_an_echo_whose_carrier_cannot_move_a_call_ends_it(tmp_path: Path):
    peer = Asterisk()
    async with doors(tmp_path, peer.yaml) as house:
        place = Place(f"wss://voice.example/telephony/ws/{peer.name}")
        async with media(house, peer, "c1", place) as leg:
            await house.settled(1)
            (session,) = house.calls.live.values()
            session.pass_on(TransferTarget("desk", "+15550123"))
            await leg.closed()
        await house.settled(0)
        assert (session.reason, session.detail) == (
            ended.AGENT_ENDED, "desk could not be reached"
        )  # fmt: skip


# --- Flowcat's addresses --------------------------------------------------------------------------


async def test_flowcats_addresses_for_plivo_work(tmp_path: Path):
    peer = Plivo()
    async with doors(tmp_path, peer.yaml) as house:
        path = "/telephony/answer/plivo/42?token=theirs&CallUUID=c1&From=15550100&To=15550199"
        asked = Asked("GET", path)
        rung = await send(house, asked, peer.sign(asked, PUBLIC + path, 0))
        assert rung.status == 200
        place = peer.place(rung.text)
        assert place.url.startswith("wss://voice.example/telephony/ws/plivo/42?token=")
        assert "theirs" not in place.url
        async with media(house, peer, "c1", place) as leg:
            await leg.say(peer.frame)
            assert await leg.hears(len(peer.frame)) == peer.frame
            (session,) = house.calls.live.values()
        await house.settled(0)
        record = await house.store.get_call(session.id)
        assert record is not None
        assert record.variables["run_id"] == "42"
    async with doors(tmp_path / "open", ECHO) as house:
        rung = await send(house, asked, {})
        assert "<Stream" in rung.text
        assert rung.text.count("keepCallAlive") == 1
