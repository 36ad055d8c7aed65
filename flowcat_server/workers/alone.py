"""A server of one process: it shares nothing, and pays for nothing that is shared."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack

import structlog
from aiohttp import web
from aiohttp.typedefs import Middleware

from flowcat_server.calls import Calls
from flowcat_server.config.load import Loaded
from flowcat_server.config.types import parse_bind
from flowcat_server.core.carrier import Report
from flowcat_server.core.overload import Overload
from flowcat_server.errors import ConfigError
from flowcat_server.metrics import Metrics
from flowcat_server.places import OwnPlaces, Places
from flowcat_server.routes.accepting import widen
from flowcat_server.routes.audiosocket import AudioSocketListener
from flowcat_server.routes.expected import CarrierCalls, OwnWaiting, Waiting
from flowcat_server.routes.health import HealthDoor
from flowcat_server.routes.outbound import OwnPace, Pace
from flowcat_server.routes.tokens import Memory
from flowcat_server.workers.team import BACKLOG

log = structlog.get_logger()


class Alone:
    """The only worker. Has what `flowcat_server.workers.worker.Worker` has."""

    size = 1
    first = True
    peer_prefix = "pc-"
    mark = ""
    middlewares: Sequence[Middleware] = ()
    used_tokens: Memory | None = None
    seen_webhooks: Memory | None = None

    def __init__(self, loaded: Loaded) -> None:
        config = loaded.config
        self._bind = config.server.bind
        self._audiosocket = config.carriers.audiosocket.bind
        token = config.server.api_token.get_secret_value()
        self.token_made = not token
        self.api_token = token or secrets.token_urlsafe(18)
        self.stream_secret = secrets.token_bytes(32)
        self.places: Places = OwnPlaces(config.limits.max_calls)
        self.leading = asyncio.Event()
        self.leading.set()
        self.everywhere: Callable[[Waiting], Waiting] = lambda own: own
        self.overload = Overload(0)

    def waiting(self, calls: Calls) -> Waiting:
        """Expected calls."""
        del calls
        return self.everywhere(OwnWaiting())

    def tell_others(self, carrier: str, report: Report) -> None:
        """There are none."""

    def pace(self, per_minute: int) -> Pace:
        """Counts the calls that are begun."""
        return OwnPace(per_minute)

    def report_ended(self, on_ended: Callable[[], None]) -> Callable[[], None]:
        """What to call when a call has ended."""
        return on_ended

    async def nobody_waits(self, given_up: asyncio.Event) -> None:
        """Calls that were announced have reservations here."""

    def health(self, own: HealthDoor, metrics: Metrics) -> HealthDoor:
        """The door for probes and metrics."""
        del metrics
        return own

    async def open(
        self,
        runner: web.AppRunner,
        calls: CarrierCalls,
        audiosocket: AudioSocketListener | None,
        on_orphaned: Callable[[], None],
        stack: AsyncExitStack,
    ) -> int:
        """Listen; returns the port of `server.bind`.

        Raises:
            ConfigError: An address is in use or not ours.
        """
        del calls, on_orphaned
        host, port = parse_bind(self._bind)
        site = web.TCPSite(runner, host or None, port, backlog=BACKLOG)
        try:
            await site.start()
            await widen(runner, BACKLOG)
        except OSError as error:
            raise ConfigError(
                f"server.bind: cannot listen on {host}:{port}: {error.strerror or error}"
            ) from error
        if audiosocket is not None:
            where = await audiosocket.open(self._audiosocket)
            stack.push_async_callback(audiosocket.close)
            log.info("audiosocket_ready", host=where[0], port=where[1])
        return int(runner.addresses[0][1]) if runner.addresses else port

    def close(self) -> None:
        """Nothing is held."""
