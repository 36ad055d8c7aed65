"""Who is asking: the peer behind trusted proxies, and whether it is this machine."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

from aiohttp import web

from flowcat_server.errors import ConfigError

_FORWARDED = ("X-Forwarded-For", "X-Forwarded-Host", "Forwarded", "X-Real-IP", "CF-Connecting-IP")

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def parse_networks(proxies: Sequence[str]) -> tuple[Network, ...]:
    """Addresses and networks of ``server.trusted_proxies``."""
    networks: list[Network] = []
    for proxy in proxies:
        try:
            networks.append(ipaddress.ip_network(proxy, strict=False))
        except ValueError as error:
            raise ConfigError(
                f"server.trusted_proxies: {proxy!r} is not an address or network"
            ) from error
    return tuple(networks)


def is_local(request: web.Request) -> bool:
    """Whether the request was made on this machine, for this machine.

    A tunnel or a reverse proxy also connects from loopback; it shows by the headers it adds or by
    the host name it was asked for. The host check also stops web pages that rebind their name to
    127.0.0.1.
    """
    if not _is_loopback(request.remote or ""):
        return False
    if any(header in request.headers for header in _FORWARDED):
        return False
    host = (
        request.host.rsplit(":", 1)[0]
        if not request.host.startswith("[")
        else (request.host[1:].partition("]")[0])
    )
    return host == "localhost" or host.endswith(".localhost") or _is_loopback(host)


def client_address(request: web.Request, trusted: Sequence[Network]) -> str:
    """The peer's address; a forwarded one only if a trusted proxy says so."""
    remote = request.remote or ""
    if not _in(remote, trusted):
        return remote
    hops = request.headers.get("X-Forwarded-For", "").split(",")
    for hop in (hop.strip() for hop in reversed(hops)):
        if hop and not _in(hop, trusted):
            return hop
    return remote


def public_base(request: web.Request, configured: str, trusted: Sequence[Network]) -> str:
    """This server's URL as the outside sees it, without a trailing slash.

    The configured one; else what a trusted proxy forwarded; else how we were asked.
    """
    if configured:
        return configured.rstrip("/")
    scheme, host = request.scheme, request.host
    if _in(request.remote or "", trusted):
        scheme = request.headers.get("X-Forwarded-Proto", scheme).split(",")[0].strip()
        host = request.headers.get("X-Forwarded-Host", host).split(",")[0].strip()
    return f"{scheme}://{host}"


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address.partition("%")[0]).is_loopback
    except ValueError:
        return False


def _in(address: str, networks: Sequence[Network]) -> bool:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    return any(parsed in network for network in networks)
