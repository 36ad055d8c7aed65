"""Requests to a carrier's API while a call ends."""

from __future__ import annotations

import asyncio

import aiohttp
import structlog

from flowcat_server.core.carrier import RestRequest
from flowcat_server.providers.http import Http

log = structlog.get_logger()

ATTEMPTS = 2
TIMEOUT_S = 2.5
"""Of one attempt; all of them fit into the session's time for hanging up."""


async def send(http: Http, request: RestRequest) -> bool:
    """Send it, once more if the carrier is not to be reached or has a fault of its own.

    True if the carrier took it, or says that the call is over already. Never raises.
    """
    for attempt in range(1, ATTEMPTS + 1):
        problem, again = await _try(http, request)
        if not problem:
            return True
        log.warning("carrier_request_failed", attempt=attempt, error=problem)
        if not again:
            break
    return False


async def _try(http: Http, request: RestRequest) -> tuple[str, bool]:
    """What went wrong (empty: nothing), and whether the same again may help."""
    try:
        async with (
            asyncio.timeout(TIMEOUT_S),
            http.session.request(
                request.method,
                request.url,
                data=None if request.form is None else dict(request.form),
                json=request.json,
                headers=_headers(request),
                allow_redirects=False,
            ) as response,
        ):
            status = response.status
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        return str(error) or type(error).__name__, True
    if status < 300 or status in request.gone_status:
        return "", False
    return f"HTTP {status}", status >= 500 or status == 429


def _headers(request: RestRequest) -> dict[str, str]:
    proof = {"Authorization": request.authorization} if request.authorization else {}
    return {**proof, **request.headers}
