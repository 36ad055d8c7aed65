"""The shared HTTP client, and how its failures become provider errors."""

import asyncio
from collections.abc import AsyncIterator

import aiohttp
import pytest
from aiohttp import web
from yarl import URL

from flowcat_server.errors import (
    ProviderBusy,
    ProviderError,
    ProviderProtocol,
    ProviderRefused,
    ProviderTimeout,
    ProviderUnavailable,
)
from flowcat_server.providers.http import Http, status_error, translate
from flowcat_server.providers.warm import warm


@pytest.fixture
async def http() -> AsyncIterator[Http]:
    client = Http()
    yield client
    await client.close()


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, ProviderRefused),
        (401, ProviderRefused),
        (402, ProviderRefused),
        (404, ProviderRefused),
        (408, ProviderUnavailable),
        (425, ProviderUnavailable),
        (429, ProviderBusy),
        (500, ProviderUnavailable),
        (529, ProviderUnavailable),
    ],
)
def test_a_status_says_whether_trying_again_may_help(status: int, kind: type[ProviderError]):
    error = status_error("vendor", status, "because")
    assert type(error) is kind
    assert error.retryable == (kind is not ProviderRefused)
    assert str(error) == f"vendor: HTTP {status}: because"


def test_what_a_vendor_says_is_shortened():
    assert len(str(status_error("vendor", 500, "x" * 10_000))) < 400
    assert str(status_error("vendor", 500, "")) == "vendor: HTTP 500"


@pytest.mark.parametrize(
    ("raised", "kind"),
    [
        (TimeoutError(), ProviderTimeout),
        (aiohttp.ServerTimeoutError(), ProviderTimeout),
        (aiohttp.ServerDisconnectedError(), ProviderUnavailable),
        (aiohttp.ClientPayloadError(), ProviderUnavailable),
        (ConnectionResetError(), ProviderUnavailable),
        (OSError("no route"), ProviderUnavailable),
        (ValueError("no json"), ProviderProtocol),
        (KeyError("text"), ProviderProtocol),
        (RecursionError(), ProviderProtocol),
    ],
)
def test_errors_of_the_wire_become_provider_errors(raised: Exception, kind: type[ProviderError]):
    with pytest.raises(kind) as caught, translate("vendor"):
        raise raised
    assert type(caught.value) is kind
    assert caught.value.__cause__ is raised


@pytest.mark.parametrize("error", [asyncio.CancelledError(), ProviderBusy("vendor", "full")])
def test_cancellation_and_provider_errors_pass(error: BaseException):
    with pytest.raises(type(error)) as caught, translate("vendor"):
        raise error
    assert caught.value is error


async def test_more_than_a_hundred_connections_fit(http: Http):
    """aiohttp's own limit of 100 would hold up the hundred-and-first call."""
    arrived, everybody = 0, asyncio.Event()

    async def answer(request: web.Request) -> web.Response:
        nonlocal arrived
        arrived += 1
        if arrived == 120:
            everybody.set()
        await everybody.wait()
        return web.Response()

    app = web.Application()
    app.router.add_get("/", answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, backlog=256).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}/"

    async def ask() -> int:
        async with http.session.get(url) as response:
            return response.status

    async with asyncio.timeout(10):
        assert await asyncio.gather(*(ask() for _ in range(120))) == [200] * 120
    await http.close()
    await runner.cleanup()


async def test_the_session_is_one_until_it_is_closed(http: Http):
    session = http.session
    assert http.session is session
    await http.close()
    assert session.closed
    assert http.session is not session


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/", "https://no-such-host.invalid/x"])
async def test_warming_never_fails(http: Http, url: str):
    assert not await warm(http, "vendor", URL(url))
