"""A fake Cartesia: many contexts on a socket, word times, cancelling that may come too late."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import Any

from aiohttp import web

from tests.fakes.vendor_server import VendorServer

PIECE = 40
"""A word is spoken as its letters, so many times over: what leaks can be seen."""


class CartesiaServer(VendorServer):
    """Further trouble: ``cut`` (after `cut_after` words), ``silent``, ``slow_tail`` (a cancelled
    context goes on), ``odd`` (audio in pieces of seven bytes), ``stall`` (one word, then nothing),
    ``error`` and ``nameless_error`` (status 402, without a context id), ``busy`` (status 429)."""

    PATHS = ("/tts/websocket",)

    def __init__(self, trouble: str = "", times: int = 1_000_000, cut_after: int = 1) -> None:
        super().__init__(trouble, times)
        self.cut_after = cut_after

    async def serve(self, ws: web.WebSocketResponse, request: web.Request, trouble: str) -> None:
        speaking: dict[str, asyncio.Task[None]] = {}
        async for message in ws:
            order = json.loads(message.data)
            self.received.append(order)
            context = order["context_id"]
            if order.get("cancel"):
                if trouble != "slow_tail" and context in speaking:
                    speaking.pop(context).cancel()
                    await ws.send_json(done(context))
                continue
            if trouble in ("error", "nameless_error", "busy"):
                await ws.send_json(failure(context, trouble))
                continue
            speaking[context] = asyncio.ensure_future(
                self._speak(ws, request, context, order["transcript"], trouble)
            )
        for task in speaking.values():
            task.cancel()

    async def _speak(
        self, ws: web.WebSocketResponse, request: web.Request, context: str, text: str, trouble: str
    ) -> None:
        at = 0.0
        for count, word in enumerate(text.split() if trouble != "silent" else ()):
            if trouble == "cut" and count == self.cut_after:
                self.cut(request)
                return
            if trouble == "stall" and count == 1:
                return
            audio = word.encode() * PIECE
            length = len(audio) / 8000
            await ws.send_json(timestamps(context, word, at, at + length))
            at += length
            step = 7 if trouble == "odd" else len(audio)
            for start in range(0, len(audio), step):
                await ws.send_json(chunk(context, audio[start : start + step]))
            await asyncio.sleep(0.001)
        await ws.send_json(done(context))


def chunk(context: str, audio: bytes) -> dict[str, Any]:
    return {
        "type": "chunk",
        "context_id": context,
        "status_code": 206,
        "done": False,
        "data": base64.b64encode(audio).decode(),
        "step_time": 12.5,
    }


def timestamps(context: str, word: str, start: float, end: float) -> dict[str, Any]:
    return {
        "type": "timestamps",
        "context_id": context,
        "status_code": 206,
        "done": False,
        "word_timestamps": {"words": [word], "start": [start], "end": [end]},
    }


def done(context: str) -> dict[str, Any]:
    return {"type": "done", "context_id": context, "status_code": 200, "done": True}


def failure(context: str, trouble: str) -> dict[str, Any]:
    status = 429 if trouble == "busy" else 402
    message: dict[str, Any] = {
        "type": "error",
        "done": True,
        "status_code": status,
        "title": "On purpose",
        "message": "the account is out of credit" if status == 402 else "too many contexts",
    }
    if trouble != "nameless_error":
        message["context_id"] = context
    return message
