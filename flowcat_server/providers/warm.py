"""Opens a connection before it is needed: name look-up, TCP and TLS cost 100 to 600 ms."""

from __future__ import annotations

import asyncio

import aiohttp
import structlog
from yarl import URL

from flowcat_server.providers.faults import read_body
from flowcat_server.providers.http import Http

WARM_TIMEOUT_S = 3.0

log = structlog.get_logger()


async def warm(http: Http, provider: str, url: URL) -> bool:
    """Leave an open connection to the host of `url` in the pool; say whether it worked.

    A connection only stays in the pool if a request went over it, so one is made that costs
    nothing: ``GET /`` without a key, whose answer, any answer, is not looked at. Best effort,
    bounded by `WARM_TIMEOUT_S`.
    """
    try:
        async with (
            asyncio.timeout(WARM_TIMEOUT_S),
            http.session.get(url.origin(), allow_redirects=False) as response,
        ):
            # Only a connection whose answer was read to its end is kept.
            await read_body(response)
            return True
    except (TimeoutError, aiohttp.ClientError, OSError, ValueError) as error:
        log.info("provider_not_warm", provider=provider, reason=type(error).__name__)
        return False
