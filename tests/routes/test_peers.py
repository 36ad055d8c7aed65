from __future__ import annotations

from typing import Any

import pytest
from aiohttp import HttpVersion10, web
from aiohttp.test_utils import make_mocked_request
from hypothesis import given
from hypothesis import strategies as st

from flowcat_server.errors import ConfigError
from flowcat_server.routes.peers import (
    client_address,
    is_local,
    is_other_site,
    parse_networks,
    public_base,
)

TRUSTED = parse_networks(["10.0.0.0/8", "2001:db8::1", "192.168.1.7"])


def request(remote: str = "127.0.0.1", host: str = "localhost:6210", **other: Any) -> web.Request:
    headers = {"Host": host, **other.pop("headers", {})}
    return make_mocked_request("GET", "/x", headers=headers, **other).clone(remote=remote)


@pytest.mark.parametrize("wrong", ["nonsense", "10.0.0.0/99", "", "1.2.3"])
def test_a_wrong_network_is_a_configuration_error(wrong: str):
    with pytest.raises(ConfigError, match="trusted_proxies"):
        parse_networks([wrong])


# --- this machine ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("remote", "host"),
    [
        ("127.0.0.1", "localhost"),
        ("127.0.0.1", "localhost:6210"),
        ("127.3.2.1", "127.0.0.1:6210"),
        ("::1", "[::1]:6210"),
        ("::1", "::1"),
        ("::ffff:127.0.0.1", "127.0.0.1"),
        ("127.0.0.1", "agent.localhost:6210"),
    ],
)
def test_requests_of_this_machine(remote: str, host: str):
    assert is_local(request(remote, host))


@pytest.mark.parametrize(
    ("remote", "host"),
    [
        ("192.168.1.2", "localhost"),
        ("10.0.0.1", "127.0.0.1"),
        ("::ffff:10.0.0.1", "127.0.0.1"),
        ("", "localhost"),
        ("127.0.0.1", "evil.example"),
        ("127.0.0.1", "127.0.0.1.nip.io"),
        ("127.0.0.1", "localhost.evil.example:6210"),
        ("127.0.0.1", "evillocalhost"),
        ("127.0.0.1", ""),
        ("127.0.0.1", "["),
        ("127.0.0.1", "[::1"[:1] + "::2]"),
        ("127.0.0.1", "0.0.0.0"),
        ("127.0.0.1", "localhost@evil.example"),
    ],
)
def test_requests_from_elsewhere_or_for_someone_else(remote: str, host: str):
    assert not is_local(request(remote, host))


def test_a_proxy_on_this_machine_is_not_this_machine():
    assert not is_local(request(headers={"X-Forwarded-For": "127.0.0.1"}))
    assert not is_local(request(version=HttpVersion10))
    assert not is_local(request(), parse_networks(["127.0.0.1"]))
    assert is_local(request(), parse_networks(["10.0.0.0/8"]))


@given(st.text(max_size=30))
def test_no_host_header_raises(host: str):
    made = request(host=host)
    is_local(made)
    is_other_site(made)
    public_base(made, "", ())


# --- pages ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "other"),
    [
        ({}, False),
        ({"Origin": "http://localhost:6210"}, False),
        ({"Origin": "https://LOCALHOST:6210"}, False),
        ({"Origin": "https://voice.example"}, False),
        ({"Origin": "http://localhost:6211"}, True),
        ({"Origin": "http://localhost"}, True),
        ({"Origin": "null"}, True),
        ({"Origin": ""}, True),
        ({"Origin": "http://["}, True),
        ({"Sec-Fetch-Site": "none"}, False),
        ({"Sec-Fetch-Site": "same-origin"}, False),
        ({"Sec-Fetch-Site": "same-site"}, True),
        ({"Sec-Fetch-Site": "cross-site"}, True),
    ],
    ids=str,
)
def test_whose_page_asks(headers: dict[str, str], other: bool):
    assert is_other_site(request(headers=headers), "https://voice.example") is other


# --- proxies --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("remote", "forwarded", "address"),
    [
        ("1.2.3.4", "", "1.2.3.4"),
        ("1.2.3.4", "9.9.9.9", "1.2.3.4"),
        ("10.0.0.1", "9.9.9.9", "9.9.9.9"),
        ("10.0.0.1", "6.6.6.6, 9.9.9.9", "9.9.9.9"),
        ("10.0.0.1", "6.6.6.6, 9.9.9.9, 10.2.2.2", "9.9.9.9"),
        ("10.0.0.1", "10.2.2.2", "10.0.0.1"),
        ("10.0.0.1", "", "10.0.0.1"),
        ("::ffff:10.0.0.1", "9.9.9.9", "9.9.9.9"),
    ],
)
def test_the_client_is_whom_the_last_trusted_proxy_saw(remote: str, forwarded: str, address: str):
    headers = {"X-Forwarded-For": forwarded} if forwarded else {}
    assert client_address(request(remote, headers=headers), TRUSTED) == address


FORWARDED = {"X-Forwarded-Proto": "https", "X-Forwarded-Host": "voice.example"}


@pytest.mark.parametrize(
    ("configured", "remote", "headers", "base"),
    [
        ("", "127.0.0.1", {}, "http://localhost:6210"),
        ("", "127.0.0.1", FORWARDED, "http://localhost:6210"),
        ("", "10.0.0.1", FORWARDED, "https://voice.example"),
        ("", "10.0.0.1", {"X-Forwarded-Proto": "https"}, "https://localhost:6210"),
        ("", "10.0.0.1", {"X-Forwarded-Proto": "https, http"}, "https://localhost:6210"),
        ("", "10.0.0.1", {"X-Forwarded-Proto": "javascript"}, "http://localhost:6210"),
        ("https://a.example/voice/", "10.0.0.1", FORWARDED, "https://a.example/voice"),
    ],
)
def test_the_url_as_the_outside_sees_it(
    configured: str, remote: str, headers: dict[str, str], base: str
):
    assert public_base(request(remote, headers=headers), configured, TRUSTED) == base
