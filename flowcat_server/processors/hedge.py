"""Asking two providers the same: the first to answer is heard, the other is cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Generic, TypeVar

from flowcat_server.errors import ProviderError
from flowcat_server.processors.call import Call

Item = TypeVar("Item")

WAITING = 64
"""Items that a stream may be ahead of its reader; then it waits."""


class Hedge(Generic[Item]):
    """One race.

    Each stream is read by one task from its first item to its last: what it opens in a task must
    be closed in that task.
    """

    def __init__(
        self,
        call: Call,
        first: Callable[[], AbstractAsyncContextManager[AsyncGenerator[Item, None]]],
        second: Callable[[], AbstractAsyncContextManager[AsyncGenerator[Item, None]]],
        after_ms: int,
        won: Callable[[int], None],
    ) -> None:
        """Prepare a race; nothing runs yet.

        Args:
            call: Owns the tasks.
            first: Opens the stream that is asked at once.
            second: Opens the one that is asked when the first is late.
            after_ms: How late.
            won: Told who answered first, 0 or 1, once the second was asked.
        """
        self._call = call
        self._open = (first, second)
        self._after_ms = after_ms
        self._won = won
        self._items: asyncio.Queue[tuple[int, Item | ProviderError | None]] = asyncio.Queue(WAITING)
        self._tasks: dict[int, asyncio.Task[None]] = {}

    async def stream(self) -> AsyncGenerator[Item, None]:
        """The winner's items. Raises what a stream failed with when no other is under way."""
        try:
            self._start(0)
            number, item = await self._first()
            if 1 in self._tasks:
                self._cancel(1 - number)
                if not isinstance(item, ProviderError):
                    self._won(number)
            while item is not None:
                if isinstance(item, ProviderError):
                    raise item
                yield item
                item = await self._next(number)
        finally:
            self._cancel(0)
            self._cancel(1)

    async def _first(self) -> tuple[int, Item | ProviderError | None]:
        """The first answer, or the last failure."""
        try:
            async with asyncio.timeout(self._after_ms / 1000):
                return await self._items.get()
        except TimeoutError:
            self._start(1)
        number, item = await self._items.get()
        if isinstance(item, ProviderError):
            del self._tasks[number]
            return 1 - number, await self._next(1 - number)
        return number, item

    async def _next(self, number: int) -> Item | ProviderError | None:
        while True:
            of, item = await self._items.get()
            if of == number:
                return item

    def _start(self, number: int) -> None:
        self._tasks[number] = self._call.spawn(f"hedge-{number}", self._read(number))

    def _cancel(self, number: int) -> None:
        task = self._tasks.pop(number, None)
        if task is not None:
            task.cancel()

    async def _read(self, number: int) -> None:
        end: ProviderError | None = None
        try:
            async with self._open[number]() as stream:
                async for item in stream:
                    await self._items.put((number, item))
        except ProviderError as error:
            end = error
        await self._items.put((number, end))
