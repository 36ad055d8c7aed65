"""Bounded input of a streaming provider: filled synchronously, read by the provider's task."""

from __future__ import annotations

import asyncio
from typing import Generic, TypeVar

from flowcat_server.core.interfaces import Audio

Item = TypeVar("Item")


class Inbox(Generic[Item]):
    """Audio and signals for one reader.

    Audio wakes the reader once `chunk_ms` of it has gathered, a signal at once. When more than
    `limit_ms` of audio waits, the oldest audio is dropped and counted: a provider that does not
    keep up hears a gap, not an ever later caller. Signals are never dropped; each is caused by
    something the caller did, so they cannot outgrow the audio between them.
    """

    __slots__ = (
        "_audio_bytes",
        "_items",
        "_limit_bytes",
        "_signalled",
        "_waiter",
        "_wake_bytes",
        "closed",
        "dropped_bytes",
        "taken_bytes",
    )

    def __init__(self, *, chunk_ms: int, bytes_per_ms: float, limit_ms: int = 15_000) -> None:
        self._wake_bytes = int(chunk_ms * bytes_per_ms)
        self._limit_bytes = int(limit_ms * bytes_per_ms)
        self._items: list[Audio | Item] = []
        self._audio_bytes = 0
        self._signalled = False
        """A signal waits."""
        self._waiter: asyncio.Future[None] | None = None
        self.closed = False
        """The call is over."""
        self.dropped_bytes = 0
        self.taken_bytes = 0
        """Audio that the reader was given."""

    def audio(self, payload: bytes, at_ms: int) -> None:
        """Add caller audio."""
        self._items.append(Audio(payload, at_ms))
        self._audio_bytes += len(payload)
        while self._audio_bytes > self._limit_bytes:
            self._drop_oldest()
        if self._waiter is not None and self._wake_bytes and self._audio_bytes >= self._wake_bytes:
            self._wake()

    def signal(self, item: Item) -> None:
        """Add a signal and wake the reader."""
        self._items.append(item)
        self._signalled = True
        self._wake()

    def close(self) -> None:
        """The call is over: the reader gets an empty list, now and ever after."""
        self.closed = True
        self._items.clear()
        self._wake()

    async def get(self) -> list[Audio | Item]:
        """Everything that arrived, in order; empty when closed. One reader only."""
        while not self.closed and not self._ready():
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        items, self._items = self._items, []
        self.taken_bytes += self._audio_bytes
        self._audio_bytes = 0
        self._signalled = False
        return items

    def _ready(self) -> bool:
        return self._signalled or 0 < self._wake_bytes <= self._audio_bytes

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _drop_oldest(self) -> None:
        for index, item in enumerate(self._items):
            if type(item) is Audio:
                self._audio_bytes -= len(item.payload)
                self.dropped_bytes += len(item.payload)
                del self._items[index]
                return
