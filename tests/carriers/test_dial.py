"""Requests to call somebody: held against the vendors' own libraries, and against the wire."""

from __future__ import annotations

import json
import logging
from base64 import b64decode
from typing import Any

import httpx
import jwt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plivo import RestClient
from telnyx import Telnyx
from telnyx._utils import maybe_transform
from telnyx.types.texml.accounts.call_calls_params import BodyWithURL
from twilio.http import HttpClient
from twilio.http.response import Response
from twilio.rest import Client

from flowcat_server import carriers
from flowcat_server.config import carriers as blocks
from flowcat_server.core.carrier import (
    Account,
    Carrier,
    Detected,
    Dial,
    LiveCall,
    Request,
    RestRequest,
)
from tests.carriers.kit import carrier_named, requests
from tests.fakes.rsa_key import PEM, PRIVATE

MAIN = "MA" + "X" * 18
ANSWER = "https://voice.example/telephony/answer/x/out-1"
STATUS = "https://voice.example/telephony/status/x/out-1"
CALL = Dial(
    to="+15550100",
    from_number="+15550199",
    answer_url=ANSWER,
    status_url=STATUS,
    socket_url="wss://voice.example/telephony/ws/x/out-1",
    ring_s=30,
    limit_s=1860,
    detect=True,
)
BLOCKS: dict[str, dict[str, Any]] = {
    "twilio": {"account_sid": "AC1", "auth_token": "t"},
    "signalwire": {"space": "x.signalwire.com", "project_id": "p", "api_token": "t"},
    "cloudonix": {"domain": "d", "api_token": "t", "username": "u", "password": "p/w"},
    "telnyx": {"api_key": "KEY", "connection_id": "c1"},
    "plivo": {"auth_id": MAIN, "auth_token": "t"},
    "vobiz": {"auth_id": MAIN, "auth_token": "t"},
    "vonage": {"application_id": "app-1", "private_key": PEM},
    "jambonz": {"account_sid": "a", "api_key": "k", "application_sid": "app"},
    "bandwidth": {
        "account_id": "9", "client_id": "c", "client_secret": "s", "application_id": "app",
        "username": "u", "password": "p",
    },
    "exotel": {
        "account_sid": "x1", "api_key": "k", "api_token": "t", "username": "u", "password": "p",
    },
}  # fmt: skip
DIALLERS = [name for name in carriers.names() if carrier_named(name).dial_keys]
every = pytest.mark.parametrize("name", DIALLERS)


def account(name: str, **more: Any) -> Account:
    block = type(blocks.Carriers().block(name))
    return block.model_validate({**BLOCKS[name], **more}).account()


def dialled(name: str, call: Dial = CALL, **more: Any) -> RestRequest:
    request = carrier_named(name).dial(account(name, **more), call, 1_700_000_000)
    assert request is not None
    return request


def test_the_carriers_that_make_calls():
    assert set(DIALLERS) == set(BLOCKS)
    assert [
        name
        for name in carriers.names()
        if "from_number" in type(blocks.Carriers().block(name)).model_fields
    ] == DIALLERS


@every
def test_without_any_of_its_keys_a_carrier_makes_no_call(name: str):
    carrier = carrier_named(name)
    block = type(blocks.Carriers().block(name))
    for key in carrier.dial_keys:
        assert key in block.model_fields
        given = {k: v for k, v in BLOCKS[name].items() if k != key}
        assert carrier.dial(block.model_validate(given).account(), CALL, 0) is None, key


@every
def test_the_callers_number_and_every_address_are_in_the_request(name: str):
    request = dialled(name)
    said = json.dumps(request.json if request.json is not None else dict(request.form or {}))
    assert "15550100" in said
    assert "15550199" in said
    assert STATUS.removeprefix("https://") in said or ANSWER.removeprefix("https://") in said
    assert request.url.startswith("https://")


@every
def test_without_detection_nothing_is_asked_of_the_carrier(name: str):
    plain = Dial(**{field: getattr(CALL, field) for field in Dial.__slots__} | {"detect": False})
    said = json.dumps(dialled(name, plain).json or dict(dialled(name, plain).form or {})).lower()
    assert "machine" not in said
    assert "amd" not in said


@every
@given(body=st.binary(max_size=200) | st.sampled_from([b'{"sid":{}}', b'{"data":[]}', b"[1]"]))
@settings(max_examples=50, deadline=None)
def test_any_answer_to_a_dial_is_read(name: str, body: bytes):
    found = carrier_named(name).read_dialled(body)
    assert isinstance(found, str)
    assert "/" not in found


@every
@given(data=st.data())
@settings(max_examples=50, deadline=None)
def test_any_webhook_is_searched_for_a_detection(name: str, data: st.DataObject):
    found = carrier_named(name).read_detection(data.draw(requests(name)))
    assert found is None or isinstance(found, Detected)


# --- against the vendors' libraries ---------------------------------------------------------------


class Recorder(HttpClient):  # type: ignore[misc]
    """Takes what Twilio's library sends."""

    def __init__(self) -> None:
        super().__init__(logging.getLogger("twilio"), is_async=False)

    def request(self, method: str, uri: str, **more: Any) -> Response:
        self.method, self.url, self.data, self.auth = method, uri, more["data"], more["auth"]
        return Response(201, json.dumps({"sid": "CA1"}))


def test_twilios_library_sends_the_same():
    recorder = Recorder()
    made = Client("AC1", "t", http_client=recorder).calls.create(
        to=CALL.to,
        from_=CALL.from_number,
        url=ANSWER,
        method="POST",
        status_callback=STATUS,
        status_callback_method="POST",
        status_callback_event=["initiated", "ringing", "answered", "completed"],
        timeout=30,
        time_limit=1860,
        machine_detection="Enable",
        async_amd="true",
        async_amd_status_callback=STATUS,
        async_amd_status_callback_method="POST",
    )
    ours = dialled("twilio")
    assert (ours.method, ours.url) == (recorder.method, recorder.url)
    theirs = {
        name: tuple(value) if isinstance(value, list) else str(value)
        for name, value in recorder.data.items()
    }
    assert ours.form == theirs
    assert b64decode(ours.authorization.removeprefix("Basic ")).decode() == "AC1:t"
    assert carrier_named("twilio").read_dialled(b'{"sid": "CA1"}') == made.sid


def test_plivos_library_sends_the_same(monkeypatch: pytest.MonkeyPatch):
    client = RestClient(MAIN, "t")
    sent: list[Any] = []

    def send(request: Any, **_: Any) -> Any:
        sent.append(request)
        raise ConnectionError

    monkeypatch.setattr(client.session, "send", send)
    with pytest.raises(ConnectionError):
        client.calls.create(
            from_="15550199",
            to_="15550100",
            answer_url=ANSWER,
            answer_method="POST",
            ring_url=STATUS,
            ring_method="POST",
            hangup_url=STATUS,
            hangup_method="POST",
            ring_timeout=30,
            time_limit=1860,
            machine_detection="true",
            machine_detection_url=STATUS,
            machine_detection_method="POST",
        )
    theirs = sent[0]
    ours = dialled("plivo")
    path = theirs.url.partition("/v1/")[2]
    assert ours.url == f"https://api.plivo.com/v1/{path}"
    said = theirs.body if isinstance(theirs.body, bytes) else (theirs.body or "").encode()
    # What their library adds of its own are defaults.
    assert ours.json.items() <= json.loads(said).items()
    assert (ours.authorization, ours.method) == (theirs.headers["Authorization"], theirs.method)
    answer = b'{"message": "call fired", "request_uuid": "u-1", "api_id": "x"}'
    assert carrier_named("plivo").read_dialled(answer) == "u-1"
    cancel = carrier_named("plivo").cancel(account("plivo"), LiveCall("u-1"), 0)
    with pytest.raises(ConnectionError):
        client.calls.cancel("u-1")
    assert cancel is not None
    assert cancel.method == sent[1].method == "DELETE"
    assert cancel.url.partition("/v1/")[2] == sent[1].url.partition("/v1/")[2]


def telnyx(asked: list[httpx.Request]) -> Telnyx:
    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return httpx.Response(200, json={"data": {"call_control_id": "v3:1"}})

    return Telnyx(api_key="KEY", http_client=httpx.Client(transport=httpx.MockTransport(answer)))


def test_telnyxs_library_sends_the_same():
    asked: list[httpx.Request] = []
    state = dialled("telnyx").json["client_state"]
    made = telnyx(asked).calls.dial(
        connection_id="c1",
        to=CALL.to,
        from_=CALL.from_number,
        webhook_url=ANSWER,
        webhook_url_method="POST",
        timeout_secs=30,
        time_limit_secs=1860,
        client_state=state,
        answering_machine_detection="detect",
    )
    ours = dialled("telnyx")
    assert (ours.method, ours.url) == (asked[0].method, str(asked[0].url))
    assert ours.json == json.loads(asked[0].content)
    assert ours.authorization == asked[0].headers["Authorization"]
    assert made.data is not None
    answer = b'{"data": {"call_control_id": "v3:1", "is_alive": false}}'
    assert carrier_named("telnyx").read_dialled(answer) == made.data.call_control_id
    assert b64decode(state) == b"flowcat-server"


def test_telnyxs_library_sends_the_same_for_texml():
    # The library's own names of the fields; its method sends a body as it is given.
    theirs = maybe_transform(
        {
            "application_sid": "tx1",
            "to": CALL.to,
            "from_": CALL.from_number,
            "url": ANSWER,
            "status_callback": STATUS,
            "status_callback_method": "POST",
            "status_callback_event": "initiated ringing answered completed",
            "timeout": 30,
            "time_limit": 1860,
            "machine_detection": "Enable",
            "async_amd": True,
            "async_amd_status_callback": STATUS,
            "async_amd_status_callback_method": "POST",
        },
        BodyWithURL,
    )
    asked: list[httpx.Request] = []
    telnyx(asked).texml.accounts.calls.calls("acc", body=theirs)
    ours = dialled("telnyx", texml_application_id="tx1", account_id="acc")
    assert ours.url == str(asked[0].url)
    assert ours.json == json.loads(asked[0].content)


# --- what no library can tell here ----------------------------------------------------------------


def test_signalwire_takes_twilios_form_at_its_space():
    ours = dialled("signalwire")
    assert ours.url == "https://x.signalwire.com/api/laml/2010-04-01/Accounts/p/Calls.json"
    assert ours.form == dialled("twilio").form


def test_vobiz_takes_plivos_request_with_headers_of_its_own():
    ours = dialled("vobiz")
    assert ours.url == f"https://api.vobiz.ai/api/v1/Account/{MAIN}/Call/"
    assert ours.headers == {"X-Auth-ID": MAIN, "X-Auth-Token": "t"}
    assert ours.json == dialled("plivo").json


def test_vonage_is_asked_with_a_token_of_the_application():
    ours = dialled("vonage")
    assert (ours.method, ours.url) == ("POST", "https://api.nexmo.com/v1/calls")
    assert ours.json == {
        "to": [{"type": "phone", "number": "15550100"}],
        "from": {"type": "phone", "number": "15550199"},
        "answer_url": [ANSWER],
        "answer_method": "POST",
        "event_url": [STATUS],
        "event_method": "POST",
        "ringing_timer": 30,
        "length_timer": 1860,
        "advanced_machine_detection": {
            "behavior": "continue", "mode": "default", "beep_timeout": 45,
        },
    }  # fmt: skip
    said = jwt.decode(
        ours.authorization.removeprefix("Bearer "),
        PRIVATE.public_key(),
        ["RS256"],
        options={"verify_exp": False, "verify_iat": False},  # type: ignore[arg-type]
    )
    assert (said["application_id"], said["iat"]) == ("app-1", 1_700_000_000)


def test_a_carrier_that_signs_nothing_is_given_the_password_with_the_addresses():
    ours = dialled("cloudonix")
    assert ours.json["url"] == f"https://u:p%2Fw@{ANSWER.removeprefix('https://')}"
    assert ours.json["callback"] == f"https://u:p%2Fw@{STATUS.removeprefix('https://')}"
    assert dialled("exotel").form["StreamUrl"] == (  # type: ignore[index]
        "wss://u:p@voice.example/telephony/ws/x/out-1"
    )
    body = dialled("bandwidth").json
    assert (body["username"], body["password"], body["answerUrl"]) == ("u", "p", ANSWER)
    assert body["machineDetection"]["password"] == "p"


def test_bandwidth_wants_a_token_first():
    ours = dialled("bandwidth")
    assert ours.url == "https://voice.bandwidth.com/api/v2/accounts/9/calls"
    assert ours.token is not None
    assert ours.token.form == {"grant_type": "client_credentials"}
    assert b64decode(ours.token.authorization.removeprefix("Basic ")).decode() == "c:s"


# --- who answered ---------------------------------------------------------------------------------


def form(**fields: str) -> Request:
    return Request("POST", "", {}, b"x", (), list(fields.items()))


def body(**fields: Any) -> Request:
    return Request("POST", "", {}, json.dumps(fields).encode())


def event(kind: str, result: str) -> Request:
    payload = {"call_control_id": "v3:1", "result": result}
    return body(data={"event_type": kind, "payload": payload})


@pytest.mark.parametrize(
    ("name", "request_", "expected"),
    [
        ("twilio", form(CallSid="1", AnsweredBy="human"), ("human", False)),
        ("twilio", form(CallSid="1", AnsweredBy="machine_start"), ("machine", False)),
        ("twilio", form(CallSid="1", AnsweredBy="machine_end_beep"), ("machine", True)),
        ("twilio", form(CallSid="1", AnsweredBy="fax"), ("fax", False)),
        ("signalwire", form(CallSid="1", AnsweredBy="unknown"), ("unknown", False)),
        ("twilio", form(CallSid="1", CallStatus="ringing"), None),
        ("telnyx", form(CallSid="1", AnsweredBy="machine_end_other"), ("machine", True)),
        ("telnyx", event("call.machine.detection.ended", "human"), ("human", False)),
        ("telnyx", event("call.machine.detection.ended", "not_sure"), ("unknown", False)),
        ("telnyx", event("call.machine.premium.detection.ended", "machine"), ("machine", False)),
        ("telnyx", event("call.machine.premium.greeting.ended", "beep_detected"),
         ("machine", True)),
        ("telnyx", event("call.machine.greeting.ended", "ended"), ("machine", True)),
        ("telnyx", event("call.hangup", "human"), None),
        ("plivo", form(CallUUID="1", Event="MachineDetection", Machine="true"),
         ("machine", False)),
        ("vobiz", form(CallUUID="1", Event="MachineDetection", Machine="false"),
         ("human", False)),
        ("plivo", form(CallUUID="1", CallStatus="in-progress"), None),
        ("vonage", body(uuid="1", status="human"), ("human", False)),
        ("vonage", body(uuid="1", status="machine"), ("machine", False)),
        ("vonage", body(uuid="1", status="machine", sub_state="beep_start"), ("machine", True)),
        ("vonage", body(uuid="1", status="answered", sub_state="beep_start"), None),
        ("jambonz", body(call_sid="1", type="amd_human_detected"), ("human", False)),
        ("jambonz", body(call_sid="1", type="amd_machine_detected"), ("machine", False)),
        ("jambonz", body(call_sid="1", type="amd_tone_detected"), ("machine", True)),
        ("jambonz", body(call_sid="1", type="amd_stopped"), None),
        ("bandwidth", body(callId="1", eventType="machineDetectionComplete",
                           machineDetectionResult={"value": "answering-machine"}),
         ("machine", False)),
        ("bandwidth", body(callId="1", eventType="machineDetectionComplete",
                           machineDetectionResult={"value": "tone-detected"}), ("machine", True)),
        ("bandwidth", body(callId="1", eventType="answer", value="human"), None),
        ("exotel", form(CallSid="1", AnsweredBy="human"), None),
    ],
)  # fmt: skip
def test_who_answered(name: str, request_: Request, expected: tuple[str, bool] | None):
    found = carrier_named(name).read_detection(request_)
    assert (found and (found.answerer, found.greeting_over)) == expected


@pytest.mark.parametrize(
    ("name", "request_", "expected"),
    [
        ("bandwidth", body(callId="1", eventType="answer"), ("answered", "")),
        ("bandwidth", body(callId="1", eventType="disconnect", cause="hangup"), ("completed", "")),
        ("bandwidth", body(callId="1", eventType="disconnect", cause="timeout"),
         ("no-answer", "timeout")),
        ("bandwidth", body(callId="1", eventType="disconnect", cause="error",
                           errorMessage="no route"), ("failed", "no route")),
        ("bandwidth", body(callId="1", eventType="dtmf"), None),
        ("exotel", body(CallSid="1", Status="no-answer"), ("no-answer", "")),
        ("exotel", body(CallSid="1", EventType="answered"), ("answered", "")),
        ("exotel", body(CallSid="1", EventType="terminal"), None),
    ],
)  # fmt: skip
def test_reports_of_carriers_that_had_none_before(
    name: str, request_: Request, expected: tuple[str, str] | None
):
    told = carrier_named(name).read_status(request_)
    assert (told and (told.status, told.detail)) == expected


def test_a_call_of_ours_that_telnyx_has_answered_is_connected_by_a_request():
    carrier: Carrier = carrier_named("telnyx")
    state = dialled("telnyx").json["client_state"]
    payload = {"call_control_id": "v3:1", "from": "+1", "to": "+2", "client_state": state}
    call = carrier.read_call(body(data={"event_type": "call.answered", "payload": payload}))
    assert call is not None
    document = carrier.answer(account("telnyx"), call, "wss://a/token/t", {})
    assert document.rest is not None
    assert document.rest.url.endswith("/calls/v3%3A1/actions/streaming_start")
    assert document.rest.json["stream_url"] == "wss://a/token/t"
    assert carrier.outlives(call.account_id)
    late = carrier.drop(account("telnyx"), call)
    assert late.rest is not None
    assert late.rest.url.endswith("/actions/hangup")
    payload["client_state"] = "b3RoZXI="
    assert carrier.read_call(body(data={"event_type": "call.answered", "payload": payload})) is None
