"""The least that a Python server can do on this wire: aiohttp, and payloads sent back as they came.

    python -m bench.wire.peers.bare PORT

Messages are cut, not parsed; base64 is passed on undecoded; no pipeline, no clock, no ledger.
"""

from __future__ import annotations

from aiohttp import WSMsgType, web

from bench.wire.peers.serving import serve

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


if __name__ == "__main__":
    serve(media)
