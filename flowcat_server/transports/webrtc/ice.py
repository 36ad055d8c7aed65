"""ICE with what a server needs on top of aioice.

aioice gathers every address of the host on any port, resolves mDNS names and, told that no
more candidates come, gives up early. Here: chosen addresses and ports, an advertised address
(1:1 NAT, containers), loopback where nothing else can work, no mDNS, a note of the last
datagram, and media handed over without a queue. RFC 8445, RFC 7983 (telling protocols apart).
"""

from __future__ import annotations

import asyncio
import copy
import errno
import ipaddress
import re
import socket
import struct
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import ifaddr
from aioice.candidate import Candidate, candidate_foundation, candidate_priority
from aioice.ice import Connection, StunProtocol, server_reflexive_candidate
from aioice.stun import Message

from flowcat_server.errors import CallRefused

GATHER_MS = 1_000
"""How long STUN and TURN servers may take before the answer goes out without them."""
MAX_REMOTE_CANDIDATES = 40
MAX_QUEUED = 1_024
"""Datagrams waiting for DTLS; more are dropped, as a full socket buffer would."""
RECEIVE_BUFFER = 262_144
"""Bytes: about two seconds of one call, should our loop stand still."""

_CONTAINER_BRIDGE = re.compile(r"docker\d+|br-[0-9a-f]{12}|veth.*|virbr\d+|cni\d+")


class PortRange:
    """UDP ports that calls may use, "10000-10100"; shared by all calls of a process.

    Ports are handed out in turn, so that a late packet of an ended call seldom meets a new one.
    """

    def __init__(self, text: str) -> None:
        match = re.fullmatch(r"\s*(\d{1,5})\s*-\s*(\d{1,5})\s*", text)
        if match is None:
            raise ValueError(f"port range {text!r} is not like '10000-10100'")
        self.first, self.last = int(match[1]), int(match[2])
        if not 1 <= self.first <= self.last <= 65_535:
            raise ValueError(f"port range {text!r} is empty or beyond 65535")
        self._cursor = 0

    def __iter__(self) -> Iterator[int]:
        size = self.last - self.first + 1
        start = self._cursor
        for step in range(size):
            self._cursor = (start + step + 1) % size
            yield self.first + (start + step) % size


@dataclass(frozen=True, slots=True)
class IcePolicy:
    """Where a call may be reached."""

    advertise_ip: str = ""
    """Named in host candidates instead of the socket's own address."""
    ports: PortRange | None = None
    bind_ips: Sequence[str] = ()
    """The only addresses to listen on; empty: all but container bridges."""
    loopback: bool = False
    """The peer is on this host: offer 127.0.0.1 too."""


def host_addresses() -> list[str]:
    """Addresses of this host, without loopback, link-local IPv6 and container bridges."""
    chosen: list[str] = []
    bridges: list[str] = []
    for adapter in ifaddr.get_adapters():
        group = bridges if _CONTAINER_BRIDGE.fullmatch(adapter.name) else chosen
        for ip in adapter.ips:
            text = ip.ip if isinstance(ip.ip, str) else ip.ip[0]
            address = ipaddress.ip_address(text)
            if not address.is_loopback and not (address.version == 6 and address.is_link_local):
                group.append(text)
    return chosen or bridges


def addresses_to_bind(policy: IcePolicy) -> list[str]:
    """The addresses a call listens on."""
    if policy.bind_ips:
        return list(policy.bind_ips)
    local = host_addresses()
    if policy.advertise_ip:
        if policy.advertise_ip in local:
            return [policy.advertise_ip]
        # The address is someone else's (a NAT, the host of a container): which of ours it maps
        # to is not known, so one socket listens on all.
        return ["::" if ipaddress.ip_address(policy.advertise_ip).version == 6 else "0.0.0.0"]  # noqa: S104
    if policy.loopback or not local:
        local.append("127.0.0.1")
    return local


def bind_udp(address: str, ports: PortRange | None) -> socket.socket:
    """A bound, non-blocking UDP socket.

    Never with SO_REUSEADDR: for UDP that lets two calls share a port and steal each other's
    packets.

    Raises:
        OSError: EADDRINUSE when the range has no free port; else what bind said.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_DGRAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        _bind_first_free(sock, address, ports or (0,))
    except BaseException:
        sock.close()
        raise
    return sock


def _bind_first_free(sock: socket.socket, address: str, ports: Iterable[int]) -> None:
    for port in ports:
        try:
            sock.bind((address, port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
        else:
            return
    raise OSError(errno.EADDRINUSE, "no free port in the range")


class MediaProtocol(StunProtocol):
    """One socket. Notes when something came, and keeps media away from the STUN parser."""

    receiver: IceConnection

    def datagram_received(self, data: bytes | str, addr: tuple[Any, ...]) -> None:
        if not isinstance(data, bytes) or not data:
            return
        if data[0] > 3:  # RFC 7983 section 7: not STUN
            self.receiver.data_received(data, 1)
            return
        self.receiver.heard()
        try:
            super().datagram_received(data, addr)
        except (struct.error, IndexError, KeyError):
            return  # malformed STUN attributes from anyone who found the port


class IceConnection(Connection):
    """The ICE agent of one call."""

    def __init__(self, policy: IcePolicy, like: Connection) -> None:
        """Take the place of `like`, which has gathered nothing yet."""
        super().__init__(
            ice_controlling=like.ice_controlling,
            stun_server=like.stun_server,
            turn_server=like.turn_server,
            turn_username=like.turn_username,
            turn_password=like.turn_password,
            turn_ssl=like.turn_ssl,
            turn_transport=like.turn_transport,
            local_username=like.local_username,
            local_password=like.local_password,
        )
        self.last_datagram_ms = time.monotonic_ns() // 1_000_000
        self.on_media: Callable[[bytes], bool] | None = None
        """Offered each datagram that is not STUN; True: it was media and is done."""
        self._policy = policy

    def heard(self) -> None:
        """Something came from the network."""
        self.last_datagram_ms = time.monotonic_ns() // 1_000_000

    def request_received(
        self, message: Message, addr: tuple[str, int], protocol: StunProtocol
    ) -> None:
        self.heard()
        super().request_received(message, addr, protocol)

    def data_received(self, data: bytes, component: int) -> None:
        self.heard()
        media = self.on_media
        if media is not None and media(data):
            return
        if self._queue.qsize() < MAX_QUEUED:
            super().data_received(data, component)

    async def add_remote_candidate(self, remote_candidate: Candidate | None) -> None:
        """Take a candidate, but no mDNS name: resolving costs a second and mostly fails.

        The peer is then found by its own checks. For that reason the end of its candidates is
        no reason to give up either; the caller has a deadline.
        """
        if remote_candidate is None or remote_candidate.host.lower().endswith(".local"):
            return
        if len(self._remote_candidates) < MAX_REMOTE_CANDIDATES:
            await super().add_remote_candidate(remote_candidate)

    async def get_component_candidates(
        self, component: int, addresses: list[str], timeout: int = 5
    ) -> list[Candidate]:
        """Bind sockets and ask STUN and TURN servers.

        Raises:
            CallRefused: Every port of the range is taken.
        """
        gathered: list[Candidate] = []
        full = False
        for address in addresses_to_bind(self._policy):
            try:
                protocol = await self._open(address)
            except OSError as error:
                full |= error.errno == errno.EADDRINUSE
                continue
            self._protocols.append(protocol)
            gathered.append(self._host_candidate(protocol, component))
        if full and not gathered:
            raise CallRefused("full")
        relayed, reflexive = await asyncio.gather(
            super().get_component_candidates(component, [], GATHER_MS // 1000),
            self._reflexive(),
        )
        return gathered + reflexive + relayed

    async def _open(self, address: str) -> StunProtocol:
        sock = bind_udp(address, self._policy.ports)
        try:
            loop = asyncio.get_running_loop()
            _, protocol = await loop.create_datagram_endpoint(
                lambda: MediaProtocol(self), sock=sock
            )
        except BaseException:
            sock.close()
            raise
        return protocol

    def _host_candidate(self, protocol: StunProtocol, component: int) -> Candidate:
        host, port = protocol.transport.get_extra_info("sockname")[:2]
        ip = ipaddress.ip_address(host)
        # RFC 8445 section 5.1.2.1: one preference per address; loopback only if all else fails.
        preference = 0 if ip.is_loopback else 65_535 - len(self._protocols)
        own = Candidate(
            foundation=candidate_foundation("host", "udp", host),
            component=component,
            transport="udp",
            priority=candidate_priority(component, "host", preference),
            host=host,
            port=port,
            type="host",
        )
        protocol.local_candidate = own
        advertised = self._policy.advertise_ip
        if not advertised or ipaddress.ip_address(advertised).version != ip.version:
            return own
        shown = copy.copy(own)
        shown.host = advertised
        return shown

    async def _reflexive(self) -> list[Candidate]:
        if self.stun_server is None:
            return []
        tasks = [
            asyncio.create_task(
                server_reflexive_candidate(protocol, self.stun_server), name="webrtc-stun"
            )
            for protocol in self._protocols
            if ipaddress.ip_address(protocol.local_candidate.host).version == 4
        ]
        if not tasks:
            return []
        try:
            done, _ = await asyncio.wait(tasks, timeout=GATHER_MS / 1000)
        finally:
            for task in tasks:
                task.cancel()
        return [task.result()[0] for task in done if task.exception() is None]

    def abort(self) -> None:
        """Close the sockets at once, whatever state the negotiation is in."""
        for protocol in self._protocols:
            protocol.transport.abort()
