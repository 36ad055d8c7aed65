"""jambonz: verbs and signatures."""

from __future__ import annotations

import hashlib
import hmac
import json
from typing import Any

import pytest

from flowcat_server.carriers import jambonz
from flowcat_server.config.carriers import Jambonz
from flowcat_server.core.carrier import Account, CallStatus, Request, Ringing

CARRIER = jambonz.CARRIER
ACCOUNT = Account(webhook_key="secret")
NOW = 1_700_000_000
BODY = b'{"call_sid":"c1","from":"+1","to":"+2","account_sid":"a1"}'


def header(body: bytes = BODY, at: int = NOW, secret: bytes = b"secret") -> str:
    given = hmac.new(secret, f"{at}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={at},v1={given}"


def proven(given: str, body: bytes = BODY) -> bool:
    request = Request("POST", "https://a.example/x", {"jambonz-signature": given}, body)
    verdict = CARRIER.verify(request, ACCOUNT, NOW)
    assert verdict is not None
    return verdict.proven


def test_any_of_the_signatures_counts():
    assert proven(header())
    assert proven("t=1700000000,v1=00," + header().partition(",")[2])
    assert proven(header(at=NOW - 300))


def test_a_body_may_be_signed_as_it_is_written_compactly():
    assert proven(header(), json.dumps(json.loads(BODY), indent=2).encode())


@pytest.mark.parametrize(
    "given",
    [
        "",
        "t=1700000000",
        "v1=00",
        "t=x,v1=00",
        f"t={'9' * 30},v1=00",
        header(secret=b"other"),
        header(at=NOW - 301),
        header(at=NOW + 301),
        header(b"{}"),
        "t=\u0661,v1=\ud800",
    ],
)
def test_any_other_is_refused(given: str):
    assert not proven(given)


def test_the_verbs():
    account = Jambonz(sample_rate=16000, username="u", password="p").account()  # type: ignore[arg-type]
    call = CARRIER.read_call(Request("POST", "", {}, BODY))
    assert call == Ringing("c1", "+1", "+2", "a1")
    verbs = json.loads(CARRIER.answer(account, call, "wss://a.example/ws", {"token": "t"}).body)
    assert verbs == [
        {
            "verb": "listen",
            "url": "wss://a.example/ws",
            "mixType": "mono",
            "sampleRate": 16000,
            "passDtmf": True,
            "bidirectionalAudio": {"enabled": True, "streaming": True, "sampleRate": 16000},
            "metadata": {"token": "t"},
            "wsAuth": {"username": "u", "password": "p"},
        },
        {"verb": "hangup"},
    ]
    (decline,) = json.loads(CARRIER.busy(account, call).body)
    assert (decline["verb"], decline["status"]) == ("sip:decline", 486)


@pytest.mark.parametrize(
    ("word", "status"),
    [("trying", "initiated"), ("early-media", "ringing"), ("in-progress", "answered"),
     ("busy", "busy"), ("completed", "completed"), ("?", None)],
)  # fmt: skip
def test_statuses(word: str, status: Any):
    body = json.dumps({"call_sid": "c1", "call_status": word}).encode()
    told = CARRIER.read_status(Request("POST", "", {}, body))
    assert told == (CallStatus("c1", status) if status else None)
