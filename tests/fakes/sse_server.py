"""A loopback HTTP server whose answers are written out by the test, piece by piece."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from aiohttp import web


@dataclass
class Wait:
    """Hold the answer until the test sets `event`; without an event, for good."""

    event: asyncio.Event = field(default_factory=asyncio.Event)


class Cut:
    """Break the connection, without an end of the body."""


Piece = bytes | Wait | Cut


@dataclass
class Answer:
    """One HTTP answer. A `Wait` or `Cut` before the first bytes comes before the status line."""

    pieces: Sequence[Piece] = ()
    status: int = 200
    content_type: str = "text/event-stream"
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Received:
    """One request as it came in."""

    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: dict[str, Any]
    peer: Any
    """Address of the connection it came over."""


class SseServer:
    """Answers each POST with the next of `answers`, or with what `respond` makes of the request.

    ``async with SseServer("/v1/chat/completions") as server: ... server.url``
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.answers: deque[Answer] = deque()
        self.respond: Callable[[Received], Answer] | None = None
        self.requests: list[Received] = []
        self.peers: list[Any] = []
        """Connections of all requests, in order, any method."""
        self.hung_up = asyncio.Event()
        """Set when a client leaves before its answer is complete."""
        self.asked = asyncio.Event()
        self._runner: web.AppRunner | None = None
        self.url = ""
        """``http://127.0.0.1:port``"""

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=1 << 24)
        app.router.add_post(self.path, self._post)
        app.router.add_get("/", self._root)
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    def check(self, request: Received) -> Answer | None:
        """An answer that comes before the scripted ones, such as a refused key."""
        return None

    async def _root(self, request: web.Request) -> web.Response:
        self.peers.append(request.transport and request.transport.get_extra_info("peername"))
        return web.Response(status=404, text="nothing here")

    async def _post(self, request: web.Request) -> web.StreamResponse:
        received = Received(
            request.path,
            dict(request.query),
            {name.lower(): value for name, value in request.headers.items()},
            await request.json(),
            request.transport and request.transport.get_extra_info("peername"),
        )
        self.peers.append(received.peer)
        self.requests.append(received)
        self.asked.set()
        answer = self.check(received)
        if answer is None:
            answer = self.respond(received) if self.respond else self.answers.popleft()
        try:
            return await self._write(request, answer)
        except (asyncio.CancelledError, ConnectionResetError):
            self.hung_up.set()
            raise

    async def _write(self, request: web.Request, answer: Answer) -> web.StreamResponse:
        response = web.StreamResponse(
            status=answer.status,
            headers={"Content-Type": answer.content_type, **answer.headers},
        )
        pieces = list(answer.pieces)
        while pieces and isinstance(pieces[0], Wait):
            await pieces.pop(0).event.wait()
        if not (pieces and isinstance(pieces[0], Cut)):
            await response.prepare(request)
        for piece in pieces:
            if isinstance(piece, Wait):
                await piece.event.wait()
            elif isinstance(piece, Cut):
                if request.transport is not None:
                    request.transport.abort()
                return response
            else:
                await response.write(piece)
        await response.write_eof()
        return response
