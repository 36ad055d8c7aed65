"""Connections that wait are taken several in a turn of the loop."""

from __future__ import annotations

import asyncio
import socket
import time

import pytest
from aiohttp import web

from flowcat_server.routes.accepting import ACCEPTS, widen

uvloop = pytest.importorskip("uvloop")
WAITING = 3 * ACCEPTS


async def turns_to_accept(*, wide: bool) -> int:
    """Turns of a busy loop until all that had connected before are connected here too."""
    runner = web.AppRunner(web.Application(), handle_signals=False)
    await runner.setup()
    callers = []
    try:
        await web.TCPSite(runner, "127.0.0.1", 0, backlog=128).start()
        if wide:
            await widen(runner, 128)
        address = runner.addresses[0]
        callers = [socket.create_connection(address) for _ in range(WAITING)]
        turns = 0
        assert runner.server is not None
        while len(runner.server.connections) < WAITING and turns < 10 * WAITING:
            await asyncio.sleep(0)
            time.sleep(0.001)  # noqa: ASYNC251 - what a busy loop does in a turn
            turns += 1
        return turns
    finally:
        for caller in callers:
            caller.close()
        await runner.cleanup()


def test_a_busy_loop_takes_many_connections_in_a_turn():
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as loop:
        one_by_one = loop.run(turns_to_accept(wide=False))
        together = loop.run(turns_to_accept(wide=True))
    assert one_by_one >= WAITING
    assert together <= WAITING // ACCEPTS + 3


def test_all_duplicates_are_closed_with_the_server():
    async def port() -> int:
        runner = web.AppRunner(web.Application(), handle_signals=False)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        await widen(runner, 128)
        where = int(runner.addresses[0][1])
        await runner.cleanup()
        return where

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as loop:
        where = loop.run(port())
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", where), timeout=1)
