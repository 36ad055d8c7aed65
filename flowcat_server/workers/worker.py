"""One worker's life among the others: its mail, its share of the work, the end of the server."""

from __future__ import annotations

import asyncio
import fcntl
import os
import socket
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack, suppress
from functools import partial
from typing import Any

import structlog
from aiohttp import web

from flowcat_server.calls import Calls
from flowcat_server.core.carrier import Report
from flowcat_server.core.overload import Overload
from flowcat_server.metrics import Metrics
from flowcat_server.routes.accepting import widen
from flowcat_server.routes.audiosocket import AudioSocketListener
from flowcat_server.routes.expected import CarrierCalls, Waiting
from flowcat_server.routes.health import HealthDoor
from flowcat_server.routes.outbound import Pace
from flowcat_server.routes.tokens import Memory
from flowcat_server.workers import shared
from flowcat_server.workers.board import Board
from flowcat_server.workers.health import WorkersDoor, socket_path
from flowcat_server.workers.placement import Placement, mark
from flowcat_server.workers.post import Ended, Message, Moved, Told
from flowcat_server.workers.team import BACKLOG, Seat

log = structlog.get_logger()

FORGET_S = 30.0
"""A connection that was given to us and has brought no request by then never will."""
LEAD_S = 2.0
"""How soon another worker takes over what only one may do."""
WAITING_S = 0.1
BEAT_S = 1.0


class Worker:
    """This process, in its seat. Everything happens on the event loop's thread."""

    def __init__(self, seat: Seat, max_calls: int) -> None:
        """Take the seat.

        Args:
            seat: What the supervisor gave.
            max_calls: Of all workers together.

        Raises:
            SharedStateError: The board cannot be used.
        """
        team = seat.team
        self.size = team.size
        self.first = seat.first
        self.api_token, self.token_made = team.api_token, team.token_made
        self.stream_secret = team.stream_secret
        self.board = Board(team.board)
        self.run = self.board.join(seat.number, os.getpid())
        self.peer_prefix = f"pc-{mark(self.run)}"
        self.mark = mark(self.run)
        self.places = shared.SharedPlaces(self.board, self.run, max_calls)
        self.used_tokens: Memory = shared.used_tokens(self.board)
        self.seen_webhooks: Memory = shared.seen_webhooks(self.board)
        self.everywhere: Callable[[Waiting], Waiting] = lambda own: own
        self.overload = Overload(0)
        """Whether this loop keeps up; others are told, and give it no calls while it does not."""
        self.placement = Placement(self.board, team.post, self.run)
        self.middlewares = (self.placement.middleware(),)
        self.leading = asyncio.Event()
        self._seat = seat
        self._door: WorkersDoor | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._on_ended: Callable[[], None] = lambda: None
        self._calls: CarrierCalls | None = None
        self._server: web.Server | None = None
        self._audiosocket: AudioSocketListener | None = None

    # --- what its calls need ------------------------------------------------------------------

    def waiting(self, calls: Calls) -> Waiting:
        """Expected calls of all workers."""
        return self.everywhere(shared.SharedWaiting(calls, self.board, self.run))

    def tell_others(self, carrier: str, report: Report) -> None:
        """Pass on what a carrier said of a call that is not here."""
        self._send_all(Told.of(carrier, report))

    def pace(self, per_minute: int) -> Pace:
        """Counts the calls that all workers begin."""
        return shared.SharedPace(self.board, per_minute)

    def report_ended(self, on_ended: Callable[[], None]) -> Callable[[], None]:
        """Say that a call ended, here and to the worker that reports it."""
        self._on_ended = on_ended

        def ended() -> None:
            on_ended()
            self._send_all(Ended())

        return ended

    def _send_all(self, message: Message) -> None:
        for number in range(1, self._seat.team.size + 1):
            if number != self._seat.number:
                self._seat.team.post.send(number, message)

    async def nobody_waits(self, given_up: asyncio.Event) -> None:
        """Return when no announced call may still reach this server, or we do not care any more."""
        while self.board.waiting and not given_up.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(WAITING_S):
                    await given_up.wait()

    # --- the doors --------------------------------------------------------------------------

    def health(self, own: HealthDoor, metrics: Metrics) -> WorkersDoor:
        """The door for probes and metrics of all workers."""
        self._door = WorkersDoor(own, metrics, self.board, self.run, self._seat.team.room)
        return self._door

    async def open(
        self,
        runner: web.AppRunner,
        calls: CarrierCalls,
        audiosocket: AudioSocketListener | None,
        on_orphaned: Callable[[], None],
        stack: AsyncExitStack,
    ) -> int:
        """Listen, take mail, answer the others; from then on this worker is given calls.

        Args:
            runner: Of the application, set up.
            calls: Carriers' calls here.
            audiosocket: Takes Asterisk's connections, where that is wanted.
            on_orphaned: Called when the supervisor is no more.
            stack: Closes everything in the end.

        Returns the port of `server.bind`.
        """
        team = self._seat.team
        self._calls, self._server, self._audiosocket = calls, runner.server, audiosocket
        stack.push_async_callback(self._end_tasks)
        for listener in team.web:
            await web.SockSite(runner, listener.dup(), backlog=BACKLOG).start()
        await widen(runner, BACKLOG)
        own = web.Application()
        if self._door is not None:
            own.add_routes(self._door.own_routes())
        answers = web.AppRunner(own, access_log=None, handle_signals=False, shutdown_timeout=1)
        await answers.setup()
        stack.push_async_callback(answers.cleanup)
        await web.UnixSite(answers, str(socket_path(team.room, self.run))).start()
        self._on_readable(team.post.inbox(self._seat.number), self._read_mail, stack)
        if audiosocket is not None:
            for listener in team.audiosocket:
                listener.listen(BACKLOG)
                self._on_readable(listener.fileno(), partial(self._accept, listener), stack)
        self._on_readable(self._seat.lifeline, lambda: self._orphaned(on_orphaned), stack)
        self._spawn(self._lead(), "worker-lead")
        self._spawn(self._beat(), "worker-beat")
        self.board.ready(self.run, ready=True)
        stack.callback(self.board.ready, self.run, ready=False)
        return int(team.web[0].getsockname()[1])

    def _on_readable(self, file: int, work: Callable[[], None], stack: AsyncExitStack) -> None:
        loop = asyncio.get_running_loop()
        loop.add_reader(file, work)
        stack.callback(loop.remove_reader, file)

    def _orphaned(self, on_orphaned: Callable[[], None]) -> None:
        asyncio.get_running_loop().remove_reader(self._seat.lifeline)
        log.error("supervisor_died")
        on_orphaned()

    async def _end_tasks(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def close(self) -> None:
        """Leave the board, when no call needs it any more."""
        self.board.close()

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # --- mail -------------------------------------------------------------------------------

    def _read_mail(self) -> None:
        for message, connection in self._seat.team.post.read(self._seat.number):
            match message:
                case Moved() if connection is not None:
                    self.board.took(self.run)
                    self._spawn(self._take(message, connection), "worker-take")
                case Told() if self._calls is not None:
                    if message.report is not None:
                        self._calls.hear(message.carrier, message.report)
                case Ended():
                    self._on_ended()
                case _:
                    pass

    async def _take(self, message: Moved, connection: socket.socket) -> None:
        connection.setblocking(False)
        try:
            if message.door == "audiosocket":
                if self._audiosocket is not None:
                    shared.ARRIVING.set(message.arriving)
                    await self._audiosocket.take(connection)
                return
            if self._server is not None:
                await self._serve(self._server, message, connection)
        except OSError as error:  # whoever connected has gone
            connection.close()
            log.info("connection_lost", error=str(error))

    async def _serve(self, server: web.Server, message: Moved, connection: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        _, protocol = await loop.connect_accepted_socket(server, connection)
        self.placement.given(protocol, message.arriving)
        loop.call_later(FORGET_S, self.placement.forget, protocol)
        protocol.data_received(message.head)

    def _accept(self, listener: socket.socket) -> None:
        """Give a connection from Asterisk to the least loaded worker; nothing is read here."""
        with suppress(BlockingIOError, InterruptedError, ConnectionError):
            connection, _ = listener.accept()
            best, arriving = self.board.place_call(self.run)
            message = Moved(b"", arriving, "audiosocket")
            number = next((m.number for m in self.board.members() if m.run == best), 0)
            if best != self.run and self._seat.team.post.send(number, message, connection.fileno()):
                connection.close()
                return
            self._spawn(self._take(message, connection), "worker-take")

    async def _beat(self) -> None:
        """Say that this loop runs: one that does not is given no calls, and killed in the end."""
        while True:
            self.board.beat(self.run, overloaded=self.overload.overloaded)
            await asyncio.sleep(BEAT_S)

    # --- what only one may do ---------------------------------------------------------------

    async def _lead(self) -> None:
        """Become the one that reports and cleans up, when nobody else is.

        The kernel frees the lock when its holder dies (flock(2)).
        """
        file = os.open(self._seat.team.room / "lead", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            while True:
                with suppress(BlockingIOError):
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    self.leading.set()
                    log.info("worker_leads")
                    await asyncio.Event().wait()
                await asyncio.sleep(LEAD_S)
        finally:
            self.leading.clear()
            os.close(file)
