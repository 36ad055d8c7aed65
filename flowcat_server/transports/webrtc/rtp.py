"""aiortc's sender and receiver with the media path taken out of its tasks, queues and threads.

A received datagram is decrypted and handed on in the socket's own callback; a sent packet is
built, encrypted and written in the pacer's. RTCP (reports, statistics, BYE) stays aiortc's.
The private names of aiortc used here are listed in `PRIVATE_NAMES` and guarded by a test.
"""

from __future__ import annotations

import asyncio
import secrets
import struct
import time
from typing import Any

import pylibsrtp
from aiortc import clock
from aiortc.rtcdtlstransport import RTCDtlsTransport
from aiortc.rtcrtpparameters import RTCRtpCodecParameters, RTCRtpReceiveParameters
from aiortc.rtcrtpreceiver import RTCRtpReceiver, StreamStatistics
from aiortc.rtcrtpsender import RTCRtpSender
from aiortc.rtp import (
    AnyRtcpPacket,
    HeaderExtensions,
    RtcpByePacket,
    RtcpRrPacket,
    RtcpSrPacket,
    RtpPacket,
)

from flowcat_server.transports.webrtc.ice import IceConnection
from flowcat_server.transports.webrtc.inbound import Codec, Inbound
from flowcat_server.transports.webrtc.outbound import Outbound

PRIVATE_NAMES: dict[str, tuple[str, ...]] = {
    "RTCRtpReceiver": (
        "_RTCRtpReceiver__remote_streams",
        "_RTCRtpReceiver__rtcp_task",
        "_RTCRtpReceiver__started",
        "_handle_rtp_packet",
        "_handle_rtcp_packet",
        "_run_rtcp",
    ),
    "RTCRtpSender": (
        "_RTCRtpSender__mid",
        "_RTCRtpSender__ntp_timestamp",
        "_RTCRtpSender__octet_count",
        "_RTCRtpSender__packet_count",
        "_RTCRtpSender__rtp_exited",
        "_RTCRtpSender__rtp_header_extensions_map",
        "_RTCRtpSender__rtp_started",
        "_RTCRtpSender__rtp_timestamp",
        "_RTCRtpSender__rtt",
        "_handle_rtcp_packet",
        "_run_rtp",
        "_ssrc",
    ),
    "RTCDtlsTransport": ("_register_rtp_receiver", "_rx_srtp", "_tx_srtp", "_state"),
    "RTCIceTransport": ("_connection", "_recv", "_send"),
    "RTCIceGatherer": ("_connection",),
    "RTCPeerConnection": (
        "_RTCPeerConnection__certificates",
        "_RTCPeerConnection__createDtlsTransport",
        "_RTCPeerConnection__createTransceiver",
    ),
    "RTCRtpTransceiver": (
        "_RTCRtpTransceiver__receiver",
        "_RTCRtpTransceiver__sender",
        "_codecs",
    ),
    "Connection": (
        "_nominated",
        "_protocols",
        "_queue",
        "_remote_candidates",
        "data_received",
        "get_component_candidates",
    ),
    "StunProtocol": ("local_candidate", "receiver", "datagram_received"),
}

MAX_SOURCES = 8
"""Synchronization sources of one peer; a browser uses one, two after a renegotiation."""
_HEADER = struct.Struct("!BBHII")
_REPORT_EVERY = 25
"""Packets between two notes of time and timestamp for the sender reports."""


def codec_names(codecs: list[RTCRtpCodecParameters]) -> dict[int, Codec]:
    """What we understand of the negotiated payload types."""
    known: dict[int, Codec] = {}
    for codec in codecs:
        name = codec.name.lower()
        if codec.payloadType is None:
            continue
        if name == "opus":
            known[codec.payloadType] = "opus"
        elif name == "pcmu":
            known[codec.payloadType] = "pcmu"
        elif name == "pcma":
            known[codec.payloadType] = "pcma"
        elif name == "telephone-event":
            known[codec.payloadType] = "telephone-event"
    return known


def parse_rtp(packet: bytes) -> tuple[int, int, int, int, bytes] | None:
    """(payload type, sequence number, timestamp, SSRC, payload); None if malformed.

    RFC 3550 section 5.1; header extensions are passed over.
    """
    if len(packet) < 12:
        return None
    first, second, seq, timestamp, ssrc = _HEADER.unpack_from(packet)
    start = 12
    if first != 0x80:
        start += 4 * (first & 0x0F)
        if first & 0x10:
            if len(packet) < start + 4:
                return None
            start += 4 + 4 * int.from_bytes(packet[start + 2 : start + 4], "big")
    end = len(packet)
    if first & 0x20:
        padding = packet[-1]
        if not padding:
            return None
        end -= padding
    if start > end:
        return None
    return second & 0x7F, seq, timestamp, ssrc, packet[start:end]


def monotonic_ms() -> int:
    """The clock of this package: integer milliseconds."""
    return time.monotonic_ns() // 1_000_000


class _Numbers:
    """The two header fields that aiortc's receiver statistics read."""

    __slots__ = ("sequence_number", "timestamp")

    def __init__(self) -> None:
        self.sequence_number = self.timestamp = 0


class LeanReceiver(RTCRtpReceiver):
    """Receives into an `Inbound`."""

    def __init__(self, transport: RTCDtlsTransport, inbound: Inbound) -> None:
        super().__init__("audio", transport)
        self.bye_ms: int | None = None
        """When the peer said it sends no more, and nothing came since."""
        self._inbound = inbound
        self._numbers: Any = _Numbers()
        self._rates: dict[int, int] = {}
        self._sources: dict[bytes, StreamStatistics] = {}

    async def receive(self, parameters: RTCRtpReceiveParameters) -> None:
        """Start; aiortc's decoder thread and its jitter buffer are left out."""
        private: Any = self
        if private._RTCRtpReceiver__started:
            return
        names = codec_names(parameters.codecs)
        self._rates = {
            codec.payloadType: codec.clockRate
            for codec in parameters.codecs
            if codec.payloadType in names
        }
        self._inbound.configure(names)
        self.transport._register_rtp_receiver(self, parameters)
        private._RTCRtpReceiver__rtcp_task = asyncio.ensure_future(self._run_rtcp())
        private._RTCRtpReceiver__started = True
        connection = self.transport.transport._connection
        if isinstance(connection, IceConnection):
            connection.on_media = self._datagram

    def _datagram(self, data: bytes) -> bool:
        """Take SRTP from a source that aiortc's router has already assigned to us."""
        if len(data) < 12 or data[0] < 128 or 192 <= data[1] <= 223:
            return False
        statistics = self._sources.get(data[8:12])
        if statistics is None:
            return False
        try:
            plain = self.transport._rx_srtp.unprotect(data)
        except pylibsrtp.Error:
            return True
        parsed = parse_rtp(plain)
        if parsed is not None:
            self._take(statistics, *parsed)
        return True

    def _take(
        self,
        statistics: StreamStatistics,
        payload_type: int,
        seq: int,
        timestamp: int,
        ssrc: int,
        payload: bytes,
    ) -> None:
        if payload_type not in self._rates or not self._enabled:
            return
        self.bye_ms = None
        numbers = self._numbers
        numbers.sequence_number, numbers.timestamp = seq, timestamp
        statistics.add(numbers)
        self._inbound.packet(ssrc, payload_type, seq, timestamp, payload, monotonic_ms())

    async def _handle_rtp_packet(self, packet: RtpPacket, arrival_time_ms: int) -> None:
        """The first packets of a source come this way, routed by aiortc."""
        statistics = self._statistics(packet)
        if statistics is not None:
            self._take(
                statistics,
                packet.payload_type,
                packet.sequence_number,
                packet.timestamp,
                packet.ssrc,
                packet.payload,
            )

    def _statistics(self, packet: RtpPacket) -> StreamStatistics | None:
        private: Any = self
        streams: dict[int, StreamStatistics] = private._RTCRtpReceiver__remote_streams
        rate = self._rates.get(packet.payload_type)
        if packet.ssrc not in streams:
            if rate is None or len(streams) >= MAX_SOURCES:
                return None
            streams[packet.ssrc] = StreamStatistics(rate)
            self._sources[packet.ssrc.to_bytes(4, "big")] = streams[packet.ssrc]
        return streams[packet.ssrc]

    async def _handle_rtcp_packet(self, packet: AnyRtcpPacket) -> None:
        if isinstance(packet, RtcpByePacket):
            self.bye_ms = monotonic_ms()
        await super()._handle_rtcp_packet(packet)


class LeanSender(RTCRtpSender):
    """Sends what an `Outbound` gives, when `beat` is called."""

    def __init__(self, transport: RTCDtlsTransport, outbound: Outbound) -> None:
        super().__init__("audio", transport)
        self._outbound = outbound
        self._sending = False
        self._payload_type = 0
        self._seq = secrets.randbelow(1 << 15)
        self._origin = secrets.randbits(32)
        self._first_beat: int | None = None
        self._sent = 0
        self._octets = 0
        self._extension = b""

    @property
    def rtt_ms(self) -> int | None:
        """Round-trip time from the peer's receiver reports, once there is one."""
        private: Any = self
        rtt: float | None = private._RTCRtpSender__rtt
        return None if rtt is None else max(0, round(rtt * 1000))

    def beat(self, number: int) -> None:
        """Send the packet of beat `number`; skipped beats show as a gap in the timestamps."""
        if not self._sending or not self._enabled:
            return
        session: pylibsrtp.Session | None = self.transport._tx_srtp
        pair = self.transport.transport._connection._nominated.get(1)
        if session is None or pair is None:
            return
        if self._first_beat is None:
            self._first_beat = number
        timestamp = (self._origin + (number - self._first_beat) * self._outbound.ticks) & 0xFFFFFFFF
        payload = self._outbound.packet()
        header = _HEADER.pack(
            0x90 if self._extension else 0x80,
            # The marker begins a talk spurt (RFC 3551 section 4.1); we never pause.
            self._payload_type | (0 if self._sent else 0x80),
            self._seq,
            timestamp,
            self._ssrc,
        )
        try:
            data = session.protect(header + self._extension + payload)
        except pylibsrtp.Error:
            return
        pair.protocol.transport.sendto(data, pair.remote_addr)
        self._seq = (self._seq + 1) & 0xFFFF
        self._sent += 1
        self._octets += len(payload)
        if self._sent % _REPORT_EVERY == 1:
            self._note(timestamp)

    def _note(self, timestamp: int) -> None:
        private: Any = self
        private._RTCRtpSender__ntp_timestamp = clock.current_ntp_time()
        private._RTCRtpSender__rtp_timestamp = timestamp
        private._RTCRtpSender__packet_count = self._sent
        private._RTCRtpSender__octet_count = self._octets

    async def _run_rtp(self, codec: RTCRtpCodecParameters) -> None:
        """What aiortc runs as the sending task: here it only opens and closes the gate."""
        private: Any = self
        private._RTCRtpSender__rtp_started.set()
        try:
            payload_type = codec.payloadType or 0
            self._outbound.configure(codec_names([codec])[payload_type])
            self._payload_type = payload_type
            self._extension = self._mid_extension()
            self._sending = True
            await asyncio.get_running_loop().create_future()
        finally:
            self._sending = False
            private._RTCRtpSender__rtp_exited.set()

    def _mid_extension(self) -> bytes:
        private: Any = self
        profile, value = private._RTCRtpSender__rtp_header_extensions_map.set(
            HeaderExtensions(mid=private._RTCRtpSender__mid)
        )
        return struct.pack("!HH", profile, len(value) // 4) + value if value else b""

    async def _handle_rtcp_packet(self, packet: AnyRtcpPacket) -> None:
        if isinstance(packet, (RtcpRrPacket, RtcpSrPacket)):
            for report in packet.reports:
                if report.ssrc == self._ssrc:
                    # fraction_lost is in 1/256 (RFC 3550 section 6.4.1).
                    self._outbound.expect_loss(report.fraction_lost * 100 // 256)
        await super()._handle_rtcp_packet(packet)
