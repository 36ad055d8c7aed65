"""A pipeline of seven tasks joined by queues, as frameworks build it; the rest is our server's.

    python -m bench.wire.peers.queues PORT

aiohttp, our reader and writer of the wire, and the same seven hand-overs; each stage is a task that
waits on a bounded `asyncio.Queue`. No clock, no ledger.
"""

from __future__ import annotations

import asyncio

from aiohttp import WSMsgType, web

from bench.wire.peers.serving import serve
from flowcat_server.carriers import twilio
from flowcat_server.core.carrier import Account, CarrierStream, Request, Stopped
from flowcat_server.core.frames import AudioIn, AudioOut

STAGES = 7
MOST = 64
"""Frames that may wait before each stage."""


async def stage(source: asyncio.Queue[AudioIn], target: asyncio.Queue[AudioIn]) -> None:
    """Passes on what comes."""
    while True:
        await target.put(await source.get())


async def speak(
    source: asyncio.Queue[AudioIn], socket: web.WebSocketResponse, stream: CarrierStream
) -> None:
    """The last stage: what was heard is said."""
    while True:
        frame = AudioOut(0, (await source.get()).payload, 0)
        await socket.send_str(str(stream.audio(frame.payload)))


async def media(request: web.Request) -> web.WebSocketResponse:
    """One call."""
    socket = web.WebSocketResponse(compress=False, decode_text=False, max_msg_size=65536)
    await socket.prepare(request)
    stream = twilio.CARRIER.open(Account(), Request("GET", "wss://a.example/ws"))
    queues: list[asyncio.Queue[AudioIn]] = [asyncio.Queue(MOST) for _ in range(STAGES)]
    loop = asyncio.get_running_loop()
    tasks = [loop.create_task(stage(*pair)) for pair in zip(queues, queues[1:], strict=False)]
    tasks.append(loop.create_task(speak(queues[-1], socket, stream)))
    number = 0
    try:
        while (message := await socket.receive()).type is WSMsgType.TEXT:
            fed = stream.feed(message.data)
            if type(fed) is bytes:
                number += 1
                await queues[0].put(AudioIn(fed, number * 20))
            elif isinstance(fed, Stopped):
                break
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return socket


if __name__ == "__main__":
    serve(media)
