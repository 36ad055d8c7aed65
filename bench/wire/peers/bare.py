"""The least that a Python server can do on this wire: aiohttp, and payloads sent back as they came.

    python -m bench.wire.peers.bare PORT

Messages are cut, not parsed; base64 is passed on undecoded; no pipeline, no clock, no ledger.
"""

from __future__ import annotations

import gc
import sys

import uvloop
from aiohttp import WSMsgType, web

MEDIA = b'{"event":"media"'
PAYLOAD = b'"payload":"'
START = b'{"event":"start"'
ID = b'"streamSid":"'


def between(data: bytes, before: bytes) -> str:
    """The text after `before`, up to the next quote."""
    start = data.index(before) + len(before)
    return data[start : data.index(b'"', start)].decode("ascii")


async def media(request: web.Request) -> web.WebSocketResponse:
    """One call."""
    socket = web.WebSocketResponse(compress=False, decode_text=False, max_msg_size=65536)
    await socket.prepare(request)
    prefix = ""
    while (message := await socket.receive()).type is WSMsgType.TEXT:
        data = message.data
        if data.startswith(MEDIA):
            await socket.send_str(f'{prefix}{between(data, PAYLOAD)}"}}}}')
        elif data.startswith(START):
            prefix = f'{{"event":"media","streamSid":"{between(data, ID)}","media":{{"payload":"'
    return socket


async def application() -> web.Application:
    """The server."""
    app = web.Application()
    app.router.add_get("/media", media)
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
    return app


if __name__ == "__main__":
    web.run_app(
        application(),
        host="127.0.0.1",
        port=int(sys.argv[1]),
        access_log=None,
        backlog=1024,
        print=lambda *_: None,
        loop=uvloop.new_event_loop(),
    )
