"""The far end of one call: real ICE, DTLS and SRTP; what a browser has beyond that is left out.

aioice and aiortc shake hands. Then packets are taken from the socket and given to it directly.
When a packet came is what the kernel says (SO_TIMESTAMPNS), so that a generator that is late
itself does not make the server late.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
import struct
import time
from typing import Any

import ifaddr
from aiohttp import ClientSession
from aioice.candidate import Candidate
from aioice.ice import Connection, StunProtocol
from aiortc import RTCIceGatherer, RTCIceTransport
from aiortc.rtcdtlstransport import RTCCertificate, RTCDtlsTransport
from aiortc.rtp import RtcpReceiverInfo, RtcpSenderInfo, RtcpSrPacket
from aiortc.sdp import SessionDescription

CONNECT_S = 15
PAYLOAD_TYPE = 111
TICKS = 960
"""RTP timestamp units of 20 ms of Opus (RFC 7587 section 4.1)."""
REPORT_EVERY = 50
"""Packets between two RTCP reports: a second."""
SO_TIMESTAMPNS = 35
"""Linux, asm-generic/socket.h; Python does not name it."""
HEADER = struct.Struct("!BBHII")
ROOM = socket.CMSG_SPACE(16)
BUFFER = 262_144

OFFER = """v=0
o=- {number} 1 IN IP4 127.0.0.1
s=-
t=0 0
a=group:BUNDLE 0
m=audio 9 UDP/TLS/RTP/SAVPF 111
c=IN IP4 0.0.0.0
a=rtcp:9 IN IP4 0.0.0.0
a=candidate:{candidate}
a=ice-ufrag:{ufrag}
a=ice-pwd:{password}
a=fingerprint:sha-256 {fingerprint}
a=setup:actpass
a=mid:0
a=sendrecv
a=rtcp-mux
a=rtpmap:111 opus/48000/2
a=fmtp:111 minptime=10;useinbandfec=1
a=ssrc:{ssrc} cname:bench
"""


def own_address() -> str:
    """An address that a server on this machine listens on: stock aioice leaves loopback out."""
    for adapter in ifaddr.get_adapters():
        for ip in adapter.ips:
            if isinstance(ip.ip, str) and not ip.ip.startswith("127."):
                return ip.ip
    return "127.0.0.1"


class NotConnected(Exception):
    """The server refused, or its media path did not come up."""


class Line:
    """A UDP socket in the place of asyncio's transport, with the kernel's time of arrival."""

    def __init__(self, address: str, protocol: StunProtocol) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.setblocking(False)
        self.socket.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
        self.socket.bind((address, 0))
        self.media: list[tuple[bytes, bytes]] = []
        """Of each RTP packet: seconds and nanoseconds as the kernel has them, and its header."""
        self.whole = False
        """Keep packets, not only their headers."""
        self.keep = False
        self._protocol = protocol
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self.socket, self._read)

    def sendto(self, data: bytes, address: tuple[str, int]) -> None:
        try:
            self.socket.sendto(data, address)
        except OSError:
            return  # as lost as on the way

    def get_extra_info(self, name: str) -> Any:
        return self.socket.getsockname() if name == "sockname" else None

    def close(self) -> None:
        if self.socket.fileno() >= 0:
            self._loop.remove_reader(self.socket)
            self.socket.close()
            self._loop.call_soon(self._protocol.connection_lost, None)

    def _read(self) -> None:
        receive = self.socket.recvmsg
        while True:
            try:
                data, ancillary, _, address = receive(2048, ROOM)
            except OSError:
                return
            if 128 <= data[0] < 192 and not 192 <= data[1] <= 223:  # RFC 5761 section 4
                if self.keep:
                    self.media.append((ancillary[0][2], data if self.whole else data[:12]))
            else:
                self._protocol.datagram_received(data, address)


class Agent(Connection):
    """aioice's, on a `Line`."""

    line: Line

    async def get_component_candidates(
        self, component: int, addresses: list[str], timeout: int = 5
    ) -> list[Candidate]:
        protocol = StunProtocol(self)
        address = own_address()
        self.line = Line(address, protocol)
        protocol.connection_made(self.line)  # type: ignore[arg-type]
        protocol.local_candidate = Candidate(
            foundation="1", component=component, transport="udp", priority=2_130_706_431,
            host=address, port=self.line.get_extra_info("sockname")[1], type="host",
        )  # fmt: skip
        self._protocols.append(protocol)
        return [protocol.local_candidate]


class Caller:
    """One call."""

    def __init__(self, number: int, packets: list[bytes], certificate: RTCCertificate) -> None:
        self.number = number
        self.connected = False
        self.call_id = ""
        self.first = secrets.randbelow(len(packets))
        """Which packet it begins with, so that not all say the same."""
        self.sent = 0
        self.kept: tuple[int, float] | None = None
        """Number of the first packet sent while `line.keep`, and when that was due (monotonic)."""
        self._packets = packets
        self._ssrc = secrets.randbits(32)
        self._seq = secrets.randbelow(1 << 15)
        self._timestamp = secrets.randbits(31)
        gatherer = RTCIceGatherer(iceServers=[])
        self._agent = Agent(ice_controlling=True)
        gatherer._connection = self._agent
        self._ice = RTCIceTransport(gatherer)
        self._ice._connection.ice_controlling = True
        self._dtls = RTCDtlsTransport(self._ice, [certificate])

    @property
    def line(self) -> Line:
        """Its socket."""
        return self._agent.line

    @property
    def alive(self) -> bool:
        """Whether the server has not closed the connection."""
        return self._dtls.state == "connected"

    async def call(self, http: ClientSession, url: str) -> None:
        """Offer, and connect.

        Raises:
            NotConnected: Why.
        """
        try:
            async with asyncio.timeout(CONNECT_S):
                await self._ice.iceGatherer.gather()
                async with http.post(url, json={"sdp": self._offer(), "type": "offer"}) as reply:
                    if reply.status != 200:
                        raise NotConnected(f"{reply.status} {(await reply.text())[:80]}")
                    answer = (await reply.json())["sdp"]
                await self._connect(SessionDescription.parse(answer))
        except (TimeoutError, OSError) as error:
            raise NotConnected(f"{type(error).__name__} {error}") from error
        pair = self._agent._nominated.get(1)
        if not self.alive or pair is None:
            raise NotConnected(f"DTLS {self._dtls.state}")
        self._address = pair.remote_addr
        self.connected = True

    def _offer(self) -> str:
        parameters = self._ice.iceGatherer.getLocalParameters()
        prints = self._dtls.getLocalParameters().fingerprints
        fingerprint = next(each.value for each in prints if each.algorithm == "sha-256")
        text = OFFER.format(
            number=self._ssrc, candidate=self._agent.local_candidates[0].to_sdp(),
            ufrag=parameters.usernameFragment, password=parameters.password,
            fingerprint=fingerprint, ssrc=self._ssrc,
        )  # fmt: skip
        return text.replace("\n", "\r\n")

    async def _connect(self, answer: SessionDescription) -> None:
        audio = answer.media[0]
        if audio.ice is None or audio.dtls is None:
            raise NotConnected("an answer without ICE or DTLS")
        for candidate in audio.ice_candidates:
            if ":" not in candidate.ip:
                await self._ice.addRemoteCandidate(candidate)
        await self._ice.addRemoteCandidate(None)
        await self._ice.start(audio.ice)
        if self._ice.state != "completed":
            raise NotConnected(f"ICE {self._ice.state}")
        # We offered, so the answer says who begins (RFC 8842 section 5.1).
        self._dtls._set_role("server" if audio.dtls.role == "client" else "client")
        await self._dtls.start(audio.dtls)

    def send(self, due: float) -> None:
        """The next packet, and each second a report."""
        payload = self._packets[(self.first + self.sent) % len(self._packets)]
        header = HEADER.pack(0x80, PAYLOAD_TYPE, self._seq, self._timestamp, self._ssrc)
        self.line.sendto(self._dtls._tx_srtp.protect(header + payload), self._address)
        if self.line.keep and self.kept is None:
            self.kept = (self.sent, due)
        self.sent += 1
        self._seq = (self._seq + 1) & 0xFFFF
        self._timestamp = (self._timestamp + TICKS) & 0xFFFFFFFF
        if self.sent % REPORT_EVERY == 0:
            self._report()

    def _report(self) -> None:
        report = RtcpSrPacket(
            ssrc=self._ssrc,
            sender_info=RtcpSenderInfo(
                ntp_timestamp=int((time.time() + 2_208_988_800) * 2**32),
                rtp_timestamp=self._timestamp, packet_count=self.sent, octet_count=self.sent * 80,
            ),
            reports=[],
        )  # fmt: skip
        if (heard := self.line.media) and heard[-1][1]:
            ssrc = int.from_bytes(heard[-1][1][8:12], "big")
            report.reports.append(
                RtcpReceiverInfo(
                    ssrc=ssrc,
                    fraction_lost=0,
                    packets_lost=0,
                    highest_sequence=int.from_bytes(heard[-1][1][2:4], "big"),
                    jitter=0,
                    lsr=0,
                    dlsr=0,
                )  # fmt: skip
            )
        self.line.sendto(self._dtls._tx_srtp.protect_rtcp(bytes(report)), self._address)

    def decrypt(self, packet: bytes) -> bytes:
        """The payload of a packet that was kept whole; in the order in which they came."""
        plain = self._dtls._rx_srtp.unprotect(packet)
        start = 12 + 4 * (plain[0] & 0x0F)
        if plain[0] & 0x10:
            start += 4 + 4 * int.from_bytes(plain[start + 2 : start + 4], "big")
        return bytes(plain[start:])

    async def hang_up(self) -> None:
        """Say goodbye."""
        try:
            async with asyncio.timeout(3):
                await self._dtls.stop()
                await self._ice.stop()
        except TimeoutError:
            self.line.close()
