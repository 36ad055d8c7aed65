"""One WebRTC call, as the session sees it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine

from flowcat_server.core import ended
from flowcat_server.core.interfaces import CallSink, PlayoutSource
from flowcat_server.errors import TransportError
from flowcat_server.transports.webrtc.channel import Channel
from flowcat_server.transports.webrtc.inbound import FORMAT as HEARD
from flowcat_server.transports.webrtc.jitter import JitterStats
from flowcat_server.transports.webrtc.outbound import FORMAT as SPOKEN
from flowcat_server.transports.webrtc.peer import Peer

ENCODER_MS = 20
FAR_BUFFER_MS = 40
"""What a browser's jitter buffer usually holds."""


class WebRtcTransport:
    """Implements `core.interfaces.Transport`.

    The far end does not buffer: audio is pulled from the source piece by piece when it is due,
    so `wake`, `clear` and `mark` have nothing to do. A call survives its peer connection: after
    a network change the client brings a new one (`Offers.accept` with `restart`), and the same
    transport goes on.
    """

    input_format = HEARD
    output_format = SPOKEN
    buffers = False

    def __init__(
        self,
        pc_id: str,
        *,
        spawn: Callable[[Coroutine[object, object, None]], None],
        on_end: Callable[[WebRtcTransport], None],
    ) -> None:
        """`spawn` runs a clean-up to its end; `on_end` is called once."""
        self.pc_id = pc_id
        self.ended = ""
        """Why the call ended, one of `core.ended`; empty while it lives."""
        self.channels: list[Channel] = []
        self._on_channel: Callable[[Channel], None] | None = None
        self._spawn = spawn
        self._on_end = on_end
        self._sink: CallSink | None = None
        self._source: PlayoutSource | None = None
        self._peer: Peer | None = None
        self._next: Peer | None = None
        self._connected: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    # --- Transport --------------------------------------------------------------------------

    def attach(self, sink: CallSink, source: PlayoutSource) -> None:
        """Begin. If the peer has gone already, `sink.lost` follows at once."""
        self._sink, self._source = sink, source
        if self.ended:
            asyncio.get_running_loop().call_soon(sink.lost, self.ended)

    def wake(self) -> None:
        """Nothing to do: the pacer asks every 20 ms."""

    def clear(self) -> None:
        """Nothing to do: what is encoded has been sent."""

    def mark(self, name: str) -> None:
        """Nothing to do: a browser reports no marks."""

    async def hang_up(self, reason: str) -> None:
        """Close the connection; the sink hears nothing more. Idempotent, at most 4 s."""
        self._sink = self._source = None
        self._finish(reason)
        peers = [peer for peer in (self._peer, self._next) if peer is not None]
        self._peer = self._next = None
        for peer in peers:
            await peer.close()

    # --- beside the interface ---------------------------------------------------------------

    async def wait_connected(self) -> None:
        """Return when audio can flow.

        Raises:
            TransportError: It never will: the connect timeout passed or the peer went away.
        """
        if not await asyncio.shield(self._connected):
            raise TransportError("the WebRTC peer did not connect")

    @property
    def peer(self) -> Peer | None:
        """The connection in use, or the one still connecting."""
        return self._peer or self._next

    @property
    def delay_ms(self) -> int:
        """About how much later than sent a piece of audio is heard."""
        rtt = self._peer.rtt_ms if self._peer is not None else None
        return ENCODER_MS + FAR_BUFFER_MS + (rtt // 2 if rtt is not None else 0)

    @property
    def stats(self) -> JitterStats:
        """What the network did to the caller's audio on the current connection."""
        return self._peer.stats if self._peer is not None else JitterStats()

    @property
    def on_channel(self) -> Callable[[Channel], None] | None:
        """Called with each data channel; those already open follow when it is set."""
        return self._on_channel

    @on_channel.setter
    def on_channel(self, callback: Callable[[Channel], None] | None) -> None:
        self._on_channel = callback
        if callback is not None:
            for channel in list(self.channels):
                callback(channel)

    # --- PeerOwner --------------------------------------------------------------------------

    def use(self, peer: Peer) -> None:
        """Take over `peer` as soon as it connects; until then the one in use goes on."""
        if self._next is not None:
            self._spawn(self._next.close())
        self._next = peer

    def heard(self, pcm: bytes) -> None:
        if self._sink is not None:
            self._sink.receive_audio(pcm)

    def pressed(self, digit: str) -> None:
        if self._sink is not None:
            self._sink.receive_digit(digit)

    def say(self, size: int) -> bytes:
        if self._sink is None or self._source is None:
            return b""
        return self._source.pull(self._sink.now_ms(), size)

    def channel_opened(self, channel: Channel) -> None:
        self.channels = [other for other in self.channels if other.open]
        self.channels.append(channel)
        if self._on_channel is not None:
            self._on_channel(channel)

    def peer_connected(self, peer: Peer) -> None:
        if peer is not self._next:
            return
        old, self._peer, self._next = self._peer, peer, None
        if old is not None:
            old.mute()
            self._spawn(old.close())
        if not self._connected.done():
            self._connected.set_result(True)

    def peer_gone(self, peer: Peer, reason: str) -> None:
        self._spawn(peer.close())
        if peer is self._next:
            self._next = None
        elif peer is self._peer:
            self._peer = None
        else:
            return
        if self._peer is None and self._next is None:
            sink = self._sink
            self._sink = self._source = None
            self._finish(reason)
            if sink is not None:
                sink.lost(reason)

    def _finish(self, reason: str) -> None:
        if self.ended:
            return
        self.ended = reason or ended.AGENT_ENDED
        if not self._connected.done():
            self._connected.set_result(False)
        self._on_end(self)
