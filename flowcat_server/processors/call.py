"""What a processor may ask of the call it belongs to."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from flowcat_server.core.events import CallEvent
from flowcat_server.core.graph import TransferTarget
from flowcat_server.errors import ProviderError


class Call(Protocol):
    """The owner of tasks, time and the end; implemented by the session."""

    id: str

    async def press(self, keys: str) -> bool:
        """Send keys to the far end; False: it takes them as sound only."""

    def now_ms(self) -> int:
        """The call's clock: milliseconds since it was accepted, monotonic."""

    def spawn(self, name: str, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Start a task that belongs to the call and is cancelled with it.

        A `ProviderError` that leaves it ends the call with that provider named; any other
        exception ends it as a server error. Cancelling the task is silent.
        """

    def call_at(self, at_ms: int, callback: Callable[[], None]) -> asyncio.Handle:
        """Run `callback` at a time of the call's clock, unless the call ends first."""

    def protect(self, callback: Callable[..., None], *arguments: object) -> None:
        """Run a callback that comes from outside the call's tasks; its fault ends the call."""

    def publish(self, event: CallEvent) -> None:
        """Tell the world."""

    def trouble(self, kind: str, code: str, error: ProviderError) -> None:
        """A provider of this kind failed and the call goes on: log it, count it, tell the page."""

    def fail(self, error: ProviderError) -> None:
        """End the call for a provider without which it cannot go on."""

    def pass_on(self, target: TransferTarget, cause: str = "") -> None:
        """End the call by passing it on to someone else; `cause`: the failure that led to it."""

    def end(self, reason: str, detail: str = "") -> None:
        """End the call. Idempotent: the first reason wins."""
