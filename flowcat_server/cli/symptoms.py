"""What `doctor` looks at. Nothing leaves this machine."""

from __future__ import annotations

import os
import platform
import socket
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from ipaddress import ip_address
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from flowcat_server.config.load import Loaded
from flowcat_server.config.types import parse_bind
from flowcat_server.errors import AssetError
from flowcat_server.providers.assets import verify
from flowcat_server.providers.resolve import Leg, examine

Status = Literal["ok", "warning", "fault"]

_FILES_PER_CALL = 12
"""Sockets of one call at most: carrier or browser, providers, a recording."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at."""

    name: str
    status: Status
    detail: str
    advice: str = ""

    def as_json(self) -> dict[str, str | int]:
        """The finding as JSON."""
        return asdict(self)


def of_machine() -> Iterator[Finding]:
    """What every agent needs."""
    yield Finding("python", "ok", platform.python_version())
    if find_spec("uvloop"):
        yield Finding("uvloop", "ok", "installed")
    else:
        yield Finding("uvloop", "warning", "not installed; calls cost more CPU",
                      "pip install uvloop")  # fmt: skip
    yield _clock(time.time(), Path(__file__).stat().st_mtime)
    yield _opus()


def _clock(now: float, installed: float) -> Finding:
    """A clock that stands before our own files were written is wrong; TLS and tokens need it."""
    if now + 86_400 < installed:
        return Finding(
            "clock",
            "fault",
            f"says {time.strftime('%Y-%m-%d', time.gmtime(now))}, which is in the past",
            "set the system clock: certificates and signed tokens depend on it",
        )
    return Finding("clock", "ok", time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(now)))


def _opus() -> Finding:
    from flowcat_server.transports.webrtc.opus import library

    if library() is not None:
        return Finding("libopus", "ok", "found")
    return Finding("libopus", "warning", "not found; packet loss of browsers is not concealed",
                   "pip install --force-reinstall av, or install libopus0")  # fmt: skip


def of_agent(loaded: Loaded) -> Iterator[Finding]:
    """What this agent needs."""
    for problem in loaded.warnings:
        yield Finding("configuration", "warning", str(problem).replace("warning: ", "", 1))
    yield Finding("configuration", "ok", f"{loaded.path} loads")
    legs = {path: examine(kind, spec) for kind, path, spec in loaded.config.topology.used()}
    for path, leg in legs.items():
        yield from _provider(leg, path)
    yield from _models(legs.values())
    yield _port(loaded.config.server.bind)
    yield _public_url(loaded)
    yield _open_files(loaded.config.limits.max_calls)
    yield _writable(loaded.work_dir / loaded.config.records.dir)


def _provider(leg: Leg, path: str) -> Iterator[Finding]:
    name = f"{path} ({leg.spec.provider})"
    spare = ".fallback." in path
    for fault in leg.faults:
        status: Status = "warning" if fault.warning or spare else "fault"
        yield Finding(name, status, fault.message)
    if leg.usable and leg.provider is not None:
        key = f"key from {leg.key.source}" if leg.key.source else "no key needed"
        model = leg.model or leg.voice
        yield Finding(name, "ok", ", ".join(part for part in (model, key) if part))


def _models(legs: Iterable[Leg]) -> Iterator[Finding]:
    """The model files that the providers load."""
    used = [
        asset
        for leg in legs
        if leg.provider is not None and (leg.provider.default_model or not leg.spec.model)
        for asset in leg.provider.assets
    ]
    for asset in dict.fromkeys(used):
        try:
            path = verify(asset)
        except AssetError as error:
            yield Finding(f"model {asset}", "fault", str(error))
        else:
            size = path.stat().st_size / 1e6
            yield Finding(f"model {asset}", "ok", f"{size:.1f} MB, checksum right")


def _port(bind: str) -> Finding:
    host, port = parse_bind(bind)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        return Finding("port", "fault", f"{bind}: {reason}",
                       "choose another with --bind, or stop what listens there")  # fmt: skip
    return Finding("port", "ok", f"{bind} is free")


def _public_url(loaded: Loaded) -> Finding:
    url = loaded.config.server.public_url
    wanted = any(carrier.account().guarded for _, carrier in loaded.config.carriers)
    if not url:
        advice = "carriers need it: set server.public_url or FLOWCAT_PUBLIC_URL"
        return Finding("public_url", "warning" if wanted else "ok", "not set",
                       advice if wanted else "")  # fmt: skip
    parts = urlsplit(url)
    if parts.scheme != "https":
        return Finding("public_url", "warning", f"{url} is not https",
                       "carriers open media sockets over TLS only")  # fmt: skip
    if _is_private(parts.hostname or ""):
        return Finding("public_url", "warning", f"{url} cannot be reached from outside")
    return Finding("public_url", "ok", url)


def _is_private(host: str) -> bool:
    try:
        return not ip_address(host).is_global
    except ValueError:
        return host == "localhost" or host.endswith((".local", ".internal", ".localhost"))


def _open_files(max_calls: int) -> Finding:
    try:
        import resource
    except ImportError:
        return Finding("open files", "ok", "not limited on this system")
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = max_calls * _FILES_PER_CALL + 200
    if soft != resource.RLIM_INFINITY and soft < needed:
        return Finding(
            "open files",
            "warning",
            f"the limit is {soft}; {max_calls} calls may need {needed}",
            f"ulimit -n {needed}, or LimitNOFILE={needed} under systemd",
        )
    said = "unlimited" if soft == resource.RLIM_INFINITY else str(soft)
    return Finding("open files", "ok", said)


def _writable(directory: Path) -> Finding:
    existing = directory
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    if existing.is_dir() and os.access(existing, os.W_OK | os.X_OK):
        return Finding("records", "ok", str(directory))
    return Finding("records", "fault", f"{directory} cannot be written",
                   "set records.dir to a directory that can")  # fmt: skip
