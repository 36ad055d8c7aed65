"""An inbox that a test fills by hand."""

from __future__ import annotations

import asyncio
from typing import Generic, TypeVar

T = TypeVar("T")


class Inbox(Generic[T]):
    """As `SttInbox` and `RealtimeInbox`: everything that arrived, in order; empty when over."""

    def __init__(self, *items: T) -> None:
        self._items: list[T] = list(items)
        self._ended = False
        self._wake = asyncio.Event()
        if items:
            self._wake.set()

    def put(self, *items: T) -> None:
        self._items.extend(items)
        self._wake.set()

    def end(self) -> None:
        self._ended = True
        self._wake.set()

    async def get(self) -> list[T]:
        await self._wake.wait()
        items, self._items = self._items, []
        if not (self._ended and items):
            # After the last items comes one more, empty, answer.
            self._wake.clear()
        if self._ended:
            self._wake.set()
        return items
