"""Which address a server may believe to have, to try which one its signatures are good for."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urlsplit

from flowcat_server.config.models import Config
from flowcat_server.config.types import parse_bind

INNER_HOSTS = (
    "127.0.0.1", "localhost", "flowcat", "flowcat-server", "app", "server", "backend", "upstream",
    "host.docker.internal", "[::1]",
)  # fmt: skip
"""What proxies call the server that send it a ``Host`` of their own (nginx, told nothing)."""


def addresses(called: str, config: Config) -> list[str]:
    """Addresses other than the one that was called, likeliest first.

    One with a port comes before the same without: a signature without one is good for any.
    """
    parts = urlsplit(called)
    _, port = parse_bind(config.server.bind)
    name = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname or ""
    path = parts.path
    other = "http" if parts.scheme == "https" else "https"

    def candidates() -> Iterator[str]:
        if config.server.public_url:
            yield config.server.public_url.rstrip("/")
        yield f"{other}://{parts.netloc}{path}"
        for scheme in (parts.scheme, other):
            yield f"{scheme}://{parts.netloc}"
            for each in dict.fromkeys((port, 80, 443, 8080, 8443)):
                yield f"{scheme}://{name}:{each}{path}"
            yield f"{scheme}://{name}{path}"
            yield f"{scheme}://{name}"
        for host in INNER_HOSTS:
            for scheme in ("http", "https"):
                yield f"{scheme}://{host}:{port}"
                yield f"{scheme}://{host}"
                if path:
                    yield f"{scheme}://{host}:{port}{path}"

    return [each for each in dict.fromkeys(candidates()) if each != called]


def offsets(skew_s: int) -> list[int]:
    """By how much another clock may be off, likeliest first: what it said, minutes, time zones."""
    minutes = [sign * step for step in range(240, 3_600, 240) for sign in (1, -1)]
    zones = [sign * step for step in range(3_600, 14 * 3_600 + 1, 1_800) for sign in (1, -1)]
    said = [skew_s] if abs(skew_s) > 1 else []
    return [*said, *minutes, *zones]


def difference(called: str, believed: str) -> str:
    """In what two addresses differ."""
    ours, theirs = urlsplit(called), urlsplit(believed)
    if ours.hostname != theirs.hostname:
        return "host"
    if ours.scheme != theirs.scheme:
        return "scheme"
    return "port" if ours.port != theirs.port else "path"
