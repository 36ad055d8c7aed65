"""WebSockets to vendors: opening them, reading their JSON, understanding their refusals."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from typing import Any

import aiohttp
import msgspec

from flowcat_server.errors import (
    ProviderBusy,
    ProviderError,
    ProviderProtocol,
    ProviderRefused,
    ProviderUnavailable,
)
from flowcat_server.providers.http import CONNECT_TIMEOUT_S, Http, status_error, translate

HEARTBEAT_S = 20.0
CLOSE_TIMEOUT_S = 1.0
MAX_MESSAGE_BYTES = 8 << 20

_BUSY = re.compile(r"concurren|rate.?limit|too.?many|max_active|overload|throttl|capacity|\bbusy\b")
_REFUSED = re.compile(
    r"quota|credit|payment|billing|auth|api.?key|permission|forbidden|invalid|not.?found"
    r"|unsupported|does not exist|bad.?request"
)


def websocket_url(base_url: str, path: str) -> str:
    """`path` below `base_url`, whose scheme may also be http or https."""
    base = base_url.rstrip("/")
    if base.startswith("http"):
        base = "ws" + base.removeprefix("http")
    return base + path


def reason_error(provider: str, reason: str, code: int | None = None) -> ProviderError:
    """The error behind a vendor's words, or behind the close code that came with them."""
    words = reason.lower()
    text = reason[:300] or "closed by the vendor"
    if code is not None:
        text += f" (close code {code})"
    if _BUSY.search(words):
        return ProviderBusy(provider, text)
    # RFC 6455 section 7.4.1: 1003, 1007, 1008 and 1009 say that our data was not acceptable.
    if _REFUSED.search(words) or code in (1003, 1007, 1008, 1009):
        return ProviderRefused(provider, text)
    return ProviderUnavailable(provider, text)


async def connect(
    http: Http, provider: str, url: str, headers: Mapping[str, str], *, said_in: str = ""
) -> aiohttp.ClientWebSocketResponse:
    """Open a WebSocket within `CONNECT_TIMEOUT_S`.

    `said_in` names the response header in which the vendor explains a refusal. Raises a
    `ProviderError`.
    """
    try:
        with translate(provider):
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                return await http.session.ws_connect(
                    url,
                    headers=headers,
                    heartbeat=HEARTBEAT_S,
                    max_msg_size=MAX_MESSAGE_BYTES,
                    timeout=aiohttp.ClientWSTimeout(ws_close=CLOSE_TIMEOUT_S),
                )
    except ProviderError as error:
        cause = error.__cause__
        if isinstance(cause, aiohttp.WSServerHandshakeError):
            said = str(cause.headers.get(said_in, "")) if cause.headers and said_in else ""
            raise status_error(provider, cause.status, said or cause.message) from cause
        raise


def parse_object(provider: str, message: str | bytes) -> dict[str, Any]:
    """A JSON object, or `ProviderProtocol`."""
    try:
        parsed = msgspec.json.decode(message)
    except (ValueError, RecursionError) as error:
        raise ProviderProtocol(provider, "a message is not JSON") from error
    if not isinstance(parsed, dict):
        raise ProviderProtocol(provider, "a message is not a JSON object")
    return parsed


def to_json(message: Mapping[str, Any]) -> str:
    """One outgoing message."""
    return msgspec.json.encode(message).decode()


def closed_error(
    provider: str, ws: aiohttp.ClientWebSocketResponse, message: aiohttp.WSMessage
) -> ProviderError:
    """The error behind a received message that is neither text nor binary."""
    if message.type is aiohttp.WSMsgType.CLOSE:
        return reason_error(provider, message.extra or "", message.data)
    if message.type is aiohttp.WSMsgType.ERROR and ws.close_code in (1002, 1007, 1009):
        return ProviderProtocol(provider, "a broken WebSocket frame")
    return ProviderUnavailable(provider, "the connection was closed")
