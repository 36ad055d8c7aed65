"""Admission and expected calls of two workers: counted once, wherever webhook and socket come."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from flowcat_server.agents import Agents
from flowcat_server.calls import Calls, Incoming
from flowcat_server.errors import CallRefused
from flowcat_server.metrics import Metrics
from flowcat_server.routes.expected import Expected
from flowcat_server.workers.board import Board
from flowcat_server.workers.shared import ARRIVING, SharedPlaces, SharedWaiting
from tests.callscript import loaded, parts
from tests.fakes.doors import Clock

KEY = ("twilio", "CA1")
LIMIT = 2


@dataclass
class Side:
    """What one worker knows."""

    board: Board
    run: int
    calls: Calls
    waiting: SharedWaiting

    async def announce(self, key: tuple[str, str] = KEY, **fields: Any) -> None:
        incoming = Incoming(key[0], "+15550100", "+15550199", key[1], {"run_id": "r", "n": [1, 2]})
        expected = Expected(self.calls.reserve(), incoming, "AC1", **fields)
        await self.waiting.put(key, expected)

    async def quiet(self) -> bool:
        """Whether a drain would end at once."""
        try:
            async with asyncio.timeout(0.01):
                await self.calls._quiet.wait()
        except TimeoutError:
            return False
        return True


@asynccontextmanager
async def two(folder: Path) -> AsyncIterator[tuple[Side, Side, Clock]]:
    clock = Clock()
    shared = Agents(await parts(loaded("topology: {mode: echo}\n")))
    async with asyncio.TaskGroup() as tasks:
        sides = []
        for number in (1, 2):
            board = Board(folder / "board.sqlite", clock)
            run = board.join(number, number)
            board.ready(run, ready=True)
            places = SharedPlaces(board, run, LIMIT)
            calls = Calls(shared, None, None, Metrics(), tasks, places=places)  # type: ignore[arg-type]
            sides.append(Side(board, run, calls, SharedWaiting(calls, board, run)))
        yield sides[0], sides[1], clock
        for side in sides:
            for reservation in list(side.calls._reserved):
                reservation.release()
            side.board.close()


async def test_a_call_that_one_announced_comes_to_the_other_with_all_that_was_said(tmp_path: Path):
    async with two(tmp_path) as (one, other, _):
        await one.announce()
        assert (one.calls.count, other.calls.count) == (1, 1)
        assert await one.quiet(), "whoever answered a webhook need not wait for its socket"
        found = await other.waiting.pop(KEY)
        assert found is not None
        assert found.incoming == Incoming(
            "twilio", "+15550100", "+15550199", "CA1", {"run_id": "r", "n": [1, 2]}
        )
        assert found.account_id == "AC1"
        assert not await other.quiet()
        assert (one.calls.count, other.calls.count) == (1, 1)
        assert await one.waiting.pop(KEY) is None
        found.reservation.release()
        assert (one.calls.count, other.calls.count) == (0, 0)


async def test_the_last_place_is_taken_by_one_of_them(tmp_path: Path):
    async with two(tmp_path) as (one, other, _):
        held = [one.calls.reserve(), other.calls.reserve()]
        for side in (one, other):
            with pytest.raises(CallRefused, match="full"):
                side.calls.reserve()
        held[0].release()
        other.calls.reserve()
        with pytest.raises(CallRefused, match="full"):
            one.calls.reserve()


async def test_a_call_that_is_announced_twice_has_one_place(tmp_path: Path):
    async with two(tmp_path) as (one, other, _):
        await one.announce()
        again = await other.waiting.pop(KEY)  # as `CarrierCalls.expect` does
        assert again is not None
        again.reservation.release()
        await other.announce()
        assert one.calls.count == 1


async def test_a_call_that_never_comes_is_forgotten(tmp_path: Path):
    async with two(tmp_path) as (one, other, clock):
        await one.announce()
        clock.now += 61
        assert await other.waiting.pop(KEY) is None
        assert one.calls.count == 0


async def test_what_only_one_process_can_run_waits_there(tmp_path: Path):
    async with two(tmp_path) as (one, other, _):
        await one.announce(only_here=True)
        assert not await one.quiet()
        assert await other.waiting.pop(KEY) is None
        found = await one.waiting.pop(KEY)
        assert found is not None
        assert found.reservation.held


async def test_a_connection_is_load_until_its_call_has_its_place(tmp_path: Path):
    async with two(tmp_path) as (one, other, _):
        await one.announce()
        chosen, arriving = one.board.place_call(one.run)
        assert chosen == one.run
        ARRIVING.set(arriving)
        assert await one.waiting.pop(KEY) is not None
        assert [member.load for member in other.board.members()] == [1, 0]


async def test_calls_of_other_workers_are_live_too(tmp_path: Path):
    async with two(tmp_path) as (one, other, _):
        reservation = one.calls.reserve()
        one.calls.announce(reservation, "call")
        assert other.calls.live_ids == {"call"}
        assert other.board.owner("call") == one.run
        reservation.release()
        assert other.calls.live_ids == set()
