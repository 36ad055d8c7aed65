"""Warm transfers: a colleague is called and asked first."""

from __future__ import annotations

import asyncio
import json
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode

import pytest

from flowcat_server.core import ended
from tests.fakes.doors import PUBLIC, Doors, doors
from tests.fakes.peers import (
    Asked,
    Bandwidth,
    Jambonz,
    Peer,
    Plivo,
    SignalWire,
    Telnyx,
    Vonage,
    media,
    send,
)
from tests.fakes.switchboard import (
    Colleague,
    asked_next,
    carrier_api,
    listening,
    said,
    talking,
    until,
    warm_yaml,
)

WARM: list[Peer] = [Peer(), SignalWire(), Plivo(), Vonage(), Jambonz(), Bandwidth(), Telnyx()]


@pytest.mark.parametrize("peer", WARM, ids=[peer.name for peer in WARM])
async def test_a_colleague_hears_the_introduction_takes_the_call_and_both_are_connected(
    tmp_path: Path, peer: Peer
):
    async with carrier_api() as api, doors(tmp_path, warm_yaml(peer, api)) as house:
        colleague = Colleague(house, peer, api)
        call = peer.new_call()
        async with talking(house, peer, call) as (leg, session):
            session.pass_on(session.targets()["ada"])
            place = await colleague.answers()
            deaf = [asyncio.create_task(listening(leg))]
            async with media(house, peer, colleague.call, place) as other:
                deaf.append(asyncio.create_task(listening(other)))
                await house.settled(2)
                second = next(each for each in house.calls.live.values() if each is not session)
                await said(second, "A call for you.")
                before = len(api.requests)
                second.receive_digit("1")
                await house.settled(0)
        for task in deaf:
            task.cancel()
        assert session.reason == second.reason == ended.AGENT_TRANSFERRED
        moves = [request for request in api.requests[before:] if "oauth" not in request[1]]
        paths = " ".join(path for _, path, _, _ in moves)
        assert call in paths
        await check_joined(house, peer, moves, call, colleague.call)


async def check_joined(
    house: Doors, peer: Peer, moves: list[Any], call: str, colleague: str
) -> None:
    """Both are where they hear each other."""
    if peer.name == "telnyx":
        ((_, path, _, body),) = moves
        assert (path, body) == (f"/calls/{call}/actions/bridge", {"call_control_id": colleague})
        return
    rooms = []
    for _, path, _, body in moves:
        if peer.name in ("twilio", "signalwire"):
            dial = ET.fromstring(parse_qs(body)["Twiml"][0])[0]
            assert dial[0].attrib["endConferenceOnExit"] == "true"
            rooms.append((path, dial[0].text))
        elif peer.name == "vonage":
            (action,) = body["destination"]["ncco"]
            assert (action["action"], action["endOnExit"]) == ("conversation", True)
            rooms.append((path, action["name"]))
        else:
            url = body.get("aleg_url") or body.get("redirectUrl") or body["call_hook"]["url"]
            rung = await asked_next(house, peer, url, {"call": path})
            assert rung.status == 200
            if peer.name == "bandwidth":
                bridge = ET.fromstring(rung.text)[0]
                assert (bridge.tag, bridge.text) == ("Bridge", colleague)
                return
            name = (
                json.loads(rung.text)[0]["name"]
                if peer.name == "jambonz"
                else ET.fromstring(rung.text)[0].text
            )
            rooms.append((path, name))
    (first, room), (second, same) = rooms
    assert colleague in first
    assert call in second
    assert room == same


REFUSALS = ["nobody answers", "hangs up", "says nothing", "cannot be dialled", "cannot be joined"]


@pytest.mark.parametrize("how", REFUSALS)
async def test_a_caller_whose_colleague_does_not_take_the_call_is_told(
    tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("flowcat_server.introduction.DECIDES_MS", 200)
    monkeypatch.setattr("flowcat_server.routes.control.GRACE_S", 0.1)
    monkeypatch.setattr("flowcat_server.routes.control.INTRODUCTION_S", 3.0)
    peer = Peer()
    async with carrier_api() as api, doors(tmp_path, warm_yaml(peer, api)) as house:
        colleague = Colleague(house, peer, api)
        if how == "cannot be dialled":
            api.status = 400
        call = peer.new_call()
        async with talking(house, peer, call) as (leg, session):
            deaf = [asyncio.create_task(listening(leg))]
            await said(session, "Hello.")
            session.pass_on(session.targets()["ada"])
            words = asyncio.create_task(said(session, "Ada is away.", within_s=10))
            await asyncio.sleep(0)
            if how == "nobody answers":
                await colleague.dialled()
                report = Asked(
                    "POST", "/telephony/status/twilio",
                    urlencode({"CallSid": colleague.call, "CallStatus": "no-answer"}).encode(),
                    "application/x-www-form-urlencoded",
                )  # fmt: skip
                headers = peer.sign(report, PUBLIC + report.path, house.clock.now)
                await asyncio.sleep(0.1)
                assert (await send(house, report, headers)).status == 204
            elif how != "cannot be dialled":
                place = await colleague.answers()
                async with media(house, peer, colleague.call, place) as other:
                    await house.settled(2)
                    second = next(each for each in house.calls.live.values() if each is not session)
                    deaf.append(asyncio.create_task(listening(other)))
                    if how == "cannot be joined":
                        api.status = 400
                        second.receive_digit("1")
                    if how != "hangs up":
                        await words
            await words
            assert session.reason is None
            await house.settled(1)
            for task in deaf:
                task.cancel()


async def test_a_caller_who_hangs_up_while_a_colleague_is_called_leaves_nobody_ringing(
    tmp_path: Path,
):
    peer = Peer()
    async with carrier_api() as api, doors(tmp_path, warm_yaml(peer, api)) as house:
        colleague = Colleague(house, peer, api)
        call = peer.new_call()
        async with talking(house, peer, call) as (_, session):
            session.pass_on(session.targets()["ada"])
            await colleague.dialled()
            await asyncio.sleep(0.1)
        await house.settled(0)
        await until(lambda: api.requests[-1][1].endswith(f"/Calls/{colleague.call}.json"))
        assert "completed" in api.requests[-1][3]
