"""Request bodies: whole, limited in size and in time."""

from __future__ import annotations

import asyncio
from contextvars import ContextVar

from aiohttp import web

TIMEOUT_S = 10.0
"""A body that has not arrived by then is not coming."""


READ: ContextVar[bytes | None] = ContextVar("body", default=None)
"""The body of the request that is being handled, where it was read on the way to its handler."""


async def read_body(request: web.Request, limit: int) -> bytes:
    """The whole body.

    Raises:
        web.HTTPRequestEntityTooLarge: It is longer than `limit` bytes.
        web.HTTPRequestTimeout: It did not arrive in time.
    """
    read = READ.get()
    size = len(read) if read is not None else request.content_length or 0
    if size > limit:
        raise web.HTTPRequestEntityTooLarge(limit, size)
    if read is not None:
        return read
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
