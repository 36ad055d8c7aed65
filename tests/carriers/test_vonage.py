"""Vonage: NCCOs, webhooks signed by JWT, tokens for the API, against the vendor's own library."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from vonage_jwt import JwtClient
from vonage_jwt.verify_jwt import verify_signature

from flowcat_server.carriers import _jwt, vonage
from flowcat_server.config.carriers import Vonage
from flowcat_server.core.carrier import Account, CallStatus, LiveCall, Request, Ringing
from tests.fakes.rsa_key import PEM

CARRIER = vonage.CARRIER
SECRET = "s" * 32
NOW = 1_700_000_000
URL = "https://voice.example/telephony/answer/vonage"
BODY = b'{"uuid":"c1","from":"15550100","to":"15550199"}'
ACCOUNT = Vonage(api_key="abcd1234", signature_secret=SECRET, application_id="app-1").account()  # type: ignore[arg-type]
CLAIMS: dict[str, Any] = {
    "iat": NOW,
    "jti": "j1",
    "iss": "Vonage",
    "api_key": "abcd1234",
    "application_id": "app-1",
    "payload_hash": hashlib.sha256(BODY).hexdigest(),
}


def bearer(token: str, body: bytes = BODY, method: str = "POST") -> Request:
    return Request(method, URL, {"authorization": f"Bearer {token}"}, body)


def proven(request: Request, now: int = NOW, account: Account = ACCOUNT) -> bool:
    verdict = CARRIER.verify(request, account, now)
    assert verdict is not None
    return verdict.proven


# --- signatures -----------------------------------------------------------------------------------


def test_what_the_vendors_library_takes_is_taken():
    token = jwt.encode(CLAIMS, SECRET, "HS256")
    assert verify_signature(token, SECRET)
    assert proven(bearer(token))
    verdict = CARRIER.verify(bearer(token), ACCOUNT, NOW)
    assert verdict is not None
    assert verdict.key == "j1"


@pytest.mark.parametrize(
    "change",
    [
        {"iat": NOW - 301},
        {"iat": NOW + 301},
        {"iat": None},
        {"iat": "x"},
        {"iat": float("nan")},
        {"iss": "Nexmo"},
        {"iss": ""},
        {"api_key": "other"},
        {"application_id": "other"},
        {"payload_hash": hashlib.sha256(b"{}").hexdigest()},
        {"payload_hash": None},
    ],
    ids=str,
)
def test_claims_that_the_vendors_library_does_not_look_at_are_checked(change: dict[str, Any]):
    token = jwt.encode({**CLAIMS, **change}, SECRET, "HS256")
    assert not proven(bearer(token))


def test_a_get_has_no_body_to_be_covered():
    claims = {name: value for name, value in CLAIMS.items() if name != "payload_hash"}
    assert proven(bearer(jwt.encode(claims, SECRET, "HS256"), b"", "GET"))


def test_other_algorithms_and_secrets_are_refused():
    assert not proven(bearer(jwt.encode(CLAIMS, "t" * 32, "HS256")))
    assert not proven(bearer(jwt.encode(CLAIMS, SECRET + SECRET, "HS512")))
    assert not proven(bearer(jwt.encode(CLAIMS, PEM, "RS256")))
    assert not proven(bearer(jwt.encode(CLAIMS, None, "none")))  # type: ignore[arg-type]
    head, body, given = jwt.encode(CLAIMS, SECRET, "HS256").split(".")
    none = base64.urlsafe_b64encode(b'{"alg":"none"}').decode().rstrip("=")
    for token in (f"{none}.{body}.{given}", f"{none}.{body}.", f"{head}.{body}", "", "a.b.c",
                  "\u00fc.\u00fc.\u00fc", "." * 5000, f"{head}.{body}.{given}x"):  # fmt: skip
        assert not proven(bearer(token)), token
    assert not proven(Request("POST", URL, {}, BODY))
    assert not proven(Request("POST", URL, {"authorization": f"Basic {given}"}, BODY))


def test_the_token_for_the_api_is_one_that_the_vendor_would_make():
    account = Account(id="app-1", secret=PEM)
    request = CARRIER.hang_up(account, LiveCall("c1"), NOW)
    assert request is not None
    ours = request.authorization.removeprefix("Bearer ")
    theirs = JwtClient("app-1", PEM).generate_application_jwt({"iat": NOW, "exp": NOW + 120})
    theirs = theirs if isinstance(theirs, str) else theirs.decode()
    public = serialization.load_pem_private_key(PEM.encode(), None).public_key()
    options: Any = {"verify_exp": False, "verify_iat": False}
    for token in (ours, theirs):
        said = jwt.decode(token, public, ["RS256"], options=options)  # type: ignore[arg-type]
        assert said["application_id"] == "app-1"
        assert {"iat", "exp", "jti"} <= said.keys()
    other = CARRIER.transfer(account, LiveCall("c1"), "+15550123", NOW)
    assert other is not None
    assert other.authorization != request.authorization


def test_keys_that_are_no_keys_ask_nothing():
    curve = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    for key in ("", "nonsense", curve.decode()):
        assert _jwt.make({}, key) == ""
        assert CARRIER.hang_up(Account(id="a", secret=key), LiveCall("c1"), NOW) is None


# --- documents ------------------------------------------------------------------------------------


def test_the_ncco_names_the_call_to_the_socket():
    call = CARRIER.read_call(Request("POST", URL, {}, BODY))
    assert call == Ringing("c1", "+15550100", "+15550199")
    document = CARRIER.answer(ACCOUNT, call, "wss://a.example/ws", {"token": "t"})
    assert document.content_type == "application/json"
    assert json.loads(document.body) == [
        {
            "action": "connect",
            "from": "15550199",
            "endpoint": [
                {
                    "type": "websocket",
                    "uri": "wss://a.example/ws",
                    "content-type": "audio/l16;rate=16000",
                    "headers": {"call_uuid": "c1", "token": "t"},
                }
            ],
        }
    ]
    # The vendor takes 512 bytes of headers at most; ours are a token and an id.
    headers = {"call_uuid": "c" * 128, "token": "1764000000.aaaaaaaaaaaa." + "0" * 64}
    assert len(json.dumps(headers)) < 512


def test_a_get_webhook_is_its_query():
    query = [("uuid", "c1"), ("from", "15550100"), ("to", "15550199")]
    assert CARRIER.read_call(Request("GET", URL, {}, b"", query)) == Ringing(
        "c1", "+15550100", "+15550199"
    )


def test_a_call_is_moved_by_an_ncco():
    account = Account(id="app-1", secret=PEM)
    moved = CARRIER.transfer(account, LiveCall("c1", "", "+15550199"), "+15550123", NOW)
    assert moved is not None
    assert (moved.method, moved.url) == ("PUT", "https://api.nexmo.com/v1/calls/c1")
    (connect,) = moved.json["destination"]["ncco"]
    assert connect["endpoint"] == [{"type": "phone", "number": "15550123"}]
    assert connect["from"] == "15550199"


@pytest.mark.parametrize(
    ("word", "status"),
    [("started", "initiated"), ("answered", "answered"), ("cancelled", "canceled"),
     ("unanswered", "no-answer"), ("rejected", "busy"), ("completed", "completed"),
     ("disconnected", None)],
)  # fmt: skip
def test_statuses(word: str, status: Any):
    body = json.dumps({"uuid": "c1", "status": word}).encode()
    told = CARRIER.read_status(Request("POST", URL, {}, body))
    assert told == (CallStatus("c1", status) if status else None)
