"""Answers offers: the one door through which WebRTC calls come in."""

from __future__ import annotations

import asyncio
import gc
import ipaddress
import secrets
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import structlog
from aiortc import RTCIceServer

from flowcat_server.core import ended
from flowcat_server.errors import CallRefused
from flowcat_server.transports.webrtc import opus
from flowcat_server.transports.webrtc.ice import IcePolicy, PortRange
from flowcat_server.transports.webrtc.pacer import Pacer
from flowcat_server.transports.webrtc.peer import Certificates, Peer
from flowcat_server.transports.webrtc.sdp import Offer, parse_candidate, parse_offer
from flowcat_server.transports.webrtc.transport import WebRtcTransport

log = structlog.get_logger()

COLLECT_EVERY = 64
"""Ended calls: what aiortc leaves of each knows itself in circles, some 300 KB with the buffers of
its libraries. The interpreter counts objects, and would not look for gigabytes."""


@dataclass(frozen=True, slots=True)
class WebRtcSettings:
    """The ``webrtc`` block of the configuration. Times are milliseconds."""

    advertise_ip: str = ""
    port_range: str = ""
    ice_servers: Sequence[Mapping[str, Any] | str] = ()
    """STUN and TURN servers as in a browser: ``urls``, ``username``, ``credential``."""
    bind_ips: Sequence[str] = ()
    connect_timeout: int = 15_000
    max_pending: int = 32
    """Offers that were answered and have not connected yet."""
    dead_after: int = 8_000
    """Without any datagram for so long the peer is gone; browsers send one every 2.6 s."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the client gets, and the call."""

    sdp: str
    pc_id: str
    transport: WebRtcTransport = field(repr=False)
    resumed: bool = False
    """The transport of an existing call goes on: it has its session already."""


def ice_servers(entries: Sequence[Mapping[str, Any] | str]) -> list[RTCIceServer]:
    """Servers for aiortc, which uses the first STUN and the first TURN address of all."""
    servers = []
    for entry in entries:
        fields: Mapping[str, Any] = {"urls": entry} if isinstance(entry, str) else entry
        servers.append(
            RTCIceServer(
                urls=fields["urls"],
                username=fields.get("username"),
                credential=fields.get("credential"),
            )
        )
    return servers


def _is_loopback(remote: str) -> bool:
    try:
        address = ipaddress.ip_address(remote.partition("%")[0])
    except ValueError:
        return remote == "localhost"
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


class Offers:
    """All WebRTC calls of a process. Lives on one event loop.

    `on_peer` is called with the transport of each new call before its answer is returned, so
    that nothing of the call can be missed.
    """

    def __init__(
        self,
        settings: WebRtcSettings,
        on_peer: Callable[[WebRtcTransport], None] | None = None,
        *,
        lean: bool | None = None,
        prefix: str = "pc-",
    ) -> None:
        """`lean` forces our media path (True) or aiortc's (False); None: ours with libopus.

        Calls' ids begin with `prefix`.

        Raises:
            ValueError: The port range or an address is wrong.
        """
        self._settings = settings
        self._on_peer = on_peer
        self._lean = opus.library() is not None if lean is None else lean
        self._prefix = prefix
        self._ports = PortRange(settings.port_range) if settings.port_range else None
        for address in (settings.advertise_ip, *settings.bind_ips):
            if address:
                ipaddress.ip_address(address)
        self._servers = ice_servers(settings.ice_servers)
        self._certificates = Certificates()
        self.pacer = Pacer()
        self._calls: dict[str, WebRtcTransport] = {}
        self._pending: set[Peer] = set()
        self._closing: set[asyncio.Task[None]] = set()
        self._closed = False
        self._ends = 0

    def get(self, pc_id: str) -> WebRtcTransport | None:
        """The call with this id, while it lives."""
        return self._calls.get(pc_id)

    def __len__(self) -> int:
        return len(self._calls)

    @property
    def pending(self) -> int:
        """Peer connections answered and not connected yet."""
        self._pending = {peer for peer in self._pending if not peer.connected and not peer.gone}
        return len(self._pending)

    async def accept(
        self, sdp: str, *, pc_id: str | None = None, restart: bool = False, remote: str = ""
    ) -> Answer:
        """Answer an offer.

        A known `pc_id` continues that call: with the same ICE credentials its connection is
        renegotiated, otherwise, or with `restart`, a new connection takes the old one's place
        when it is up. `remote` is the client's address as the HTTP request shows it.

        Raises:
            BadOffer: The SDP is no use (HTTP 422).
            CallRefused: Too many connect at this moment, or no port is free (HTTP 503).
            TransportError: This host has no address to listen on.
        """
        offer = parse_offer(sdp)
        if self._closed:
            raise CallRefused("draining")
        call = self._calls.get(pc_id) if pc_id else None
        if call is not None and call.peer is not None and not restart:
            peer = call.peer
            if peer.ice_ufrag == offer.ice_ufrag and not peer.gone:
                return Answer(await peer.answer(offer), call.pc_id, call, resumed=True)
        if self.pending >= self._settings.max_pending:
            raise CallRefused("full")
        if call is not None:
            return Answer(await self._connect(call, offer, remote), call.pc_id, call, resumed=True)
        call = WebRtcTransport(
            f"{self._prefix}{secrets.token_urlsafe(12)}", spawn=self._spawn, on_end=self._ended
        )
        answer = await self._connect(call, offer, remote)
        self._calls[call.pc_id] = call
        if self._on_peer is not None:
            self._on_peer(call)
        return Answer(answer, call.pc_id, call)

    async def add_candidate(
        self, pc_id: str, candidate: str, mid: str | None = None, mline_index: int | None = None
    ) -> None:
        """Take a trickled candidate; an empty one ends them.

        Raises:
            KeyError: There is no such call (HTTP 404).
            BadOffer: It is not a candidate.
        """
        call = self._calls[pc_id]
        parsed = parse_candidate(candidate, mid, mline_index)
        if call.peer is not None:
            await call.peer.add_candidate(parsed)

    async def close(self) -> None:
        """Hang up every call and take no more."""
        self._closed = True
        for call in list(self._calls.values()):
            self._spawn(call.hang_up(ended.SERVER_DRAINED))
        while self._closing:
            await asyncio.wait(self._closing)

    async def _connect(self, call: WebRtcTransport, offer: Offer, remote: str) -> str:
        settings = self._settings
        peer = Peer(
            call,
            offer,
            certificate=self._certificates.get(),
            policy=IcePolicy(
                advertise_ip=settings.advertise_ip,
                ports=self._ports,
                bind_ips=settings.bind_ips,
                loopback=_is_loopback(remote),
            ),
            servers=self._servers,
            pacer=self.pacer,
            lean=self._lean,
            connect_timeout_ms=settings.connect_timeout,
            dead_after_ms=settings.dead_after,
        )
        self._pending.add(peer)
        try:
            answer = await peer.answer(offer)
        except BaseException:
            self._pending.discard(peer)
            peer.gone = True
            self._spawn(peer.close())
            raise
        if call.ended:
            self._spawn(peer.close())
            raise CallRefused("draining")
        call.use(peer)
        return answer

    def _ended(self, call: WebRtcTransport) -> None:
        self._calls.pop(call.pc_id, None)
        self._ends += 1
        if self._ends % COLLECT_EVERY == 0:
            gc.collect()

    def _spawn(self, work: Coroutine[object, object, None]) -> None:
        task = asyncio.get_running_loop().create_task(work, name="webrtc-close")
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)
