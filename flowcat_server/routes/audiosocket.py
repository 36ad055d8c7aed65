"""The TCP door for Asterisk's AudioSocket."""

from __future__ import annotations

import asyncio
import ipaddress
import socket

import structlog

from flowcat_server.carriers.audiosocket import Frames
from flowcat_server.config.types import parse_bind
from flowcat_server.core.carrier import CarrierStream, Request, Started
from flowcat_server.errors import CallRefused, ConfigError
from flowcat_server.routes.expected import CarrierCalls
from flowcat_server.routes.lines import Line
from flowcat_server.routes.peers import in_networks
from flowcat_server.transports.audiosocket import AudioSocketTransport, Connection, read_start
from flowcat_server.transports.pacer import Pacer

log = structlog.get_logger()

START_TIMEOUT_MS = 10_000
MAX_BYTES_BEFORE_START = 16 * 1024
MAX_WAITING = 64
"""Connections that have not said which call they are."""
READ_LIMIT_BYTES = 64 * 1024
CLOSE_TIMEOUT_S = 2.0


class AudioSocketListener:
    """Takes calls that Asterisk connects to ``carriers.audiosocket.bind``.

    There is no password on this wire: only addresses in ``allow_from`` may connect, and without
    any only this machine.
    """

    def __init__(self, line: Line, calls: CarrierCalls, pacer: Pacer) -> None:
        """Create the door; `open` listens.

        Args:
            line: What the agent file says.
            calls: Where calls are run.
            pacer: The clock of all media sockets.
        """
        self._line = line
        self._calls = calls
        self._pacer = pacer
        self._server: asyncio.Server | None = None
        self._waiting = 0

    async def open(self, bind: str) -> tuple[str, int]:
        """Listen; returns the address.

        Raises:
            ConfigError: The address is in use or not ours.
        """
        host, port = parse_bind(bind)
        try:
            self._server = await asyncio.start_server(
                self._connected, host or None, port, limit=READ_LIMIT_BYTES
            )
        except OSError as error:
            raise ConfigError(
                f"carriers.audiosocket.bind: cannot listen on {bind}: {error.strerror or error}"
            ) from error
        name = self._server.sockets[0].getsockname()
        return str(name[0]), int(name[1])

    async def take(self, connection: socket.socket) -> None:
        """Serve a connection that somebody else has accepted."""
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=READ_LIMIT_BYTES)
        protocol = asyncio.StreamReaderProtocol(reader, self._connected)
        await loop.connect_accepted_socket(lambda: protocol, connection)

    async def close(self) -> None:
        """Listen no more; calls that are live go on to their end."""
        if self._server is not None:
            self._server.close()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        address = str((writer.get_extra_info("peername") or ("",))[0])
        connection = Connection(reader, writer, Frames().cut)
        try:
            if not self._is_allowed(address):
                log.warning("carrier_refused", carrier="audiosocket", reason="address")
            elif self._waiting >= MAX_WAITING:
                log.warning("carrier_refused", carrier="audiosocket", reason="too many waiting")
            else:
                await self._serve(connection)
        finally:
            try:
                async with asyncio.timeout(CLOSE_TIMEOUT_S):
                    await connection.close()
            except TimeoutError:
                writer.transport.abort()

    def _is_allowed(self, address: str) -> bool:
        if self._line.networks:
            return in_networks(address, self._line.networks)
        try:
            return ipaddress.ip_address(address.partition("%")[0]).is_loopback
        except ValueError:
            return False

    async def _serve(self, connection: Connection) -> None:
        carrier = self._line.carrier
        stream = carrier.open(self._line.account, Request("", ""))
        self._waiting += 1
        try:
            started = await read_start(connection, stream, START_TIMEOUT_MS, MAX_BYTES_BEFORE_START)
        finally:
            self._waiting -= 1
        if not isinstance(started, Started):
            reason = started.reason if started is not None else "no usable start"
            log.warning("media_refused", carrier=carrier.name, reason=reason)
            return
        try:
            expected = await self._calls.claim(self._line, started, "", "", vouched=True)
        except CallRefused as error:
            log.info("media_refused", carrier=carrier.name, reason=error.reason)
            _hang_up(connection, stream, error.reason)
            return
        transport = AudioSocketTransport(connection, stream, started, self._pacer)
        await self._calls.run(self._line, transport, started, expected)


def _hang_up(connection: Connection, stream: CarrierStream, reason: str) -> None:
    try:
        for message in stream.end(reason):
            connection.post(message)
    except ConnectionError:
        pass  # it is gone already
