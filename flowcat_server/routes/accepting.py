"""More than one new connection in each turn of the loop."""

from __future__ import annotations

import os
import socket
from typing import Any

from aiohttp import web

ACCEPTS = 16
"""Connections in a turn. One that finds nothing to accept costs a system call, and so does each of
the others when somebody connects."""


async def widen(runner: web.AppRunner, backlog: int) -> None:
    """Take up to `ACCEPTS` connections a turn on each address that `runner` listens on.

    libuv, and so uvloop, accepts one connection of a listening socket in a turn of the loop,
    however many wait (https://github.com/libuv/libuv/pull/3696). A server whose turns last 20 ms
    because it is busy with calls would take fifty a second, which are the webhooks and sockets of
    25 calls; the others wait in the kernel, where no lag shows them. So each listening socket is
    listened on several times: duplicates of one socket share its queue.
    """
    for site in list(runner.sites):
        server: Any = site._server
        for listener in server.sockets if server is not None else ():
            for _ in range(ACCEPTS - 1):
                duplicate = socket.socket(fileno=os.dup(listener.fileno()))
                await web.SockSite(runner, duplicate, backlog=backlog).start()
