"""A carrier's media WebSocket."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from aiohttp import WebSocketError, WSMsgType, web

from flowcat_server.core import ended
from flowcat_server.core.carrier import (
    CarrierStream,
    Message,
    Refuse,
    Reply,
    Started,
    Stopped,
)
from flowcat_server.transports.carrier import CLOSE_TIMEOUT_S, CarrierTransport
from flowcat_server.transports.pacer import Pacer

MAX_MESSAGE_BYTES = 64 * 1024
MAX_BYTES_BEFORE_START = 256 * 1024
"""What a socket may send before it has said which call it is; 10 s of audio is 140 kB."""
MESSAGE_COST_BYTES = 64
"""What any message counts for, however short."""


def media_socket(subprotocols: Sequence[str] = ()) -> web.WebSocketResponse:
    """The server's end of a carrier's media socket, not yet prepared.

    Text arrives as bytes, unchecked: whoever reads the JSON checks it. Compression is not
    negotiated, so a compressed frame is an error, and so is a long one.
    """
    return web.WebSocketResponse(
        compress=False,
        decode_text=False,
        max_msg_size=MAX_MESSAGE_BYTES,
        timeout=CLOSE_TIMEOUT_S,
        protocols=tuple(subprotocols),
    )


class WebSocketTransport(CarrierTransport):
    """One call over a carrier's media WebSocket."""

    def __init__(
        self,
        socket: web.WebSocketResponse,
        stream: CarrierStream,
        started: Started,
        pacer: Pacer,
    ) -> None:
        super().__init__(stream, started, pacer)
        self._socket = socket

    async def serve(self) -> None:
        """Read the socket until it ends; run by the request's own task, beside `send_all`."""
        receive = self._socket.receive
        while True:
            message = await receive()
            if message.type is WSMsgType.TEXT:
                if not self._received(message.data, binary=False):
                    return
            elif message.type is WSMsgType.BINARY:
                if not self._received(message.data, binary=True):
                    return
            else:
                self._gone.set()
                self._lost(_why(message.type, message.data))
                return

    async def _write(self, message: Message) -> None:
        await write_message(self._socket, message)

    async def _close(self, code: int) -> None:
        await self._socket.close(code=code)


async def write_message(socket: web.WebSocketResponse, message: Message) -> None:
    """Send a text message or a binary one."""
    if isinstance(message, str):
        await socket.send_str(message)
    else:
        await socket.send_bytes(message)


def _why(kind: WSMsgType, data: object) -> str:
    if kind is WSMsgType.CLOSE:
        return ended.CALLER_HUNG_UP
    # The connection broke, or the peer broke the protocol (RFC 6455 section 7.1.7).
    return ended.CARRIER_PROTOCOL if isinstance(data, WebSocketError) else ended.CARRIER_CLOSED


async def read_start(
    socket: web.WebSocketResponse, stream: CarrierStream, timeout_ms: int
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
                    await write_message(socket, fed.message)
                    fed = fed.event
                if isinstance(fed, Started | Refuse):
                    return fed
                if isinstance(fed, Stopped):
                    return None
    except (TimeoutError, ConnectionError, RuntimeError):
        pass
    return None
