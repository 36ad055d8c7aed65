"""Deadlines on a provider's stream: to its first item, and between items."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import TypeVar, cast

from flowcat_server.errors import ProviderTimeout

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Deadline:
    """How long a provider may be silent. Milliseconds."""

    first_ms: int
    gap_ms: int


def closing(stream: AsyncIterator[Item]) -> aclosing[AsyncGenerator[Item, None]]:
    """Close a provider's stream on the way out, now and not at garbage collection."""
    return aclosing(cast(AsyncGenerator[Item, None], stream))


def timed(
    stream: AsyncIterator[Item], deadline: Deadline, what: str
) -> aclosing[AsyncGenerator[Item, None]]:
    """`closing`, and `ProviderTimeout` is raised when an item is late.

    Only waiting for the provider is timed, never what the consumer does with an item.
    """
    return aclosing(_timed(stream, deadline, what))


async def _timed(
    stream: AsyncIterator[Item], deadline: Deadline, what: str
) -> AsyncGenerator[Item, None]:
    limit_ms = deadline.first_ms
    async with closing(stream) as items:
        while True:
            try:
                async with asyncio.timeout(limit_ms / 1000):
                    item = await anext(items)
            except StopAsyncIteration:
                return
            except TimeoutError as error:
                raise ProviderTimeout(what, f"silent for {limit_ms} ms") from error
            yield item
            limit_ms = deadline.gap_ms
