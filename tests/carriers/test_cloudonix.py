"""Cloudonix: webhooks in several shapes, dispositions, an API of its own."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from typing import Any

import pytest

from flowcat_server.carriers import cloudonix
from flowcat_server.core.carrier import Account, CallStatus, LiveCall, Request, Ringing

CARRIER = cloudonix.CARRIER
ACCOUNT = Account(id="example.cloudonix.net", secret="key")


def posted(value: Any) -> Request:
    return Request("POST", "https://a.example/x", {}, json.dumps(value).encode())


@pytest.mark.parametrize(
    "request_",
    [
        Request("POST", "", {}, b"", (), [("CallSid", "c1"), ("From", "+1"), ("To", "+2")]),
        Request("GET", "", {}, b"", [("CallSid", "c1"), ("From", "+1"), ("To", "+2")]),
        posted({"session": "c1", "from": "+1", "to": "+2"}),
        posted([{"token": "c1", "caller-id": "+1", "destination": "+2"}]),
    ],
    ids=["form", "query", "json", "list"],
)
def test_a_webhook_in_any_shape(request_: Request):
    assert CARRIER.read_call(request_) == Ringing("c1", "+1", "+2")


@pytest.mark.parametrize(
    ("told", "status"),
    [
        ({"session": "c1", "disposition": "ANSWER"}, "completed"),
        ([{"session": "c1", "disposition": "BUSY"}], "busy"),
        ({"session": "c1", "disposition": "CANCEL"}, "canceled"),
        ({"session": "c1", "disposition": "CONGESTION"}, "failed"),
        ({"session": "c1", "disposition": "NOANSWER"}, "no-answer"),
        ({"session": "c1", "status": "ringing"}, "ringing"),
        ({"session": "c1", "disposition": "?"}, None),
        ({"disposition": "BUSY"}, None),
        ([{"session": "c1"}, {"session": "c2"}], None),
        ("BUSY", None),
    ],
)
def test_dispositions(told: Any, status: Any):
    expected = CallStatus("c1", status) if status else None
    assert CARRIER.read_status(posted(told)) == expected


def test_the_session_is_ended_and_moved_through_the_api():
    call = LiveCall("c/1", "", "+15550199")
    ended = CARRIER.hang_up(ACCOUNT, call, 0)
    assert ended is not None
    assert (ended.method, ended.authorization) == ("DELETE", "Bearer key")
    assert ended.url == (
        "https://api.cloudonix.io/customers/self/domains/example.cloudonix.net/sessions/c%2F1"
    )
    moved = CARRIER.transfer(ACCOUNT, call, "+15550123", 0)
    assert moved is not None
    assert moved.url == (
        "https://api.cloudonix.io/calls/example.cloudonix.net/sessions/c%2F1/application"
    )
    dialled = ET.fromstring(moved.json["cxml"]).find("Dial")
    assert dialled is not None
    assert (dialled.text, dialled.attrib) == ("+15550123", {"callerId": "+15550199"})
    assert CARRIER.hang_up(Account(), call, 0) is None
    assert CARRIER.transfer(Account(secret="x"), call, "+1555", 0) is None


def test_nothing_is_signed():
    assert CARRIER.verify(posted({}), ACCOUNT, 0) is None
    assert CARRIER.verify_handshake(posted({}), ACCOUNT, 0) is None
