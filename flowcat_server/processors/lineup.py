"""One kind's providers as one call uses them: whom to ask, and whom next when that fails."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import structlog

from flowcat_server.core.breaker import Breaker
from flowcat_server.errors import ProviderBusy, ProviderError, ProviderTimeout
from flowcat_server.processors.call import Call
from flowcat_server.processors.deadlines import Deadline

log = structlog.get_logger()

Plug = TypeVar("Plug")

HURRY_MS = 1000
"""A failure that took longer has cost the caller so much that a fallback is better than a retry."""
RETRY_DELAY_MS = 300
"""Before the same provider is asked again; longer each time."""


@dataclass(frozen=True, slots=True)
class Member(Generic[Plug]):
    """A provider, how long it may be silent, and what all calls know of its health."""

    name: str
    plug: Plug
    deadline: Deadline
    breaker: Breaker = field(default_factory=Breaker)


class Lineup(Generic[Plug]):
    """The provider in use and its fallbacks.

    A *use* is one answer, one reply or one sentence. Within a use the same provider is asked
    again where its error says that this may help, then the next one; but one that was silent or
    busy is left at once where there is a next one, for the caller has waited already. A call that
    has changed over stays there: a voice that comes and goes is worse than the second best.
    """

    def __init__(
        self, call: Call, stage: str, members: Sequence[Member[Plug]], *, retries: int = 1
    ) -> None:
        """Choose whom to begin with.

        Args:
            call: Whose providers they are.
            stage: ``stt``, ``llm``, ``tts`` or ``realtime``.
            members: The provider and its fallbacks, in order.
            retries: How often the same provider is asked again within a use; one that was silent
                only once.
        """
        self._call = call
        self._stage = stage
        self._members = list(members)
        self._retries = retries
        self._tried: list[int] = []
        self._tries = 0
        self._begun_ms = now_ms()
        self._overtaken = False
        """The use under way is served by another: it says nothing of `current`."""
        self._at = self._choose(range(len(members))) or 0
        self.delay_ms = 0
        """After `failed`: how long to wait before `current` is asked."""

    @property
    def current(self) -> Member[Plug]:
        """Whom to ask."""
        return self._members[self._at]

    @property
    def deadline(self) -> Deadline:
        """How long `current` may be silent.

        Where nobody can be asked instead it gets twice as long, but only once: what is slow
        because the machine is busy must not be given up for it.
        """
        deadline = self.current.deadline
        if self._tries or self.replaceable:
            return deadline
        return Deadline(2 * deadline.first_ms, 2 * deadline.gap_ms)

    @property
    def replaceable(self) -> bool:
        """Somebody else can be asked instead of `current`."""
        return bool(self._after())

    def begin(self) -> None:
        """A new use: everybody may be asked again."""
        self._begun_ms = now_ms()
        self._tried.clear()
        self._tries = 0

    def spare(self) -> Member[Plug] | None:
        """Who could be asked beside `current`: the next that is known to be well."""
        now = now_ms()
        others = (self._members[number] for number in self._after())
        return next((other for other in others if other.breaker.state(now) == "closed"), None)

    def succeeded(self) -> None:
        """The use went well."""
        overtaken, self._overtaken = self._overtaken, False
        self.begin()
        if not overtaken and self.current.breaker.succeeded():
            self._log("closed")

    def overtaken(self) -> None:
        """The provider that was asked beside `current` was faster."""
        self.current.breaker.hedges_lost += 1
        self._overtaken = True

    def failed(self, error: ProviderError, *, hurry: bool | None = None) -> bool:
        """The use failed. True: ask `current` now; False: nobody can help with this use.

        What the caller is told where nobody can help is a matter of the `Rescue`.

        Args:
            error: What it failed with.
            hurry: Whether the caller waits; None: if the use has taken long.
        """
        error.stage = self._stage
        self._tried.append(self._at)
        if self.current.breaker.failed(now_ms(), for_good=not error.retryable):
            self._log("open")
        silent = isinstance(error, ProviderTimeout)
        again = error.retryable and self._tries < (
            min(1, self._retries) if silent else self._retries
        )
        if hurry is None:
            hurry = now_ms() - self._begun_ms > HURRY_MS
        hurry = hurry or silent or isinstance(error, ProviderBusy)
        following = None if again and not hurry else self._choose(self._after())
        if following is not None:
            self._at, self._tries, self.delay_ms = following, 0, 0
            self._call.trouble(self._stage, f"{self._stage}_fallback", error)
            return True
        if again:
            self._tries += 1
            self.delay_ms = RETRY_DELAY_MS * self._tries
            self._call.trouble(self._stage, f"{self._stage}_retried", error)
        return again

    def _after(self) -> list[int]:
        """The others, in the order in which they are asked, without those that failed."""
        count = len(self._members)
        order = [(self._at + step) % count for step in range(1, count)]
        return [number for number in order if number not in self._tried]

    def _choose(self, numbers: Sequence[int]) -> int | None:
        """The first whose breaker admits it; where none does there is nothing to lose."""
        now = now_ms()
        for number in numbers:
            if self._members[number].breaker.admits(now):
                return number
        return numbers[0] if numbers else None

    def _log(self, state: str) -> None:
        log.warning("breaker_changed", kind=self._stage, provider=self.current.name, state=state)


def now_ms() -> int:
    """The process's clock: breakers outlive calls."""
    return int(asyncio.get_running_loop().time() * 1000)
