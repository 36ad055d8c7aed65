"""OpenAI's Realtime API on loopback, for tests; the official SDK can drive it.

It keeps the vendor's rules that a client can break: one response at a time, no truncation beyond
an item's audio, results only for calls that were made. It hears by loudness and speaks as fast as
the socket takes it.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections import deque
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from aiohttp import WSCloseCode, WSMsgType, web

from flowcat_server.core import audio as sound
from flowcat_server.core.audio import ALAW_8K, MULAW_8K, PCM_24K, AudioFormat

FORMATS = {"audio/pcmu": MULAW_8K, "audio/pcma": ALAW_8K, "audio/pcm": PCM_24K}
LOUD = 500
SILENCE_MS = 200


@dataclass
class Reply:
    """What one response says or calls."""

    text: str = ""
    audio_ms: int = 100
    audio: bytes = b""
    """What it sounds like, in the session's format; else silence of `audio_ms`."""
    calls: list[tuple[str, str]] = field(default_factory=list)
    """Names and JSON arguments."""
    hold: asyncio.Event | None = None
    """Wait for it after the first audio."""
    fail: dict[str, Any] | None = None
    """The response fails with this error."""


class RealtimeServer:
    """``async with RealtimeServer() as server: ... server.base_url``; one session at a time."""

    def __init__(self, key: str = "") -> None:
        self.key = key
        self.replies: deque[Reply] = deque()
        self.hears: deque[str] = deque()
        """Transcripts of the caller's turns."""
        self.received: list[dict[str, Any]] = []
        self.sent: list[dict[str, Any]] = []
        self.refuse: web.Response | None = None
        """Answer every handshake with this."""
        self.mute = asyncio.Event()
        """Set: take everything, answer nothing."""
        self.changed = asyncio.Condition()
        self.closed = asyncio.Event()
        self.base_url = ""
        self.session: dict[str, Any] = {}
        self.headers: dict[str, str] = {}
        self.query: dict[str, str] = {}
        self._ws: web.WebSocketResponse | None = None
        self._runner: web.AppRunner | None = None
        self._count = 0
        self._reset()

    def _reset(self) -> None:
        self._speaking: asyncio.Task[None] | None = None
        self._items: dict[str, int] = {}
        self._calls: set[str] = set()
        self._loud = False
        self._quiet_ms = 0

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_get("/v1/realtime", self._serve)
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.base_url = f"ws://127.0.0.1:{self._runner.addresses[0][1]}/v1"
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    # --- for the test -------------------------------------------------------------------------

    async def got(self, kind: str, count: int = 1) -> dict[str, Any]:
        """Wait for the nth message of a kind."""
        async with asyncio.timeout(5), self.changed:
            await self.changed.wait_for(lambda: len(self.all(kind)) >= count)
        return self.all(kind)[count - 1]

    def all(self, kind: str) -> list[dict[str, Any]]:
        return [message for message in self.received if message["type"] == kind]

    async def say(self, kind: str, **fields: Any) -> None:
        """Send an event, whatever it is."""
        self._count += 1
        event = {"type": kind, "event_id": f"event_{self._count}", **fields}
        self.sent.append(event)
        if self._ws is not None and not self._ws.closed:
            await self._ws.send_str(json.dumps(event))

    async def error(
        self,
        code: str,
        message: str,
        about: str | None = None,
        kind: str = "invalid_request_error",
    ) -> None:
        details = {"type": kind, "code": code, "message": message, "param": None}
        await self.say("error", error={**details, "event_id": about})

    async def send_raw(self, data: str | bytes) -> None:
        if self._ws is not None:
            await (self._ws.send_str(data) if isinstance(data, str) else self._ws.send_bytes(data))

    async def hang_up(self, code: int = WSCloseCode.INTERNAL_ERROR) -> None:
        if self._ws is not None:
            await self._ws.close(code=code)

    def cut(self) -> None:
        """Break the connection without a word."""
        if self._ws is not None and self._ws._req is not None and self._ws._req.transport:
            self._ws._req.transport.abort()

    # --- the vendor ---------------------------------------------------------------------------

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        self.headers = {name.lower(): value for name, value in request.headers.items()}
        self.query = dict(request.query)
        if self.refuse is not None:
            return self.refuse
        if self.key and self.headers.get("authorization") != f"Bearer {self.key}":
            return web.json_response({"error": {"message": "Incorrect API key"}}, status=401)
        self._reset()
        self._ws = web.WebSocketResponse(max_msg_size=1 << 24)
        await self._ws.prepare(request)
        try:
            await self.say("session.created", session=self._described())
            async for message in self._ws:
                if message.type is WSMsgType.TEXT:
                    await self._take(json.loads(message.data))
        finally:
            self.closed.set()
            if self._speaking is not None:
                self._speaking.cancel()
        return self._ws

    def _described(self) -> dict[str, Any]:
        return {"type": "realtime", "id": "sess_1", "object": "realtime.session", **self.session}

    async def _take(self, message: dict[str, Any]) -> None:
        self.received.append(message)
        if not self.mute.is_set():
            about = message.get("event_id")
            kind = message["type"]
            if kind == "session.update":
                self.session = {**self.session, **message["session"]}
                await self.say("session.updated", session=self._described())
            elif kind == "input_audio_buffer.append":
                await self._hear(base64.b64decode(message["audio"], validate=True))
            elif kind == "conversation.item.create":
                await self._create(message["item"], message.get("previous_item_id"), about)
            elif kind == "conversation.item.truncate":
                await self._truncate(message, about)
            elif kind == "conversation.item.delete":
                await self._delete(message["item_id"], about)
            elif kind == "response.create":
                await self._start(about)
            elif kind == "response.cancel":
                await self._cancel("client_cancelled", about)
        async with self.changed:
            self.changed.notify_all()

    def _format(self, way: str) -> AudioFormat:
        declared = self.session.get("audio", {}).get(way, {}).get("format", {})
        return FORMATS[declared.get("type", "audio/pcm")]

    def _detection(self) -> dict[str, Any] | None:
        default = {"type": "server_vad"}
        found: dict[str, Any] | None = (
            self.session.get("audio", {}).get("input", {}).get("turn_detection", default)
        )
        return found

    async def _hear(self, payload: bytes) -> None:
        form, detection = self._format("input"), self._detection()
        if detection is None:
            return
        pcm = sound.decode(payload, form.encoding)
        step = AudioFormat("pcm16", form.sample_rate).bytes_for(20)
        for start in range(0, len(pcm), step):
            if sound.rms(pcm[start : start + step]) > LOUD:
                self._quiet_ms = 0
                if not self._loud:
                    self._loud = True
                    await self._caller_starts(detection)
            elif self._loud:
                self._quiet_ms += 20
                if self._quiet_ms >= SILENCE_MS:
                    self._loud = False
                    await self._caller_stops(detection)

    async def _caller_starts(self, detection: dict[str, Any]) -> None:
        await self.say("input_audio_buffer.speech_started", audio_start_ms=0, item_id="item_user")
        if detection.get("interrupt_response", True) and self._busy():
            await self._cancel("turn_detected", None)

    async def _caller_stops(self, detection: dict[str, Any]) -> None:
        await self.say("input_audio_buffer.speech_stopped", audio_end_ms=0, item_id="item_user")
        await self.say("input_audio_buffer.committed", item_id="item_user", previous_item_id=None)
        text = self.hears.popleft() if self.hears else ""
        kind = "conversation.item.input_audio_transcription"
        about: dict[str, Any] = {"item_id": "item_user", "content_index": 0}
        for word in text.split(" ")[:-1]:
            await self.say(f"{kind}.delta", delta=f"{word} ", **about)
        usage = {"type": "duration", "seconds": 1}
        await self.say(f"{kind}.completed", transcript=text, usage=usage, **about)
        if detection.get("create_response", True) and not self._busy():
            await self._start(None)

    async def _create(self, item: dict[str, Any], previous: str | None, about: str | None) -> None:
        if previous not in (None, "root") and previous not in self._items:
            await self.error("item_not_found", f"no item {previous}", about)
            return
        if item.get("id") in self._items:
            await self.error("item_id_taken", f"there is an item {item['id']}", about)
            return
        if item["type"] == "function_call":
            self._calls.add(item["call_id"])
        if item["type"] == "function_call_output":
            if item["call_id"] not in self._calls:
                await self.error("invalid_tool_call_id", "no such call", about)
                return
            self._calls.discard(item["call_id"])
        self._count += 1
        created = {"id": f"item_{self._count}", "object": "realtime.item", **item}
        self._items[created["id"]] = 0
        await self.say("conversation.item.added", item=created, previous_item_id=previous)

    async def _truncate(self, message: dict[str, Any], about: str | None) -> None:
        item, end = message["item_id"], message["audio_end_ms"]
        if item not in self._items:
            await self.error("item_not_found", "no such item", about)
        elif end > self._items[item]:
            await self.error("invalid_value", f"audio is {self._items[item]} ms", about)
        else:
            self._items[item] = end
            fields = {"item_id": item, "content_index": 0, "audio_end_ms": end}
            await self.say("conversation.item.truncated", **fields)

    async def _delete(self, item: str, about: str | None) -> None:
        if self._items.pop(item, None) is None:
            await self.error("item_not_found", "no such item", about)
        else:
            await self.say("conversation.item.deleted", item_id=item)

    def _busy(self) -> bool:
        return self._speaking is not None and not self._speaking.done()

    async def _start(self, about: str | None) -> None:
        if self._busy():
            code = "conversation_already_has_active_response"
            await self.error(code, "a response is active", about)
            return
        reply = self.replies.popleft() if self.replies else Reply("Yes.")
        self._count += 1
        name = f"resp_{self._count}"
        await self.say("response.created", response=self._response(name, "in_progress"))
        self._speaking = asyncio.create_task(self._speak(name, reply))

    async def _cancel(self, reason: str, about: str | None) -> None:
        if not self._busy() or self._speaking is None:
            await self.error("response_cancel_not_active", "no response is active", about)
            return
        self._speaking.cancel(reason)
        await asyncio.gather(self._speaking, return_exceptions=True)

    async def _speak(self, name: str, reply: Reply) -> None:
        try:
            if reply.fail is not None:
                details = {"type": "failed", "error": reply.fail}
                await self._done(name, "failed", details)
                return
            if reply.text:
                await self._talk(name, reply)
            for index, (function, arguments) in enumerate(reply.calls):
                await self._call(name, index, function, arguments)
            await self._done(name, "completed", None)
        except asyncio.CancelledError as error:
            reason = str(error.args[0]) if error.args else "client_cancelled"
            await self._done(name, "cancelled", {"type": "cancelled", "reason": reason})
            raise

    async def _talk(self, name: str, reply: Reply) -> None:
        self._count += 1
        item = f"item_{self._count}"
        where = {"response_id": name, "item_id": item, "output_index": 0, "content_index": 0}
        form = self._format("output")
        self._items[item] = 0
        words = reply.text.split(" ")
        audio = reply.audio or form.silence(reply.audio_ms)
        step = form.bytes_for(50)
        for index, start in enumerate(range(0, len(audio), step)):
            self._items[item] += form.duration_ms(len(audio[start : start + step]))
            delta = base64.b64encode(audio[start : start + step]).decode()
            await self.say("response.output_audio.delta", delta=delta, **where)
            if index == 0:
                for word in words:
                    text = word if word == words[-1] else f"{word} "
                    await self.say("response.output_audio_transcript.delta", delta=text, **where)
                if reply.hold is not None:
                    await reply.hold.wait()
        await self.say("response.output_audio_transcript.done", transcript=reply.text, **where)
        await self.say("response.output_audio.done", **where)

    async def _call(self, name: str, index: int, function: str, arguments: str) -> None:
        self._count += 1
        call = f"call_{self._count}"
        self._calls.add(call)
        item = {
            "id": f"item_{self._count}",
            "object": "realtime.item",
            "type": "function_call",
            "status": "completed",
            "call_id": call,
            "name": function,
            "arguments": arguments,
        }
        where = {"response_id": name, "output_index": index}
        await self.say(
            "response.function_call_arguments.done",
            item_id=item["id"],
            call_id=call,
            name=function,
            arguments=arguments,
            **where,
        )
        await self.say("response.output_item.done", item=item, **where)

    def _response(self, name: str, status: str) -> dict[str, Any]:
        return {"id": name, "object": "realtime.response", "status": status, "output": []}

    async def _done(self, name: str, status: str, details: dict[str, Any] | None) -> None:
        usage = {
            "input_tokens": 20,
            "output_tokens": 10,
            "total_tokens": 30,
            "input_token_details": {"cached_tokens": 5},
        }
        response = {**self._response(name, status), "status_details": details, "usage": usage}
        await self.say("response.done", response=response)
