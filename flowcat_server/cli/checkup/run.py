"""A checkup from the address to the status callback; it ends with the first fault."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from collections.abc import Awaitable, Callable

import aiohttp

from flowcat_server.cli.checkup import reach
from flowcat_server.cli.checkup.call import Caller
from flowcat_server.cli.checkup.media import Doorway
from flowcat_server.cli.checkup.plan import Plan, Step, Told, Wrong
from flowcat_server.cli.checkup.webhook import Webhooks
from flowcat_server.cli.checkup.wires import Wire
from flowcat_server.cli.far_side.model import Place
from flowcat_server.cli.symptoms import Status

Tell = Callable[[Step], None]


async def run(plan: Plan, tell: Tell) -> bool:
    """Call the server and tell each step; returns whether it was all as it should be."""
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(ssl=ssl.create_default_context()),
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"User-Agent": "flowcat-server-doctor"},
    ) as web:
        try:
            await _Checkup(plan, tell, web).go()
        except Wrong:
            return False
    return True


class _Checkup:
    def __init__(self, plan: Plan, tell: Tell, web: aiohttp.ClientSession) -> None:
        self._plan, self._tell = plan, tell
        self._hooks = Webhooks(plan, web)
        self._doorway = Doorway(plan, web)
        self._place: Place | None = None
        self._wire: Wire | None = None

    async def go(self) -> None:
        """Every step in its order. Raises `Wrong` after it was told."""
        plan = self._plan
        await self._step("name", reach.resolve(plan))
        if plan.line.carrier.over == "websocket":
            await self._step("connection", reach.connect(plan))
            await self._step("server", self._hooks.server())
        if plan.side.asks:
            await self._step("webhook", self._ring())
        try:
            await self._call()
        except Wrong:
            if plan.side.reports:  # the place that the webhook took is given back
                with contextlib.suppress(Wrong):
                    await self._hooks.status()
            raise
        if plan.side.reports:
            await self._step("status", self._hooks.status())

    async def _ring(self) -> Told:
        told, self._place = await self._hooks.ring()
        return told

    async def _call(self) -> None:
        plan = self._plan
        welcome = self._place is not None or not plan.side.asks
        place = self._place or self._doorway.place()
        await self._step("media", self._open(place))
        assert self._wire is not None  # noqa: S101 - it was just opened
        stream = plan.side.stream(plan.call, place.parameters, plan.line.account)
        async with Caller(plan, self._wire, stream) as caller:
            if not welcome:
                await self._step("messages", caller.turned_away())
                return
            await self._step("greeting", caller.greeting())
            await self._step("call", caller.conversation())
            await self._step("hang-up", caller.hang_up())

    async def _open(self, place: Place) -> Told:
        told, self._wire = await self._doorway.open(place)
        return told

    async def _step(self, name: str, work: Awaitable[Told]) -> None:
        begun = time.monotonic()
        try:
            told = await work
        except Wrong as wrong:
            self._say(name, "fault", begun, wrong.detail, wrong.advice)
            raise
        self._say(name, "ok", begun, told.detail)
        for each in told.warnings:
            self._say(name, "warning", begun, each.detail, each.advice)

    def _say(
        self,
        name: str,
        status: Status,
        begun: float,
        detail: str,
        advice: str = "",
    ) -> None:
        ms = int((time.monotonic() - begun) * 1000)
        self._tell(Step(name, status, detail, advice, ms))


def start(plan: Plan, tell: Tell) -> bool:
    """`run` in a loop of its own."""
    return asyncio.run(run(plan, tell))
