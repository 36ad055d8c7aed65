"""Live calls that are passed on: what carriers are asked, what they ask us, who comes back."""

from __future__ import annotations

import asyncio
import json
import xml.etree.ElementTree as ET
from pathlib import Path
from urllib.parse import parse_qs

import pytest

from flowcat_server.core import ended
from tests.fakes.carrier_api import Api
from tests.fakes.doors import PUBLIC, Doors, doors
from tests.fakes.peers import (
    Bandwidth,
    Exotel,
    Jambonz,
    Peer,
    Plivo,
    SignalWire,
    Telnyx,
    Vobiz,
    Vonage,
    media,
    send,
)
from tests.fakes.switchboard import (
    AGENT,
    asked_next,
    carrier_api,
    leg_event,
    listening,
    live,
    said,
    talking,
    until,
    yaml,
)

# --- what a carrier is asked, and what it asks then -----------------------------------------------

DIALS: list[tuple[Peer, dict[str, str], dict[str, str], dict[str, str]]] = [
    # carrier, what names the call, what says "busy", what says "it was answered and is over"
    (Peer(), {"CallSid": ""}, {"DialCallStatus": "busy"}, {"DialCallStatus": "completed"}),
    (
        SignalWire(), {"CallSid": ""}, {"DialCallStatus": "no-answer"},
        {"DialCallStatus": "completed"},
    ),
    (Plivo(), {"CallUUID": ""}, {"DialStatus": "busy"}, {"DialStatus": "completed"}),
    (Vobiz(), {"CallUUID": ""}, {"DialStatus": "timeout"}, {"DialStatus": "completed"}),
    (Vonage(), {"uuid": ""}, {"status": "busy"}, {"status": "completed"}),
    (
        Jambonz(), {"call_sid": ""}, {"dial_call_status": "failed"},
        {"dial_call_status": "completed"},
    ),
    (
        Bandwidth(), {"eventType": "transferComplete", "callId": ""}, {"cause": "busy"},
        {"cause": "hangup"},
    ),
]  # fmt: skip
each_carrier = pytest.mark.parametrize(
    ("peer", "names", "busy", "over"), DIALS, ids=[peer.name for peer, *_ in DIALS]
)


async def over_address(house: Doors, peer: Peer, api: Api, call: str) -> tuple[str, str]:
    """What the carrier dials with, and the address that it asks when the dial is over."""
    _, _, _, body = api.requests[-1]
    if peer.name in ("twilio", "signalwire"):
        document = parse_qs(body)["Twiml"][0]
    elif peer.name == "vonage":
        (connect,) = body["destination"]["ncco"]
        assert connect["endpoint"] == [{"type": "phone", "number": "15550123"}]
        return "15550123", connect["eventUrl"][0]
    else:
        url = {
            "plivo": lambda: body["aleg_url"],
            "vobiz": lambda: body["aleg_url"],
            "jambonz": lambda: body["call_hook"]["url"],
            "bandwidth": lambda: body["redirectUrl"],
        }[peer.name]()
        rung = await asked_next(house, peer, url, {"call": call})
        assert rung.status == 200, rung
        again = await asked_next(house, peer, url, {"call": call, "n": "2"})
        assert again.status == 403  # a ticket is good for one use
        document = rung.text
    if peer.name == "jambonz":
        dial, hang_up = json.loads(document)
        assert (dial["verb"], hang_up["verb"]) == ("dial", "hangup")
        return dial["target"][0]["number"], dial["actionHook"]["url"]
    verb, after = ET.fromstring(document)
    assert after.tag == "Hangup"
    number = verb.text or "".join(verb.itertext())
    return number, verb.attrib.get("action") or verb.attrib["transferCompleteUrl"]


@each_carrier
async def test_a_caller_whose_transfer_is_not_answered_comes_back_to_the_agent(
    tmp_path: Path, peer: Peer, names: dict[str, str], busy: dict[str, str], over: dict[str, str]
):
    del over
    async with carrier_api() as api, doors(tmp_path, yaml(peer, api)) as house:
        call = peer.new_call()
        named = {name: value or call for name, value in names.items()}
        async with talking(house, peer, call) as (leg, session):
            session.pass_on(session.targets()["desk"])
            await leg.closed()
        await house.settled(0)
        assert session.reason == ended.AGENT_TRANSFERRED
        number, url = await over_address(house, peer, api, call)
        assert number.endswith("15550123")

        rung = await asked_next(house, peer, url, {**named, **busy})
        assert rung.status == 200, rung
        async with media(house, peer, call, peer.place(rung.text)) as leg:
            back = await live(house)
            deaf = asyncio.create_task(listening(leg))
            await said(back, "Nobody is there.")
            assert back.from_number == "+15550100"
            deaf.cancel()
        assert (await asked_next(house, peer, url, {**named, **busy, "n": "2"})).status == 403


@each_carrier
async def test_a_call_that_was_answered_is_over_when_that_is(
    tmp_path: Path, peer: Peer, names: dict[str, str], busy: dict[str, str], over: dict[str, str]
):
    del busy
    async with carrier_api() as api, doors(tmp_path, yaml(peer, api)) as house:
        call = peer.new_call()
        named = {name: value or call for name, value in names.items()}
        async with talking(house, peer, call) as (leg, session):
            session.pass_on(session.targets()["desk"])
            await leg.closed()
        await house.settled(0)
        _, url = await over_address(house, peer, api, call)
        if peer.name == "vonage":  # it tells of the whole life of the leg at this address
            for status in ("started", "ringing", "answered"):
                assert (await asked_next(house, peer, url, {"status": status})).status == 204
        rung = await asked_next(house, peer, url, {**named, **over})
        assert rung.status == 200
        assert "stream" not in rung.text.lower()
        assert "listen" not in rung.text
        assert house.calls.count == 0


async def test_what_the_next_door_refuses(tmp_path: Path):
    peer, other = Peer(), Plivo()
    async with carrier_api() as api, doors(tmp_path, yaml(peer, api)) as house:
        call = peer.new_call()
        async with talking(house, peer, call) as (leg, session):
            session.pass_on(session.targets()["desk"])
            await leg.closed()
        await house.free()
        _, url = await over_address(house, peer, api, call)
        busy = {"CallSid": call, "DialCallStatus": "busy"}
        assert (await asked_next(house, peer, url, busy, sign=False)).status == 403
        forged = url[:-4] + "0000"
        assert (await asked_next(house, peer, forged, busy)).status == 403
        said, _, signature = url.rpartition("/")[2].partition(".")
        for ticket in ("", ".", "x", f"{said}x.{signature}", f"{said}.", f".{signature}"):
            address = f"{PUBLIC}/telephony/next/twilio/token/{ticket}"
            assert (await asked_next(house, peer, address, busy)).status in (403, 404)
        elsewhere = url.replace("/next/twilio/", "/next/plivo/")
        assert (await asked_next(house, other, elsewhere, busy)).status == 403
        house.clock.now += 25 * 3600
        assert (await asked_next(house, peer, url, {**busy, "late": "1"})).status == 403
        assert house.calls.count == 0


async def test_after_a_restart_a_caller_comes_back_to_the_node_that_passed_them_on(tmp_path: Path):
    peer = Peer()
    async with carrier_api() as api, doors(tmp_path, yaml(peer, api)) as house:
        call = peer.new_call()
        async with talking(house, peer, call) as (leg, session):
            session.pass_on(session.targets()["desk"])
            await leg.closed()
        _, url = await over_address(house, peer, api, call)
    async with carrier_api() as api, doors(tmp_path / "2", yaml(peer, api)) as house:
        rung = await asked_next(house, peer, url, {"CallSid": call, "DialCallStatus": "failed"})
        async with media(house, peer, call, peer.place(rung.text)) as leg:
            session = await live(house)
            deaf = asyncio.create_task(listening(leg))
            await said(session, "Nobody is there.")
            deaf.cancel()


# --- Telnyx: the call stays until somebody answers ------------------------------------------------


@pytest.mark.parametrize("answered", [True, False])
async def test_telnyx_tells_whether_the_other_leg_was_answered(tmp_path: Path, *, answered: bool):
    peer = Telnyx()
    async with carrier_api() as api, doors(tmp_path, yaml(peer, api)) as house:
        call = peer.new_call()
        async with talking(house, peer, call) as (leg, session):
            deaf = asyncio.create_task(listening(leg))
            session.pass_on(session.targets()["desk"])
            await until(lambda: bool(api.requests))
            _, path, _, body = api.requests[-1]
            assert path == f"/calls/{call}/actions/transfer"
            assert (body["to"], body["timeout_secs"]) == ("+15550123", 30)
            state = body["target_leg_client_state"]
            early = leg_event("call.initiated", state)
            await send(house, early, peer.sign(early, "", house.clock.now))
            assert session.reason is None
            told = (
                leg_event("call.bridged", state)
                if answered
                else leg_event("call.hangup", state, hangup_cause="user_busy")
            )
            words = asyncio.create_task(said(session, "Nobody is there."))
            await asyncio.sleep(0)
            assert (await send(house, told, peer.sign(told, "", house.clock.now))).status == 204
            if answered:
                words.cancel()
                await house.settled(0)
                assert session.reason == ended.AGENT_TRANSFERRED
            else:
                await words
                assert session.reason is None
            deaf.cancel()


# --- carriers whose flow decides ------------------------------------------------------------------


async def test_exotel_goes_on_with_its_flow(tmp_path: Path):
    peer = Exotel()
    async with carrier_api() as api, doors(tmp_path, yaml(peer, api)) as house:
        call = peer.new_call()
        async with talking(house, peer, call) as (leg, session):
            session.pass_on(session.targets()["desk"])
            await leg.closed()
        await house.settled(0)
        assert (session.reason, api.requests) == (ended.AGENT_TRANSFERRED, [])


# --- failures of the request itself ---------------------------------------------------------------


async def test_a_transfer_that_the_carrier_refuses_is_apologised_for(tmp_path: Path):
    peer = Peer()
    async with carrier_api() as api, doors(tmp_path, yaml(peer, api)) as house:
        api.status = 400
        call = peer.new_call()
        async with talking(house, peer, call) as (leg, session):
            deaf = asyncio.create_task(listening(leg))
            await said(session, "Hello.")
            session.pass_on(session.targets()["desk"])
            await said(session, "Nobody is there.")
            assert session.reason is None
            deaf.cancel()


async def test_a_transfer_without_credentials_is_apologised_for(tmp_path: Path):
    peer = Plivo()
    async with doors(
        tmp_path,
        f"{AGENT}carriers: {{plivo: {{{peer.block}}}}}\nserver: {{public_url: '{PUBLIC}'}}\n",
    ) as house:
        call = peer.new_call()
        async with talking(house, peer, call) as (leg, session):
            deaf = asyncio.create_task(listening(leg))
            await said(session, "Hello.")
            session.pass_on(session.targets()["desk"])
            await said(session, "Nobody is there.")
            deaf.cancel()
