"""Who is asking: the peer behind trusted proxies, whether it is this machine, and which page."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from urllib.parse import urlsplit

from aiohttp import HttpVersion11, web

from flowcat_server.errors import ConfigError

_FORWARDED = (
    "X-Forwarded-For",
    "X-Forwarded-Host",
    "X-Forwarded-Proto",
    "X-Forwarded-Port",
    "X-Forwarded-Server",
    "Forwarded",
    "Via",
    "X-Real-IP",
    "True-Client-IP",
    "CF-Connecting-IP",
)
_SCHEMES = ("http", "https")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def parse_networks(
    addresses: Sequence[str], key: str = "server.trusted_proxies"
) -> tuple[Network, ...]:
    """Addresses and networks of a key of the agent file."""
    networks: list[Network] = []
    for address in addresses:
        try:
            networks.append(ipaddress.ip_network(address, strict=False))
        except ValueError as error:
            raise ConfigError(f"{key}: {address!r} is not an address or network") from error
    return tuple(networks)


def is_local(request: web.Request, trusted: Sequence[Network] = ()) -> bool:
    """Whether the request was made on this machine, for this machine.

    A tunnel or a reverse proxy also connects from loopback. One that is trusted always speaks for
    someone else; others show by the headers they add, by the host name they were asked for, or by
    HTTP/1.0, which is what nginx speaks when it is told nothing. The host check also stops web
    pages that rebind their name to 127.0.0.1.
    """
    remote = request.remote or ""
    if not _is_loopback(remote) or in_networks(remote, trusted) or request.version < HttpVersion11:
        return False
    if any(header in request.headers for header in _FORWARDED):
        return False
    host = _host_name(request.host)
    return host == "localhost" or host.endswith(".localhost") or _is_loopback(host)


def is_other_site(request: web.Request, base: str = "") -> bool:
    """Whether a browser sent this on behalf of a page that is not ours.

    `base` is the URL at which our page is served, if that is not how we were asked.
    """
    origin = request.headers.get("Origin")
    if origin is not None:
        return _netloc(origin) not in (request.host.lower(), _netloc(base) or request.host.lower())
    # Images and forms of other pages carry no origin, but browsers tell this much.
    return request.headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin")


def client_address(request: web.Request, trusted: Sequence[Network]) -> str:
    """The peer's address; a forwarded one only if a trusted proxy says so."""
    remote = request.remote or ""
    if not in_networks(remote, trusted):
        return remote
    hops = ",".join(request.headers.getall("X-Forwarded-For", [])).split(",")
    for hop in (hop.strip() for hop in reversed(hops)):
        if hop and not in_networks(hop, trusted):
            return hop
    return remote


def public_base(request: web.Request, configured: str, trusted: Sequence[Network]) -> str:
    """This server's URL as the outside sees it, without a trailing slash.

    The configured one, with any path that a proxy strips before it passes requests on; else what
    a trusted proxy forwarded; else how we were asked.
    """
    if configured:
        return configured.rstrip("/")
    scheme, host = request.scheme, request.host
    if in_networks(request.remote or "", trusted):
        forwarded = _first(request, "X-Forwarded-Proto").lower()
        scheme = forwarded if forwarded in _SCHEMES else scheme
        host = _first(request, "X-Forwarded-Host") or host
    return f"{scheme}://{host}"


def _first(request: web.Request, header: str) -> str:
    return request.headers.get(header, "").split(",")[0].strip()


def _netloc(url: str) -> str:
    try:
        return urlsplit(url).netloc.lower()
    except ValueError:
        return ""


def _host_name(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.rpartition(":")[0] if host.count(":") == 1 else host


def _parse(address: str) -> Address | None:
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return None
    return getattr(parsed, "ipv4_mapped", None) or parsed


def _is_loopback(address: str) -> bool:
    parsed = _parse(address)
    return parsed is not None and parsed.is_loopback


def in_networks(address: str, networks: Sequence[Network]) -> bool:
    """Whether an address is in one of these networks."""
    parsed = _parse(address)
    return parsed is not None and any(parsed in network for network in networks)
