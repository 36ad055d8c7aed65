"""Base of the fake vendors: a real aiohttp server on loopback that can be in trouble."""

from __future__ import annotations

import asyncio
from typing import Any, Self

from aiohttp import web
from aiohttp.test_utils import TestServer


class VendorServer:
    """Serves WebSockets. `trouble` decides what goes wrong, for the next `times` connections.

    ``refuse``, ``rate_limit``, ``fault`` and ``bad_request`` answer the handshake with a status;
    ``hang`` never answers it; ``half_dead`` accepts, reads and never answers; ``garbage``
    answers nonsense. Further kinds belong to the vendors.
    """

    STATUSES = {"refuse": 401, "rate_limit": 429, "fault": 503, "bad_request": 400}
    PATHS: tuple[str, ...] = ()

    def __init__(self, trouble: str = "", times: int = 1_000_000) -> None:
        self.trouble, self.times = trouble, times
        self.queries: list[dict[str, list[str]]] = []
        self.headers: list[dict[str, str]] = []
        self.paths: list[str] = []
        self.received: list[Any] = []
        """Every message of every connection, in order of arrival."""
        self.open = 0
        """Sockets that are connected now."""
        self._stopped = asyncio.Event()
        app = web.Application()
        for path in self.PATHS:
            app.router.add_get(path, self._handle)
        self._server = TestServer(app, host="127.0.0.1")

    async def __aenter__(self) -> Self:
        await self._server.start_server()
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._stopped.set()
        await self._server.close()

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self._server.port}"

    @property
    def connections(self) -> int:
        return len(self.queries)

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        self.queries.append({key: request.query.getall(key) for key in request.query})
        self.headers.append(dict(request.headers))
        self.paths.append(request.path)
        trouble = ""
        if self.trouble and self.times > 0:
            self.times -= 1
            trouble = self.trouble
        if trouble in self.STATUSES:
            return web.Response(
                status=self.STATUSES[trouble], headers={"dg-error": f"{trouble} on purpose"}
            )
        if trouble == "hang":
            await self._stopped.wait()
        ws = web.WebSocketResponse(max_msg_size=0)
        await ws.prepare(request)
        self.open += 1
        try:
            if trouble == "half_dead":
                async for message in ws:
                    self.received.append(message.data)
            elif trouble == "garbage":
                await ws.receive()
                await ws.send_str('{"type": [')
                await ws.receive()
            else:
                await self.serve(ws, request, trouble)
        except ConnectionError:
            pass
        finally:
            self.open -= 1
        return ws

    async def serve(self, ws: web.WebSocketResponse, request: web.Request, trouble: str) -> None:
        raise NotImplementedError

    @staticmethod
    def cut(request: web.Request) -> None:
        """Cut the line without a word."""
        assert request.transport is not None
        request.transport.abort()


async def until(condition: Any, timeout_s: float = 2.0) -> None:
    """Wait until `condition()` holds."""
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110 - what is awaited is in another program
            await asyncio.sleep(0.002)
