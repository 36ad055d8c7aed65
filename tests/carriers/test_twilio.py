from __future__ import annotations

import base64
import hashlib
import itertools
import json
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twilio.request_validator import RequestValidator
from twilio.twiml.voice_response import Connect, Stream, VoiceResponse

from flowcat_server.carriers import _twilio as family
from flowcat_server.carriers import _values, twilio
from flowcat_server.carriers._http import url_candidates
from flowcat_server.core.audio import MULAW_8K
from flowcat_server.core.carrier import (
    Account,
    CarrierStream,
    Digit,
    Ignored,
    LiveCall,
    MarkPlayed,
    Request,
    RestRequest,
    Ringing,
    Started,
    Stopped,
)
from flowcat_server.core.proof import basic

START = {
    "event": "start",
    "streamSid": "MZ1",
    "start": {"callSid": "CA1", "accountSid": "AC1", "customParameters": {}},
}


def message(**fields: Any) -> str:
    return json.dumps(fields)


CARRIER = twilio.CARRIER
ACCOUNT = Account(id="AC1", secret="secret")
CALL = Ringing("CA1")


def opened() -> CarrierStream:
    return CARRIER.open(Account(), Request("GET", "wss://a.example/ws"))


def answer(url: str, parameters: dict[str, str]) -> str:
    return CARRIER.answer(Account(), CALL, url, parameters).body


def started() -> CarrierStream:
    stream = opened()
    assert isinstance(stream.feed(json.dumps(START)), Started)
    return stream


# --- what comes in --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "announced",
    [
        {"encoding": "audio/x-mulaw", "sampleRate": 16000},
        {"encoding": "audio/x-opus", "sampleRate": 8000},
        {"encoding": "audio/x-mulaw", "sampleRate": [8000]},
    ],
    ids=["rate", "encoding", "nonsense"],
)
def test_a_format_that_we_cannot_read_is_said_not_guessed(announced: dict[str, Any]):
    start = {**START, "start": {**START["start"], "mediaFormat": announced}}  # type: ignore[dict-item]
    fed = opened().feed(json.dumps(start))
    assert isinstance(fed, Started)
    readable = announced["sampleRate"] == [8000]
    assert fed.input_format == (MULAW_8K if readable else None)


@pytest.mark.parametrize("field", ["mediaFormat", "customParameters", "tracks", "accountSid"])
@pytest.mark.parametrize("value", [None, 0, "", [], {}, [{"a": []}], 1e300])
def test_no_single_odd_field_of_the_start_message_loses_the_call(field: str, value: object):
    start = {**START, "start": {**START["start"], field: value}}  # type: ignore[dict-item]
    fed = opened().feed(json.dumps(start))
    assert isinstance(fed, Started)
    assert fed.call_id == "CA1"


@pytest.mark.parametrize("field", ["chunk", "timestamp", "track", "extra"])
@pytest.mark.parametrize("value", [None, 0, [], {}, {"a": [1]}, 1.5, 10**30])
def test_no_odd_field_beside_the_payload_loses_the_audio(field: str, value: object):
    media = {"payload": base64.b64encode(b"abc").decode(), field: value}
    fed = started().feed(message(event="media", sequenceNumber=value, media=media))
    assert fed == b"abc"


@pytest.mark.parametrize(
    "start",
    [
        {"event": "start"},
        {"event": "start", "start": None},
        {"event": "start", "start": {"callSid": "CA1"}},
        {"event": "start", "streamSid": "M" * 129, "start": {"callSid": "CA1"}},
        {"event": "start", "streamSid": "MZ1", "start": {"callSid": "C" * 129}},
        {"event": "start", "streamSid": {"a": 1}, "start": {"callSid": "CA1"}},
        {"event": "start", "streamSid": 10**400, "start": {"callSid": "CA1"}},
    ],
    ids=["bare", "null", "no-stream-id", "long-stream-id", "long-call-id", "object", "huge-number"],
)
def test_a_start_without_usable_ids_starts_nothing(start: dict[str, Any]):
    stream = opened()
    assert stream.feed(json.dumps(start)) == Ignored("start without usable ids", fault=True)
    assert isinstance(stream.feed(json.dumps(START)), Started)


def test_parameters_are_limited_in_number_and_length():
    many = {f"p{n}": "v" * 5000 for n in range(200)} | {"n" * 5000: "x"}
    start = {**START, "start": {"callSid": "CA1", "customParameters": many}}
    fed = opened().feed(json.dumps(start))
    assert isinstance(fed, Started)
    assert len(fed.parameters) == _values.MAX_PARAMETERS
    assert max(map(len, fed.parameters.values())) == _values.MAX_PARAMETER_CHARS


def bombs() -> Iterator[tuple[str, str]]:
    yield "arrays", '{"event":' + "[" * 65_000
    yield "closed-arrays", '{"x":' + "[" * 32_000 + "]" * 32_000 + "}"
    yield "objects", '{"a":' * 13_000
    yield "media-objects", '{"event":"media","media":' + '{"payload":' * 5_000
    yield "digits", '{"event":"dtmf","dtmf":{"digit":' + "9" * 65_000 + "}}"
    yield "exponent", '{"event":"dtmf","dtmf":{"digit":1e999999}}'
    yield "infinity", '{"event":"media","timestamp":Infinity,"media":{"payload":"AA=="}}'
    yield "surrogate", '{"event":"start","streamSid":"\\ud800","start":{"callSid":"CA1"}}'
    yield "nul", '{"event":"mark","mark":{"name":"\\u0000"}}'
    yield "many-keys", "{" + ",".join(f'"{n}":{n}' for n in range(6_000)) + "}"
    yield "empty", ""
    yield "base64", '{"event":"media","media":{"payload":"' + "A" * 65_001 + '"}}'


@pytest.mark.parametrize("text", [b for _, b in bombs()], ids=[name for name, _ in bombs()])
def test_a_bomb_is_one_ignored_message(text: str):
    stream = started()
    begun = time.perf_counter()
    assert isinstance(stream.feed(text), Ignored | MarkPlayed)
    assert time.perf_counter() - begun < 0.1
    assert stream.feed(message(event="stop")) == Stopped()


def test_bytes_that_are_no_text_are_one_ignored_message():
    fed = started().feed(b'{"event":"mark","mark":{"name":"\xff\xfe"}}')
    assert fed == Ignored("unreadable message", fault=True)


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=5,
)
names = st.sampled_from(["event", "streamSid", "start", "media", "dtmf", "mark", "stop"])
inner_names = st.sampled_from(
    ["payload", "track", "callSid", "streamSid", "customParameters", "mediaFormat", "digit", "name"]
)
events = st.sampled_from(["start", "media", "dtmf", "mark", "stop", "connected"])
shaped = st.dictionaries(
    names, st.dictionaries(inner_names, values, max_size=3) | values, max_size=3
).flatmap(lambda fields: events.map(lambda event: {**fields, "event": event}) | st.just(fields))


@given(st.lists(st.text() | st.binary() | shaped.map(json.dumps), max_size=5))
@settings(max_examples=150)
def test_nothing_that_arrives_raises(messages: list[str | bytes]):
    stream = started()
    for each in messages:
        fed = stream.feed(each)
        assert isinstance(fed, bytes | Started | Digit | MarkPlayed | Stopped | Ignored)
        assert fed != b""
        assert not isinstance(fed, Started)


# --- what goes out --------------------------------------------------------------------------------


def test_audio_is_this_message_to_the_byte():
    stream = opened()
    stream.feed(json.dumps({**START, "streamSid": 'M"Z\\ü'}))
    sent = stream.audio(b"\x00\xff\x7f")
    assert sent == '{"event":"media","streamSid":"M\\"Z\\\\ü","media":{"payload":"AP9/"}}'


@given(st.binary(min_size=1, max_size=2000), st.text(max_size=30))
@settings(max_examples=100)
def test_everything_sent_is_one_of_the_three_messages(payload: bytes, name: str):
    stream = started()
    audio, mark, clear = (
        json.loads(text) for text in (stream.audio(payload), stream.mark(name), stream.clear())
    )
    assert audio.keys() == {"event", "streamSid", "media"}
    assert base64.b64decode(audio["media"].pop("payload"), validate=True) == payload
    assert audio == {"event": "media", "streamSid": "MZ1", "media": {}}
    assert mark == {"event": "mark", "streamSid": "MZ1", "mark": {"name": name}}
    assert clear == {"event": "clear", "streamSid": "MZ1"}


# --- documents ------------------------------------------------------------------------------------

HOSTILE = ['a"b', "a'b\"c", "<Dial>x</Dial>", "&amp;", "\x00\x08\ud800\ufffe", "ü😀", "\n\t", "]]>"]


def shape(document: str) -> Any:
    def of(node: ET.Element) -> Any:
        return (node.tag, dict(node.attrib), (node.text or "").strip(), [of(sub) for sub in node])

    return of(ET.fromstring(document))


def test_the_answer_is_what_twilios_own_library_writes():
    theirs = VoiceResponse()
    connect = Connect()
    stream = Stream(url="wss://a.example/telephony/ws/twilio")
    stream.parameter(name="token", value="1.2.3")
    connect.append(stream)
    theirs.append(connect)
    theirs.hangup()
    ours = answer("wss://a.example/telephony/ws/twilio", {"token": "1.2.3"})
    assert shape(ours) == shape(str(theirs))


def test_busy_and_transfer_are_what_twilios_own_library_writes():
    theirs = VoiceResponse()
    theirs.reject(reason="busy")
    assert shape(CARRIER.busy(Account(), CALL).body) == shape(str(theirs))
    theirs = VoiceResponse()
    theirs.dial("+15550100", caller_id="+15550199")
    theirs.hangup()
    assert shape(family.dial("+15550100", "+15550199")) == shape(str(theirs))


@pytest.mark.parametrize("value", HOSTILE)
def test_hostile_values_stay_values(value: str):
    document = answer(f"wss://a/{value}", {"k": value})
    document.encode("utf-8")
    tag, _, _, [(_, _, _, [(stream, attributes, _, [(_, parameter, _, [])])]), hangup] = shape(
        document
    )
    assert (tag, stream, hangup[0]) == ("Response", "Stream", "Hangup")
    clean = "".join(c for c in value if c not in "\x00\x08\ud800\ufffe")
    assert attributes == {"url": f"wss://a/{clean}"}
    assert parameter == {"name": "k", "value": clean}
    dialled = ET.fromstring(family.dial(value, value)).find("Dial")
    assert dialled is not None
    assert (dialled.text or "", dialled.attrib) == (clean, {})
    assert not list(dialled)


# --- REST -----------------------------------------------------------------------------------------


def test_requests_name_the_call_and_carry_the_credentials():
    hang_up = CARRIER.hang_up(ACCOUNT, LiveCall("CA1"), 0)
    assert hang_up == RestRequest(
        "POST",
        "https://api.twilio.com/2010-04-01/Accounts/AC1/Calls/CA1.json",
        basic("AC1", "secret"),
        form={"Status": "completed"},
    )
    assert 404 in hang_up.gone_status
    account = Account(id="AC1", secret="secret", api="http://127.0.0.1:1")
    move = CARRIER.transfer(account, LiveCall("CA1"), "+1555", 0)
    assert move is not None
    assert move.url == "http://127.0.0.1:1/Accounts/AC1/Calls/CA1.json"
    assert move.form == {"Twiml": family.dial("+1555")}


def test_without_credentials_nothing_is_asked_of_the_carrier():
    assert CARRIER.hang_up(Account(id="AC1"), LiveCall("CA1"), 0) is None
    assert CARRIER.transfer(Account(secret="s"), LiveCall("CA1"), "+1555", 0) is None


def test_ids_cannot_leave_their_place_in_the_path():
    account = Account(id="../../x", secret="secret")
    request = CARRIER.hang_up(account, LiveCall("CA1/../y?z#w"), 0)
    assert request is not None
    assert request.url.startswith(f"{CARRIER.api}/Accounts/..%2F..%2Fx/Calls/CA1%2F")
    assert "?" not in request.url


# --- signatures -----------------------------------------------------------------------------------

TOKEN = "12345"
URL = "https://mycompany.com/myapp.php?foo=1&bar=2"
FORM = [
    ("CallSid", "CA1234567890ABCDE"),
    ("Caller", "+14158675309"),
    ("Digits", "1234"),
    ("From", "+14158675309"),
    ("To", "+18005551212"),
]


class Form(dict[str, list[str]]):
    """Repeated parameters, as the vendor's validator reads them."""

    def getall(self, name: str) -> list[str]:
        return self[name]


def vendors(form: list[tuple[str, str]]) -> Form:
    fields = Form()
    for name, value in form:
        fields.setdefault(name, []).append(value)
    return fields


def test_the_documented_vector():
    assert family.signature(TOKEN, URL, FORM) == "RSOYDt4T1cUTdK1PDd93/VVr8B8="
    assert family.verify(TOKEN, "RSOYDt4T1cUTdK1PDd93/VVr8B8=", URL, FORM)


@pytest.mark.parametrize(
    "change",
    [
        {"given": ""},
        {"given": "RSOYDt4T1cUTdK1PDd93/VVr8B8"},
        {"given": "é"},
        {"given": "\ud800"},
        {"url": URL + "/"},
        {"url": URL.replace("https", "http")},
        {"url": URL.replace("com", "com:8443")},
        {"form": FORM[1:]},
        {"form": [*FORM, ("Digits", "12345")]},
        {"secret": "12346"},
        {"algorithm": "HMAC_SHA256"},
        {"algorithm": "none"},
        {"body": b"{}"},
    ],
    ids=str,
)
def test_any_difference_is_refused(change: dict[str, Any]):
    arguments: dict[str, Any] = {
        "secret": TOKEN,
        "given": "RSOYDt4T1cUTdK1PDd93/VVr8B8=",
        "url": URL,
        "form": FORM,
    }
    assert not family.verify(**{**arguments, **change})


HOSTS = [
    "a.example",
    "A.Example",
    "a.example:443",
    "a.example:8443",
    "127.0.0.1:80",
    "a.example:80",
]
PATHS = ["/x", "/x/", "/a%20b?q=%C3%BC&r=", "/?", "/x?a=http://b:9/c"]


@pytest.mark.parametrize("scheme", ["https", "http"])
@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("algorithm", ["HMAC_SHA1", "HMAC_SHA256"])
def test_the_vendors_validator_and_ours_agree(scheme: str, host: str, path: str, algorithm: str):
    validator = RequestValidator(TOKEN)
    url = f"{scheme}://{host}{path}"
    form = [*FORM, ("Multi", "b"), ("Multi", "a"), ("Multi", "b"), ("Ünï", "漢😀"), ("Empty", "")]
    ours = family.signature(TOKEN, url, form, algorithm)
    assert validator.compute_signature(url, vendors(form), algorithm) == ours
    assert family.verify(TOKEN, ours, url, form, algorithm=algorithm)
    if path != "/?":  # the vendor's validator drops an empty query
        assert validator.validate(url, vendors(form), ours, algorithm)
    # Whatever the vendor signs, with or without the port, is accepted where they accept it.
    bare, port = host.partition(":")[::2]
    default = "443" if scheme == "https" else "80"
    for other in {bare, f"{bare}:{port or default}"}:
        signed = validator.compute_signature(f"{scheme}://{other}{path}", vendors(form), algorithm)
        assert family.verify(TOKEN, signed, url, form, algorithm=algorithm)


valid_text = st.text(st.characters(codec="utf-8"), max_size=8)


@given(st.lists(st.tuples(valid_text, valid_text), max_size=6))
@settings(max_examples=100)
def test_any_form_is_signed_as_the_vendor_signs_it(form: list[tuple[str, str]]):
    theirs = RequestValidator(TOKEN).compute_signature(URL, vendors(form))
    assert family.verify(TOKEN, theirs, URL, form)


@pytest.mark.parametrize("signed_host", ["a.example", "a.example:443"])
@pytest.mark.parametrize("seen_host", ["a.example", "a.example:443"])
def test_the_handshake_is_signed_as_wss_with_or_without_its_port(signed_host: str, seen_host: str):
    path = "/telephony/ws/twilio/run-1"
    given = RequestValidator(TOKEN).compute_signature(f"wss://{signed_host}{path}", {})
    assert family.verify(TOKEN, given, f"wss://{seen_host}{path}")
    assert not family.verify(TOKEN, given, f"https://{seen_host}{path}")


def test_a_json_body_is_covered_by_its_hash():
    body = '{"CallSid":"CA1"}'
    digest = hashlib.sha256(body.encode()).hexdigest()
    validator = RequestValidator(TOKEN)
    for url in (
        f"https://a.example/x?bodySHA256={digest}",
        f"https://a.example/x?a=1&bodySHA256={digest}&b",
    ):
        given = validator.compute_signature(url, {})
        assert validator.validate(url, body, given)
        assert family.verify(TOKEN, given, url, body=body.encode())
        assert not family.verify(TOKEN, given, url, body=b"{}")
    for query in (
        f"xbodySHA256={digest}",
        f"bodySHA256={'0' * 64}",
        "",
        f"bodySHA256=0&bodySHA256={digest}",
    ):
        url = f"https://a.example/x?{query}"
        given = validator.compute_signature(url, {})
        assert not family.verify(TOKEN, given, url, body=body.encode())


@pytest.mark.parametrize(
    ("header", "algorithm"),
    [
        ("", "HMAC_SHA1"),
        ("key=k1,algorithm=HMAC_SHA256", "HMAC_SHA256"),
        (" algorithm = hmac_sha256 ,key=k", "HMAC_SHA256"),
        ("key=k1", "HMAC_SHA1"),
        ("algorithm=", "HMAC_SHA1"),
        ("algorithm=MD5", "MD5"),
    ],
)
def test_the_settings_header_names_the_algorithm(header: str, algorithm: str):
    assert family.signature_algorithm(header) == algorithm


@given(st.text(max_size=60) | st.text("htps:/[]@?#.0123456789a", max_size=40))
@settings(max_examples=300)
def test_no_url_and_no_header_raises(text: str):
    candidates = url_candidates(text)
    assert candidates[0] == text
    assert len(candidates) <= 2
    assert not family.verify(TOKEN, text, text, algorithm=family.signature_algorithm(text))


@pytest.mark.parametrize(
    ("url", "other"),
    [
        ("https://[::1]/x", "https://[::1]:443/x"),
        ("https://[::1]:443/x", "https://[::1]/x"),
        ("wss://a?x", "wss://a:443?x"),
        ("ws://a:81", "ws://a"),
        ("ftp://a/x", None),
        ("https:///x", None),
        ("a.example/x", None),
    ],
)
def test_url_candidates(url: str, other: str | None):
    assert url_candidates(url) == ([url] if other is None else [url, other])


def test_candidates_differ_from_each_other_only_in_the_port():
    for scheme, host, path in itertools.product(["https", "wss"], HOSTS, PATHS):
        one, two = url_candidates(f"{scheme}://{host}{path}")
        assert one != two
        for each in (one, two):
            assert each.startswith(f"{scheme}://{host.partition(':')[0]}")
            assert each.endswith(path)
