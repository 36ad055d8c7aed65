"""The client's end of a media WebSocket (RFC 6455), on a plain connection, without tasks."""

from __future__ import annotations

import asyncio
import os
from base64 import b64encode
from collections.abc import Callable

_MAX_HEAD = 16 * 1024
_TEXT, _BINARY, _CLOSE, _PING, _PONG = 1, 2, 8, 9, 10


class MediaSocket(asyncio.Protocol):
    """Connects, upgrades, hands over messages, and says when it is over."""

    def __init__(
        self,
        host: str,
        path: str,
        on_open: Callable[[], None],
        on_message: Callable[[bytes], None],
        on_over: Callable[[str], None],
    ) -> None:
        """Create it, to be given to ``loop.create_connection``.

        Args:
            host: For the request's header.
            path: Of the media socket.
            on_open: The upgrade was answered.
            on_message: Takes the text of a message.
            on_over: Told once why there will be no more: empty after `close`.
        """
        self._request = (
            f"GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {b64encode(os.urandom(16)).decode()}\r\n"
            "Sec-WebSocket-Version: 13\r\nUser-Agent: flowcat-server-bench\r\n\r\n"
        )
        self._on_open, self._on_message, self._on_over = on_open, on_message, on_over
        self._wire: asyncio.Transport | None = None
        self._held = b""
        self._over = False
        self._mask = os.urandom(4)
        self.open = False

    # --- for the caller -----------------------------------------------------------------------

    def send(self, text: str) -> None:
        """Send a message; nothing happens when it is over."""
        if self.open:
            self._write(_TEXT, text.encode())

    def close(self) -> None:
        """It is over, and that is as it should be."""
        if self.open:
            self._write(_CLOSE, b"\x03\xe8")
        self._finish("")

    # --- for the loop -------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._wire = transport  # type: ignore[assignment]
        transport.write(self._request.encode())  # type: ignore[attr-defined]

    def connection_lost(self, exc: Exception | None) -> None:
        self._finish(f"the connection broke: {exc}" if exc else "the connection was closed")

    def data_received(self, data: bytes) -> None:
        self._held += data
        if not self.open and not self._upgraded():
            return
        at = 0
        while not self._over and (frame := _frame(self._held, at)) is not None:
            opcode, payload, at = frame
            if opcode in (_TEXT, _BINARY):
                self._on_message(payload)
            elif opcode == _PING:
                self._write(_PONG, payload)
            elif opcode == _CLOSE:
                self._finish(f"closed by the server: {payload[2:].decode('utf-8', 'replace')}")
        self._held = self._held[at:]

    # --- inside -------------------------------------------------------------------------------

    def _upgraded(self) -> bool:
        head, found, rest = self._held.partition(b"\r\n\r\n")
        if not found:
            if len(self._held) > _MAX_HEAD:
                self._finish("the answer is no HTTP")
            return False
        status = head.split(b"\r\n", 1)[0].decode("latin-1")
        if " 101 " not in f"{status} ":
            self._finish(f"refused: {status}")
            return False
        self._held = rest
        self.open = True
        self._on_open()
        return True

    def _finish(self, reason: str) -> None:
        if self._over:
            return
        self._over = True
        self.open = False
        if self._wire is not None:
            self._wire.close()
        self._on_over(reason)

    def _write(self, opcode: int, body: bytes) -> None:
        size = len(body)
        head = bytes((0x80 | opcode, 0x80 | min(size, 126)))
        if size > 125:
            head += size.to_bytes(2, "big")
        key = int.from_bytes((self._mask * (size // 4 + 1))[:size], "big")
        masked = (int.from_bytes(body, "big") ^ key).to_bytes(size, "big")
        if self._wire is not None:
            self._wire.write(head + self._mask + masked)


def _frame(data: bytes, at: int) -> tuple[int, bytes, int] | None:
    """The frame at a position: opcode, payload, where the next begins; None: not all is there."""
    if len(data) - at < 2:
        return None
    size, start = data[at + 1] & 127, at + 2
    if size > 125:
        width = 2 if size == 126 else 8
        size, start = int.from_bytes(data[start : start + width], "big"), start + width
    end = start + size
    return (data[at] & 15, data[start:end], end) if end <= len(data) else None
