"""A carrier's API that takes anything and remembers it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web


@dataclass
class Api:
    """Every request: method, path, authorization, body."""

    url: str = ""
    requests: list[tuple[str, str, str, Any]] = field(default_factory=list)
    status: int = 200
    answer: Any = field(default_factory=dict)

    async def take(self, request: web.Request) -> web.Response:
        text = await request.text()
        body = json.loads(text) if request.content_type == "application/json" and text else text
        self.requests.append(
            (request.method, request.path, request.headers.get("Authorization", ""), body)
        )
        return web.json_response(self.answer, status=self.status)


@asynccontextmanager
async def carrier_api() -> AsyncIterator[Api]:
    """A running API for one test."""
    api = Api()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", api.take)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    api.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield api
    finally:
        await runner.cleanup()
