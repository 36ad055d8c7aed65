"""What several machines remember together, in Redis or Valkey: `server.redis`.

Used tokens, seen webhooks, what webhooks said of calls whose socket another machine gets, and the
secret that signs tokens. Places are each machine's own.

When Redis is out of reach nobody can tell a used token from a new one: then sockets and webhooks
that need to be proven are refused, with an error in the log, and live calls go on. A refused
webhook is answered 503, so that the carrier tries its fallback address.

Needs GETDEL (Redis 6.2, any Valkey).
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from hashlib import sha256
from typing import Any, TypeVar
from urllib.parse import urlsplit

import structlog

from flowcat_server import logs
from flowcat_server.errors import ConfigError, Problem, SharedStateError
from flowcat_server.places import RESERVATION_S
from flowcat_server.routes.expected import Expected, Key, Told, Waiting
from flowcat_server.routes.gate import REPLAY_WINDOW_S
from flowcat_server.routes.tokens import LIFETIME_S
from flowcat_server.workers.alone import Alone
from flowcat_server.workers.shared import pack, unpack
from flowcat_server.workers.worker import Worker

log = structlog.get_logger()

T = TypeVar("T")

DEADLINE_S = 1.0
"""Of each request: a carrier waits for the answer to its webhook."""
PREFIX = "flowcat:"


class Machines:
    """This machine's view of what all of them know. Made by `Machines.open`."""

    def __init__(self, client: Any, where: str, failures: tuple[type[Exception], ...]) -> None:
        self._client = client
        self._where = where
        self._failures = failures
        self.stream_secret = b""
        self.used_tokens = Seen(self, "token", LIFETIME_S)
        self.seen_webhooks = Seen(self, "webhook", REPLAY_WINDOW_S)

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str) -> AsyncIterator[Machines]:
        """Connect, and agree on the secret that signs tokens.

        Raises:
            ConfigError: The package is missing or the address cannot be used.
            SharedStateError: It is out of reach.
        """
        try:
            from redis import RedisError
            from redis import asyncio as redis
        except ImportError as error:
            raise ConfigError(
                Problem(
                    "needs the package 'redis': pip install 'flowcat-server[redis]'",
                    path="server.redis",
                )
            ) from error
        parts = urlsplit(url)
        logs.register_secret(parts.password or "")
        where = f"{parts.hostname}:{parts.port or 6379}" if parts.hostname else parts.path
        try:
            client = redis.from_url(
                url, socket_timeout=DEADLINE_S, socket_connect_timeout=DEADLINE_S
            )
        except ValueError as error:
            raise ConfigError(Problem(str(error), path="server.redis")) from error
        machines = cls(client, where, (RedisError, OSError, TimeoutError))
        try:
            await machines._agree()
            yield machines
        finally:
            await client.aclose()

    async def _agree(self) -> None:
        """The first machine ever makes the secret; all others take it."""
        name = PREFIX + "stream-secret"
        await self.ask(self._client.set(name, secrets.token_bytes(32), nx=True))
        self.stream_secret = bytes(await self.ask(self._client.get(name)))

    async def ask(self, request: Awaitable[T]) -> T:
        """The answer, in time.

        Raises:
            SharedStateError: There is none.
        """
        try:
            async with asyncio.timeout(DEADLINE_S):
                return await request
        except self._failures as error:
            raise SharedStateError(
                f"Redis at {self._where} is out of reach: {str(error) or type(error).__name__}"
            ) from error

    async def first(self, key: str, lifetime_s: int) -> bool:
        """True for the first machine that asks."""
        name = PREFIX + key
        return bool(await self.ask(self._client.set(name, b"1", nx=True, ex=lifetime_s)))

    async def keep(self, key: Key, details: bytes) -> None:
        """Remember an announced call while it may come."""
        name = _waiting(key)
        await self.ask(self._client.set(name, details, ex=int(RESERVATION_S)))

    async def take(self, key: Key) -> bytes | None:
        """What was remembered of a call, once."""
        return await self.ask(self._client.getdel(_waiting(key)))

    def serve(self, worker: Alone | Worker) -> None:
        """From now on this worker shares what it remembers with other machines."""
        worker.stream_secret = self.stream_secret
        worker.used_tokens, worker.seen_webhooks = self.used_tokens, self.seen_webhooks
        worker.everywhere = lambda own: _Everywhere(self, own)


class Seen:
    """One memory; see `flowcat_server.routes.tokens.Memory`."""

    def __init__(self, machines: Machines, kind: str, lifetime_s: int) -> None:
        self._machines = machines
        self._kind = kind
        self._lifetime_s = lifetime_s

    async def first(self, key: str) -> bool:
        """True the first time that any machine asks."""
        # A webhook's key may be long and hold what a caller wrote.
        digest = sha256(key.encode("utf-8", "surrogatepass")).hexdigest()
        return await self._machines.first(f"{self._kind}:{digest}", self._lifetime_s)


class _Everywhere:
    """Waits for a call here, and lets the other machines know what was said of it."""

    def __init__(self, machines: Machines, own: Waiting) -> None:
        self._machines = machines
        self._own = own

    async def put(self, key: Key, expected: Expected) -> None:
        details = pack(expected)
        await self._own.put(key, expected)
        try:
            await self._machines.keep(key, details)
        except SharedStateError as error:
            log.warning("waiting_call_not_shared", error=str(error))

    async def pop(self, key: Key) -> Expected | None:
        return await self._own.pop(key)

    async def told(self, key: Key) -> Told | None:
        try:
            details = await self._machines.take(key)
            return unpack(details) if details is not None else None
        except SharedStateError as error:
            log.warning("waiting_call_unknown", error=str(error))
            return None


def _waiting(key: Key) -> str:
    return PREFIX + "waiting:" + ":".join(key)
