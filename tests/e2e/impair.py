"""A bad network between a client and the server: UDP that loses packets, TCP that breaks."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable
from types import TracebackType
from typing import Any, Self, cast

from tests.e2e.conftest import free_port

RELAY_HOST = "127.0.0.2"
"""All of 127/8 is this machine on Linux: the relay has the server's port at another address."""
SERVER_HOST = "127.0.0.1"
RTP_VERSION = 0b10
RTCP_TYPES = range(192, 224)


def is_rtp(datagram: bytes) -> bool:
    """Media, as against STUN, DTLS and RTCP (RFC 7983, RFC 5761 section 4)."""
    return len(datagram) > 12 and datagram[0] >> 6 == RTP_VERSION and datagram[1] not in RTCP_TYPES


NO_CANDIDATES = """
(() => {
  const original = window.fetch;
  window.fetch = (url, options) => {
    if (String(url).includes("webrtc/offer")) {
      const body = JSON.parse(options.body);
      body.sdp = body.sdp.replace(/a=candidate:.*\\r\\n/g, "");
      options = { ...options, body: JSON.stringify(body) };
    }
    return original(url, options);
  };
})();
"""
"""For a page: the server learns of no address of the browser, so that the relay is the only way."""


class LossyRelay:
    """Carries one call between a browser and a server, and loses some of what the browser sends.

    The server's settings are in `arguments`: it listens on one port of `SERVER_HOST` and gives
    out the relay's address. Which packets are lost is drawn from `seed`.
    """

    def __init__(self, percent: float, seed: int = 1) -> None:
        self.port = free_port()
        self.carried = self.lost = 0
        self._percent = percent
        self._chance = random.Random(seed)
        self._far: _Leg | None = None
        self._near: _Leg | None = None
        self._browser: Any = None

    @property
    def arguments(self) -> list[str]:
        """For the server's command line."""
        return [
            "--set",
            f"webrtc.advertise_ip={RELAY_HOST}",
            "--set",
            f"webrtc.bind_ips=[{SERVER_HOST}]",
            "--set",
            f"webrtc.port_range={self.port}-{self.port}",
        ]

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        _, self._near = await loop.create_datagram_endpoint(
            lambda: _Leg(self._from_browser), local_addr=(RELAY_HOST, self.port)
        )
        _, self._far = await loop.create_datagram_endpoint(
            lambda: _Leg(self._from_server), remote_addr=(SERVER_HOST, self.port)
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for leg in (self._near, self._far):
            if leg is not None:
                leg.transport.close()

    def lose(self, percent: float) -> None:
        """From now on."""
        self._percent = percent

    def _from_browser(self, data: bytes, address: Any) -> None:
        self._browser = address
        if is_rtp(data):
            self.carried += 1
            if self._chance.random() * 100 < self._percent:
                self.lost += 1
                return
        if self._far is not None:
            self._far.transport.sendto(data)

    def _from_server(self, data: bytes, address: Any) -> None:
        if self._near is not None and self._browser is not None:
            self._near.transport.sendto(data, self._browser)


class _Leg(asyncio.DatagramProtocol):
    transport: asyncio.DatagramTransport

    def __init__(self, received: Callable[[bytes, Any], None]) -> None:
        self._received = received

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self._received(data, addr)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.DatagramTransport", transport)

    def error_received(self, error: Exception) -> None:
        """The server's socket is not there yet, or not any more."""


class BreakingProxy:
    """Carries TCP connections to a server and can break all of them at once."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()
        self.connections = 0
        self.url = ""

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Self]:
        """Listens on a port of its own."""
        self._server = await asyncio.start_server(self._carry, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        self.url = f"http://localhost:{port}"
        try:
            yield self
        finally:
            self._server.close()
            self.cut()

    def cut(self) -> None:
        """Every connection is reset; new ones work."""
        for writer in list(self._open):
            writer.transport.abort()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target)
        both = {writer, far_writer}
        self._open |= both
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._pump(reader, far_writer))
                tasks.create_task(self._pump(far_reader, writer))
        except* ConnectionError:
            pass
        finally:
            self._open -= both
            for each in both:
                each.transport.abort()

    @staticmethod
    async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()
