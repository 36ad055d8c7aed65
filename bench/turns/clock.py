"""An event loop on which calls with real models run faster than life, on an honest clock.

Nearly all of a call is waiting for the next 20 ms. This loop skips that waiting; what it does
not skip is work: while the loop or a model's thread is busy, the clock runs on by the processor
time that was spent. A decode of 150 ms takes 150 ms of the call, on a busy machine too, because
what neighbours take from us does not count. So a run is what an otherwise idle machine does
with one call at a time.

The loop must know when a thread owes it a result. `Owed` counts that: jobs of
`flowcat_server.providers.workers.Workers` and of the loop's executor are counted here, the VAD's
chunks by `bench.turns.taps`.
"""

from __future__ import annotations

import asyncio
import selectors
import threading
import time
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from flowcat_server.providers.workers import Workers

T = TypeVar("T")
POLL_S = 0.0005
STUCK_S = 2.0
"""Without any processor time for so long in wall time, the work owed cannot be on a thread."""


class Owed:
    """How many results threads owe the loop."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._count = 0
        self.most = 0
        self.total = 0

    def add(self, change: int) -> None:
        with self._lock:
            self._count += change
            self.most = max(self.most, self._count)
            self.total += max(0, change)

    def any(self) -> bool:
        return self._count > 0


class _Selector(selectors.DefaultSelector):
    """Skips waiting, unless somebody works."""

    def __init__(self, owed: Owed) -> None:
        super().__init__()
        self._owed = owed
        self.skipped = 0.0
        self.stuck = 0

    def select(self, timeout: float | None = None) -> list[Any]:
        ready: list[Any] = super().select(0)
        if ready or timeout == 0:
            return ready
        begun, spent = time.monotonic(), time.process_time()
        while self._owed.any():
            ready = super().select(POLL_S)
            used = time.process_time() - spent
            if ready or (timeout is not None and used >= timeout):
                return ready
            if time.monotonic() - begun > STUCK_S:
                if used < 0.001 * STUCK_S:
                    self.stuck += 1
                    break
                begun, spent, timeout = time.monotonic(), spent + used, _less(timeout, used)
        if timeout is None:
            return list(super().select(0.05))  # a signal, or a thread that nobody counts
        self.skipped += timeout + 1e-7
        return []


def _less(timeout: float | None, used: float) -> float | None:
    return None if timeout is None else max(0.0, timeout - used)


class WorkLoop(asyncio.SelectorEventLoop):
    """Its time is processor time plus the waiting that was skipped."""

    def __init__(self) -> None:
        self.owed = Owed()
        self._work_selector = _Selector(self.owed)
        self._zero = time.process_time()
        super().__init__(self._work_selector)

    def time(self) -> float:
        return 1000.0 + time.process_time() - self._zero + self._work_selector.skipped

    @property
    def stuck(self) -> int:
        """How often work was owed that did not happen; anything but 0 spoils a run."""
        return self._work_selector.stuck

    def run_in_executor(  # type: ignore[override]
        self, executor: Any, func: Callable[..., T], *args: Any
    ) -> asyncio.Future[T]:
        self.owed.add(1)
        future: asyncio.Future[T] = super().run_in_executor(executor, func, *args)
        future.add_done_callback(lambda _: self.owed.add(-1))
        return future


@contextmanager
def counted_workers(owed: Owed) -> Iterator[None]:
    """Count the jobs of all worker pools, also those whose result nobody wants any more."""
    original = Workers.run

    async def run(
        self: Workers, work: Callable[[threading.Event], T], *, owner: Hashable, priority: int = 0
    ) -> T:
        state = {"on_thread": False, "left": False}
        lock = threading.Lock()

        def tracked(cancelled: threading.Event) -> T:
            with lock:
                state["on_thread"] = True
            try:
                return work(cancelled)
            finally:
                with lock:
                    state["on_thread"] = False
                    left = state["left"]
                if left:
                    owed.add(-1)

        owed.add(1)
        try:
            result = await original(self, tracked, owner=owner, priority=priority)
        except asyncio.CancelledError:
            with lock:
                state["left"] = running = state["on_thread"]
            if not running:
                owed.add(-1)
            raise
        except BaseException:
            owed.add(-1)
            raise
        owed.add(-1)
        return result

    Workers.run = run  # type: ignore[method-assign]
    try:
        yield
    finally:
        Workers.run = original  # type: ignore[method-assign]
