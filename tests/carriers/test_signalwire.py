"""SignalWire: what differs from Twilio."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest
from twilio.request_validator import RequestValidator

from flowcat_server.carriers import signalwire
from flowcat_server.config.carriers import SignalWire
from flowcat_server.core.carrier import Account, LiveCall, Request, Ringing

CARRIER = signalwire.CARRIER
CALL = Ringing("c1")
URL = "https://voice.example/telephony/answer/signalwire"


@pytest.mark.parametrize("codec", ["PCMU@8000h", "L16@16000h"])
def test_the_codec_is_asked_for_if_it_is_not_the_usual_one(codec: str):
    account = SignalWire(codec=codec).account()  # type: ignore[arg-type]
    document = CARRIER.answer(account, CALL, "wss://a.example/ws", {"token": "t"}).body
    stream = ET.fromstring(document).find("./Connect/Stream")
    assert stream is not None
    expected = {} if codec == "PCMU@8000h" else {"codec": codec}
    assert stream.attrib == {"url": "wss://a.example/ws", **expected}
    assert [each.attrib for each in stream] == [{"name": "token", "value": "t"}]


@pytest.mark.parametrize("header", ["x-signalwire-signature", "x-twilio-signature"])
def test_the_signing_key_signs_as_twilios_token_does(header: str):
    account = Account(webhook_key="PSK_key")
    form = [("CallSid", "c1"), ("From", "+1555")]
    given = RequestValidator("PSK_key").compute_signature(URL, dict(form))
    request = Request("POST", URL, {header: given}, b"x", (), form)
    verdict = CARRIER.verify(request, account, 0)
    assert verdict is not None
    assert (verdict.proven, verdict.key) == (True, given)
    other = Request("POST", URL, {header: given}, b"x", (), [*form, ("To", "+1")])
    refused = CARRIER.verify(other, account, 0)
    assert refused is not None
    assert not refused.proven


def test_the_api_is_the_spaces():
    account = SignalWire(
        space="example.signalwire.com", project_id="p1", api_token="secret"
    ).account()
    request = CARRIER.hang_up(account, LiveCall("c1"), 0)
    assert request is not None
    assert request.url == (
        "https://example.signalwire.com/api/laml/2010-04-01/Accounts/p1/Calls/c1.json"
    )
    assert CARRIER.hang_up(Account(id="p1", secret="s"), LiveCall("c1"), 0) is None
