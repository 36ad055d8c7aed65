"""Somebody's program that says who answers a call: the far end of ``routes.webhook``."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web


@dataclass
class Desk:
    """Its web server. Change `answer` to change what it says."""

    url: str = ""
    answer: Any = None
    """JSON, a response, or what makes one."""
    requests: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    asked: asyncio.Event = field(default_factory=asyncio.Event)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.requests.append((dict(request.headers), await request.read()))
        self.asked.set()
        if callable(self.answer):
            return await self.answer(request)
        if isinstance(self.answer, web.StreamResponse):
            return self.answer
        return web.json_response(self.answer)


@asynccontextmanager
async def desk(answer: Any = None) -> AsyncIterator[Desk]:
    there = Desk(answer=answer)
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", there.handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    there.url = f"http://127.0.0.1:{runner.addresses[0][1]}/route"
    try:
        yield there
    finally:
        await runner.cleanup()
