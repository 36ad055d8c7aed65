"""Telnyx: TeXML and Call Control, Ed25519, against the vendor's own library."""

from __future__ import annotations

import base64
import json
import time
import xml.etree.ElementTree as ET
from typing import Any, get_args, get_type_hints

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from telnyx.lib.webhook_verification import verify_webhook_signature
from telnyx.types.calls import (
    action_answer_params,
    action_bridge_params,
    action_reject_params,
    action_send_dtmf_params,
    action_transfer_params,
)

from flowcat_server.carriers import telnyx
from flowcat_server.config.carriers import Telnyx
from flowcat_server.core.carrier import (
    Account,
    CallStatus,
    DialOver,
    LiveCall,
    Request,
    RestRequest,
    Ringing,
)
from tests.fakes.peers import OTHER_PUBLIC, TELNYX_KEY, TELNYX_PUBLIC

CARRIER = telnyx.CARRIER
NOW = 1_700_000_000
URL = "https://voice.example/telephony/answer/telnyx"
ACCOUNT = Account(secret="KEY", webhook_key=TELNYX_PUBLIC)
CALL = Ringing("v3:abc", "+15550100", "+15550199")
CONTROLLED = Ringing("v3:abc", "+15550100", "+15550199", telnyx.CALL_CONTROL)


def signed(body: bytes, at: int = NOW) -> Request:
    given = base64.b64encode(TELNYX_KEY.sign(f"{at}|".encode() + body)).decode()
    headers = {"telnyx-timestamp": str(at), "telnyx-signature-ed25519": given}
    return Request("POST", URL, headers, body)


def event(kind: str, **payload: Any) -> Request:
    return signed(json.dumps({"data": {"event_type": kind, "payload": payload}}).encode())


def proven(request: Request, account: Account = ACCOUNT, now: int = NOW) -> bool:
    verdict = CARRIER.verify(request, account, now)
    assert verdict is not None
    return verdict.proven


# --- signatures -----------------------------------------------------------------------------------


@given(st.binary(max_size=200))
@settings(max_examples=50)
def test_the_vendors_library_and_ours_agree(body: bytes):
    now = int(time.time())
    text = body.decode("latin-1")
    request = signed(text.encode(), now)
    verify_webhook_signature(text, request.headers, TELNYX_PUBLIC)
    assert proven(request, now=now)


@pytest.mark.parametrize(
    "change",
    [
        {"telnyx-timestamp": str(NOW + 1)},
        {"telnyx-timestamp": ""},
        {"telnyx-timestamp": "x"},
        {"telnyx-timestamp": "9" * 30},
        {"telnyx-timestamp": "\u0661"},
        {"telnyx-signature-ed25519": ""},
        {"telnyx-signature-ed25519": "AAAA"},
        {"telnyx-signature-ed25519": "\u00fc"},
        {"telnyx-signature-ed25519": "A" * 100_000},
    ],
    ids=str,
)
def test_any_difference_is_refused(change: dict[str, str]):
    request = signed(b"{}")
    changed = Request("POST", URL, {**request.headers, **change}, b"{}")
    assert proven(request)
    assert not proven(changed)


def test_bodies_keys_and_times_are_covered():
    request = signed(b"{}")
    assert not proven(Request("POST", URL, request.headers, b"{} "))
    assert not proven(request, Account(webhook_key=OTHER_PUBLIC))
    for useless in ("", "no base64", "AAAA", "\u00fc"):
        assert not proven(request, Account(webhook_key=useless))
    assert proven(request, now=NOW + 300)
    assert not proven(request, now=NOW + 301)
    assert not proven(request, now=NOW - 301)


# --- TeXML ----------------------------------------------------------------------------------------


def test_the_document_asks_for_audio_that_is_played():
    document = CARRIER.answer(Telnyx().account(), CALL, "wss://a.example/token/t", {}).body
    root = ET.fromstring(document)
    assert [each.tag for each in root] == ["Connect", "Hangup"]
    stream = root.find("./Connect/Stream")
    assert stream is not None
    assert stream.attrib == {
        "url": "wss://a.example/token/t",
        "bidirectionalMode": "rtp",
        "bidirectionalCodec": "PCMU",
        "bidirectionalSamplingRate": "8000",
    }


def test_a_texml_webhook_has_twilios_names():
    form = [("CallSid", "v3:abc"), ("From", "+1"), ("To", "+2"), ("CallStatus", "completed")]
    request = Request("POST", URL, {}, b"x", (), form)
    assert CARRIER.read_call(request) == Ringing("v3:abc", "+1", "+2")
    assert CARRIER.read_status(request) == CallStatus("v3:abc", "completed")
    assert CARRIER.read_call(Request("GET", URL, {}, b"", form)) == Ringing("v3:abc", "+1", "+2")


# --- Call Control ---------------------------------------------------------------------------------


def fits(body: Any, model: type) -> None:
    """The vendor's own type knows every key, and literals hold these values."""
    hints = get_type_hints(model)
    for name, value in body.items():
        name = {"from": "from_"}.get(name, name)  # noqa: PLW2901 - a word of Python's own
        assert name in hints, name
        allowed = get_args(hints[name])
        if allowed and all(isinstance(each, str | int) for each in allowed):
            assert value in allowed, name


@pytest.mark.parametrize(
    "block",
    [Telnyx(api_key="KEY"), Telnyx(api_key="KEY", codec="L16", sample_rate=16000)],  # type: ignore[arg-type]
    ids=["pcmu", "l16"],
)
def test_an_incoming_call_is_answered_through_the_api(block: Telnyx):
    request = event(
        "call.initiated",
        call_control_id="v3:abc",
        direction="incoming",
        **{"from": "+15550100", "to": "+15550199"},
    )
    assert CARRIER.read_call(request) == CONTROLLED
    document = CARRIER.answer(block.account(), CONTROLLED, "wss://a.example/ws", {})
    assert document.body == ""
    assert document.rest is not None
    assert document.rest.url == "https://api.telnyx.com/v2/calls/v3%3Aabc/actions/answer"
    assert document.rest.authorization == "Bearer KEY"
    body = dict(document.rest.json)
    assert body.pop("stream_bidirectional_sampling_rate", 8000) == block.sample_rate
    fits(body, action_answer_params.ActionAnswerParams)
    assert document.rest.json["stream_url"] == "wss://a.example/ws"


@pytest.mark.parametrize(
    "request_",
    [
        event("call.initiated", call_control_id="v3:abc", direction="outgoing"),
        event("call.answered", call_control_id="v3:abc", direction="incoming"),
        event("call.initiated", direction="incoming"),
        signed(b'{"data":[]}'),
        signed(b"nonsense"),
    ],
    ids=["outgoing", "answered", "nameless", "list", "nonsense"],
)
def test_other_events_are_no_new_call(request_: Request):
    assert CARRIER.read_call(request_) is None


def test_requests_fit_the_vendors_types():
    busy = CARRIER.busy(ACCOUNT, CONTROLLED).rest
    assert busy is not None
    fits(busy.json, action_reject_params.ActionRejectParams)
    moved = CARRIER.transfer(ACCOUNT, LiveCall("v3:abc", "", "+15550199"), "+15550123", 0)
    assert moved is not None
    fits(moved.json, action_transfer_params.ActionTransferParams)
    state = moved.json.pop("target_leg_client_state")
    assert moved.json == {"to": "+15550123", "from": "+15550199", "timeout_secs": 30}
    told = {"event_type": "call.bridged", "payload": {"client_state": state}}
    over = CARRIER.read_dial(Request("POST", "https://a", {}, json.dumps({"data": told}).encode()))
    assert over == DialOver(answered=True, call_id="v3:abc")
    caller, other = LiveCall("v3:abc"), LiveCall("v3:def")
    bridged = CARRIER.join(ACCOUNT, caller, other, "room", 0)
    assert bridged is not None
    # The vendor's library has a longer name for what the wire calls ``call_control_id``.
    named = {"call_control_id_to_bridge_with": bridged.json["call_control_id"]}
    fits(named, action_bridge_params.ActionBridgeParams)
    keys = CARRIER.send_keys(ACCOUNT, caller, "12w#A", 0)
    assert keys is not None
    fits(keys.json, action_send_dtmf_params.ActionSendDtmfParams)
    ended = CARRIER.hang_up(ACCOUNT, LiveCall("v3:abc"), 0)
    assert ended == RestRequest(
        "POST",
        "https://api.telnyx.com/v2/calls/v3%3Aabc/actions/hangup",
        "Bearer KEY",
        json={},
        gone_status=(404, 422),
    )
    assert CARRIER.hang_up(Account(), LiveCall("v3:abc"), 0) is None
    helpless = CARRIER.answer(Account(), CONTROLLED, "wss://a", {})
    assert (helpless.status, helpless.rest) == (503, None)
    assert "api_key" in helpless.body


@pytest.mark.parametrize(
    ("kind", "cause", "status"),
    [
        ("call.hangup", "normal_clearing", "completed"),
        ("call.hangup", "user_busy", "busy"),
        ("call.hangup", "timeout", "no-answer"),
        ("call.hangup", "originator_cancel", "canceled"),
        ("call.hangup", "not_found", "failed"),
        ("call.answered", None, "answered"),
        ("call.initiated", None, "initiated"),
        ("streaming.started", None, None),
    ],
)
def test_events_have_a_status(kind: str, cause: str | None, status: Any):
    told = CARRIER.read_status(event(kind, call_control_id="v3:abc", hangup_cause=cause))
    why = (cause or "") if status != "completed" else ""
    assert told == (CallStatus("v3:abc", status, why) if status else None)
