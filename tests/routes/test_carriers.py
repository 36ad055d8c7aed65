"""Every carrier's doors: whole calls, and who is let in to make them."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest

from flowcat_server import carriers
from flowcat_server.core import ended
from tests.fakes.doors import ECHO, PUBLIC, Doors, doors
from tests.fakes.peers import PEERS, SWITCHES, Peer, Place, media, path_of, ring, send

POLICY_VIOLATION = 1008

every = pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.name)


def test_every_carrier_with_a_webhook_is_tried_here():
    asked = {name for name in carriers.names() if carriers.find(name).has_webhook}  # type: ignore[union-attr]
    assert asked == {peer.name for peer in PEERS}


async def place_of(house: Doors, peer: Peer, call: str, run_id: str = "") -> Place:
    rung = await ring(house, peer, call, run_id)
    assert rung.status == 200, rung
    return peer.place(rung.text)


# --- calls ----------------------------------------------------------------------------------------


@every
async def test_a_whole_call(tmp_path: Path, peer: Peer):
    async with doors(tmp_path, peer.yaml) as house:
        call = peer.new_call()
        place = await place_of(house, peer, call, "run-7")
        assert place.url.startswith(f"wss://voice.example/telephony/ws/{peer.name}/run-7")
        assert house.calls.count == 1
        async with media(house, peer, call, place) as leg:
            await leg.say(peer.frame)
            heard = await leg.hears(len(peer.frame))
            assert heard[: len(peer.frame)] == peer.frame
            await house.settled(1)
            (session,) = house.calls.live.values()
        await house.settled(0)
        assert session.reason == ended.CALLER_HUNG_UP
        record = await house.store.get_call(session.id)
        assert record is not None
        assert record.summary.channel == peer.name
        assert record.summary.external_id == call
        assert record.summary.from_number == "+15550100"
        assert record.variables["run_id"] == "run-7"


@every
async def test_when_full_the_next_caller_hears_so_and_nothing_is_spent(tmp_path: Path, peer: Peer):
    async with doors(tmp_path, peer.yaml + "limits: {max_calls: 1}\n") as house:
        await place_of(house, peer, peer.new_call())
        rung = await ring(house, peer, peer.new_call())
        assert peer.is_busy(rung.status, rung.text), rung
        assert house.calls.count == 1


# --- webhooks -------------------------------------------------------------------------------------


@every
async def test_without_credentials_only_this_machine_is_served(tmp_path: Path, peer: Peer):
    async with doors(tmp_path, ECHO) as house:
        asked = peer.webhook(peer.new_call())
        for headers in ({"Host": "voice.example"}, {"X-Forwarded-For": "127.0.0.1"}):
            assert (await send(house, asked, headers)).status == 403
        assert (await send(house, asked, {})).status == 200


@every
async def test_addresses_that_are_not_allowed_are_refused(tmp_path: Path, peer: Peer):
    for allowed, status in (("192.0.2.0/24", 403), ("127.0.0.0/8", 200)):
        yaml = peer.yaml.replace(peer.block, f"{peer.block}, allow_from: ['{allowed}']")
        async with doors(tmp_path, yaml) as house:
            assert (await ring(house, peer, peer.new_call())).status == status


@every
async def test_a_webhook_that_names_no_usable_call_is_refused(tmp_path: Path, peer: Peer):
    async with doors(tmp_path, peer.yaml) as house:
        for call in ("", "x" * 129, "a b", "../x", "<b>", "a\n"):
            assert (await ring(house, peer, call)).status == 400, call
        assert house.calls.count == 0


# --- sockets --------------------------------------------------------------------------------------


async def refused(house: Doors, peer: Peer, call: str, place: Place) -> None:
    before = house.calls.count
    async with media(house, peer, call, place) as leg:
        assert await leg.closed() == POLICY_VIOLATION
    assert house.calls.count == before
    assert not house.calls.live


@every
async def test_a_socket_without_a_token_needs_a_handshake_that_proves_it(
    tmp_path: Path, peer: Peer
):
    async with doors(tmp_path, peer.yaml) as house:
        place = Place(f"/telephony/ws/{peer.name}")
        if not peer.socket_headers:
            await refused(house, peer, peer.new_call(), place)
            return
        for headers in ({}, {"Authorization": "Basic Zm9vOmJhcg=="}):
            with pytest.raises(aiohttp.WSServerHandshakeError) as error:
                await house.client.ws_connect(house.url + path_of(place), headers=headers)
            assert error.value.status == 401
        async with media(house, peer, peer.new_call(), place) as leg:
            await leg.say(peer.frame)
            assert (await leg.hears(len(peer.frame)))[: len(peer.frame)] == peer.frame


@every
async def test_a_socket_in_a_strangers_hands_is_closed_without_harm(tmp_path: Path, peer: Peer):
    async with doors(tmp_path, peer.yaml) as house:
        call = peer.new_call()
        place = await place_of(house, peer, call)
        async with media(house, peer, call, place) as good:
            await house.settled(1)
            other = peer.new_call()
            async with media(house, peer, other, await place_of(house, peer, other)) as bad:
                await house.settled(2)
                for _ in range(600):
                    await bad.socket.send_str("[" * 100)
                assert await bad.closed() in (1000, 1002, 1008)
            await house.settled(1)
            await good.say(peer.frame)
            assert (await good.hears(len(peer.frame)))[: len(peer.frame)] == peer.frame


@pytest.mark.parametrize("peer", SWITCHES, ids=lambda peer: peer.name)
async def test_a_switch_that_asks_nothing_proves_itself_in_the_handshake(
    tmp_path: Path, peer: Peer
):
    async with doors(tmp_path, peer.yaml) as house:
        place = Place(f"/telephony/ws/{peer.name}")
        for headers in ({}, {"Authorization": "Basic Zm9vOmJhcg=="}):
            with pytest.raises(aiohttp.WSServerHandshakeError) as error:
                await house.client.ws_connect(house.url + path_of(place), headers=headers)
            assert error.value.status == 401
        call = peer.new_call()
        async with media(house, peer, call, place) as leg:
            assert leg.socket.protocol == (peer.subprotocols[0] if peer.subprotocols else None)
            await leg.say(peer.frame)
            assert (await leg.hears(len(peer.frame)))[: len(peer.frame)] == peer.frame
            (session,) = house.calls.live.values()
        await house.settled(0)
        record = await house.store.get_call(session.id)
        assert record is not None
        assert record.summary.external_id == call
        async with house.client.post(f"{house.url}/telephony/answer/{peer.name}") as response:
            assert response.status == 404
    async with doors(tmp_path / "open", ECHO) as house:
        with pytest.raises(aiohttp.WSServerHandshakeError) as error:
            await house.client.ws_connect(
                house.url + path_of(place), headers={"Host": "voice.example", **peer.socket_headers}
            )
        assert error.value.status == 403


@pytest.mark.parametrize("peer", SWITCHES, ids=lambda peer: peer.name)
async def test_a_switch_is_turned_away_in_its_own_words_when_full(tmp_path: Path, peer: Peer):
    async with doors(tmp_path, peer.yaml + "limits: {max_calls: 1}\n") as house:
        place = Place(f"/telephony/ws/{peer.name}")
        async with media(house, peer, peer.new_call(), place):
            await house.settled(1)
            async with media(house, peer, peer.new_call(), place) as late:
                first = await late.socket.receive()
                assert "HANGUP" in first.data or "disconnect" in first.data
                assert await late.closed() == 1013


# --- the end --------------------------------------------------------------------------------------


async def test_a_status_callback_ends_the_call_whose_socket_does_not(tmp_path: Path):
    peer = PEERS[0]
    async with doors(tmp_path, peer.yaml) as house:
        call = peer.new_call()
        place = await place_of(house, peer, call)
        async with media(house, peer, call, place) as leg:
            await house.settled(1)
            (session,) = house.calls.live.values()
            for status in ("in-progress", "nonsense", "completed"):
                assert session.reason is None
                asked = replace(
                    peer.webhook(call, CallStatus=status), path="/telephony/status/twilio"
                )
                headers = peer.sign(asked, PUBLIC + asked.path, 0)
                assert (await send(house, asked, headers)).status == 204
                await asyncio.sleep(0)
            assert session.reason == ended.CALLER_HUNG_UP
            await leg.closed()


async def test_a_call_that_ended_before_its_socket_gives_its_place_back(tmp_path: Path):
    peer = PEERS[0]
    async with doors(tmp_path, peer.yaml) as house:
        call = peer.new_call()
        await place_of(house, peer, call)
        assert house.calls.count == 1
        asked = replace(peer.webhook(call, CallStatus="canceled"), path="/telephony/status/twilio")
        assert (await send(house, asked, {})).status == 403
        assert house.calls.count == 1
        await send(house, asked, peer.sign(asked, PUBLIC + asked.path, 0))
        assert house.calls.count == 0


async def test_unknown_carriers_are_named_as_such(tmp_path: Path):
    async with doors(tmp_path, ECHO) as house:
        for path in ("answer/nobody", "ws/nobody", "status/nobody", "answer/_twilio"):
            async with house.client.get(f"{house.url}/telephony/{path}") as response:
                assert response.status == 404
                assert "twilio" in await response.text()
