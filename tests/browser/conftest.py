"""One Chromium for all page tests; each test has a connection, a server and a page of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest

from tests.browser.cdp import Browser, Chromium, Page
from tests.browser.fake_server import FakeServer, serving

OpenPage = Callable[..., Awaitable[Page]]


@pytest.fixture(scope="session")
def chromium() -> Iterator[Chromium]:
    """With a beeping microphone, and nobody asked for permission."""
    process = Chromium()
    yield process
    process.stop()


@pytest.fixture
async def browser(chromium: Chromium) -> AsyncIterator[Browser]:
    async with await Browser.connect(chromium.url) as connection:
        yield connection


@pytest.fixture
async def server() -> AsyncIterator[FakeServer]:
    async with serving() as running:
        yield running


@pytest.fixture
async def open_page(browser: Browser, server: FakeServer) -> AsyncIterator[OpenPage]:
    """Opens the page of the server; at the end no page may have complained or gone elsewhere."""
    pages: list[tuple[Page, bool]] = []

    async def open_it(path: str = "", *, errors: bool = False, **options: Any) -> Page:
        page = await browser.new_page(server.url + path, **options)
        pages.append((page, errors))
        await page.wait_for_text("#agent-name", server.info["agent"]["name"])
        return page

    yield open_it
    own = server.url.split("://")[1]
    for page, errors_expected in pages:
        assert errors_expected or page.errors == []
        strangers = [
            url
            for url in page.requests
            if not url.startswith(("data:", "blob:")) and own not in url.split("://")[1][: len(own)]
        ]
        assert strangers == []
