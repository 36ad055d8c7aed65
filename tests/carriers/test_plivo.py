"""Plivo: documents and signatures against the vendor's own library."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from typing import Any
from urllib.parse import urlencode

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plivo import plivoxml
from plivo.utils import signature_v3

from flowcat_server.carriers import plivo
from flowcat_server.config.carriers import Plivo
from flowcat_server.core.carrier import Account, CallStatus, LiveCall, Request, Ringing
from flowcat_server.core.proof import basic

CARRIER = plivo.CARRIER
TOKEN = "ODNhMTQwM2U2NGYwYWI4ZTU0MzQxYWQ4"
ACCOUNT = Account(id="MA1", secret=TOKEN, webhook_key=TOKEN)
BASE = "https://voice.example/telephony/answer/plivo"
FORM = [("CallUUID", "c1"), ("From", "15550100"), ("To", "15550199"), ("Empty", "")]


def vendors(method: str, url: str, form: list[tuple[str, str]], nonce: str) -> str:
    """The signature as the vendor's library makes it."""
    fields: dict[str, list[str]] = {}
    for name, value in form:
        fields.setdefault(name, []).append(value)
    text = (
        signature_v3.construct_get_url(url, {})
        if method == "GET"
        else signature_v3.construct_post_url(url, fields)
    )
    return signature_v3.get_signature_v3(TOKEN.encode(), text.decode(), nonce).decode()


def asked(
    method: str, url: str, form: list[tuple[str, str]], given: str, nonce: str = "n1", **more: str
) -> Request:
    headers = {"x-plivo-signature-v3": given, "x-plivo-signature-v3-nonce": nonce, **more}
    return Request(method, url, headers, b"x" if form else b"", (), form or None)


def proven(request: Request, account: Account = ACCOUNT) -> bool:
    verdict = CARRIER.verify(request, account, 0)
    assert verdict is not None
    return verdict.proven


URLS = [BASE, f"{BASE}/run-1", f"{BASE}?a=1&b=2", f"{BASE}?b=2&a=1&a=0&c=", f"{BASE}?q=a%20b%2Bc"]


@pytest.mark.parametrize("url", URLS)
@pytest.mark.parametrize("form", [FORM, []], ids=["form", "bare"])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_the_vendors_library_and_ours_agree(method: str, form: list[tuple[str, str]], url: str):
    if method == "GET":
        form = []
    given = vendors(method, url, form, "n1")
    assert proven(asked(method, url, form, given))
    assert signature_v3.validate_v3_signature(
        method, url, "n1", TOKEN, given, {name: [value] for name, value in form}
    )
    longer = url + ("&x=y" if "?" in url else "?x=y")
    assert not proven(asked(method, longer, form, given))
    if method == "POST":
        assert not proven(asked(method, url, [*form, ("x", "y")], given))


plain = st.text(st.characters(codec="ascii", exclude_characters="\x00\r\n\t"), max_size=8)


@given(st.lists(st.tuples(plain, plain), max_size=5), st.lists(st.tuples(plain, plain), max_size=4))
@settings(max_examples=100)
def test_any_form_and_query_are_signed_as_the_vendor_signs_them(
    form: list[tuple[str, str]], query: list[tuple[str, str]]
):
    form = [(name or "n", value or "v") for name, value in form]
    url = BASE + (f"?{urlencode(query)}" if query else "")
    assert proven(asked("POST", url, form, vendors("POST", url, form, "n1")))


def test_one_of_several_signatures_is_enough():
    given = vendors("POST", BASE, FORM, "n1")
    assert proven(asked("POST", BASE, FORM, f"AAAA, {given}"))
    main = {"x-plivo-signature-ma-v3": given}
    assert proven(asked("POST", BASE, FORM, "AAAA", **main))
    port = BASE.replace("example", "example:443")
    assert proven(asked("POST", BASE, FORM, vendors("POST", port, FORM, "n1")))


@pytest.mark.parametrize(
    "change",
    [
        {"given": ""},
        {"given": "AAAA"},
        {"given": "\u00fc,\ud800"},
        {"nonce": "n2"},
        {"nonce": ""},
        {"url": BASE + "/"},
        {"url": BASE.replace("https", "http")},
        {"form": FORM[1:]},
        {"method": "GET"},
    ],
    ids=str,
)
def test_any_difference_is_refused(change: dict[str, Any]):
    good: dict[str, Any] = {
        "method": "POST",
        "url": BASE,
        "form": FORM,
        "given": vendors("POST", BASE, FORM, "n1"),
    }
    assert proven(asked(**good))
    assert not proven(asked(**{**good, **change}))
    assert not proven(asked(**good), Account(webhook_key="other"))


@pytest.mark.parametrize("content_type", ["audio/x-mulaw;rate=8000", "audio/x-l16;rate=16000"])
def test_the_answer_is_what_the_vendors_library_writes(content_type: str):
    url = "wss://a.example/telephony/ws/plivo/run-1?token=1.2.3&x=<y>"
    theirs = plivoxml.ResponseElement()
    theirs.add(
        plivoxml.StreamElement(
            url, bidirectional=True, keepCallAlive=True, contentType=content_type
        )
    )
    theirs.add(plivoxml.HangupElement())
    account = Plivo(content_type=content_type).account()  # type: ignore[arg-type]
    ours = CARRIER.answer(account, Ringing("c1"), url, {}).body
    assert canonical(ours) == canonical(theirs.to_string())


def test_busy_is_what_the_vendors_library_writes():
    theirs = plivoxml.ResponseElement()
    theirs.add(plivoxml.HangupElement(reason="busy"))
    assert canonical(CARRIER.busy(Account(), Ringing("c1")).body) == canonical(theirs.to_string())


def canonical(document: str) -> Any:
    def of(node: ET.Element) -> Any:
        return (node.tag, dict(node.attrib), (node.text or "").strip(), [of(sub) for sub in node])

    return of(ET.fromstring(document))


def test_a_webhook_names_the_call_and_numbers_get_their_plus():
    request = Request("POST", BASE, {}, b"x", (), FORM)
    assert CARRIER.read_call(request) == Ringing("c1", "+15550100", "+15550199")
    sip = Request("GET", BASE, {}, b"", [("CallUUID", "c1"), ("From", "sip:a@b"), ("To", "1")])
    assert CARRIER.read_call(sip) == Ringing("c1", "sip:a@b", "1")


@pytest.mark.parametrize(
    ("word", "status"),
    [("completed", "completed"), ("busy", "busy"), ("timeout", "no-answer"),
     ("cancel", "canceled"), ("in-progress", "answered"), ("x", None)],
)  # fmt: skip
def test_statuses(word: str, status: Any):
    request = Request("POST", BASE, {}, b"x", (), [("CallUUID", "c1"), ("CallStatus", word)])
    assert CARRIER.read_status(request) == (CallStatus("c1", status) if status else None)


def test_a_call_is_ended_through_the_api():
    request = CARRIER.hang_up(ACCOUNT, LiveCall("c/1"), 0)
    assert request is not None
    assert (request.method, request.url) == (
        "DELETE", "https://api.plivo.com/v1/Account/MA1/Call/c%2F1/",
    )  # fmt: skip
    assert request.authorization == basic("MA1", TOKEN)
    assert CARRIER.hang_up(Account(id="MA1"), LiveCall("c1"), 0) is None
