"""A few threads that run local models for all calls.

A model holds a core for a tenth of a second, so there are no more threads than cores, and who
comes next matters: lower `priority` first; within a priority every owner (a call) gets its turn,
however much another has queued. A job that is not wanted any more leaves the queue at once; one
that is already running is told through its `threading.Event`, and its result is thrown away.

When `limit` jobs wait, the next one is refused with `ProviderBusy`: an answer that would come
seconds late is worth less than a fallback now.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

from flowcat_server.errors import ProviderBusy, ProviderUnavailable

T = TypeVar("T")


class _Job:
    __slots__ = ("cancelled", "future", "loop", "owner", "priority", "work")

    def __init__(
        self, work: Callable[[threading.Event], Any], owner: Hashable, priority: int
    ) -> None:
        self.work, self.owner, self.priority = work, owner, priority
        self.cancelled = threading.Event()
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[Any] = self.loop.create_future()


class Workers:
    """A bounded pool. Create it anywhere; `run` belongs to an event loop."""

    def __init__(self, name: str, threads: int = 2, limit: int = 64) -> None:
        """`name` is the provider's, for errors and thread names."""
        self._name = name
        self._limit = limit
        self._count = max(1, min(threads, os.cpu_count() or 1))
        self._threads: list[threading.Thread] = []
        self._changed = threading.Condition()
        self._queues: dict[int, OrderedDict[Hashable, deque[_Job]]] = {}
        self._waiting = 0
        self._closed = False

    @property
    def waiting(self) -> int:
        """Jobs that no thread has begun."""
        return self._waiting

    async def run(
        self, work: Callable[[threading.Event], T], *, owner: Hashable, priority: int = 0
    ) -> T:
        """Run `work(cancelled)` on a thread and return its result, or raise its error.

        Cancelling the caller withdraws a waiting job and sets `cancelled` of a running one.
        """
        job = _Job(work, owner, priority)
        self._put(job)
        try:
            result: T = await job.future
        except asyncio.CancelledError:
            job.cancelled.set()
            self._withdraw(job)
            raise
        return result

    def close(self) -> None:
        """Refuse new jobs, fail the waiting ones; running ones end in their own time."""
        with self._changed:
            self._closed = True
            left = [
                job
                for owners in self._queues.values()
                for queue in owners.values()
                for job in queue
            ]
            self._queues.clear()
            self._waiting = 0
            self._changed.notify_all()
        for job in left:
            _settle(job, None, ProviderUnavailable(self._name, "shutting down"))

    def _put(self, job: _Job) -> None:
        with self._changed:
            if self._closed:
                raise ProviderUnavailable(self._name, "shutting down")
            if self._waiting >= self._limit:
                raise ProviderBusy(self._name, f"{self._waiting} jobs wait already")
            if len(self._threads) < self._count:
                # Daemons: a model that hangs in native code must not hold up the exit.
                thread = threading.Thread(
                    target=self._work, name=f"{self._name}-{len(self._threads)}", daemon=True
                )
                self._threads.append(thread)
                thread.start()
            owners = self._queues.setdefault(job.priority, OrderedDict())
            owners.setdefault(job.owner, deque()).append(job)
            self._waiting += 1
            self._changed.notify()

    def _withdraw(self, job: _Job) -> None:
        with self._changed:
            owners = self._queues.get(job.priority)
            queue = owners.get(job.owner) if owners else None
            if owners is None or queue is None or job not in queue:
                return
            queue.remove(job)
            self._waiting -= 1
            if not queue:
                del owners[job.owner]

    def _take(self) -> _Job | None:
        with self._changed:
            while not self._waiting:
                if self._closed:
                    return None
                self._changed.wait()
            owners = self._queues[min(p for p, queues in self._queues.items() if queues)]
            owner, queue = next(iter(owners.items()))
            job = queue.popleft()
            self._waiting -= 1
            if queue:
                owners.move_to_end(owner)
            else:
                del owners[owner]
            return job

    def _work(self) -> None:
        while (job := self._take()) is not None:
            try:
                result, error = job.work(job.cancelled), None
            except BaseException as raised:  # noqa: BLE001 - handed to the job's owner
                result, error = None, raised
            _settle(job, result, error)
            # Do not hold the last result while waiting for the next job.
            del job, result, error


def _settle(job: _Job, result: Any, error: BaseException | None) -> None:
    try:
        job.loop.call_soon_threadsafe(_deliver, job.future, result, error)
    except RuntimeError:
        # The loop is closed: nobody waits for this any more.
        return


def _deliver(future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    if future.done():
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(result)
