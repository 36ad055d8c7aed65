"""Live calls that are passed on, over carriers' real messages: what they ask us, what they hear."""

from __future__ import annotations

import asyncio
import json
import xml.etree.ElementTree as ET
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlencode

import pytest

from flowcat_server.carriers import bandwidth
from flowcat_server.core import ended, events
from flowcat_server.core.audio import MULAW_8K
from flowcat_server.core.dtmf import KeyListener
from flowcat_server.session import Session
from tests.fakes.carrier_api import Api
from tests.fakes.carrier_api import carrier_api as any_api
from tests.fakes.doors import API_TOKEN, PUBLIC, Doors, doors
from tests.fakes.peers import (
    Asked,
    Bandwidth,
    Exotel,
    Jambonz,
    Leg,
    Peer,
    Place,
    Plivo,
    Rung,
    SignalWire,
    Telnyx,
    Vobiz,
    Vonage,
    media,
    ring,
    send,
)
from tests.fakes.twilio_rest import ACCOUNT
from tests.routes.test_carrier_apis import PEM

AGENT = """
agent:
  graph_inline:
    nodes:
      - id: start
        type: startCall
        data:
          greeting: Hello.
          prompt: Be kind.
          transfer_targets:
            - {name: desk, target_phone: "+15550123", failed: Nobody is there.}
            - {name: ada, target_phone: "+15550124", mode: warm, failed: Ada is away.,
               introduce: "A call for you.", ring: 2s}
    edges: []
topology:
  vad: {provider: scripted}
  stt: {provider: scripted, options: {lines: [hello there], loop: true, delay_ms: 20}}
  llm: {provider: scripted, options: {replies: [I see.], loop: true, first_token_ms: 10}}
  tts: {provider: scripted, options: {first_audio_ms: 10, ms_per_char: 10}}
"""

CREDENTIALS: Mapping[str, str] = {
    "twilio": f"account_sid: {ACCOUNT}",
    "signalwire": "project_id: p, api_token: t",
    "telnyx": "api_key: KEY, connection_id: '1', from_number: '+15550199'",
    "plivo": "auth_id: MA1",
    "vobiz": "auth_id: MA1",
    "vonage": f"application_id: app-1, private_key: {json.dumps(PEM)}",
    "jambonz": "account_sid: a, api_key: k, application_sid: s",
    "bandwidth": "account_id: '9', client_id: c, client_secret: s, application_id: app",
}


@asynccontextmanager
async def carrier_api() -> AsyncIterator[Api]:
    """A carrier's API, which also grants Bandwidth's tokens."""
    async with any_api() as api:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(bandwidth, "TOKEN_URL", f"{api.url}/oauth2/token")
            api.answer = {"access_token": "bearer"}
            yield api


async def until(true: Callable[[], bool], *, within_s: float = 5.0) -> None:
    async with asyncio.timeout(within_s):
        while not true():  # noqa: ASYNC110 - a test looks from outside
            await asyncio.sleep(0.01)


def yaml(peer: Peer, api: Api) -> str:
    credentials = CREDENTIALS.get(peer.name, "")
    address = f", api_url: '{api.url}'" if credentials else ""
    block = f"{peer.block}{address}{', ' if credentials else ''}{credentials}"
    return f"{AGENT}carriers: {{{peer.name}: {{{block}}}}}\nserver: {{public_url: '{PUBLIC}'}}\n"


async def live(house: Doors) -> Session:
    await house.settled(1)
    (session,) = house.calls.live.values()
    return session


async def said(session: Session, text: str, *, within_s: float = 5.0) -> None:
    """Wait until the agent has said something, from now on."""
    heard = asyncio.Event()

    def listen(event: events.CallEvent) -> None:
        if isinstance(event, events.AgentHeard) and text in event.text:
            heard.set()

    session.subscribe(listen)
    async with asyncio.timeout(within_s):
        await heard.wait()


async def listening(leg: Leg) -> None:
    """The far end plays what it is sent, and answers marks."""
    async for message in leg.socket:
        fields = json.loads(message.data) if isinstance(message.data, str) else {}
        if fields.get("event") == "mark":
            await leg.send(json.dumps({"event": "mark", "mark": fields["mark"]}))
        elif fields.get("event") == "checkpoint":
            await leg.send(json.dumps({"event": "playedStream", "name": fields["name"]}))
        elif fields.get("action") == "notify":
            fields = {"event": "websocket:notify", "payload": fields["payload"]}
            await leg.send(json.dumps(fields))
        elif fields.get("type") == "mark":
            data = {**fields["data"], "event": "playout"}
            await leg.send(json.dumps({"type": "mark", "data": data}))


async def asked_next(
    house: Doors, peer: Peer, url: str, fields: Mapping[str, str], *, sign: bool = True
) -> Rung:
    """The carrier asks an address that it has been given."""
    assert url.startswith(PUBLIC)
    path = url.removeprefix(PUBLIC)
    if peer.name in ("vonage", "jambonz", "bandwidth", "telnyx"):
        body = json.dumps(fields, separators=(",", ":")).encode()
        asked = Asked("POST", path, body, "application/json")
    else:
        body = urlencode(fields).encode()
        asked = Asked("POST", path, body, "application/x-www-form-urlencoded")
    headers = peer.sign(asked, url, house.clock.now) if sign else {}
    return await send(house, asked, headers)


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
        rung = await ring(house, peer, call)
        async with media(house, peer, call, peer.place(rung.text)) as leg:
            session = await live(house)
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
        rung = await ring(house, peer, call)
        async with media(house, peer, call, peer.place(rung.text)) as leg:
            session = await live(house)
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
        rung = await ring(house, peer, call)
        async with media(house, peer, call, peer.place(rung.text)) as leg:
            session = await live(house)
            session.pass_on(session.targets()["desk"])
            await leg.closed()
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
        rung = await ring(house, peer, call)
        async with media(house, peer, call, peer.place(rung.text)) as leg:
            session = await live(house)
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


def leg_event(kind: str, state: str, **more: str) -> Asked:
    payload = {"call_control_id": "v3:leg-b", "client_state": state, **more}
    body = json.dumps({"data": {"event_type": kind, "id": kind, "payload": payload}})
    return Asked("POST", "/telephony/answer/telnyx", body.encode(), "application/json")


@pytest.mark.parametrize("answered", [True, False])
async def test_telnyx_tells_whether_the_other_leg_was_answered(tmp_path: Path, *, answered: bool):
    peer = Telnyx()
    async with carrier_api() as api, doors(tmp_path, yaml(peer, api)) as house:
        call = peer.new_call()
        rung = await ring(house, peer, call)
        async with media(house, peer, call, peer.place(rung.text)) as leg:
            session = await live(house)
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
        rung = await ring(house, peer, call)
        async with media(house, peer, call, peer.place(rung.text)) as leg:
            session = await live(house)
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
        rung = await ring(house, peer, call)
        async with media(house, peer, call, peer.place(rung.text)) as leg:
            session = await live(house)
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
        rung = await ring(house, peer, call)
        async with media(house, peer, call, peer.place(rung.text)) as leg:
            session = await live(house)
            deaf = asyncio.create_task(listening(leg))
            await said(session, "Hello.")
            session.pass_on(session.targets()["desk"])
            await said(session, "Nobody is there.")
            deaf.cancel()


# --- warm: a colleague is asked first -------------------------------------------------------------


class Colleague:
    """Who is called, as their carrier has them."""

    def __init__(self, house: Doors, peer: Peer, api: Api) -> None:
        self.house, self.peer, self.api = house, peer, api
        self.call = peer.new_call()
        api.answer = {
            "sid": self.call,
            "request_uuid": self.call,
            "uuid": self.call,
            "callId": self.call,
            "access_token": "bearer",
            "data": {"call_control_id": self.call},
        }

    async def dialled(self) -> dict[str, Any]:
        """The request that had them called, as fields."""
        await until(lambda: self._dial() is not None)
        found = self._dial()
        assert found is not None
        return found

    def _dial(self) -> dict[str, Any] | None:
        asked = ("Url", "answer_url", "answerUrl", "webhook_url")
        for _, path, _, body in self.api.requests:
            fields = dict(parse_qsl(body)) if isinstance(body, str) else body
            if any(fields.get(name) for name in asked) or path.endswith("/Calls"):
                return fields
        return None

    async def answers(self) -> Place:
        """They pick up: the carrier asks what to do with them."""
        fields = await self.dialled()
        url = (
            fields.get("Url") or fields.get("answer_url") or fields.get("answerUrl")
            or fields.get("webhook_url") or fields["call_hook"]["url"]
        )  # fmt: skip
        url = url[0] if isinstance(url, list) else url
        asked = self.peer.webhook(self.call)
        asked = replace(asked, path=url.removeprefix(PUBLIC))
        if self.peer.name == "telnyx":
            payload = {"call_control_id": self.call, "client_state": fields["client_state"]}
            body = {"data": {"event_type": "call.answered", "id": "1", "payload": payload}}
            asked = replace(asked, body=json.dumps(body).encode(), content_type="application/json")
        rung = await send(self.house, asked, self.peer.sign(asked, url, self.house.clock.now))
        assert rung.status == 200, rung
        if self.peer.name == "telnyx":
            return Place(self.api.requests[-1][3]["stream_url"])
        return self.peer.place(rung.text)


WARM: list[Peer] = [Peer(), SignalWire(), Plivo(), Vonage(), Jambonz(), Bandwidth(), Telnyx()]


@pytest.mark.parametrize("peer", WARM, ids=[peer.name for peer in WARM])
async def test_a_colleague_hears_the_introduction_takes_the_call_and_both_are_connected(
    tmp_path: Path, peer: Peer
):
    async with carrier_api() as api, doors(tmp_path, warm_yaml(peer, api)) as house:
        colleague = Colleague(house, peer, api)
        call = peer.new_call()
        rung = await ring(house, peer, call)
        async with media(house, peer, call, peer.place(rung.text)) as leg:
            session = await live(house)
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


def warm_yaml(peer: Peer, api: Api) -> str:
    text = yaml(peer, api)
    if peer.name in ("signalwire", "plivo", "vonage", "jambonz", "bandwidth", "twilio"):
        text = text.replace(f"{peer.name}: {{", f"{peer.name}: {{from_number: '+15550199', ")
    return text


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
        rung = await ring(house, peer, call)
        async with media(house, peer, call, peer.place(rung.text)) as leg:
            session = await live(house)
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
        rung = await ring(house, peer, call)
        async with media(house, peer, call, peer.place(rung.text)):
            session = await live(house)
            session.pass_on(session.targets()["ada"])
            await colleague.dialled()
            await asyncio.sleep(0.1)
        await house.settled(0)
        await until(lambda: api.requests[-1][1].endswith(f"/Calls/{colleague.call}.json"))
        assert "completed" in api.requests[-1][3]


# --- keys -----------------------------------------------------------------------------------------


class Ear:
    """All that a far end is sent."""

    def __init__(self, leg: Leg, peer: Peer) -> None:
        self.leg, self.peer = leg, peer
        self.sound = b""
        self.texts: list[dict[str, Any]] = []

    async def listen(self) -> None:
        async for message in self.leg.socket:
            self.sound += self.peer.heard(message.data)
            if isinstance(message.data, str):
                self.texts.append(json.loads(message.data))
                if self.texts[-1].get("event") == "mark":
                    mark = {"event": "mark", "mark": self.texts[-1]["mark"]}
                    await self.leg.send(json.dumps(mark))


async def test_keys_go_out_as_each_carrier_takes_them(tmp_path: Path):
    for peer in (Telnyx(), Vonage(), Plivo(), SignalWire(), Peer()):
        async with carrier_api() as api, doors(tmp_path / peer.name, yaml(peer, api)) as house:
            call = peer.new_call()
            rung = await ring(house, peer, call)
            async with media(house, peer, call, peer.place(rung.text)) as leg:
                session = await live(house)
                pressed = asyncio.create_task(said(session, "[keys: 4 2 #]"))
                await asyncio.sleep(0)
                ear = Ear(leg, peer)
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
                digits = [text["dtmf"]["digit"] for text in ear.texts if text["event"] == "dtmf"]
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
        rung = await ring(house, peer, call)
        async with media(house, peer, call, peer.place(rung.text)) as leg:
            session = await live(house)
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
