"""HTTP connections that ask for nothing: few, and not for long.

Whoever connects costs memory and a file descriptor before anything is known of them. What comes
after a whole request is limited by the doors.
"""

from __future__ import annotations

import asyncio

import structlog
from aiohttp import web

log = structlog.get_logger()

FIRST_REQUEST_S = 10.0
"""The head of the first request has to be complete by then."""
KEEP_ALIVE_S = 75.0
"""How long a connection may rest between requests: longer than the proxies before us keep theirs,
so that it is they who close (60 s is usual)."""
MAX_SILENT = 1024
"""Connections without a request; when there are more, the oldest are closed."""
LOOK_S = 1.0


def app_runner(app: web.Application, *, shutdown_timeout: float) -> web.AppRunner:
    """Serves the doors.

    Bodies are not unpacked: nothing that asks us compresses, and a few bytes could be unpacked to
    any number of them.
    """
    return web.AppRunner(
        app,
        access_log=None,
        handle_signals=False,
        shutdown_timeout=shutdown_timeout,
        keepalive_timeout=KEEP_ALIVE_S,
        auto_decompress=False,
    )


async def watch_connections(server: web.Server) -> None:
    """Close what is silent for too long, or too much, until cancelled. One task of the server."""
    loop = asyncio.get_running_loop()
    since: dict[web.RequestHandler, float] = {}
    while True:
        now = loop.time()
        silent = (each for each in server.connections if not _has_asked(each))
        since = {each: since.get(each, now) for each in silent}
        by_age = sorted(since, key=since.__getitem__)
        late = sum(now - at >= FIRST_REQUEST_S for at in since.values())
        closed = by_age[: max(late, len(by_age) - MAX_SILENT)]
        for each in closed:
            each.force_close()
            del since[each]
        if closed:
            log.warning("silent_connections_closed", closed=len(closed), left=len(since))
        await asyncio.sleep(LOOK_S)


def _has_asked(connection: web.RequestHandler) -> bool:
    """Whether there has been a request. aiohttp counts them, and does not say so in public."""
    return getattr(connection, "_request_count", 1) > 0
