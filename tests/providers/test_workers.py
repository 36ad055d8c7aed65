from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable

import pytest

from flowcat_server.errors import ProviderBusy, ProviderUnavailable
from flowcat_server.providers.workers import Workers


class Bench:
    """One thread that is kept busy until `release`, so that what waits can be arranged."""

    def __init__(self, limit: int = 64) -> None:
        self.workers = Workers("bench", threads=1, limit=limit)
        self.done: list[str] = []
        self._gate = threading.Event()

    async def block(self) -> asyncio.Task[None]:
        begun = asyncio.Event()
        loop = asyncio.get_running_loop()

        def work(cancelled: threading.Event) -> None:
            loop.call_soon_threadsafe(begun.set)
            self._gate.wait(10)

        task = asyncio.create_task(self.workers.run(work, owner="blocker"))
        await begun.wait()
        return task

    def job(self, name: str) -> Callable[[threading.Event], str]:
        def work(cancelled: threading.Event) -> str:
            self.done.append(name)
            return name

        return work

    def put(self, name: str, owner: str, priority: int = 0) -> asyncio.Task[str]:
        return asyncio.create_task(self.workers.run(self.job(name), owner=owner, priority=priority))

    def release(self) -> None:
        self._gate.set()


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    bench = Bench()
    yield bench
    bench.release()
    bench.workers.close()


async def test_a_result_comes_back_to_who_asked(bench: Bench) -> None:
    assert await bench.put("a", "call") == "a"


async def test_an_error_comes_back_to_who_asked(bench: Bench) -> None:
    def work(cancelled: threading.Event) -> None:
        raise LookupError("lost")

    with pytest.raises(LookupError, match="lost"):
        await bench.workers.run(work, owner="call")
    assert await bench.put("next", "call") == "next"


async def test_calls_take_turns_however_much_one_has_queued(bench: Bench) -> None:
    blocker = await bench.block()
    tasks = [bench.put(f"a{i}", "a") for i in range(3)]
    tasks += [bench.put("b0", "b"), bench.put("c0", "c")]
    await asyncio.sleep(0)
    bench.release()
    await asyncio.gather(blocker, *tasks)
    assert bench.done == ["a0", "b0", "c0", "a1", "a2"]


async def test_lower_priority_numbers_go_first(bench: Bench) -> None:
    blocker = await bench.block()
    tasks = [bench.put("later", "a", priority=1), bench.put("now", "b", priority=0)]
    await asyncio.sleep(0)
    bench.release()
    await asyncio.gather(blocker, *tasks)
    assert bench.done == ["now", "later"]


async def test_a_cancelled_job_that_waits_is_never_run(bench: Bench) -> None:
    blocker = await bench.block()
    unwanted, wanted = bench.put("unwanted", "a"), bench.put("wanted", "b")
    await asyncio.sleep(0)
    unwanted.cancel()
    with pytest.raises(asyncio.CancelledError):
        await unwanted
    assert bench.workers.waiting == 1
    bench.release()
    await asyncio.gather(blocker, wanted)
    assert bench.done == ["wanted"]


async def test_a_running_job_is_told_that_it_is_not_wanted(bench: Bench) -> None:
    begun, told = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def work(cancelled: threading.Event) -> None:
        loop.call_soon_threadsafe(begun.set)
        if cancelled.wait(10):
            loop.call_soon_threadsafe(told.set)

    task = asyncio.create_task(bench.workers.run(work, owner="a"))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with asyncio.timeout(5):
        await told.wait()
    assert await bench.put("next", "a") == "next"


async def test_a_full_queue_refuses_at_once() -> None:
    bench = Bench(limit=1)
    blocker = await bench.block()
    waiting = bench.put("waiting", "a")
    await asyncio.sleep(0)
    with pytest.raises(ProviderBusy):
        await bench.put("refused", "b")
    bench.release()
    await asyncio.gather(blocker, waiting)
    assert bench.done == ["waiting"]
    bench.workers.close()


async def test_closing_fails_what_waits_and_refuses_what_comes(bench: Bench) -> None:
    blocker = await bench.block()
    waiting = bench.put("waiting", "a")
    await asyncio.sleep(0)
    bench.workers.close()
    with pytest.raises(ProviderUnavailable):
        await waiting
    with pytest.raises(ProviderUnavailable):
        await bench.put("late", "a")
    bench.release()
    await blocker
    assert bench.done == []


async def test_two_threads_work_side_by_side() -> None:
    workers = Workers("pair", threads=2)
    if workers._count < 2:
        pytest.skip("one processor")
    both = threading.Barrier(2, timeout=5)

    def work(cancelled: threading.Event) -> int:
        return both.wait()

    ranks = await asyncio.gather(*(workers.run(work, owner=i) for i in range(2)))
    assert sorted(ranks) == [0, 1]
    workers.close()
