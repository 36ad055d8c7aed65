"""One peer connection: aiortc's, with our ICE agent, media path and deadlines."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any, Protocol

import structlog
from aiortc import (
    RTCBundlePolicy,
    RTCConfiguration,
    RTCDataChannel,
    RTCIceCandidate,
    RTCIceServer,
    RTCPeerConnection,
    RTCRtpSender,
    RTCRtpTransceiver,
    RTCSessionDescription,
)
from aiortc.exceptions import (
    InternalError,
    InvalidAccessError,
    InvalidStateError,
    OperationError,
)
from aiortc.mediastreams import MediaStreamTrack
from aiortc.rtcdtlstransport import RTCCertificate, RTCDtlsTransport, SRTPProtectionProfile
from OpenSSL import SSL

from flowcat_server.core import ended
from flowcat_server.errors import TransportError
from flowcat_server.transports.webrtc import stock
from flowcat_server.transports.webrtc.channel import Channel
from flowcat_server.transports.webrtc.ice import IceConnection, IcePolicy
from flowcat_server.transports.webrtc.inbound import PIECE, Inbound
from flowcat_server.transports.webrtc.jitter import JitterStats
from flowcat_server.transports.webrtc.outbound import Outbound
from flowcat_server.transports.webrtc.pacer import Pacer
from flowcat_server.transports.webrtc.rtp import LeanReceiver, LeanSender, monotonic_ms
from flowcat_server.transports.webrtc.sdp import (
    PARSE_ERRORS,
    BadOffer,
    Offer,
    complete_codecs,
)

log = structlog.get_logger()

CODECS = ("opus", "pcmu", "pcma")
"""What is answered, best first."""
CLOSE_S = 2.0
SILENCE = bytes(PIECE)
BYE_MS = 2_000
"""After RTCP BYE without anything following, the peer is gone (its DTLS goodbye got lost)."""
MAX_CHANNELS = 4
CERTIFICATE_S = 86_400
"""A new certificate every day; aiortc's are valid for 30."""


class SharedCertificate(RTCCertificate):
    """One certificate, and one TLS context, for all calls of a day."""

    _context: SSL.Context | None = None

    def _create_ssl_context(self, srtp_profiles: list[SRTPProtectionProfile]) -> SSL.Context:
        if self._context is None:
            self._context = super()._create_ssl_context(srtp_profiles)
            self._context.set_mode(SSL.MODE_RELEASE_BUFFERS)
            # Sessions of different peers must not meet in a cache.
            self._context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
        return self._context


class Certificates:
    """Hands out the certificate of the day."""

    def __init__(self) -> None:
        self._current: SharedCertificate | None = None
        self._made = 0.0

    def get(self) -> SharedCertificate:
        now = time.monotonic()
        if self._current is None or now - self._made > CERTIFICATE_S:
            self._current, self._made = SharedCertificate.generateCertificate(), now
        return self._current


class PeerOwner(Protocol):
    """What a peer connection reports to."""

    def heard(self, pcm: bytes) -> None:
        """20 ms of the caller's audio."""

    def pressed(self, digit: str) -> None:
        """A key of the phone."""

    def say(self, size: int) -> bytes:
        """Up to `size` bytes that are to be sent now."""

    def channel_opened(self, channel: Channel) -> None:
        """The peer opened a data channel."""

    def peer_connected(self, peer: Peer) -> None:
        """Audio can flow."""

    def peer_gone(self, peer: Peer, reason: str) -> None:
        """It never connected, or it is over. Called once; `close` is up to the owner."""


class ServerConnection(RTCPeerConnection):
    """aiortc's peer connection, built from our parts.

    aiortc makes its transports and transceivers in two private methods; they are extended
    here, so that nothing outside this object is changed.
    """

    def __init__(
        self,
        certificate: RTCCertificate,
        policy: IcePolicy,
        servers: list[RTCIceServer],
        media: tuple[Inbound, Outbound] | None,
    ) -> None:
        super().__init__(
            RTCConfiguration(iceServers=servers, bundlePolicy=RTCBundlePolicy.BALANCED)
        )
        private: Any = self
        private._RTCPeerConnection__certificates = [certificate]
        self.server_policy = policy
        self.server_media = media

    def _RTCPeerConnection__createDtlsTransport(self) -> RTCDtlsTransport:
        parent: Any = super()
        dtls: RTCDtlsTransport = parent._RTCPeerConnection__createDtlsTransport()
        transport: Any = dtls.transport
        connection = IceConnection(self.server_policy, like=transport._connection)
        transport.iceGatherer._connection = connection
        transport._connection = connection
        transport._recv, transport._send = connection.recv, connection.send
        return dtls

    def _RTCPeerConnection__createTransceiver(
        self, direction: str, kind: str, sender_track: MediaStreamTrack | None = None
    ) -> RTCRtpTransceiver:
        parent: Any = super()
        transceiver: RTCRtpTransceiver = parent._RTCPeerConnection__createTransceiver(
            direction=direction, kind=kind, sender_track=sender_track
        )
        if self.server_media is not None and kind == "audio":
            # Only the first audio section carries the call.
            inbound, outbound = self.server_media
            self.server_media = None
            private: Any = transceiver
            sender = LeanSender(transceiver.receiver.transport, outbound)
            sender._stream_id = transceiver.sender._stream_id
            receiver = LeanReceiver(transceiver.receiver.transport, inbound)
            receiver._set_rtcp_ssrc(sender._ssrc)
            private._RTCRtpTransceiver__sender = sender
            private._RTCRtpTransceiver__receiver = receiver
        return transceiver


class Peer:
    """One peer connection and its deadlines; the transport may have several in turn."""

    def __init__(
        self,
        owner: PeerOwner,
        offer: Offer,
        *,
        certificate: RTCCertificate,
        policy: IcePolicy,
        servers: Sequence[RTCIceServer],
        pacer: Pacer,
        lean: bool,
        connect_timeout_ms: int,
        dead_after_ms: int,
    ) -> None:
        self.ice_ufrag = offer.ice_ufrag
        self.connected = False
        self.gone = False
        self._owner = owner
        self._pacer = pacer
        self._lean = lean
        self._connect_timeout_ms = connect_timeout_ms
        self._dead_after_ms = dead_after_ms
        self._began_ms = monotonic_ms()
        self._check_s = min(1.0, connect_timeout_ms / 4000, dead_after_ms / 4000)
        self._timer: asyncio.TimerHandle | None = None
        self._hearing: asyncio.Task[None] | None = None
        self._channels = 0
        self._only_listens = False
        self.inbound = Inbound(owner.heard, owner.pressed)
        self.outbound = Outbound(owner.say, offer.max_bitrate)
        self.pc = ServerConnection(
            certificate, policy, list(servers), (self.inbound, self.outbound) if lean else None
        )
        self.pc.on("connectionstatechange", self._state_changed)
        self.pc.on("datachannel", self._channel_opened)
        self._audio = self.pc.addTransceiver(
            "audio" if lean else stock.StockTrack(self.outbound), "sendrecv"
        )
        offered = {
            codec.name.lower(): codec for codec in RTCRtpSender.getCapabilities("audio").codecs
        }
        self._audio.setCodecPreferences([offered[name] for name in CODECS])

    @property
    def stats(self) -> JitterStats:
        """What the network did to the caller's audio."""
        return self.inbound.stats

    @property
    def rtt_ms(self) -> int | None:
        """Round-trip time, once known."""
        sender = self._audio.sender
        return sender.rtt_ms if isinstance(sender, LeanSender) else None

    @property
    def connection(self) -> IceConnection:
        """The ICE agent that carries the audio."""
        connection = self._audio.receiver.transport.transport._connection
        if not isinstance(connection, IceConnection):
            raise TransportError("the ICE agent was replaced")
        return connection

    async def answer(self, offer: Offer) -> str:
        """Answer an offer; also a later one of the same connection.

        Raises:
            BadOffer: aiortc cannot make sense of it.
            CallRefused: No port is free.
            TransportError: There is no address to listen on.
        """
        try:
            await self.pc.setRemoteDescription(RTCSessionDescription(offer.sdp, "offer"))
            for transceiver in self.pc.getTransceivers():
                if transceiver is not self._audio:
                    transceiver.direction = "inactive"
            if self._lean:
                complete_codecs(self._audio._codecs, offer)
            await self.pc.setLocalDescription(await self.pc.createAnswer())
            self._only_listens = self._audio.currentDirection == "sendonly"
        except (
            *PARSE_ERRORS,
            InternalError,
            InvalidAccessError,
            InvalidStateError,
            OperationError,
        ) as error:
            raise BadOffer(f"the offer cannot be answered: {error!s:.200}") from error
        if not self.connection.local_candidates:
            raise TransportError("no local address to listen on")
        if self._timer is None:
            self._schedule()
        return str(self.pc.localDescription.sdp)

    async def add_candidate(self, candidate: RTCIceCandidate | None) -> None:
        """Take a trickled candidate, None for the last."""
        if candidate is not None and not self.gone:
            await self.pc.addIceCandidate(candidate)

    async def close(self) -> None:
        """Say goodbye and free everything. Idempotent, takes at most `CLOSE_S`."""
        self.gone = True
        self.mute()
        connection = self.connection
        try:
            async with asyncio.timeout(CLOSE_S):
                await self.pc.close()
        except TimeoutError:
            log.warning("webrtc_close_timeout")
            connection.abort()
        except BaseException:
            connection.abort()
            raise

    def mute(self) -> None:
        """Stop audio in both directions and all timers, at once."""
        self._pacer.discard(self)
        self.connection.on_media = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._hearing is not None:
            self._hearing.cancel()
            self._hearing = None

    # --- the beat ---------------------------------------------------------------------------

    def beat(self, number: int) -> None:
        """Send 20 ms, and let the jitter buffer know that time passes."""
        if self.gone:
            return
        if self._only_listens:
            # Someone without a microphone, who types: silence, not a line that went dead.
            self.inbound.pcm(SILENCE)
        self.inbound.beat(monotonic_ms())
        sender = self._audio.sender
        if isinstance(sender, LeanSender):
            sender.beat(number)

    def failed(self) -> None:
        """Our own fault: the call cannot go on."""
        self._end(ended.SERVER_ERROR)

    # --- events -----------------------------------------------------------------------------

    def _state_changed(self) -> None:
        state = self.pc.connectionState
        if state == "connected" and not self.connected and not self.gone:
            self.connected = True
            log.info("webrtc_connected", setup_ms=monotonic_ms() - self._began_ms)
            if self._lean or self._only_listens:
                self._pacer.add(self)
            if not self._lean and not self._only_listens:
                self._hearing = asyncio.get_running_loop().create_task(
                    stock.hear(self._audio.receiver.track, self.inbound), name="webrtc-hear"
                )
            self._owner.peer_connected(self)
        elif state == "failed":
            self._end(ended.CALLER_MEDIA_LOST)
        elif state == "closed":
            self._end(ended.CALLER_HUNG_UP)

    def _channel_opened(self, channel: RTCDataChannel) -> None:
        self._channels += 1
        if self._channels > MAX_CHANNELS:
            channel.close()
        else:
            self._owner.channel_opened(Channel(channel))

    def _end(self, reason: str) -> None:
        if not self.gone:
            self.gone = True
            self.mute()
            self._owner.peer_gone(self, reason)

    def _schedule(self) -> None:
        wait_s = self._check_s
        if self.connected:
            due = self.connection.last_datagram_ms + self._dead_after_ms
            wait_s = min(wait_s, max(0.01, (due - monotonic_ms()) / 1000))
        self._timer = asyncio.get_running_loop().call_later(wait_s, self._check)

    def _check(self) -> None:
        now = monotonic_ms()
        receiver = self._audio.receiver
        bye = receiver.bye_ms if isinstance(receiver, LeanReceiver) else None
        if not self.connected:
            if now - self._began_ms >= self._connect_timeout_ms:
                self._end(ended.CALLER_MEDIA_LOST)
                return
        elif now - self.connection.last_datagram_ms >= self._dead_after_ms:
            self._end(ended.CALLER_MEDIA_LOST)
            return
        elif bye is not None and now - bye >= BYE_MS:
            self._end(ended.CALLER_HUNG_UP)
            return
        self._schedule()
