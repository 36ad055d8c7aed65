"""A fake Deepgram: Nova and Flux recognition, Aura synthesis.

It really listens: audio made by `say` holds words that it can read back, so that what is lost on
the way is lost in the transcript, and what is sent twice is heard twice.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from typing import Any

from aiohttp import WSMsgType, web

from flowcat_server.core.audio import MULAW_8K
from tests.fakes.vendor_server import VendorServer

WORD_MS = 100
GAP_MS = 20
NUMBERS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
VOCABULARY = [*NUMBERS, "i", "want", "a", "table", "for", "please"]
RATE = 8000
SILENCE = 0xFF


def say(text: str) -> bytes:
    """Mu-law audio that the fake understands: a constant byte per word, and gaps."""
    gap = MULAW_8K.silence(GAP_MS)
    words = (
        bytes([VOCABULARY.index(word) + 1]) * MULAW_8K.bytes_for(WORD_MS) for word in text.split()
    )
    return b"".join(word + gap for word in words)


def read(audio: bytes) -> list[tuple[str, float, float]]:
    """The words in audio and when they are, in seconds. Words cut short are not understood."""
    words, at = [], 0
    for value, run in itertools.groupby(audio):
        length = sum(1 for _ in run)
        if value != SILENCE and length >= MULAW_8K.bytes_for(WORD_MS - 20):
            words.append((VOCABULARY[value - 1], at / RATE, (at + length) / RATE))
        at += length
    return words


class DeepgramServer(VendorServer):
    """Further trouble: ``cut`` (after `cut_after` bytes or audio pieces), ``deaf`` (no reply to
    ``Finalize``), ``silent`` (synthesis without audio), ``slow_tail`` (audio goes on after
    ``Clear``), ``flush_limit``, ``error``."""

    PATHS = ("/v1/listen", "/v2/listen", "/v1/speak")

    def __init__(self, trouble: str = "", times: int = 1_000_000, cut_after: int = 0) -> None:
        super().__init__(trouble, times)
        self.cut_after = cut_after

    async def serve(self, ws: web.WebSocketResponse, request: web.Request, trouble: str) -> None:
        handler = {"/v1/listen": self._nova, "/v2/listen": self._flux, "/v1/speak": self._aura}
        await handler[request.path](ws, request, trouble)

    # --- recognition --------------------------------------------------------------------------

    async def _nova(self, ws: web.WebSocketResponse, request: web.Request, trouble: str) -> None:
        audio, start = b"", 0
        async for message in ws:
            self.received.append(message.data)
            if message.type is WSMsgType.BINARY:
                audio += message.data
                if trouble == "cut" and len(audio) >= self.cut_after:
                    self.cut(request)
                    return
                if read(audio[start:]):
                    await ws.send_json(nova_results(audio, start, final=False))
                continue
            kind = json.loads(message.data)["type"]
            if kind == "Finalize" and trouble != "deaf":
                await ws.send_json(nova_results(audio, start, final=True, from_finalize=True))
                start = len(audio)
            elif kind == "CloseStream":
                await ws.send_json(METADATA)
                await ws.close()

    async def _flux(self, ws: web.WebSocketResponse, request: web.Request, trouble: str) -> None:
        numbers = itertools.count()
        await ws.send_json({"type": "Connected", "request_id": "r", "sequence_id": next(numbers)})
        if trouble == "error":
            await ws.send_json(
                {
                    "type": "Error",
                    "sequence_id": next(numbers),
                    "code": "INTERNAL_SERVER_ERROR",
                    "description": "on purpose",
                }
            )
        audio, start, turn, told = b"", 0, 0, 0
        async for message in ws:
            self.received.append(message.data)
            if message.type is WSMsgType.BINARY:
                audio += message.data
                if trouble == "cut" and len(audio) >= self.cut_after:
                    self.cut(request)
                    return
                while told + 2000 <= len(audio):
                    told += 2000
                    await ws.send_json(flux_turn(next(numbers), "Update", turn, audio, start, told))
                continue
            kind = json.loads(message.data)["type"]
            if kind == "ForceEndTurn" and read(audio[start:told]):
                await ws.send_json(
                    flux_turn(next(numbers), "EndOfTurn", turn, audio, start, told, "manual")
                )
                start, turn = told, turn + 1
            elif kind == "CloseStream":
                await ws.close()

    # --- synthesis ----------------------------------------------------------------------------

    async def _aura(self, ws: web.WebSocketResponse, request: web.Request, trouble: str) -> None:
        await ws.send_json(
            {
                "type": "Metadata",
                "request_id": "r",
                "model_name": request.query["model"],
                "model_version": "1",
                "model_uuid": "u",
            }
        )
        text, speaking = "", None
        flushes = itertools.count()
        async for message in ws:
            self.received.append(message.data)
            order = json.loads(message.data)
            if order["type"] == "Speak":
                text += order["text"]
            elif order["type"] == "Flush":
                if trouble == "flush_limit":
                    await ws.send_json(
                        {
                            "type": "Warning",
                            "code": "TOO_MANY_FLUSHES",
                            "description": "Flush limit",
                        }
                    )
                    continue
                speaking = asyncio.ensure_future(
                    self._speak(ws, request, text, next(flushes), trouble)
                )
                text = ""
            elif order["type"] == "Clear":
                if speaking is not None:
                    if trouble == "slow_tail":
                        await speaking
                    speaking.cancel()
                await ws.send_json({"type": "Cleared", "sequence_id": 0})
            elif order["type"] == "Close":
                await ws.close()
        if speaking is not None:
            speaking.cancel()

    async def _speak(
        self, ws: web.WebSocketResponse, request: web.Request, text: str, number: int, trouble: str
    ) -> None:
        """One piece per word; its bytes are the word's letters, so that leaks can be seen."""
        for count, word in enumerate(text.split() if trouble != "silent" else ()):
            if trouble == "cut" and count == self.cut_after:
                self.cut(request)
                return
            await ws.send_bytes(word.encode() * 40)
            await asyncio.sleep(0.001)
        await ws.send_json({"type": "Flushed", "sequence_id": number})


METADATA = {
    "type": "Metadata",
    "transaction_key": "deprecated",
    "request_id": "r",
    "sha256": "s",
    "created": "2026-11-01T00:00:00Z",
    "duration": 0.0,
    "channels": 1,
}


def nova_results(
    audio: bytes, start: int, *, final: bool, from_finalize: bool = False
) -> dict[str, Any]:
    """A ``Results`` message about everything from byte `start` on."""
    words = read(audio[start:])
    base = start / RATE
    return {
        "type": "Results",
        "channel_index": [0, 1],
        "start": base,
        "duration": (len(audio) - start) / RATE,
        "is_final": final,
        "speech_final": from_finalize,
        "from_finalize": from_finalize,
        "channel": {
            "alternatives": [
                {
                    "transcript": " ".join(word for word, _, _ in words),
                    "confidence": 0.99,
                    "words": [
                        {
                            "word": word,
                            "punctuated_word": word,
                            "start": base + begin,
                            "end": base + end,
                            "confidence": 0.99,
                        }
                        for word, begin, end in words
                    ],
                }
            ]
        },
        "metadata": {
            "request_id": "r",
            "model_info": {"name": "general-nova-3", "version": "1", "arch": "nova-3"},
            "model_uuid": "u",
        },
    }


def flux_turn(
    number: int, event: str, turn: int, audio: bytes, start: int, end: int, trigger: str = ""
) -> dict[str, Any]:
    """A ``TurnInfo`` message."""
    words = [word for word, _, _ in read(audio[start:end])]
    message: dict[str, Any] = {
        "type": "TurnInfo",
        "request_id": "r",
        "sequence_id": number,
        "event": event,
        "turn_index": turn,
        "audio_window_start": start / RATE,
        "audio_window_end": end / RATE,
        "transcript": " ".join(words),
        "words": [{"word": word, "confidence": 0.9} for word in words],
        "end_of_turn_confidence": 0.5,
    }
    if trigger:
        message["trigger"] = trigger
    return message
