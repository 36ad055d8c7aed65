from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

import numpy as np
import pytest

from flowcat_server.errors import ConfigError
from flowcat_server.providers.vad._chunks import CHUNK, CHUNK_MS
from flowcat_server.providers.vad._silero_model import CONTEXT, Row
from flowcat_server.providers.vad.silero import (
    MAX_PENDING,
    PREROLL,
    PROVIDER,
    Silero,
    SileroOptions,
    SileroStream,
)
from tests.fakes.settings import settings

LOUD = 8000
"""Samples from here on open the gate."""


class FakeModel:
    """Answers with the first sample of the chunk; can be held up; keeps what it was given."""

    def __init__(self) -> None:
        self.runs: list[list[tuple[int, int, bool]]] = []
        self.free = threading.Event()
        self.free.set()
        self.fails = False

    def run(self, rows: Sequence[Row]) -> list[float]:
        self.free.wait(10)
        seen = []
        for row in rows:
            samples = np.frombuffer(row.pcm, "<i2")
            assert len(row.pcm) == CONTEXT + CHUNK
            seen.append((int(samples[0]), int(samples[CONTEXT // 2]), row.fresh))
        self.runs.append(seen)
        if self.fails:
            raise RuntimeError("broken")
        return [value / 32768 for _, value, _ in seen]

    @property
    def rows(self) -> list[tuple[int, int, bool]]:
        return [row for run in self.runs for row in run]


Open = Callable[..., Awaitable[tuple[Silero, FakeModel]]]


@pytest.fixture
async def start() -> AsyncIterator[Open]:
    opened: list[tuple[Silero, FakeModel]] = []

    async def begin(**options: object) -> tuple[Silero, FakeModel]:
        model = FakeModel()
        vad = Silero(SileroOptions.model_validate({"gather": 0, **options}), model)
        await vad.start()
        opened.append((vad, model))
        return vad, model

    yield begin
    for vad, model in opened:
        model.free.set()
        await vad.close()


def chunk(value: int) -> bytes:
    return np.full(CHUNK // 2, value, "<i2").tobytes()


def feed(stream: SileroStream, *values: int, at: int = 0) -> None:
    for i, value in enumerate(values, 1):
        stream.feed(chunk(value), at + i * CHUNK_MS)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.001)  # the condition is met by a thread


async def test_probabilities_come_in_order_with_the_time_of_their_chunk(start: Open) -> None:
    vad, _ = await start(gate=False)
    heard: list[tuple[int, float]] = []
    stream = vad.open(lambda at, p: heard.append((at, p)))
    feed(stream, *(1024 * i for i in range(1, 6)))
    await until(lambda: len(heard) == 5)
    assert heard == [(32 * i, i / 32) for i in range(1, 6)]


async def test_calls_back_are_on_the_loops_thread(start: Open) -> None:
    vad, _ = await start(gate=False)
    threads: list[int] = []
    feed(vad.open(lambda at, p: threads.append(threading.get_ident())), LOUD)
    await until(lambda: len(threads) == 1)
    assert threads == [threading.get_ident()]


async def test_chunks_of_many_calls_are_one_run_and_a_call_has_one_row_in_it(start: Open) -> None:
    vad, model = await start(gate=False)
    counts = [0, 0, 0]

    def count(i: int) -> Callable[[int, float], None]:
        def add(at: int, p: float) -> None:
            counts[i] += 1

        return add

    model.free.clear()
    streams = [vad.open(count(i)) for i in range(3)]
    feed(streams[0], 9000)
    for value, stream in enumerate(streams, 1):
        feed(stream, 9000 + value, 9010 + value)
    model.free.set()
    await until(lambda: sum(counts) == 7)
    assert [len(run) for run in model.runs] == [1, 3, 3]


async def test_gathering_makes_one_run_of_what_arrives_within_it(start: Open) -> None:
    vad, model = await start(gate=False, gather=5)
    heard: list[int] = []
    streams = [vad.open(lambda at, p: heard.append(at)) for _ in range(4)]
    for stream in streams:
        feed(stream, LOUD)
    assert not model.runs
    await until(lambda: len(heard) == 4)
    assert [len(run) for run in model.runs] == [4]


async def test_the_model_hears_the_samples_before_the_chunk(start: Open) -> None:
    vad, model = await start(gate=False)
    heard: list[float] = []
    feed(vad.open(lambda at, p: heard.append(p)), 9000, 9001, 9002)
    await until(lambda: len(heard) == 3)
    assert [(before, now) for before, now, _ in model.rows] == [
        (0, 9000),
        (9000, 9001),
        (9001, 9002),
    ]


async def test_silence_is_reported_at_once_and_not_run(start: Open) -> None:
    vad, model = await start()
    heard: list[tuple[int, float]] = []
    feed(vad.open(lambda at, p: heard.append((at, p))), *[0] * 20)
    assert heard == [(32 * i, 0.0) for i in range(1, 21)]
    assert not model.runs


async def test_at_an_onset_the_model_first_hears_what_came_before(start: Open) -> None:
    vad, model = await start()
    heard: list[tuple[int, float]] = []
    feed(vad.open(lambda at, p: heard.append((at, p))), *[1, 2, 3, 4, 5, 6], LOUD)
    await until(lambda: len(heard) == 7)
    assert [value for _, value, _ in model.rows] == [3, 4, 5, 6, LOUD]
    # More silence than that was skipped: the memory of the model is emptied once.
    assert [fresh for _, _, fresh in model.rows] == [True, False, False, False, False]
    assert heard[-1] == (7 * 32, LOUD / 32768)
    assert [p for _, p in heard[:-1]] == [0.0] * 6


async def test_after_a_short_silence_the_model_has_heard_everything(start: Open) -> None:
    vad, model = await start(gate_hangover=0)
    heard: list[float] = []
    stream = vad.open(lambda at, p: heard.append(p))
    feed(stream, LOUD, *[1] * PREROLL, LOUD)
    await until(lambda: len(heard) == 2 + PREROLL)
    assert [value for _, value, _ in model.rows] == [LOUD, *[1] * PREROLL, LOUD]
    assert not any(fresh for _, _, fresh in model.rows)


async def test_silence_behind_a_chunk_in_the_model_waits_its_turn(start: Open) -> None:
    vad, model = await start(gate_hangover=0)
    heard: list[tuple[int, float]] = []
    model.free.clear()
    feed(vad.open(lambda at, p: heard.append((at, p))), LOUD, 0, 0)
    assert heard == []
    model.free.set()
    await until(lambda: len(heard) == 3)
    assert heard == [(32, LOUD / 32768), (64, 0.0), (96, 0.0)]


async def test_a_lagging_model_loses_the_oldest_chunks_but_no_report(start: Open) -> None:
    vad, model = await start(gate=False)
    heard: list[tuple[int, float]] = []
    stream = vad.open(lambda at, p: heard.append((at, p)))
    feed(stream, 16384)
    await until(lambda: len(heard) == 1)
    model.free.clear()
    total = MAX_PENDING + 10
    feed(stream, *(100 + i for i in range(total)), at=32)
    # One is in the model, MAX_PENDING wait, the nine after the first are given up.
    assert vad.dropped == 9
    model.free.set()
    await until(lambda: len(heard) == total + 1)
    assert [at for at, _ in heard] == [32 * i for i in range(1, total + 2)]
    values = [round(p * 32768) for _, p in heard[1:]]
    assert values == [100, *[16384] * 9, *(100 + i for i in range(10, total))]


async def test_a_closed_stream_is_not_called_back(start: Open) -> None:
    vad, model = await start(gate=False)
    heard: list[int] = []
    model.free.clear()
    stream = vad.open(lambda at, p: heard.append(at))
    feed(stream, LOUD, LOUD, LOUD)
    stream.close()
    model.free.set()
    other = vad.open(lambda at, p: heard.append(-at))
    feed(other, LOUD)
    await until(lambda: bool(heard))
    assert heard == [-32]


async def test_a_stream_may_be_closed_from_its_own_call_back(start: Open) -> None:
    vad, _ = await start()
    heard: list[int] = []

    def stop(at: int, p: float) -> None:
        heard.append(at)
        stream.close()

    stream = vad.open(stop)
    stream.feed(bytes(CHUNK * 5), 160)
    assert heard == [32]


async def test_a_failed_run_reports_silence_and_the_next_one_works(start: Open) -> None:
    vad, model = await start(gate=False)
    heard: list[float] = []
    stream = vad.open(lambda at, p: heard.append(p))
    model.fails = True
    feed(stream, 16384)
    await until(lambda: len(heard) == 1)
    model.fails = False
    feed(stream, 16384, at=32)
    await until(lambda: len(heard) == 2)
    assert heard == [0.0, 0.5]


def test_an_unknown_model_is_a_configuration_error() -> None:
    with pytest.raises(ConfigError, match="bundled: v6"):
        PROVIDER.create(settings(PROVIDER, model="v9"))
