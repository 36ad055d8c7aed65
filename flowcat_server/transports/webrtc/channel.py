"""A data channel of a call, for text messages beside the audio."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import structlog
from aiortc import RTCDataChannel

log = structlog.get_logger()

MAX_MESSAGE = 65_536
"""Characters of a received message; longer ones are dropped."""
MAX_BUFFERED = 1_048_576
"""Bytes sent but not yet delivered; beyond, `send` refuses."""
MAX_WAITING = 50
"""Messages kept until someone listens; then the oldest are dropped."""


class Channel:
    """Text in both directions, in order. Binary messages are ignored."""

    def __init__(self, channel: RTCDataChannel) -> None:
        self.label: str = channel.label[:100]
        self.on_close: Callable[[], None] | None = None
        self._channel = channel
        self._on_message: Callable[[str], None] | None = None
        self._waiting: deque[str] = deque(maxlen=MAX_WAITING)
        channel.on("message", self._receive)
        channel.on("close", self._closed)

    @property
    def on_message(self) -> Callable[[str], None] | None:
        """Called with each message; those that came before it was set follow at once."""
        return self._on_message

    @on_message.setter
    def on_message(self, callback: Callable[[str], None] | None) -> None:
        self._on_message = callback
        while self._on_message is not None and self._waiting:
            self._on_message(self._waiting.popleft())

    @property
    def open(self) -> bool:
        """Messages can be sent."""
        return bool(self._channel.readyState == "open")

    def send(self, text: str) -> bool:
        """Send a message; False when the channel is closed or the peer does not keep up."""
        if not self.open or self._channel.bufferedAmount > MAX_BUFFERED:
            return False
        self._channel.send(text)
        return True

    def close(self) -> None:
        """Close the channel; the call goes on."""
        if self.open:
            self._channel.close()

    def _receive(self, message: str | bytes) -> None:
        if not isinstance(message, str):
            return
        if len(message) > MAX_MESSAGE:
            log.warning("webrtc_message_too_long", channel=self.label, length=len(message))
        elif self._on_message is not None:
            self._on_message(message)
        else:
            self._waiting.append(message)

    def _closed(self) -> None:
        if self.on_close is not None:
            self.on_close()
