"""The API token on a real socket: who needs it, how it is brought, and what pages may not do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio
from yarl import URL

from tests.fakes.doors import API_TOKEN, ECHO, Doors, doors

OUTSIDE = {"Host": "voice.example"}
BEARER = {"Authorization": f"Bearer {API_TOKEN}"}
GUARDED = ["/", "/api/info", "/api/calls", "/metrics", "/web/app.js", "/favicon.ico", "/nothing"]


@pytest_asyncio.fixture
async def house(tmp_path: Path) -> AsyncIterator[Doors]:
    async with doors(tmp_path, ECHO) as opened:
        yield opened


async def status(house: Doors, path: str, method: str = "GET", **headers: str) -> int:
    async with house.client.request(
        method, URL(house.url + path, encoded=True), headers=headers, allow_redirects=False
    ) as response:
        await response.read()
        return response.status


async def test_this_machine_needs_no_token(house: Doors):
    for path in ("/", "/api/info", "/api/calls", "/metrics", "/web/app.js"):
        assert await status(house, path) == 200, path


async def test_everyone_else_does(house: Doors):
    for path in GUARDED:
        assert await status(house, path, **OUTSIDE) == 401, path
        assert await status(house, path, **{"X-Forwarded-For": "1.2.3.4"}) == 401, path
    for method in ("POST", "DELETE", "PUT", "OPTIONS", "HEAD"):
        assert await status(house, "/api/calls/x", method, **OUTSIDE) == 401, method
    assert await status(house, "/webrtc/offer", "POST", **OUTSIDE) == 401


async def test_probes_are_open(house: Doors):
    for path in ("/healthz", "/readyz"):
        assert await status(house, path, **OUTSIDE) == 200
        assert await status(house, path, "HEAD", **OUTSIDE) == 200
    assert await status(house, "/healthz/../api/calls", **OUTSIDE) != 200
    assert await status(house, "/healthzz", **OUTSIDE) == 401


async def test_no_way_around_through_paths(house: Doors):
    for path in (
        "/telephony/../api/calls",
        "/telephony/%2e%2e/api/calls",
        "/telephony/..%2fapi/calls",
        "//api/calls",
        "/./api/calls",
        "/web/../api/calls",
        "/API/calls",
        "/api/calls/",
        "/healthz/../../api/calls",
    ):
        assert await status(house, path, **OUTSIDE) in (400, 401, 403, 404), path


@pytest.mark.parametrize(
    "headers",
    [
        BEARER,
        {"Authorization": f"bearer {API_TOKEN}"},
        {"Cookie": f"flowcat_token={API_TOKEN}"},
        {"Cookie": f"a=b; flowcat_token={API_TOKEN}; c=d"},
    ],
    ids=["bearer", "lower-case", "cookie", "among-cookies"],
)
async def test_a_token_opens_the_door(house: Doors, headers: dict[str, str]):
    assert await status(house, "/api/calls", **OUTSIDE, **headers) == 200


async def test_a_token_in_the_query_works_for_programs(house: Doors):
    assert await status(house, f"/api/calls?token={API_TOKEN}", **OUTSIDE) == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Bearer wrong"},
        {"Authorization": f"Bearer {API_TOKEN}x"},
        {"Authorization": f"Bearer {API_TOKEN[:-1]}"},
        {"Authorization": "Bearer"},
        {"Authorization": f"Basic {API_TOKEN}"},
        {"Authorization": "Bearer \u00fc"},
        {"Cookie": "flowcat_token="},
        {"Cookie": "flowcat_token=wrong"},
        {"Authorization": "Bearer wrong", "Cookie": f"flowcat_token={API_TOKEN}"},
    ],
    ids=str,
)
async def test_a_wrong_token_does_not(house: Doors, headers: dict[str, str]):
    assert await status(house, "/api/calls", **OUTSIDE, **headers) == 401


async def test_bytes_that_are_no_text_are_a_wrong_token(house: Doors):
    host, port = house.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(
        b"GET /api/calls HTTP/1.1\r\nHost: x.example\r\nAuthorization: Bearer \xff\xfe\r\n\r\n"
    )
    assert b" 401 " in await asyncio.wait_for(reader.readline(), 5)
    writer.close()


async def test_the_pages_address_turns_its_token_into_a_cookie(house: Doors):
    async with house.client.get(
        f"{house.url}/?token={API_TOKEN}&a=b%26c", headers=OUTSIDE, allow_redirects=False
    ) as response:
        assert response.status == 303
        assert response.headers["Location"] == "./?a=b%26c"
        cookie = response.cookies["flowcat_token"]
        assert cookie.value == API_TOKEN
        assert (cookie["httponly"], cookie["samesite"]) == (True, "Strict")
        assert not cookie["secure"]
    async with house.client.get(
        house.url + "/", headers={**OUTSIDE, "Cookie": f"flowcat_token={cookie.value}"}
    ) as response:
        assert response.status == 200
        assert "<!doctype html>" in (await response.text()).lower()


async def test_behind_https_the_cookie_is_secure(tmp_path: Path):
    yaml = ECHO + "server: {public_url: 'https://voice.example/app'}\n"
    async with (
        doors(tmp_path, yaml) as house,
        house.client.get(
            f"{house.url}/?token={API_TOKEN}", headers=OUTSIDE, allow_redirects=False
        ) as response,
    ):
        assert response.cookies["flowcat_token"]["secure"]


async def test_a_wrong_token_in_the_address_is_no_cookie(house: Doors):
    async with house.client.get(
        f"{house.url}/?token=wrong", headers=OUTSIDE, allow_redirects=False
    ) as response:
        assert response.status == 401
        assert not response.cookies
        assert "token" in await response.text()


async def test_the_refusal_says_what_is_wanted(house: Doors):
    async with house.client.get(house.url + "/api/calls", headers=OUTSIDE) as response:
        assert response.headers["WWW-Authenticate"] == "Bearer"
        assert (await response.json())["error"] == "unauthorized"


# --- pages of other sites -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "origin",
    ["https://evil.example", "null", "http://localhost:1", "http://[", "", "voice.example"],
)
async def test_pages_of_other_sites_are_refused_even_on_this_machine(house: Doors, origin: str):
    for headers in ({}, {"Cookie": f"flowcat_token={API_TOKEN}"}):
        assert await status(house, "/api/calls", Origin=origin, **headers) == 403
        assert await status(house, "/webrtc/offer", "POST", Origin=origin, **headers) == 403
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        await house.client.ws_connect(house.url + "/webrtc/events/x", headers={"Origin": origin})
    assert refused.value.status == 403


async def test_our_own_page_is_served(house: Doors):
    assert await status(house, "/api/calls", Origin=house.url) == 200
    own = {"Origin": "http://voice.example", "Cookie": f"flowcat_token={API_TOKEN}"}
    assert await status(house, "/api/calls", **OUTSIDE, **own) == 200


async def test_a_program_with_a_bearer_token_may_come_from_anywhere(house: Doors):
    assert await status(house, "/api/calls", Origin="https://crm.example", **BEARER) == 200


async def test_our_page_behind_a_proxy_that_changes_the_host_is_ours(tmp_path: Path):
    cookie = {"Cookie": f"flowcat_token={API_TOKEN}"}
    yaml = ECHO + "server: {public_url: 'https://voice.example'}\n"
    async with doors(tmp_path, yaml) as house:
        assert await status(house, "/api/calls", Origin="https://voice.example", **cookie) == 200
        assert await status(house, "/api/calls", Origin="https://other.example", **cookie) == 403


async def test_behind_a_trusted_proxy_on_this_machine_everyone_needs_the_token(tmp_path: Path):
    yaml = ECHO + "server: {trusted_proxies: [127.0.0.1]}\n"
    async with doors(tmp_path, yaml) as house:
        assert await status(house, "/api/calls") == 401
        assert await status(house, "/api/calls", **BEARER) == 200
        forwarded = {"X-Forwarded-Host": "voice.example", "X-Forwarded-Proto": "https"}
        own = {"Origin": "https://voice.example", "Cookie": f"flowcat_token={API_TOKEN}"}
        assert await status(house, "/api/calls", **forwarded, **own) == 200


async def test_sockets_need_the_token_too(house: Doors):
    for headers in (OUTSIDE, {**OUTSIDE, "Authorization": "Bearer x"}):
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await house.client.ws_connect(house.url + "/webrtc/events/x", headers=headers)
        assert refused.value.status == 401
    # With it there is no redirect, and no such call.
    url = f"{house.url}/webrtc/events/x?token={API_TOKEN}"
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        await house.client.ws_connect(url, headers=OUTSIDE)
    assert refused.value.status == 404


async def test_answers_carry_the_security_headers(house: Doors):
    for path, code in (("/", 200), ("/api/info", 200), ("/api/calls/x", 404), ("/x", 404)):
        async with house.client.get(house.url + path) as response:
            assert response.status == code
            assert "frame-ancestors 'none'" in response.headers["Content-Security-Policy"]
            assert response.headers["X-Content-Type-Options"] == "nosniff"
            assert response.headers["Referrer-Policy"] == "no-referrer"


async def test_no_file_outside_the_page_is_served(house: Doors):
    for path in (
        "/web/../pyproject.toml",
        "/web/..%2fpyproject.toml",
        "/web/%2e%2e/pyproject.toml",
        "/web/%2e%2e%2f%2e%2e%2fetc/passwd",
        "/web//etc/passwd",
        "/web/..\\pyproject.toml",
        "/web/app.js%00.html",
        "/web/",
        "/web",
    ):
        assert await status(house, path) in (400, 403, 404), path
