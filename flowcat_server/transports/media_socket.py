"""The server's end of a media WebSocket: messages without a coroutine each, writes without waiting.

aiohttp hands messages over through a queue, a future and a task's step, which together cost as much
as all else that is done for 20 ms of audio. `MediaSocket.divert` has its parser hand them over
itself, and the connection give what arrives to the parser itself. That reaches into aiohttp;
whether it is built as expected is tried once, when this module is loaded, and where it is not the
queue does the same, a little slower.

What leaves is framed here (RFC 6455 section 5.2: a server's frames are not masked) and given to the
connection at once. Nothing waits for a slow peer: `unsent` tells how much it has not taken yet.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from aiohttp import WSMsgType, web
from aiohttp.abc import AbstractStreamWriter
from multidict import CIMultiDict, CIMultiDictProxy

try:
    from aiohttp._websocket.reader import WebSocketDataQueue, WebSocketReader
    from aiohttp.web_protocol import RequestHandler
except ImportError:  # another aiohttp than we know
    WebSocketDataQueue = object  # type: ignore[assignment, misc]

MAX_MESSAGE_BYTES = 64 * 1024
QUEUE_BYTES = 64 * 1024
"""Of messages that wait for `receive`; beyond it the connection is not read."""
CLOSE_TIMEOUT_S = 2.0
_FINAL_TEXT, _FINAL_BINARY = 0x81, 0x82
_TEXT, _BINARY = WSMsgType.TEXT, WSMsgType.BINARY

Take = Callable[[bytes, bool], None]
"""Given the bytes of a message, and whether it is a binary one."""


class _Tap(WebSocketDataQueue):
    """The parser's way out: to `take`, or into the queue."""

    take: Take | None = None

    def feed_data(self, data: Any, size: int) -> None:
        take = self.take
        if take is None:
            super().feed_data(data, size)
            return
        kind = data[0]
        if kind is _TEXT:
            take(data[1], False)
        elif kind is _BINARY:
            take(data[1], True)
        else:
            super().feed_data(data, size)

    @property
    def empty(self) -> bool:
        return not self._buffer


class _Direct(asyncio.Protocol):
    """The connection's way in, once it is a media socket: to the parser, without a stop."""

    __slots__ = ("_handler", "data_received", "eof_received", "pause_writing", "resume_writing")

    def __init__(self, handler: Any, feed: Callable[[bytes], object]) -> None:
        """Stand in for `handler` in all that has nothing to do with what arrives."""
        self._handler = handler
        self.data_received = feed  # type: ignore[method-assign, assignment]
        self.eof_received = handler.eof_received  # type: ignore[method-assign]
        self.pause_writing = handler.pause_writing  # type: ignore[method-assign]
        self.resume_writing = handler.resume_writing  # type: ignore[method-assign]

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        self._handler.connection_lost(exc)


class MediaSocket(web.WebSocketResponse):
    """A carrier's media socket, not yet prepared.

    Text arrives as bytes, unchecked: whoever reads the JSON checks it. Compression is not
    negotiated, so a compressed frame is an error, and so is a long one.
    """

    def __init__(self, subprotocols: Sequence[str] = ()) -> None:
        """Create the server's end.

        Args:
            subprotocols: Those that the peer may ask for.
        """
        super().__init__(
            compress=False,
            decode_text=False,
            max_msg_size=MAX_MESSAGE_BYTES,
            timeout=CLOSE_TIMEOUT_S,
            protocols=tuple(subprotocols),
        )
        self._tap: _Tap | None = None
        self._wire: asyncio.Transport | None = None

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter:
        """Answer the upgrade."""
        writer = await super().prepare(request)
        self._wire = request.transport
        assert writer is not None  # noqa: S101 - a response is prepared once
        return writer

    def divert(self, take: Take) -> bool:
        """From now on give each message to `take`, where that can be done.

        False: not yet, or not here; messages are to be had from `receive`, as are all that are
        not text or binary in any case. `take` is called by the connection and must not raise.
        """
        tap = self._tap
        if tap is None or not tap.empty:
            return False
        tap.take = take
        wire, parser = self._wire, self._parser
        assert wire is not None and parser is not None  # noqa: S101, PT018 - as there is a tap
        wire.set_protocol(_Direct(wire.get_protocol(), parser.feed_data))
        return True

    def undivert(self) -> None:
        """The call is over: let go of who took its messages; what still comes is nobody's."""
        if self._tap is not None:
            self._tap.take = _nobody

    def post(self, message: str | bytes) -> int:
        """Send a text message or a binary one; returns what is then `unsent`.

        Never waits; raises `ConnectionError` if the peer is gone.
        """
        wire = self._wire
        if wire is None or wire.is_closing():
            raise ConnectionResetError("the media socket is closed")
        wire.write(frame(message))
        return wire.get_write_buffer_size()

    def unsent(self) -> int:
        """Bytes that were written and that the network has not taken yet."""
        return self._wire.get_write_buffer_size() if self._wire is not None else 0

    def _post_start(self, request: Any, protocol: Any, writer: Any) -> None:
        early = getattr(request.protocol, "_message_tail", None)
        super()._post_start(request, protocol, writer)
        if not DIVERTS or early != b"":
            return  # a peer that did not wait for our answer has a frame half read already
        self._reader = self._tap = _tap(request.protocol, self._loop)
        self._parser = _parser(self._tap)
        request.protocol._payload_parser = self._parser
        _forget(request)


def _nobody(data: bytes, binary: bool) -> None:
    del data, binary


def frame(message: str | bytes) -> bytes:
    """A whole message as one unmasked frame."""
    if isinstance(message, str):
        first, body = _FINAL_TEXT, message.encode()
    else:
        first, body = _FINAL_BINARY, message
    size = len(body)
    if size < 126:
        return bytes((first, size)) + body
    if size < 1 << 16:
        return bytes((first, 126, size >> 8, size & 255)) + body
    return bytes((first, 127)) + size.to_bytes(8, "big") + body


def _forget(request: Any) -> None:
    """Drop what the handshake said, and who parsed it: a call may last for hours.

    Of an aiohttp that keeps them under other names they stay; nothing else depends on it.
    """
    nothing = CIMultiDictProxy[str](CIMultiDict())
    with suppress(AttributeError, TypeError, ValueError):
        request._message = request._message._replace(headers=nothing, raw_headers=())
        request._headers = nothing
        request._cache.clear()
        request.protocol._parser = None


def _tap(protocol: Any, loop: Any) -> _Tap:
    return _Tap(protocol, QUEUE_BYTES, loop=loop)


def _parser(tap: _Tap) -> Any:
    return WebSocketReader(tap, MAX_MESSAGE_BYTES, compress=False, decode_text=False)


def _diverts() -> bool:
    """Whether aiohttp's parser and its queue are what `_Tap` takes them for."""
    taken: list[tuple[bytes, bool]] = []
    try:
        tap = _tap(None, None)
        tap.take = lambda *message: taken.append(message)
        body = bytes(a ^ b for a, b in zip(b"{}", b"ma", strict=True))
        parser = _parser(tap)
        parser.feed_data(b"\x81\x82mask" + body)
        parser.feed_data(b"\x82\x82mask" + body)
        known = tap.empty and hasattr(RequestHandler, "_payload_parser")
    except (AttributeError, TypeError, ValueError):
        return False  # the public way remains
    known = known and hasattr(web.WebSocketResponse, "_post_start")
    return known and taken == [(b"{}", False), (b"{}", True)]


DIVERTS = _diverts()
"""Whether messages can be had without a coroutine each."""
