"""Documents and requests that pass calls on, against what the vendors' own libraries write."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from plivo import plivoxml
from twilio.twiml.voice_response import Dial, VoiceResponse

from flowcat_server import carriers
from flowcat_server.core import ended
from flowcat_server.core.carrier import (
    Account,
    Carrier,
    Document,
    Handing,
    LiveCall,
    Request,
    RestRequest,
)
from tests.carriers.kit import carrier_named

ACCOUNT = Account(id="id", secret="secret")
CALL = LiveCall("c1", "id", "+15550199")
OTHER = LiveCall("c2", "id", "+15550199")
HANDING = Handing(
    document_url="https://a.example/next?a=1&b=2", over_url="https://a.example/over", ring_s=20
)
EVERY = [carrier_named(name) for name in carriers.names()]
each = pytest.mark.parametrize("carrier", EVERY, ids=lambda carrier: carrier.name)


def same_xml(ours: str, theirs: str) -> None:
    assert ET.canonicalize(ours) == ET.canonicalize(theirs)


def asked(request: RestRequest | None) -> RestRequest:
    assert request is not None
    return request


def given_document(document: Document | None) -> str:
    assert document is not None
    return document.body


# --- Twilio and its relatives ---------------------------------------------------------------------


@pytest.mark.parametrize("name", ["twilio", "signalwire"])
def test_twilio_dials_and_joins_as_its_library_writes_it(name: str):
    carrier = carrier_named(name)
    account = Account(id="AC1", secret="s", api="https://api.example")
    theirs = VoiceResponse()
    dial = Dial("+15550123", caller_id="+15550199", timeout=20, action=HANDING.over_url,
                method="POST")  # fmt: skip
    theirs.append(dial)
    theirs.hangup()
    moved = asked(carrier.transfer(account, CALL, "+15550123", 0, HANDING))
    assert moved.form is not None
    same_xml(str(moved.form["Twiml"]), str(theirs))

    theirs = VoiceResponse()
    dial = Dial()
    dial.conference(
        "room", beep="false", wait_url="", end_conference_on_exit=True, max_participants=2
    )
    theirs.append(dial)
    theirs.hangup()
    joined = asked(carrier.join(account, CALL, OTHER, "room", 0))
    assert joined.form is not None
    same_xml(str(joined.form["Twiml"]), str(theirs))


# --- Plivo ----------------------------------------------------------------------------------------


def test_plivo_dials_and_joins_as_its_library_writes_it():
    carrier = carrier_named("plivo")
    moved = asked(carrier.transfer(ACCOUNT, CALL, "+15550123", 0, HANDING))
    assert (moved.method, moved.url) == ("POST", "https://api.plivo.com/v1/Account/id/Call/c1/")
    assert moved.json == {
        "legs": "aleg", "aleg_url": HANDING.document_url, "aleg_method": "POST"
    }  # fmt: skip
    theirs = plivoxml.ResponseElement()
    dial = plivoxml.DialElement(
        timeout=20, caller_id="15550199", action=HANDING.over_url, method="POST"
    )
    theirs.add(dial.add(plivoxml.NumberElement("15550123")))
    theirs.add(plivoxml.HangupElement())
    ours = given_document(carrier.fetched(ACCOUNT, CALL, "+15550123", HANDING))
    same_xml(ours, theirs.to_string(pretty=False))

    theirs = plivoxml.ResponseElement()
    theirs.add(plivoxml.ConferenceElement("room", end_conference_on_exit=True, max_members=2))
    theirs.add(plivoxml.HangupElement())
    same_xml(given_document(carrier.joined(OTHER, "room")), theirs.to_string(pretty=False))


# --- the others -----------------------------------------------------------------------------------


def test_bandwidth_bridges_two_calls_and_hides_nothing_of_its_password_in_addresses():
    carrier = carrier_named("bandwidth")
    account = Account("c", "s", user="u", password="p", options={"account_id": "9"})
    moved = asked(carrier.transfer(account, CALL, "+15550123", 0, HANDING))
    assert moved.url == "https://voice.bandwidth.com/api/v2/accounts/9/calls/c1"
    assert moved.json == {
        "redirectUrl": HANDING.document_url, "redirectMethod": "POST",
        "username": "u", "password": "p",
    }  # fmt: skip
    (transfer, hang_up) = ET.fromstring(
        given_document(carrier.fetched(account, CALL, "+15550123", HANDING))
    )
    assert (transfer.tag, transfer[0].tag, transfer[0].text) == (
        "Transfer", "PhoneNumber", "+15550123"
    )  # fmt: skip
    assert transfer.attrib["transferCallerId"] == "+15550199"
    assert hang_up.tag == "Hangup"
    bridge = ET.fromstring(given_document(carrier.joined(OTHER, "room")))[0]
    assert (bridge.tag, bridge.text) == ("Bridge", "c2")


def test_vonage_has_no_letters_among_its_keys():
    carrier = carrier_named("vonage")
    assert carrier.send_keys(Account(id="app", secret=""), CALL, "1", 0) is None
    assert carrier.send_keys(Account(id="app", secret="x"), CALL, "1A", 0) is None


def test_genesys_is_told_to_whom_a_call_goes():
    carrier = carrier_named("genesys")
    stream = carrier.open(Account(), Request("GET", "https://a"))
    begun = {
        "version": "2", "id": "s1", "type": "open", "seq": 1, "serverseq": 0, "position": "PT0S",
        "parameters": {
            "organizationId": "o", "conversationId": "k", "participant": {},
            "media": [{"type": "audio", "format": "PCMU", "channels": ["external"], "rate": 8000}],
        },
    }  # fmt: skip
    stream.feed(json.dumps(begun))
    (message,) = stream.end(ended.AGENT_TRANSFERRED, "desk")
    said = json.loads(message)["parameters"]
    assert said == {
        "reason": "completed",
        "outputVariables": {"flowcatAction": "transfer", "flowcatTarget": "desk"},
    }
    (message,) = stream.end(ended.AGENT_ENDED)
    assert json.loads(message)["parameters"] == {"reason": "completed"}


def test_jambonz_is_not_disconnected_when_it_has_been_given_other_verbs():
    carrier = carrier_named("jambonz")
    stream = carrier.open(Account(), Request("GET", "https://a"))
    stream.feed('{"callSid":"c1","sampleRate":8000}')
    assert stream.end(ended.AGENT_ENDED)
    assert not stream.end(ended.AGENT_TRANSFERRED, "desk")


# --- all of them ----------------------------------------------------------------------------------


@each
def test_without_credentials_nothing_is_asked(carrier: Carrier):
    nobody = Account()
    call = LiveCall("c1")
    assert carrier.transfer(nobody, call, "+15550123", 0, HANDING) is None
    assert carrier.join(nobody, call, OTHER, "room", 0, HANDING) is None
    assert carrier.send_keys(nobody, call, "1", 0) is None


@each
def test_a_carrier_does_what_it_says_it_can(carrier: Carrier):
    key = "x" if carrier.name == "vonage" else "secret"
    account = Account("id", key, api="https://api.example", options={"account_id": "9"})
    moved = carrier.transfer(account, CALL, "+15550123", 0, HANDING)
    if carrier.name != "vonage":  # which signs with a private key
        assert (moved is not None) == carrier.moves_calls
        joined = carrier.join(account, CALL, OTHER, "room", 0, HANDING)
        assert (joined is not None) == bool(carrier.joins_calls)
        sent = carrier.send_keys(account, CALL, "1", 0)
        assert (sent is not None) == (carrier.sends_keys == "api")
    assert not (carrier.returns_to_flow and carrier.moves_calls)
    if carrier.joins_calls:
        assert carrier.dial_keys
    if carrier.moves_calls:
        assert carrier.hung_up().body


@each
@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda inner: (
    st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([
        "DialCallStatus", "DialStatus", "status", "dial_call_status", "eventType", "cause", "data",
        "event_type", "payload", "client_state", "hangup_cause",
    ]), inner, max_size=4)
), max_leaves=12))  # fmt: skip
def test_no_report_of_a_dial_makes_a_carrier_raise(carrier: Carrier, fields: Any):
    body = json.dumps(fields).encode()
    carrier.read_dial(Request("POST", "https://a", {}, body))
    if isinstance(fields, dict):
        pairs = [(name, str(value)) for name, value in fields.items()]
        carrier.read_dial(Request("POST", "https://a", {}, b"", (), pairs))


@each
@given(phone=st.text(max_size=20), url=st.text(max_size=40))
def test_what_is_fetched_stays_one_document_whatever_stands_in_it(
    carrier: Carrier, phone: str, url: str
):
    handing = Handing(document_url=url, over_url=url)
    for document in (
        carrier.fetched(ACCOUNT, LiveCall("c", "", phone), phone, handing),
        carrier.joined(LiveCall(phone), phone),
    ):
        if document is None:
            continue
        if document.content_type == "application/json":
            json.loads(document.body)
        else:
            assert len(ET.fromstring(document.body)) == 2
