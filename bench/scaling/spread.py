"""How evenly connections fall on the processes that listen on one port.

``SO_REUSEPORT``: each process has a socket of its own and the kernel picks one by a hash of the
addresses. Shared: all wait on one socket and whoever is awake takes the next. No server of ours is
involved: this is what there would be without placing calls by load.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import socket
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection

import uvloop

WORKERS = (2, 4)
CALLS = (10, 20, 50, 100)
ROUNDS = 20
SETTLE_S = 0.03


class _Counts(asyncio.Protocol):
    """How many connections are open."""

    open = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        _Counts.open += 1

    def connection_lost(self, error: Exception | None) -> None:
        _Counts.open -= 1


async def _listen(listener: socket.socket, pipe: Connection) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(_Counts, sock=listener, backlog=1024)
    loop.add_reader(pipe.fileno(), lambda: (pipe.recv(), pipe.send(_Counts.open)))
    pipe.send(0)
    await server.serve_forever()


def _worker(listener: socket.socket, pipe: Connection) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_listen(listener, pipe))


def _listener(port: int, *, shared: bool) -> socket.socket:
    listener = socket.socket()
    if not shared:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.bind(("127.0.0.1", port))
    return listener


@contextmanager
def _workers(count: int, *, shared: bool) -> Iterator[tuple[int, list[Connection]]]:
    fork = multiprocessing.get_context("fork")
    first = _listener(0, shared=shared)
    port: int = first.getsockname()[1]
    listeners = [first] + [
        first if shared else _listener(port, shared=False) for _ in range(count - 1)
    ]
    pipes, processes = [], []
    for listener in listeners:
        ours, theirs = fork.Pipe()
        process = fork.Process(target=_worker, args=(listener, theirs), daemon=True)
        process.start()
        ours.recv()
        pipes.append(ours)
        processes.append(process)
    for listener in set(listeners):
        listener.close()
    try:
        yield port, pipes
    finally:
        for process in processes:
            process.kill()
            process.join()


def measure(workers: int, calls: int, *, shared: bool, rounds: int = ROUNDS) -> list[list[int]]:
    """Connections on each worker, for each round."""
    found = []
    with _workers(workers, shared=shared) as (port, pipes):
        for _ in range(rounds):
            held = [socket.create_connection(("127.0.0.1", port)) for _ in range(calls)]
            time.sleep(SETTLE_S)
            counts = []
            for pipe in pipes:
                pipe.send(None)
                counts.append(pipe.recv())
            found.append(counts)
            for each in held:
                each.close()
            time.sleep(SETTLE_S)
    return found


def page() -> str:
    """Markdown: the busiest worker's connections over an even share."""
    lines = [
        "| workers | connections | `SO_REUSEPORT`, median / worst | one socket, median / worst |",
        "|---|---|---|---|",
    ]
    for workers in WORKERS:
        for calls in CALLS:
            cells = []
            for shared in (False, True):
                busiest = [max(counts) for counts in measure(workers, calls, shared=shared)]
                even = calls / workers
                cells.append(f"{statistics.median(busiest) / even:.2f} / {max(busiest) / even:.2f}")
            lines.append(f"| {workers} | {calls} | {' | '.join(cells)} |")
    return "\n".join(lines)
