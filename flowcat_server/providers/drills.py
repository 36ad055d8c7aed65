"""Faults on demand, for the `scripted` providers: how a vendor looks when it is in trouble.

A fault drill replaces one provider of an agent by its `scripted` namesake and names the fault;
everything above sees exactly what the real adapters would raise, or the same silence.
"""

from __future__ import annotations

import asyncio
from typing import Literal

from pydantic import Field

from flowcat_server.errors import (
    ProviderBusy,
    ProviderProtocol,
    ProviderRefused,
    ProviderUnavailable,
)
from flowcat_server.providers.registry import Options

Fault = Literal["refuse", "rate_limit", "hang", "half_dead", "slow", "garbage", "close"]


class FaultOptions(Options):
    """Options that every scripted provider has besides its own.

    One use is one answer (speech to text and speech to speech), one reply (language model) or one
    sentence (text to speech), counted over all calls of the process.
    """

    fail: Fault | None = None
    """``refuse`` and ``rate_limit`` fail at once; ``hang`` never answers; ``slow`` answers
    `slow_ms` late; ``half_dead``, ``garbage`` and ``close`` begin to answer and then fall silent,
    send nonsense, or hang up."""
    fail_after: int = Field(default=0, ge=0)
    """So many uses go well first."""
    fail_times: int = Field(default=0, ge=0)
    """So many uses fail, later ones go well again; 0: all of them fail."""
    slow_ms: int = Field(default=3000, ge=0)


class FaultPlan:
    """Decides use by use what goes wrong."""

    def __init__(self, options: FaultOptions, provider: str = "scripted") -> None:
        self._options, self._provider, self._uses = options, provider, 0

    def _next(self) -> Fault | None:
        options = self._options
        number = self._uses - options.fail_after
        due = number >= 0 and (options.fail_times == 0 or number < options.fail_times)
        return options.fail if due else None

    def take(self) -> Trouble:
        """Begin one use."""
        kind = self._next()
        self._uses += 1
        return Trouble(kind, self._options.slow_ms, self._provider)

    async def connect(self) -> None:
        """For streams that outlive their uses: a refusal is met on connecting, and is one use."""
        if self._next() in ("refuse", "rate_limit"):
            await self.take().before()


class Trouble:
    """What goes wrong in one use. Await `before` ahead of the first item, `during` after it."""

    __slots__ = ("_provider", "_slow_ms", "kind")

    def __init__(self, kind: Fault | None, slow_ms: int, provider: str) -> None:
        self.kind, self._slow_ms, self._provider = kind, slow_ms, provider

    async def before(self) -> None:
        """Fail, hang or dawdle before anything was answered."""
        if self.kind == "refuse":
            raise ProviderRefused(self._provider, "refused on purpose")
        if self.kind == "rate_limit":
            raise ProviderBusy(self._provider, "rate limit reached on purpose")
        if self.kind == "hang":
            await forever()
        if self.kind == "slow":
            await asyncio.sleep(self._slow_ms / 1000)

    async def during(self) -> None:
        """Fail or fall silent after the first item."""
        if self.kind == "garbage":
            raise ProviderProtocol(self._provider, "unreadable on purpose")
        if self.kind == "close":
            raise ProviderUnavailable(self._provider, "connection closed on purpose")
        if self.kind == "half_dead":
            await forever()


async def forever() -> None:
    """Wait until cancelled."""
    await asyncio.get_running_loop().create_future()
