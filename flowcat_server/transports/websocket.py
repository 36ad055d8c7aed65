"""A carrier's media WebSocket."""

from __future__ import annotations

import asyncio
import contextvars
from functools import partial

import structlog
from aiohttp import WebSocketError, WSMessage, WSMsgType

from flowcat_server.core import ended
from flowcat_server.core.carrier import (
    CarrierStream,
    Refuse,
    Reply,
    Started,
    Stopped,
)
from flowcat_server.transports.carrier import CarrierTransport
from flowcat_server.transports.media_socket import MediaSocket, Take
from flowcat_server.transports.pacer import Pacer

log = structlog.get_logger()

MAX_BYTES_BEFORE_START = 256 * 1024
"""What a socket may send before it has said which call it is; 10 s of audio is 140 kB."""
MESSAGE_COST_BYTES = 64
"""What any message counts for, however short."""


class WebSocketTransport(CarrierTransport):
    """One call over a carrier's media WebSocket."""

    __slots__ = ("_socket",)

    def __init__(
        self,
        socket: MediaSocket,
        stream: CarrierStream,
        started: Started,
        pacer: Pacer,
    ) -> None:
        super().__init__(socket, stream, started, pacer)
        self._socket = socket

    async def serve(self) -> None:
        """Read the socket until it ends; run by a task of the call's."""
        socket = self._socket
        # The connection calls outside of any task: logs are to name the call all the same.
        context = contextvars.copy_context()
        take: Take = partial(context.run, self._received)  # type: ignore[call-arg]
        diverted = False
        while True:
            diverted = diverted or socket.divert(take)
            message = await socket.receive()
            if message.type is WSMsgType.TEXT or message.type is WSMsgType.BINARY:
                self._received(message.data, message.type is WSMsgType.BINARY)
                if self._over:
                    return
            else:
                self._leaves()
                self._lost(_why(message))
                return

    async def _close(self, code: int) -> None:
        await self._socket.close(code=code)


def _why(message: WSMessage) -> str:
    """The socket has come to its end, by a close, a break or a fault."""
    error = message.data
    if message.type is WSMsgType.CLOSE:
        return ended.CALLER_HUNG_UP
    if isinstance(error, WebSocketError):  # RFC 6455 section 7.1.7
        return ended.CARRIER_PROTOCOL
    if isinstance(error, Exception) and not isinstance(error, OSError):
        log.error("carrier_message_failed", exc_info=error)
        return ended.SERVER_ERROR
    return ended.CARRIER_CLOSED


async def read_start(
    socket: MediaSocket, stream: CarrierStream, timeout_ms: int
) -> Started | Refuse | None:
    """Wait for the stream's start message; None if it does not come in time or the peer leaves.

    Media and other messages before it are dropped; they do not extend the wait, and are limited.
    """
    received = 0
    try:
        async with asyncio.timeout(timeout_ms / 1000):
            while received <= MAX_BYTES_BEFORE_START:
                message = await socket.receive()
                if message.type not in (WSMsgType.TEXT, WSMsgType.BINARY):
                    return None
                received += len(message.data) + MESSAGE_COST_BYTES
                fed: object = stream.feed(message.data, message.type is WSMsgType.BINARY)
                if isinstance(fed, Reply):
                    socket.post(fed.message)
                    fed = fed.event
                if isinstance(fed, Started | Refuse):
                    return fed
                if isinstance(fed, Stopped):
                    return None
    except (TimeoutError, ConnectionError):
        pass
    return None
