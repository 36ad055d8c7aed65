"""How the peers that are written in Python are served: all alike."""

from __future__ import annotations

import gc
import sys
from collections.abc import Awaitable, Callable

import uvloop
from aiohttp import web

Media = Callable[[web.Request], Awaitable[web.StreamResponse]]


async def _application(media: Media) -> web.Application:
    app = web.Application()
    app.router.add_get("/media", media)
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
    return app


def serve(media: Media) -> None:
    """Serve one call per socket at ``/media``, on the port that the command line names."""
    web.run_app(
        _application(media),
        host="127.0.0.1",
        port=int(sys.argv[1]),
        access_log=None,
        backlog=1024,
        print=lambda *_: None,
        loop=uvloop.new_event_loop(),
    )
