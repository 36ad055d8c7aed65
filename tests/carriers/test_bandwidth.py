"""Bandwidth: the document that holds the call."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET

from flowcat_server.carriers import bandwidth
from flowcat_server.core.carrier import Account, Request, Ringing

CARRIER = bandwidth.CARRIER
CALL = Ringing("c-1")


def test_the_stream_is_started_and_then_waited_for():
    document = CARRIER.answer(Account(), CALL, "wss://a.example/<ws>", {"token": 'a"b'}).body
    start, stop, hangup = ET.fromstring(document)
    assert start.tag == "StartStream"
    assert start.attrib == {
        "destination": "wss://a.example/<ws>",
        "mode": "bidirectional",
        "name": "flowcat",
        "tracks": "inbound",
    }
    assert [each.attrib for each in start] == [{"name": "token", "value": 'a"b'}]
    assert (stop.tag, stop.attrib) == ("StopStream", {"name": "flowcat", "wait": "true"})
    assert hangup.tag == "Hangup"


def test_no_more_parameters_are_sent_than_are_taken():
    many = {f"p{n}": "v" for n in range(20)}
    start = ET.fromstring(CARRIER.answer(Account(), CALL, "wss://a", many).body)[0]
    assert len(start) == bandwidth.MAX_STREAM_PARAMS


def test_an_initiate_webhook_names_the_call():
    body = {"eventType": "initiate", "callId": "c-1", "from": "+1", "to": "+2", "accountId": "9"}
    request = Request("POST", "", {}, json.dumps(body).encode())
    assert CARRIER.read_call(request) == Ringing("c-1", "+1", "+2", "9")
    assert CARRIER.verify(request, Account(webhook_key="x"), 0) is None
