"""Request bodies: whole, limited in size and in time."""

from __future__ import annotations

import asyncio

from aiohttp import web

TIMEOUT_S = 10.0
"""A body that has not arrived by then is not coming."""


async def read_body(request: web.Request, limit: int) -> bytes:
    """The whole body.

    Raises:
        web.HTTPRequestEntityTooLarge: It is longer than `limit` bytes.
        web.HTTPRequestTimeout: It did not arrive in time.
    """
    if (request.content_length or 0) > limit:
        raise web.HTTPRequestEntityTooLarge(limit, request.content_length or 0)
    body = bytearray()
    try:
        async with asyncio.timeout(TIMEOUT_S):
            async for piece in request.content.iter_any():
                body += piece
                if len(body) > limit:
                    raise web.HTTPRequestEntityTooLarge(limit, len(body))
    except TimeoutError as error:
        raise web.HTTPRequestTimeout from error
    return bytes(body)
