"""Vobiz: what differs from Plivo."""

from __future__ import annotations

import base64
import hashlib
import hmac

from flowcat_server.carriers import vobiz
from flowcat_server.core.carrier import Account, LiveCall, Request

CARRIER = vobiz.CARRIER
ACCOUNT = Account(id="SA1", secret="token", webhook_key="token")
URL = "https://voice.example/telephony/answer/vobiz"


def test_the_address_without_its_query_is_signed_with_the_nonce():
    given = base64.b64encode(hmac.new(b"token", f"{URL}.n1".encode(), hashlib.sha256).digest())
    headers = {"x-vobiz-signature-v3": given.decode(), "x-vobiz-signature-v3-nonce": "n1"}
    for url, good in ((URL, True), (f"{URL}?a=1", True), (f"{URL}/x", False)):
        verdict = CARRIER.verify(Request("POST", url, headers, b"x", (), []), ACCOUNT, 0)
        assert verdict is not None
        assert verdict.proven == good
    plivos = {name.replace("vobiz", "plivo"): value for name, value in headers.items()}
    verdict = CARRIER.verify(Request("POST", URL, plivos, b"x", (), []), ACCOUNT, 0)
    assert verdict is not None
    assert not verdict.proven


def test_the_api_wants_headers_of_its_own():
    request = CARRIER.hang_up(ACCOUNT, LiveCall("c1"), 0)
    assert request is not None
    assert request.url == "https://api.vobiz.ai/api/v1/Account/SA1/Call/c1/"
    assert request.headers == {"X-Auth-ID": "SA1", "X-Auth-Token": "token"}
    assert request.authorization == ""
