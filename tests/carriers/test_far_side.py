"""The carriers' side of the wires: judged by the vendors' libraries, and against our own side."""

from __future__ import annotations

import json
import time
from base64 import b64encode
from contextlib import suppress
from dataclasses import replace
from urllib.parse import parse_qsl

import pytest
from plivo.utils import signature_v3 as plivo_signature
from twilio.request_validator import RequestValidator
from vonage_jwt.verify_jwt import verify_signature

from flowcat_server import carriers
from flowcat_server.cli.far_side import SIDES
from flowcat_server.cli.far_side.model import FORM, Asked, FarStream, Unexpected
from flowcat_server.core.carrier import (
    Account,
    CarrierStream,
    Digit,
    Ignored,
    MarkPlayed,
    Reply,
    Request,
    Ringing,
    Started,
    Stopped,
)
from tests.carriers.kit import carrier_named

NOW = int(time.time())
BASE = "https://voice.example"
UNIQUE = "0123456789abcdef" * 2
SECRET = b64encode(b"k" * 32).decode()
ACCOUNT = Account(
    id="application",
    webhook_key=SECRET,
    user="flowcat",
    password="p",
    options={"api_key": "KEY"},
)
every = pytest.mark.parametrize("name", carriers.names())
asking = pytest.mark.parametrize("name", [name for name in SIDES if SIDES[name].asks])
signing = pytest.mark.parametrize(
    "name", [name for name in SIDES if SIDES[name].signs and SIDES[name].can_sign]
)


def arrived(asked: Asked, headers: dict[str, str]) -> Request:
    """A webhook as the gate reads it."""
    query = parse_qsl(asked.path.partition("?")[2], keep_blank_values=True)
    form = None
    if asked.content_type == FORM:
        form = parse_qsl(asked.body.decode(), keep_blank_values=True)
    lower = {key.lower(): value for key, value in headers.items()}
    return Request(asked.method, BASE + asked.path, lower, asked.body, query, form)


def webhook(name: str) -> Request:
    side = SIDES[name]
    asked = side.webhook(side.new_call(UNIQUE), run_id="r1")
    return arrived(asked, side.sign(asked, BASE + asked.path, ACCOUNT, NOW))


# --- webhooks -------------------------------------------------------------------------------------


def test_every_carrier_has_a_far_side():
    assert set(SIDES) == set(carriers.names())
    for name, side in SIDES.items():
        carrier = carrier_named(name)
        assert side.asks == carrier.has_webhook
        assert side.reports == carrier.has_status
        assert set(side.subprotocols) <= set(carrier.subprotocols)
        assert side.socket_password == carrier.basic_on_socket


@asking
def test_a_webhook_announces_its_call(name: str):
    call = carrier_named(name).read_call(webhook(name))
    assert call is not None
    assert call.call_id == SIDES[name].new_call(UNIQUE)
    assert (call.from_number, call.to_number) == ("+15550100", "+15550199")


@signing
def test_what_it_signs_is_proven_and_nothing_else(name: str):
    carrier, side = carrier_named(name), SIDES[name]
    if not side.asks:
        path = side.path(side.new_call(UNIQUE))
        url = f"wss://voice.example{path}"
        headers = side.handshake(url, ACCOUNT, NOW, UNIQUE)
        request = Request("GET", url, {key.lower(): value for key, value in headers.items()})
        proof = carrier.verify_handshake
    else:
        request, proof = webhook(name), carrier.verify
    verdict = proof(request, ACCOUNT, NOW)
    assert verdict is not None
    assert verdict.proven, verdict
    verdict = proof(request, replace(ACCOUNT, webhook_key="b3RoZXI="), NOW)
    assert verdict is not None
    assert not verdict.proven
    if side.signs == "url":
        verdict = proof(replace(request, url=request.url + "x"), ACCOUNT, NOW)
    else:
        verdict = proof(replace(request, body=request.body + b" "), ACCOUNT, NOW)
    assert verdict is not None
    assert not verdict.proven or name == "jambonz"  # a body that means the same is the same
    if side.dated:
        verdict = proof(request, ACCOUNT, NOW + 3600)
        assert verdict is not None
        assert not verdict.proven


@pytest.mark.parametrize("name", ["twilio", "signalwire"])
def test_twilios_library_finds_the_signature_good(name: str):
    request, side = webhook(name), SIDES[name]
    judge = RequestValidator(SECRET)
    (given,) = (value for key, value in request.headers.items() if key.endswith("signature"))
    assert judge.validate(request.url, dict(request.form or ()), given)
    url = f"wss://voice.example{side.path('c')}"
    (given,) = side.handshake(url, ACCOUNT, NOW, UNIQUE).values()
    assert judge.compute_signature(url, {}) == given


def test_plivos_library_finds_the_signature_good():
    request = webhook("plivo")
    assert plivo_signature.validate_v3_signature(
        "POST",
        request.url,
        request.headers["x-plivo-signature-v3-nonce"],
        SECRET,
        request.headers["x-plivo-signature-v3"],
        dict(request.form or ()),
    )


def test_vonages_library_finds_the_token_good():
    token = webhook("vonage").headers["authorization"].removeprefix("Bearer ")
    assert verify_signature(token, SECRET)
    assert not verify_signature(token, "another secret of good length....")


@pytest.mark.parametrize("name", [name for name in SIDES if SIDES[name].reports])
def test_a_report_says_that_the_call_is_over(name: str):
    side = SIDES[name]
    asked = side.status(side.new_call(UNIQUE))
    status = carrier_named(name).read_status(arrived(asked, {}))
    assert status is not None
    assert (status.call_id, status.status) == (side.new_call(UNIQUE), "completed")


# --- answers --------------------------------------------------------------------------------------


@asking
def test_an_answer_leads_to_the_socket(name: str):
    carrier, side = carrier_named(name), SIDES[name]
    call = Ringing(side.new_call(UNIQUE), "+15550100", "+15550199")
    url = f"wss://voice.example/telephony/ws/{name}?token=t"
    answer = carrier.answer(ACCOUNT, call, url, {"token": "t"})
    place = side.place(answer.body)
    assert place.url == url
    if carrier.ticket_in == "parameter":
        assert place.parameters["token"] == "t"
    assert not side.is_busy(answer.status, answer.body)
    busy = carrier.busy(ACCOUNT, call)
    assert side.is_busy(busy.status, busy.body)


@asking
@pytest.mark.parametrize(
    "answer", ["", "<Response/>", "<Response", "{}", "[]", "[1]", "null", '{"url":1}', "\x00"]
)
def test_an_answer_that_is_none_is_said_so(name: str, answer: str):
    side = SIDES[name]
    with suppress(Unexpected):
        assert not side.place(answer).url.startswith("ws")
    assert not side.is_busy(200, answer)


# --- the media socket -----------------------------------------------------------------------------


def met(name: str) -> tuple[CarrierStream, FarStream, Started]:
    """Both ends of a socket, started."""
    carrier, side = carrier_named(name), SIDES[name]
    call = side.new_call(UNIQUE)
    url = f"wss://voice.example{side.path(call)}"
    query = parse_qsl(url.partition("?")[2])
    headers = {
        key.lower(): value for key, value in side.handshake(url, ACCOUNT, NOW, UNIQUE).items()
    }
    ours = carrier.open(ACCOUNT, Request("GET", url, headers, query=query))
    theirs = side.stream(call, {"token": "t", "call_uuid": call}, ACCOUNT)
    started = [
        fed
        for message in theirs.start()
        if isinstance(fed := ours.feed(message, isinstance(message, bytes)), Started)
    ]
    (begun,) = started
    return ours, theirs, begun


@every
def test_both_ends_mean_the_same(name: str):
    ours, theirs, begun = met(name)
    assert begun.call_id == SIDES[name].new_call(UNIQUE)
    assert begun.input_format == theirs.says
    assert begun.output_format == theirs.hears
    if name != "audiosocket":
        assert begun.parameters["token"] == "t"
    for message in ours.accept():
        theirs.hear(message)
    said = bytes([1, 2]) * (theirs.says.bytes_for(theirs.chunk_ms) // 2)
    message = theirs.say(said)
    assert ours.feed(message, isinstance(message, bytes)) == said
    unit = max(begun.sending.unit, begun.sending.least)
    spoken = (bytes([3, 4]) * unit)[: unit * 2 if not begun.sending.least else unit]
    assert theirs.hear(ours.audio(spoken)).audio == spoken
    if (mark := ours.mark("m1")) is not None:
        assert theirs.hear(mark).mark == "m1"
        assert (played := theirs.played("m1")) is not None
        assert ours.feed(played) == MarkPlayed("m1")
    if (clear := ours.clear()) is not None:
        heard = theirs.hear(clear)
        assert heard.cleared
        for answer in heard.answers:
            assert isinstance(ours.feed(answer), Ignored)
    if (key := theirs.key("5")) is not None:
        assert ours.feed(key, isinstance(key, bytes)) == Digit("5")
    if (unknown := theirs.unknown(1000)) is not None:
        fed = ours.feed(unknown)
        assert isinstance(fed, Ignored)
        assert not fed.fault
    for message in ours.end("agent.ended"):
        assert theirs.hear(message).ending


@every
def test_the_caller_hangs_up(name: str):
    ours, theirs, _ = met(name)
    fed = [ours.feed(message, isinstance(message, bytes)) for message in theirs.stop()]
    for each in fed:
        if isinstance(each, Reply):
            assert theirs.hear(each.message).ending
            assert each.event == Stopped()
        else:
            assert each == Stopped()


@every
@pytest.mark.parametrize("message", ["", "{}", "[]", '{"event":"media"}', '{"type":1}', "\x00"])
def test_what_the_server_never_says_is_said_so(name: str, message: str):
    _, theirs, _ = met(name)
    said = message.encode().rjust(4, b"\x42") if name == "audiosocket" else message
    with pytest.raises(Unexpected):
        theirs.hear(said)


def test_messages_of_another_stream_are_not_taken():
    ours, theirs, _ = met("twilio")
    message = json.loads(ours.audio(bytes(160)))
    with pytest.raises(Unexpected, match="another stream"):
        theirs.hear(json.dumps({**message, "streamSid": "MZother"}))
