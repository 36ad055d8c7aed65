"""A reverse proxy that does, or fails to do, what proxies do."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import aiohttp
from aiohttp import web
from yarl import URL

HOP_BY_HOP = {"connection", "upgrade", "content-length", "transfer-encoding", "keep-alive"}


@dataclass
class Proxy:
    """How it behaves; it does well unless told otherwise."""

    to: str = ""
    """The server behind it."""
    host: str = ""
    """Sent as ``Host`` instead of the one that was asked for."""
    strips: str = ""
    """This beginning of paths."""
    keeps_query: bool = True
    upgrades: bool = True
    protocols: bool = True
    """It passes the WebSocket's subprotocol on."""
    passes: str = "/"
    """Only paths that begin so; others are its own."""
    drops: tuple[str, ...] = ()
    """Headers, in lower case."""
    adds: dict[str, str] = field(default_factory=dict)
    body: bytes | None = None
    """Sent instead of the body."""
    repeats: bool = False
    """Each request is made twice."""
    answers: web.Response | None = None
    """Given to everything."""
    hangs: bool = False
    """It never answers."""
    holds: bool = False
    """Nothing that the server says on a WebSocket comes through."""
    delays_s: float = 0.0
    """What the server says on a WebSocket comes so much later."""
    cuts_after_s: float = 0.0
    """A WebSocket is cut off then."""
    longest: int = 4 << 20
    """Bytes of a WebSocket message."""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        if self.hangs:
            await asyncio.sleep(30)
        if self.answers is not None:
            return web.Response(
                status=self.answers.status,
                headers={"Server": "a proxy", **self.answers.headers},
                body=self.answers.body,
            )
        if not request.path.startswith(self.passes):
            return web.Response(status=404, text="no such page", headers={"Server": "a proxy"})
        headers = {
            name: value
            for name, value in request.headers.items()
            if name.lower() not in HOP_BY_HOP | set(self.drops) and not name.startswith("Sec-")
        }
        headers |= self.adds
        headers["Host"] = self.host or request.host
        path, question, query = request.raw_path.partition("?")
        path = path.removeprefix(self.strips)
        url = URL(self.to + path + (question + query if self.keeps_query else ""), encoded=True)
        wants_upgrade = request.headers.get("Upgrade", "").lower() == "websocket"
        async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as client:
            if wants_upgrade and self.upgrades:
                return await self._bridge(request, client, url, headers)
            body = await request.read() if self.body is None else self.body
            for _ in range(2 if self.repeats and request.method == "POST" else 1):
                try:
                    async with client.request(
                        request.method, url, data=body or None, headers=headers,
                        allow_redirects=False,
                    ) as response:  # fmt: skip
                        text = await response.read()
                        kind = {"Content-Type": response.headers.get("Content-Type", "text/plain")}
                        answer = web.Response(status=response.status, body=text, headers=kind)
                except aiohttp.ClientError:
                    answer = web.Response(status=502, headers={"Server": "a proxy"})
            return answer

    async def _bridge(
        self, request: web.Request, client: aiohttp.ClientSession, url: URL, headers: dict[str, str]
    ) -> web.StreamResponse:
        asked = request.headers.get("Sec-WebSocket-Protocol", "") if self.protocols else ""
        protocols = tuple(each.strip() for each in asked.split(",") if each.strip())
        try:
            inner = await client.ws_connect(
                url, headers=headers, protocols=protocols, autoping=False, autoclose=False
            )
        except aiohttp.WSServerHandshakeError as error:
            async with client.get(url, headers={**headers, "Upgrade": "websocket",
                                                "Connection": "upgrade"}) as response:  # fmt: skip
                text = await response.text()
            return web.Response(status=error.status, text=text)
        outer = web.WebSocketResponse(
            protocols=protocols, autoping=False, autoclose=False, max_msg_size=self.longest
        )
        await outer.prepare(request)
        tasks = [
            asyncio.create_task(_pump(outer, inner, 0.0)),
            asyncio.create_task(asyncio.sleep(30) if self.holds else
                                _pump(inner, outer, self.delays_s)),
        ]  # fmt: skip
        await asyncio.wait(
            tasks,
            timeout=self.cuts_after_s or None,
            return_when=asyncio.FIRST_COMPLETED,
        )
        for task in tasks:
            task.cancel()
        if self.cuts_after_s and request.transport is not None:
            request.transport.abort()
        await inner.close()
        await outer.close()
        return outer


Socket = web.WebSocketResponse | aiohttp.ClientWebSocketResponse


async def _pump(source: Socket, sink: Socket, delay_s: float) -> None:
    """Pass messages on, until one says that there will be no more."""
    while True:
        message = await source.receive()
        if delay_s:
            await asyncio.sleep(delay_s)
        match message.type:
            case aiohttp.WSMsgType.TEXT:
                await sink.send_str(message.data)
            case aiohttp.WSMsgType.BINARY:
                await sink.send_bytes(message.data)
            case aiohttp.WSMsgType.PING:
                await sink.ping(message.data)
            case aiohttp.WSMsgType.PONG:
                await sink.pong(message.data)
            case aiohttp.WSMsgType.CLOSE:
                await sink.close(code=message.data or 1000, message=(message.extra or "").encode())
                await source.close()
                return
            case _:
                return


@asynccontextmanager
async def proxied(proxy: Proxy, tls: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    """The proxy on loopback; its URL."""
    app = web.Application(client_max_size=1 << 20)
    app.router.add_route("*", "/{path:.*}", proxy.handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
        yield f"{'https' if tls else 'http'}://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()
