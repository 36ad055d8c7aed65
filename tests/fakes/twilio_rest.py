"""Twilio's REST API, as far as a live call is changed through it."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web

ACCOUNT = "AC" + "1" * 32


@dataclass
class Update:
    """One request to change a call."""

    call_sid: str
    form: dict[str, str]


@dataclass
class TwilioRest:
    """``POST /Accounts/{account}/Calls/{call}.json``. Set `statuses` to fail the next requests."""

    auth_token: str
    url: str = ""
    updates: list[Update] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    """Answers of the next requests; 0: drop the connection, -1: never answer."""
    attempts: int = 0

    async def update(self, request: web.Request) -> web.Response:
        self.attempts += 1
        status = self.statuses.pop(0) if self.statuses else 200
        if status == 0:
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        if status == -1:
            await asyncio.sleep(3600)
        expected = "Basic " + b64encode(f"{ACCOUNT}:{self.auth_token}".encode()).decode()
        if request.headers.get("Authorization") != expected:
            return web.json_response({"code": 20003, "message": "Authenticate"}, status=401)
        if request.content_type != "application/x-www-form-urlencoded":
            return web.json_response({"code": 20001}, status=400)
        form = {name: str(value) for name, value in (await request.post()).items()}
        if status >= 300:
            return web.json_response({"code": 20000, "status": status}, status=status)
        self.updates.append(Update(request.match_info["call"], form))
        return web.json_response({"sid": request.match_info["call"], "status": "in-progress"})


@asynccontextmanager
async def twilio_rest(auth_token: str) -> AsyncIterator[TwilioRest]:
    """A running API for one test."""
    rest = TwilioRest(auth_token)
    app = web.Application()
    app.add_routes([web.post(f"/Accounts/{ACCOUNT}/Calls/{{call}}.json", rest.update)])
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    rest.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield rest
    finally:
        await runner.cleanup()
