"""Calls that the server makes: asked for, dialled, followed, answered, given up."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from flowcat_server.carriers import bandwidth
from flowcat_server.core import ended
from flowcat_server.routes import placed
from tests.fakes.dialler import OURS, TO, Dialler, dialler
from tests.fakes.doors import API_TOKEN, PUBLIC, Doors, doors
from tests.fakes.peers import (
    Bandwidth,
    Cloudonix,
    Exotel,
    Jambonz,
    Peer,
    Plivo,
    SignalWire,
    Telnyx,
    Vobiz,
    Vonage,
)
from tests.fakes.rsa_key import PEM

KEYS: dict[str, dict[str, str]] = {
    "twilio": {"account_sid": "AC" + "1" * 32},
    "signalwire": {"space": "x.signalwire.com", "project_id": "p", "api_token": "t"},
    "telnyx": {"api_key": "KEY", "connection_id": "c1"},
    "plivo": {"auth_id": "MA1"},
    "vonage": {"application_id": "app-1", "private_key": PEM},
    "cloudonix": {"domain": "d", "api_token": "t"},
    "vobiz": {"auth_id": "MA1"},
    "jambonz": {"account_sid": "a", "api_key": "k", "application_sid": "app"},
    "bandwidth": {
        "account_id": "9", "client_id": "c", "client_secret": "s", "application_id": "app",
    },
    "exotel": {"account_sid": "x1", "api_key": "k", "api_token": "t"},
}  # fmt: skip
PEERS = [
    Peer(), SignalWire(), Telnyx(), Plivo(), Vonage(), Cloudonix(), Vobiz(), Jambonz(),
    Bandwidth(), Exotel(),
]  # fmt: skip
every = pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.name)
ALLOW = "outbound: {allow: ['+1555*'], deny: ['+15559*'], ring_timeout: 5s}\n"


@asynccontextmanager
async def dialling(
    folder: Path, peer: Peer | None = None, rules: str = ALLOW, **keys: str
) -> AsyncIterator[tuple[Doors, Dialler]]:
    """A server that may call, and the carrier that it asks."""
    peer = peer or Peer()
    async with dialler(peer) as api:
        more = {**KEYS[peer.name], "from_number": OURS, "api_url": api.url, **keys}
        extra = ", ".join(f"{name}: {json.dumps(value)}" for name, value in more.items())
        yaml = peer.yaml.replace(peer.block, f"{peer.block}, {extra}") + rules
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(bandwidth, "TOKEN_URL", f"{api.url}/api/v1/oauth2/token")
            async with doors(folder, yaml) as house:
                api.house = house
                yield house, api


async def ask(house: Doors, key: str = "", **body: Any) -> tuple[int, dict[str, Any]]:
    """Ask for a call, from this machine."""
    headers = {"Idempotency-Key": key} if key else {}
    async with house.client.post(
        house.url + "/api/calls", json={"to": TO, **body}, headers=headers
    ) as response:
        return response.status, await response.json()


async def shown(house: Doors, call_id: str) -> dict[str, Any]:
    async with house.client.get(f"{house.url}/api/calls/{call_id}") as response:
        assert response.status == 200
        return dict(await response.json())


async def becomes(house: Doors, call_id: str, status: str) -> dict[str, Any]:
    """Wait until a call has come so far."""
    async with asyncio.timeout(5):
        while True:
            call = await shown(house, call_id)
            if call["call"]["status"] == status:
                return call
            await asyncio.sleep(0.01)


WORDS: dict[str, dict[str, dict[str, str]]] = {
    "twilio": {
        "ringing": {"CallStatus": "ringing"},
        "busy": {"CallStatus": "busy"},
        "no-answer": {"CallStatus": "no-answer"},
        "failed": {"CallStatus": "failed", "SipResponseCode": "404"},
        "completed": {"CallStatus": "completed"},
    },
    "plivo": {
        "ringing": {"CallStatus": "ringing", "Event": "Ring"},
        "busy": {"CallStatus": "busy"},
        "no-answer": {"CallStatus": "timeout"},
        "failed": {"CallStatus": "failed", "HangupCauseName": "404"},
        "completed": {"CallStatus": "completed"},
    },
    "vonage": {
        "ringing": {"status": "ringing"},
        "busy": {"status": "busy"},
        "no-answer": {"status": "unanswered"},
        "failed": {"status": "failed", "detail": "404"},
        "completed": {"status": "completed"},
    },
    "telnyx": {
        "ringing": {"event_type": "call.ringing"},
        "busy": {"event_type": "call.hangup", "hangup_cause": "user_busy"},
        "no-answer": {"event_type": "call.hangup", "hangup_cause": "timeout"},
        "failed": {"event_type": "call.hangup", "hangup_cause": "404"},
        "completed": {"event_type": "call.hangup", "hangup_cause": "normal_clearing"},
    },
}
WORDS["signalwire"] = WORDS["twilio"]
WORDS["vobiz"] = WORDS["plivo"]
WORDS["cloudonix"] = WORDS["twilio"]
WORDS["jambonz"] = {
    status: {"call_status": word, "sip_reason": "404"}
    for status, word in {
        "ringing": "ringing", "busy": "busy", "no-answer": "no-answer", "failed": "failed",
        "completed": "completed",
    }.items()
}  # fmt: skip
WORDS["exotel"] = {
    "ringing": {"EventType": "ringing"},
    "busy": {"Status": "busy"},
    "no-answer": {"Status": "no-answer"},
    "failed": {"Status": "failed"},
    "completed": {"Status": "completed"},
}
WORDS["bandwidth"] = {
    status: {"eventType": "disconnect", "cause": cause}
    for status, cause in {
        "busy": "busy", "no-answer": "timeout", "failed": "404", "completed": "hangup",
    }.items()
}  # fmt: skip


# --- a call is made -------------------------------------------------------------------------------


@every
async def test_a_call_rings_is_answered_and_ends(tmp_path: Path, peer: Peer):
    async with dialling(tmp_path, peer) as (house, api):
        status, made = await ask(house, variables={"name": "Ada"})
        assert (status, made["status"], made["carrier"]) == (201, "dialling", peer.name)
        call_id = made["id"]
        assert house.calls.count == 1
        rings = "ringing" in WORDS[peer.name]
        if rings:
            await api.reports(**WORDS[peer.name]["ringing"])
            assert (await becomes(house, call_id, "ringing"))["call"]["live"]
        async with api.talks() as leg:
            await house.settled(1)
            assert (await becomes(house, call_id, "answered"))["call"]["live"]
            (session,) = house.calls.live.values()
            assert session.id == call_id
            await leg.say(peer.frame)
            heard = await leg.hears(len(peer.frame))
            assert heard[: len(peer.frame)] == peer.frame  # the last piece may be filled up
        await house.settled(0)
        await house.free()
        call = await becomes(house, call_id, "completed")
        kept = call["call"]
        assert (kept["direction"], kept["from"], kept["to"]) == ("outbound", OURS, TO)
        assert kept["external_id"] == api.call
        assert kept["ended_reason"] == ended.CALLER_HUNG_UP
        assert kept["dialled_at"] <= kept["accepted_at"]
        assert call["variables"]["name"] == "Ada"
        told = [e["status"] for e in call["events"] if e["type"] == "call_progress"]
        assert told == ["dialling", *(["ringing"] if rings else []), "answered"]
        metrics = house.metrics.render()[0].decode()
        line = f'flowcat_outbound_calls_total{{carrier="{peer.name}",status="answered"}} 1.0'
        assert line in metrics


@every
@pytest.mark.parametrize(
    ("status", "reason"),
    [
        ("busy", ended.CALLEE_BUSY),
        ("no-answer", ended.CALLEE_NO_ANSWER),
        ("failed", ended.CALLEE_FAILED),
    ],
)
async def test_a_call_that_nobody_takes_gives_its_place_back_and_says_why(
    tmp_path: Path, peer: Peer, status: str, reason: str
):
    async with dialling(tmp_path, peer) as (house, api):
        _, made = await ask(house)
        assert house.calls.count == 1
        await api.reports(**WORDS[peer.name][status])
        assert house.calls.count == 0
        kept = (await becomes(house, made["id"], status))["call"]
        assert (kept["ended_reason"], kept["duration_ms"], kept["live"]) == (reason, 0, False)
        if status == "failed" and peer.name not in ("exotel", "cloudonix"):  # they say no more
            assert kept["ended_detail"] == "404"
        late = WORDS[peer.name].get("ringing", WORDS[peer.name]["completed"])
        await api.reports(**late)
        assert (await shown(house, made["id"]))["call"]["status"] == status
        assert [path for _, path, _ in api.others if not path.endswith("/token")] == []


async def test_the_form_says_what_twilio_has_to_know(tmp_path: Path):
    async with dialling(tmp_path) as (house, api):
        _, made = await ask(house, timeout="20s")
        (dialled,) = api.dials
        assert dialled.path == f"/Accounts/AC{'1' * 32}/Calls.json"
        assert dialled.fields == {
            "To": TO,
            "From": OURS,
            "Url": f"{PUBLIC}/telephony/answer/twilio/out-{made['id']}",
            "Method": "POST",
            "StatusCallback": f"{PUBLIC}/telephony/status/twilio/out-{made['id']}",
            "StatusCallbackMethod": "POST",
            "StatusCallbackEvent": "initiated,ringing,answered,completed",
            "Timeout": "20",
            "TimeLimit": "1860",
            "MachineDetection": "Enable",
            "AsyncAmd": "true",
            "AsyncAmdStatusCallback": f"{PUBLIC}/telephony/status/twilio/out-{made['id']}",
            "AsyncAmdStatusCallbackMethod": "POST",
        }


async def test_without_detection_the_carrier_is_not_asked_for_it(tmp_path: Path):
    async with dialling(tmp_path) as (house, api):
        await ask(house, machine={"detect": "own"})
        assert "MachineDetection" not in api.dials[-1].fields
        await ask(house, machine={"on_machine": "leave_message", "message": "Hello {{name}}."})
        assert api.dials[-1].fields["MachineDetection"] == "DetectMessageEnd"


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "status", "error", "said"),
    [
        ({"to": "5550100"}, 422, "number_invalid", "to: '5550100' is no number in E.164"),
        ({"to": "+1555"}, 422, "number_invalid", "E.164"),
        ({"to": "+1 555 0100"}, 422, "number_invalid", "E.164"),
        ({"to": "+44207123456"}, 403, "number_not_allowed", "outbound.allow: +1555*"),
        ({"to": "+15559123456"}, 403, "number_not_allowed", "outbound.deny: +15559*"),
        ({"from": "anonymous"}, 422, "number_invalid", "from: 'anonymous'"),
        ({"carrier": "asterisk"}, 422, "carrier_unknown", "these do: bandwidth"),
        ({"carrier": "plivo"}, 409, "no_credentials", "carriers.plivo.auth_id and"),
        ({"agent": "nobody"}, 422, "agent_unknown", "there are: test"),
        ({"variables": {"_x": 1}}, 422, "invalid_request", "variables._x"),
        ({"variables": []}, 422, "invalid_request", "variables"),
        ({"machine": {"on_machine": "leave_message"}}, 422, "invalid_request", "needs a message"),
        ({"machine": {"on_machine": "shout"}}, 422, "invalid_request", "machine.on_machine"),
        ({"timeout": "1s"}, 422, "invalid_request", "timeout"),
        ({"tow": "x"}, 422, "invalid_request", "tow"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
async def test_what_cannot_be_done_is_said_and_costs_nothing(
    tmp_path: Path, body: dict[str, Any], status: int, error: str, said: str
):
    async with dialling(tmp_path) as (house, api):
        found, answer = await ask(house, **body)
        assert (found, answer["error"]) == (status, error)
        assert said in answer["message"]
        assert (api.dials, house.calls.count) == ([], 0)
        assert await house.store.list_calls() == []


@pytest.mark.parametrize(
    ("rules", "keys", "error"),
    [
        ("", {}, "number_not_allowed"),
        (ALLOW, {"from_number": ""}, "no_from_number"),
        (ALLOW, {"account_sid": ""}, "no_carrier"),
    ],
    ids=["nothing allowed", "no from number", "no keys"],
)
async def test_a_server_that_is_not_set_up_to_call_says_what_is_missing(
    tmp_path: Path, rules: str, keys: dict[str, str], error: str
):
    async with dialling(tmp_path, None, rules, **keys) as (house, api):
        _, answer = await ask(house)
        assert answer["error"] == error
        assert api.dials == []


async def test_only_who_has_the_token_may_have_calls_made(tmp_path: Path):
    async with dialling(tmp_path) as (house, _):
        stranger = {"X-Forwarded-For": "203.0.113.9"}
        url = house.url + "/api/calls"
        async with house.client.post(url, json={"to": TO}, headers=stranger) as response:
            assert response.status == 401
        known = {**stranger, "Authorization": f"Bearer {API_TOKEN}"}
        async with house.client.post(url, json={"to": TO}, headers=known) as response:
            assert response.status == 201


async def test_a_carrier_that_refuses_is_quoted_and_the_attempt_is_recorded(tmp_path: Path):
    async with dialling(tmp_path) as (house, api):
        api.status = 401
        status, answer = await ask(house)
        assert (status, answer["error"]) == (502, "carrier_refused")
        assert "HTTP 401" in answer["message"]
        assert "not with this key" in answer["message"]
        kept = (await becomes(house, answer["id"], "failed"))["call"]
        assert kept["ended_reason"] == ended.CALLEE_FAILED
        assert house.calls.count == 0


async def test_a_full_server_makes_no_call(tmp_path: Path):
    async with dialling(tmp_path, None, ALLOW + "limits: {max_calls: 2}\n") as (house, api):
        answers = await asyncio.gather(*(ask(house) for _ in range(5)))
        assert sorted(status for status, _ in answers) == [201, 201, 503, 503, 503]
        assert {body.get("error") for _, body in answers} == {None, "full"}
        assert len(api.dials) == 2


async def test_calls_are_limited_by_the_minute(tmp_path: Path):
    rules = ALLOW.replace("ring_timeout: 5s", "max_per_minute: 3")
    async with dialling(tmp_path, None, rules) as (house, api):
        answers = [await ask(house) for _ in range(5)]
        assert [status for status, _ in answers] == [201, 201, 201, 429, 429]
        assert answers[-1][1]["error"] == "too_many"
        assert 1 <= answers[-1][1]["retry_after"] <= 60
        assert len(api.dials) == 3


# --- asked twice ----------------------------------------------------------------------------------


async def test_a_request_that_is_repeated_makes_one_call(tmp_path: Path):
    async with dialling(tmp_path) as (house, api):
        api.delay_s = 0.05
        answers = await asyncio.gather(*(ask(house, "key-1") for _ in range(4)))
        assert len({answer["id"] for _, answer in answers}) == 1
        assert len(api.dials) == 1
        status, answer = await ask(house, "key-1", agent="test")
        assert (status, answer["error"]) == (409, "key_reused")
        assert (await ask(house, "key-2"))[0] == 201
        assert len(api.dials) == 2


async def test_a_refusal_for_the_moment_may_be_tried_again_with_the_same_key(tmp_path: Path):
    async with dialling(tmp_path, None, ALLOW + "limits: {max_calls: 1}\n") as (house, api):
        await ask(house)
        assert (await ask(house, "key"))[0] == 503
        await api.reports(CallStatus="busy")
        assert (await ask(house, "key"))[0] == 201


# --- given up -------------------------------------------------------------------------------------


async def hang_up(house: Doors, call_id: str) -> int:
    async with house.client.post(f"{house.url}/api/calls/{call_id}/hangup") as response:
        return response.status


CANCELS = {
    "twilio": ("POST", "/Accounts/AC{}/Calls/{{call}}.json".format("1" * 32)),
    "signalwire": ("POST", "/Accounts/p/Calls/{call}.json"),
    "telnyx": ("POST", "/calls/{call}/actions/hangup"),
    "plivo": ("DELETE", "/Account/MA1/Request/{call}/"),
    "vonage": ("PUT", "/v1/calls/{call}"),
    "cloudonix": ("DELETE", "/customers/self/domains/d/sessions/{call}"),
    "vobiz": ("DELETE", "/Account/MA1/Request/{call}/"),
    "jambonz": ("PUT", "/Accounts/a/Calls/{call}"),
    "bandwidth": ("POST", "/accounts/9/calls/{call}"),
}


@every
async def test_hanging_up_takes_a_call_back_that_rings(tmp_path: Path, peer: Peer):
    async with dialling(tmp_path, peer) as (house, api):
        _, made = await ask(house)
        assert await hang_up(house, made["id"]) == 204
        assert house.calls.count == 0
        kept = (await becomes(house, made["id"], "canceled"))["call"]
        assert kept["ended_reason"] == ended.OPERATOR_HUNG_UP
        if peer.name in CANCELS:  # Exotel cannot
            method, path = CANCELS[peer.name]
            assert api.others[-1][:2] == (method, path.format(call=api.call))
        assert await hang_up(house, made["id"]) == 404


async def test_who_answers_a_call_that_was_given_up_is_hung_up_on(tmp_path: Path):
    async with dialling(tmp_path) as (house, api):
        _, made = await ask(house)
        await hang_up(house, made["id"])
        rung = await api.answers()
        assert (rung.status, "<Hangup/>" in rung.text, "Stream" in rung.text) == (200, True, False)
        assert house.calls.count == 0


async def test_a_call_that_nobody_answers_in_time_is_given_up_by_us(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(placed, "GRACE_S", -4.9)
    async with dialling(tmp_path) as (house, api):
        _, made = await ask(house)
        kept = (await becomes(house, made["id"], "no-answer"))["call"]
        assert kept["ended_reason"] == ended.CALLEE_NO_ANSWER
        assert house.calls.count == 0
        async with asyncio.timeout(5):
            while not api.others:  # noqa: ASYNC110 - a test looks from outside
                await asyncio.sleep(0.01)


async def test_an_answered_call_without_sound_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(placed, "MEDIA_S", 0.05)
    async with dialling(tmp_path) as (house, api):
        _, made = await ask(house)
        await api.answers()
        kept = (await becomes(house, made["id"], "failed"))["call"]
        assert "media socket" in kept["ended_detail"]
        assert house.calls.count == 0


async def test_a_call_that_is_over_before_its_sound_came_is_completed(tmp_path: Path):
    async with dialling(tmp_path) as (house, api):
        _, made = await ask(house)
        await api.answers()
        await api.reports(CallStatus="completed")
        kept = (await becomes(house, made["id"], "completed"))["call"]
        assert kept["ended_reason"] == ended.CALLER_HUNG_UP
        assert house.calls.count == 0


async def test_an_answer_that_outruns_the_answer_to_the_dial_finds_its_call(tmp_path: Path):
    async with dialling(tmp_path) as (house, api):
        answered: list[asyncio.Task[Any]] = []
        api.on_dial = lambda: answered.append(asyncio.ensure_future(api.answers()))
        _, made = await ask(house)
        rung = await answered[0]
        assert "<Connect>" in rung.text
        assert (await becomes(house, made["id"], "answered"))["call"]["live"]


async def test_a_server_that_stops_takes_its_calls_back(tmp_path: Path):
    async with dialling(tmp_path) as (house, api):
        _, made = await ask(house)
        await house.calls.end_all(ended.SERVER_DRAINED)
        kept = (await becomes(house, made["id"], "canceled"))["call"]
        assert kept["ended_reason"] == ended.SERVER_DRAINED
        assert len(api.others) == 1


async def test_a_call_that_rings_cannot_be_deleted(tmp_path: Path):
    async with dialling(tmp_path) as (house, _):
        _, made = await ask(house)
        async with house.client.delete(f"{house.url}/api/calls/{made['id']}") as response:
            assert response.status == 409


async def test_another_carriers_webhook_does_not_find_the_call(tmp_path: Path):
    async with dialling(tmp_path) as (house, _):
        _, made = await ask(house)
        form = {"CallSid": "CA9", "From": "+1", "To": "+2"}
        path = f"/telephony/answer/signalwire/out-{made['id']}"
        async with house.client.post(house.url + path, data=form) as response:
            assert "Stream" not in await response.text()
        assert (await shown(house, made["id"]))["call"]["status"] == "dialling"
