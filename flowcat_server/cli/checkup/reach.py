"""The way to the server: name, connection, TLS."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import time
from ipaddress import ip_address
from urllib.parse import SplitResult, urlsplit

from flowcat_server.cli.checkup.plan import Plan, Told, Wrong

SOON_S = 14 * 86_400
"""A certificate that has less left is worth a word."""
_DEFAULT_PORTS = {"https": 443, "http": 80}


def host_and_port(parts: SplitResult) -> tuple[str, int]:
    """Where an address leads."""
    return parts.hostname or "", parts.port or _DEFAULT_PORTS.get(parts.scheme, 0)


async def resolve(plan: Plan) -> Told:
    """The name of the address. Raises `Wrong`."""
    host, port = host_and_port(urlsplit(plan.url))
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(plan.connect_s):
            found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except TimeoutError as error:
        raise Wrong(
            f"nobody says within {plan.connect_s:.0f} s where {host} is",
            "look at the name servers of this machine",
        ) from error
    except (OSError, UnicodeError) as error:
        raise Wrong(
            f"DNS knows no {host}",
            "make an address record for it, or correct server.public_url",
        ) from error
    addresses = list(dict.fromkeys(str(each[4][0]) for each in found))
    told = Told(f"{host} is {', '.join(addresses[:4])}")
    if plan.past_proxy or any(_is_global(address) for address in addresses):
        return told
    told.warnings.append(
        Wrong(
            f"{host} leads to an address that only this network knows",
            "carriers need a public one, of a tunnel or of a proxy: set server.public_url to it, "
            "or try one with --url",
        )
    )
    return told


def _is_global(address: str) -> bool:
    with contextlib.suppress(ValueError):
        return ip_address(address.partition("%")[0]).is_global
    return False


async def connect(plan: Plan) -> Told:
    """The port, and what proves that it is the right one. Raises `Wrong`."""
    parts = urlsplit(plan.url)
    host, port = host_and_port(parts)
    tls = ssl.create_default_context() if parts.scheme == "https" else None
    try:
        async with asyncio.timeout(plan.connect_s):
            _, writer = await asyncio.open_connection(
                host, port, ssl=tls, server_hostname=host if tls else None
            )
    except TimeoutError as error:
        raise Wrong(
            f"{host}:{port} does not answer within {plan.connect_s:.0f} s",
            "open the port in the firewall, or correct the address",
        ) from error
    except ssl.SSLError as error:
        raise _tls_fault(error, host, port) from error
    except ConnectionRefusedError as error:
        raise Wrong(
            f"nothing listens at {host}:{port}",
            "start the server, or the proxy before it, or correct the address",
        ) from error
    except OSError as error:
        reason = "" if tls is None else ", in the middle of the TLS handshake"
        raise Wrong(
            f"{host}:{port} cannot be reached{reason}: {error.strerror or error}",
            "look whether the server, or the proxy before it, runs and is reachable from outside",
        ) from error
    peer = writer.get_extra_info("ssl_object")
    certificate = peer.getpeercert() if peer is not None else None
    version = peer.version() if peer is not None else ""
    writer.close()
    with contextlib.suppress(OSError, TimeoutError):
        async with asyncio.timeout(1):
            await writer.wait_closed()
    return _reached(plan, port, version or "", certificate)


def _reached(plan: Plan, port: int, version: str, certificate: object) -> Told:
    if not version:
        told = Told(f"port {port} is open, without TLS")
        if not plan.past_proxy and plan.side.asks:
            told.warnings.append(
                Wrong(
                    f"{plan.url} is not https",
                    "carriers open media sockets over TLS only: put a proxy with a certificate "
                    "before the server and set server.public_url to its address",
                )
            )
        return told
    until = certificate.get("notAfter", "") if isinstance(certificate, dict) else ""
    told = Told(f"{version}, certificate good until {until}")
    if until and ssl.cert_time_to_seconds(until) - time.time() < SOON_S:
        told.warnings.append(
            Wrong(f"the certificate is good only until {until}", "see to it that it is renewed")
        )
    if port != 443:
        told.warnings.append(
            Wrong(
                f"TLS is at port {port}",
                "carriers that open a socket only to port 443 do not reach it: let the proxy "
                "listen there",
            )
        )
    return told


def _tls_fault(error: ssl.SSLError, host: str, port: int) -> Wrong:
    """What a failed TLS handshake means, by X.509 verification results (RFC 5280, OpenSSL)."""
    if not isinstance(error, ssl.SSLCertVerificationError):
        if error.reason in ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST"):
            return Wrong(
                f"what listens at {host}:{port} speaks no TLS",
                "let the proxy terminate TLS there (the server itself speaks plain HTTP)",
            )
        return Wrong(
            f"no TLS connection to {host}:{port}: {(error.reason or str(error)).lower()}",
            "the proxy has to offer TLS 1.2 or 1.3 with a certificate for this name",
        )
    match error.verify_code:
        case 10:
            return Wrong("the certificate has expired", "renew it, and have the proxy load it")
        case 9:
            return Wrong(
                "the certificate is not good yet",
                "set the clock of this machine, or of the one where it was made",
            )
        case 18 | 19:
            return Wrong(
                "the certificate is signed by nobody whom carriers trust (self-signed)",
                "get one from a public authority, such as Let's Encrypt",
            )
        case 20 | 21:
            return Wrong(
                "the chain of the certificate is incomplete, or ends at an authority of one's own",
                "have the proxy send the intermediate certificates too (fullchain.pem)",
            )
        case 62 | 64:
            return Wrong(
                f"the certificate is for another name than {host}",
                "get one for this name, or set server.public_url to the name that it has",
            )
    return Wrong(
        f"the certificate is not accepted: {error.verify_message}",
        "carriers accept what browsers accept: get one from a public authority",
    )
