"""Runs the callers: rings, dials, gives each its frame in its millisecond, counts what is lost."""

from __future__ import annotations

import asyncio
import secrets
import ssl
import time
from collections import Counter
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import aiohttp

from flowcat_server.cli.far_side.model import Unexpected
from flowcat_server.cli.far_side.twilio import TWILIO
from flowcat_server.cli.load.caller import FRAME_S, Caller, Measures
from flowcat_server.cli.load.process import Usage, listeners, usage
from flowcat_server.cli.load.socket import MediaSocket
from flowcat_server.core.carrier import Account

SLOTS = 20
"""Parts of the 20 ms; each call has its place in one."""
SETTLE_S = 2.0
"""After the last call has begun."""
DRAIN_S = 1.5
DIAL_S = 10.0
_MEDIA = "/telephony/ws/twilio"


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done."""

    url: str
    """Of the server, without a path."""
    calls: int
    seconds: float
    ramp: float
    """Calls begun each second."""
    speech: bytes
    """Mu-law; empty: callers keep quiet."""
    auth_token: str = ""
    """Webhooks are signed with it, as Twilio would."""


@dataclass(slots=True)
class Outcome:
    """What came of it."""

    plan: Plan
    measures: Measures
    live: int = 0
    """Calls that were up at the end."""
    echoes: bool = False
    lost: Counter[str] = field(default_factory=Counter)
    """Why calls did not come up or did not stay."""
    cpu: float | None = None
    """Cores that the server used; None: it is not on this machine."""
    before: Usage | None = None
    after: Usage | None = None


async def run(plan: Plan) -> Outcome:
    """One run from the first call to the last."""
    return await _Run(plan).go()


class _Run:
    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._outcome = Outcome(plan, Measures(begin=float("inf")))
        self._slots: list[list[tuple[Caller, MediaSocket]]] = [[] for _ in range(SLOTS)]
        self._ending = False
        parts = urlsplit(plan.url)
        self._host, self._netloc = parts.hostname or "", parts.netloc
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._port = parts.port or (443 if self._tls else 80)

    async def go(self) -> Outcome:
        plan, outcome, measures = self._plan, self._outcome, self._outcome.measures
        local = listeners(self._port) if self._host in ("127.0.0.1", "::1", "localhost") else []
        outcome.before = usage(local)
        begin = time.monotonic() + plan.calls / plan.ramp + SETTLE_S
        measures.begin, measures.end = begin, begin + plan.seconds
        async with aiohttp.ClientSession() as web, asyncio.TaskGroup() as tasks:
            ticking = tasks.create_task(self._tick())
            dialling = tasks.create_task(self._dial_all(web))
            await asyncio.sleep(begin - time.monotonic())
            first = usage(local)
            await asyncio.sleep(measures.end - time.monotonic())
            outcome.after = last = usage(local)
            if first and last:
                outcome.cpu = (last.cpu_s - first.cpu_s) / plan.seconds
            await asyncio.sleep(DRAIN_S)
            self._ending = True
            dialling.cancel()
            ticking.cancel()
        for caller, socket in self._calls():
            outcome.live += socket.open
            outcome.echoes = outcome.echoes or caller.echoes
            socket.send(caller.stop())
            socket.close()
        return outcome

    def _calls(self) -> list[tuple[Caller, MediaSocket]]:
        return [call for slot in self._slots for call in slot]

    # --- calls come up --------------------------------------------------------------------------

    async def _dial_all(self, web: aiohttp.ClientSession) -> None:
        begun = time.monotonic()
        async with asyncio.TaskGroup() as tasks:
            for number in range(self._plan.calls):
                await asyncio.sleep(begun + number / self._plan.ramp - time.monotonic())
                tasks.create_task(self._dial(number, web))

    async def _dial(self, number: int, web: aiohttp.ClientSession) -> None:
        caller = Caller(number, secrets.token_hex(16), self._outcome.measures, self._plan.speech)
        caller.dialled(time.monotonic())
        try:
            async with asyncio.timeout(DIAL_S):
                token = await self._ring(caller, web)
                await self._open(number, caller, token)
        except TimeoutError:
            self._lose("no answer")
        except (OSError, aiohttp.ClientError, _Refused) as error:
            self._lose(str(error))

    async def _ring(self, caller: Caller, web: aiohttp.ClientSession) -> str:
        """The carrier's webhook; returns the token for the media socket."""
        asked = TWILIO.webhook(caller.call_sid)
        url = self._plan.url + asked.path
        account = Account(webhook_key=self._plan.auth_token)
        headers = {"Content-Type": asked.content_type, **TWILIO.sign(asked, url, account, 0)}
        async with web.post(url, data=asked.body, headers=headers) as response:
            text = await response.text()
            if response.status != 200:
                raise _Refused(f"refused: HTTP {response.status} {text[:80]}")
        try:
            return TWILIO.place(text).parameters["token"]
        except (Unexpected, KeyError) as error:
            raise _Refused("busy") from error

    async def _open(self, number: int, caller: Caller, token: str) -> None:
        loop = asyncio.get_running_loop()
        opened: asyncio.Future[None] = loop.create_future()

        def on_open() -> None:
            if not opened.done():
                opened.set_result(None)

        def on_over(reason: str) -> None:
            if not opened.done():
                opened.set_exception(_Refused(reason))
            elif reason and not self._ending:
                self._lose(reason)

        def on_message(message: bytes) -> None:
            for answer in caller.hear(message, time.monotonic()):
                socket.send(answer)

        socket = MediaSocket(self._netloc, _MEDIA, on_open, on_message, on_over)
        await loop.create_connection(lambda: socket, self._host, self._port, ssl=self._tls)
        await opened
        for message in caller.start(token):
            socket.send(message)
        self._slots[number * 7 % SLOTS].append((caller, socket))

    def _lose(self, reason: str) -> None:
        self._outcome.lost[reason] += 1

    # --- the clock ------------------------------------------------------------------------------

    async def _tick(self) -> None:
        """Slot n is served at n milliseconds of each 20, whatever came before."""
        begun = time.monotonic()
        own = self._outcome.measures.own
        number = 0
        while True:
            due = begun + number * FRAME_S / SLOTS
            now = time.monotonic()
            if now < due:
                await asyncio.sleep(due - now)
                now = time.monotonic()
            slot = self._slots[number % SLOTS]
            if slot and self._outcome.measures.counts(now):
                own.append(now - due)
            for caller, socket in slot:
                if socket.open:
                    for message in caller.tick(time.monotonic()):
                        socket.send(message)
            number += 1
            if not number % SLOTS:
                await asyncio.sleep(0)  # when late, hear the others all the same


class _Refused(Exception):
    """The call did not come up."""


def start(plan: Plan) -> Outcome:
    """`run` on the fast loop where it can be had."""
    try:
        import uvloop
    except ImportError:
        return asyncio.run(run(plan))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(run(plan))
