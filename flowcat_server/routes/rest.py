"""Requests to a carrier's API: described by the carrier, sent here."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import aiohttp
import msgspec
import structlog

from flowcat_server.core.carrier import RestRequest
from flowcat_server.providers.http import Http

log = structlog.get_logger()

ATTEMPTS = 2
TIMEOUT_S = 2.5
"""Of one attempt; all of them fit into the session's time for hanging up."""
MAX_ANSWER_BYTES = 64 * 1024


@dataclass(slots=True, frozen=True)
class Answer:
    """What came of a request."""

    problem: str
    """What went wrong; empty: nothing."""
    again: bool = False
    """Whether the same again may help."""
    body: bytes = b""


async def send(http: Http, request: RestRequest) -> bool:
    """Send it, once more if the carrier is not to be reached or has a fault of its own.

    True if the carrier took it, or says that the call is over already. Never raises.
    """
    for attempt in range(1, ATTEMPTS + 1):
        answer = await ask(http, request, TIMEOUT_S)
        if not answer.problem:
            return True
        log.warning("carrier_request_failed", attempt=attempt, error=answer.problem)
        if not answer.again:
            break
    return False


async def ask(http: Http, request: RestRequest, timeout_s: float) -> Answer:
    """Send it once, and read what the carrier says to it. Never raises."""
    try:
        async with asyncio.timeout(timeout_s):
            if request.token is not None:
                token = await _exchange(http, request.token)
                if token.problem:
                    return token
                request = replace(request, authorization=_bearer(token.body), token=None)
            return await _exchange(http, request)
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        return Answer(str(error) or type(error).__name__, again=True)


async def _exchange(http: Http, request: RestRequest) -> Answer:
    async with http.session.request(
        request.method,
        request.url,
        data=None if request.form is None else _pairs(request.form),
        json=request.json,
        headers=_headers(request),
        allow_redirects=False,
    ) as response:
        body = await _read(response)
        status = response.status
    if status < 300 or status in request.gone_status:
        return Answer("", body=body)
    return Answer(f"HTTP {status}", status >= 500 or status == 429, body)


async def _read(response: aiohttp.ClientResponse) -> bytes:
    """The beginning of the body: what a carrier says of a call is short."""
    body = bytearray()
    async for piece in response.content.iter_any():
        body += piece
        if len(body) > MAX_ANSWER_BYTES:
            response.close()
            break
    return bytes(body[:MAX_ANSWER_BYTES])


def _pairs(form: Mapping[str, str | Sequence[str]]) -> list[tuple[str, str]]:
    return [
        (name, each)
        for name, value in form.items()
        for each in ([value] if isinstance(value, str) else value)
    ]


def _bearer(body: bytes) -> str:
    try:
        fields: Any = msgspec.json.decode(body)
    except (msgspec.MsgspecError, RecursionError, ValueError):
        fields = None
    token = fields.get("access_token") if isinstance(fields, dict) else None
    return f"Bearer {token}" if isinstance(token, str) else ""


def _headers(request: RestRequest) -> dict[str, str]:
    proof = {"Authorization": request.authorization} if request.authorization else {}
    return {**proof, **request.headers}
