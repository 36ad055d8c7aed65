"""The least that this server's own media socket can do: the bare echo on `MediaSocket`.

    python -m bench.wire.peers.direct PORT

What it costs less than the whole server is what the pipeline costs.
"""

from __future__ import annotations

from aiohttp import WSMsgType, web

from bench.wire.peers.bare import ID, MEDIA, PAYLOAD, START, between
from bench.wire.peers.serving import serve
from flowcat_server.transports.media_socket import MediaSocket


async def media(request: web.Request) -> web.WebSocketResponse:
    """One call."""
    socket = MediaSocket()
    await socket.prepare(request)
    prefix = ""

    def take(data: bytes, binary: bool) -> None:
        nonlocal prefix
        del binary
        if data.startswith(MEDIA):
            socket.post(f'{prefix}{between(data, PAYLOAD)}"}}}}')
        elif data.startswith(START):
            prefix = f'{{"event":"media","streamSid":"{between(data, ID)}","media":{{"payload":"'

    diverted = False
    while True:
        diverted = diverted or socket.divert(take)
        message = await socket.receive()
        if message.type is not WSMsgType.TEXT:
            return socket
        take(message.data, binary=False)


if __name__ == "__main__":
    serve(media)
