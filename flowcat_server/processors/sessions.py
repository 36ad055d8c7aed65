"""The speech-to-speech sessions of a call: one after the other, each until it fails."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from flowcat_server.core.interfaces import (
    RealtimeEvent,
    RealtimeInput,
    RealtimeSetup,
    SpeechToSpeech,
)
from flowcat_server.errors import ProviderError, ProviderTimeout, ProviderUnavailable
from flowcat_server.processors.call import Call
from flowcat_server.processors.deadlines import closing
from flowcat_server.processors.inbox import Inbox
from flowcat_server.processors.lineup import Lineup
from flowcat_server.processors.patience import Patience


class Sessions:
    """Opens a session, reads it, and opens the next one when it has failed.

    A session fails when it ends before the call, and when something that is expected of it does
    not come.
    """

    def __init__(
        self,
        call: Call,
        providers: Lineup[SpeechToSpeech],
        begin: Callable[[], tuple[RealtimeSetup, Inbox[RealtimeInput]]],
        take: Callable[[RealtimeEvent], None],
        lost: Callable[[ProviderError], int | None],
        ready: Callable[[], Awaitable[None]],
    ) -> None:
        """Start; the first session begins when the loop runs next.

        Args:
            call: The owner.
            providers: The provider and its fallbacks.
            begin: Makes what a session begins with, and its input.
            take: Told what a session says.
            lost: Told why a session failed; says after how many milliseconds another one is
                opened, or None.
            ready: Waited for before another one is opened.
        """
        self._call = call
        self._providers = providers
        self._begin = begin
        self._take = take
        self._lost = lost
        self._ready = ready
        self._patience = Patience(call, self._late)
        self._limit: asyncio.Timeout | None = None
        self._late_ms = 0
        self._task = call.spawn("realtime", self._run())

    def expect_first(self) -> None:
        """A first sign of an answer is due."""
        self._patience.expect(self._providers.deadline.first_ms)

    def expect_more(self) -> None:
        """The next sign of it is due."""
        self._patience.expect(self._providers.deadline.gap_ms)

    def rest(self) -> None:
        """Nothing is due."""
        self._patience.rest()

    def give_up(self, waited_ms: int) -> bool:
        """The session under way has been waited for long enough; False: there is none."""
        self._late(waited_ms)
        return self._limit is not None

    def close(self) -> None:
        """The call is over."""
        self._patience.close()

    def _late(self, waited_ms: int) -> None:
        limit = self._limit
        if limit is not None and not limit.expired():
            self._late_ms = waited_ms
            limit.reschedule(asyncio.get_running_loop().time())

    async def _run(self) -> None:
        while True:
            setup, inbox = self._begin()
            failure = await self._converse(setup, inbox)
            if inbox.closed:
                return
            self._patience.rest()
            delay_ms = self._lost(failure)
            if delay_ms is None:
                return
            await asyncio.sleep(delay_ms / 1000)
            await self._ready()

    async def _converse(self, setup: RealtimeSetup, inbox: Inbox[RealtimeInput]) -> ProviderError:
        """One session until it ends, and what it ended with."""
        name, provider = self._providers.current.name, self._providers.current.plug
        try:
            stream = provider.converse(setup, inbox)
            async with asyncio.timeout(None) as self._limit, closing(stream) as session:
                async for event in session:
                    self._take(event)
        except ProviderError as error:
            return error
        except TimeoutError:
            return ProviderTimeout(name, f"silent for {self._late_ms} ms")
        finally:
            self._limit = None
        return ProviderUnavailable(name, "the session ended before the call")
