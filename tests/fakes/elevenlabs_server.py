"""A fake ElevenLabs: five contexts on a socket, and no patience with a sixth."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import Any

from aiohttp import web

from tests.fakes.vendor_server import VendorServer

PIECE = 40
MOST_CONTEXTS = 5


class ElevenLabsServer(VendorServer):
    """Further trouble: ``cut`` (after `cut_after` words), ``silent`` (out of quota: the end without
    audio), ``slow_tail`` (speaks slowly, whatever is closed), ``odd`` (audio in pieces of seven
    bytes), ``stall`` (one word, then nothing), ``error``, ``busy`` and ``violation`` (close 1008).
    """

    PATHS = ("/v1/text-to-speech/{voice}/multi-stream-input",)

    def __init__(self, trouble: str = "", times: int = 1_000_000, cut_after: int = 1) -> None:
        super().__init__(trouble, times)
        self.cut_after = cut_after
        self.most_contexts = 0
        """The most that ever were open on one socket."""

    async def serve(self, ws: web.WebSocketResponse, request: web.Request, trouble: str) -> None:
        texts: dict[str, str] = {}
        speaking: set[asyncio.Task[None]] = set()
        async for message in ws:
            order = json.loads(message.data)
            self.received.append(order)
            if order.get("close_socket"):
                break
            if trouble == "violation":
                await ws.close(code=1008, message=b"invalid_api_key: not your key")
                break
            if trouble in ("error", "busy"):
                await ws.send_json(failure(order["context_id"], trouble))
                continue
            context = order["context_id"]
            if context not in texts:
                if order.get("text") != " ":
                    await ws.close(code=1008, message=b"the first message must be a space")
                    break
                texts[context] = ""
                self.most_contexts = max(self.most_contexts, len(texts))
                if len(texts) > MOST_CONTEXTS:
                    await ws.close(code=1008, message=b"max_active_conversations")
                    break
            elif "text" in order:
                texts[context] += order["text"]
            if order.get("close_context"):
                task = asyncio.ensure_future(self._speak(ws, request, context, texts, trouble))
                speaking.add(task)
        for task in speaking:
            task.cancel()
        await ws.close()

    async def _speak(
        self,
        ws: web.WebSocketResponse,
        request: web.Request,
        context: str,
        texts: dict[str, str],
        trouble: str,
    ) -> None:
        words = texts[context].split() if trouble != "silent" else []
        for count, word in enumerate(words):
            if trouble == "cut" and count == self.cut_after:
                self.cut(request)
                return
            if trouble == "stall" and count == 1:
                return
            audio = word.encode() * PIECE
            step = 7 if trouble == "odd" else len(audio)
            for start in range(0, len(audio), step):
                spelled = word + " " if start == 0 else ""
                await ws.send_json(speech(context, audio[start : start + step], spelled))
            await asyncio.sleep(0.01 if trouble == "slow_tail" else 0.001)
        del texts[context]
        await ws.send_json({"isFinal": True, "contextId": context})


def speech(context: str, audio: bytes, text: str) -> dict[str, Any]:
    alignment = {
        "chars": list(text),
        "charStartTimesMs": [5 * index for index in range(len(text))],
        "charDurationsMs": [5] * len(text),
    }
    return {
        "audio": base64.b64encode(audio).decode(),
        "contextId": context,
        "alignment": alignment if text else None,
        "normalizedAlignment": alignment if text else None,
    }


def failure(context: str, trouble: str) -> dict[str, Any]:
    if trouble == "busy":
        return {"error": "rate_limited", "message": "slow down", "contextId": context}
    return {"error": "quota_exceeded", "message": "no credit is left", "contextId": context}
