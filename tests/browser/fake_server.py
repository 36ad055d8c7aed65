"""A server with flowcat-server's doors and a scripted agent: the page's counterpart in its tests.

It answers offers with a real aiortc peer that hears the caller and speaks a tone, so that the
page's call connects and carries sound. What the agent "does" comes from the test through `emit`.
"""

from __future__ import annotations

import asyncio
import contextlib
import fractions
import io
import json
import time
import wave
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
from aiohttp import WSMsgType, web
from aiortc import (
    MediaStreamTrack,
    RTCConfiguration,
    RTCPeerConnection,
    RTCSessionDescription,
)
from aiortc.mediastreams import MediaStreamError

WEB = Path(__file__).resolve().parents[2] / "web"

CSP = (
    "default-src 'self'; connect-src 'self' ws: wss:; media-src 'self' blob:; style-src 'self'; "
    "script-src 'self'; img-src 'self' data:; frame-ancestors 'none'"
)

RATE = 48000
FRAME = 960
TONE_HZ = 440

SUGGESTIONS = ["What are your opening hours?", "How much is a check-up?", "Book me in for Friday"]

INFO: dict[str, Any] = {
    "name": "flowcat-server",
    "version": "0.1.0",
    "agent": {
        "name": "Willow Lane Clinic",
        "description": "The receptionist of a small clinic",
        "suggestions": SUGGESTIONS,
    },
    "topology": {
        "mode": "cascaded",
        "stt": "whisper/tiny.en",
        "llm": "intents/minilm",
        "tts": "piper/joe",
        "vad": "silero",
    },
    "demo": True,
    "limits": {"max_calls": 20, "live": 0},
    "webrtc": {"ice_servers": []},
    "secure": True,
}

LATENCY = {
    "endpointing": 310,
    "stt_tail": 95,
    "llm_first_token": 22,
    "llm_first_sentence": 14,
    "tts_first_audio": 138,
    "send": 21,
    "total": 600,
}


class Tone(MediaStreamTrack):
    """The agent's voice: 20 ms frames, a tone while `speaking`."""

    kind = "audio"

    def __init__(self) -> None:
        super().__init__()
        self.speaking = False
        self._start: float | None = None
        self._frames = 0

    async def recv(self) -> av.AudioFrame:
        if self.readyState != "live":
            raise MediaStreamError
        if self._start is None:
            self._start = time.monotonic()
        delay = self._start + self._frames * FRAME / RATE - time.monotonic()
        if delay > 0:
            await asyncio.sleep(delay)
        at = np.arange(FRAME) + self._frames * FRAME
        level = 9000 if self.speaking else 0
        samples = (np.sin(2 * np.pi * TONE_HZ * at / RATE) * level).astype("<i2")
        frame = av.AudioFrame.from_ndarray(samples.reshape(1, -1), format="s16", layout="mono")
        frame.sample_rate = RATE
        frame.pts = self._frames * FRAME
        frame.time_base = fractions.Fraction(1, RATE)
        self._frames += 1
        return frame


class FakeCall:
    """One call: its peer, its socket and what came in."""

    def __init__(self, number: int, sdp: str) -> None:
        self.pc_id = f"pc-{number}"
        self.call_id = f"call-{number}"
        self.offer = sdp
        self.peer = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self.tone = Tone()
        self.messages: list[dict[str, Any]] = []
        self.hung_up = False
        self.heard: list[npt.NDArray[np.int16]] = []
        self.socket: web.WebSocketResponse | None = None
        self.sockets = 0
        self.deaf = False
        """What the page writes is lost on the way, as into a socket that has broken."""
        self.lost: list[dict[str, Any]] = []
        self.backlog: list[str] = []
        self.tasks: list[asyncio.Task[None]] = []

    @property
    def lines(self) -> list[dict[str, Any]]:
        """What was typed and keyed."""
        return [told for told in self.messages if told["type"] in ("text", "digit")]

    async def answer(self) -> str:
        self.peer.addTrack(self.tone)

        @self.peer.on("track")
        def _(track: MediaStreamTrack) -> None:
            self.tasks.append(asyncio.create_task(self._listen(track)))

        await self.peer.setRemoteDescription(RTCSessionDescription(self.offer, "offer"))
        await self.peer.setLocalDescription(await self.peer.createAnswer())
        return str(self.peer.localDescription.sdp)

    async def _listen(self, track: MediaStreamTrack) -> None:
        with contextlib.suppress(MediaStreamError):
            while True:
                frame = await track.recv()
                assert isinstance(frame, av.AudioFrame)
                self.heard.append(frame.to_ndarray().reshape(-1)[::2].astype(np.int16))

    def loudest(self) -> int:
        """Peak of what was heard in the last half second."""
        return max((int(np.abs(frame).max()) for frame in self.heard[-25:]), default=0)

    async def emit(self, name: str, /, **fields: Any) -> None:
        """Sends one event; kept until the page listens."""
        text = json.dumps({"type": name, "at_ms": 0, **fields})
        if self.socket is None or self.socket.closed:
            self.backlog.append(text)
        else:
            await self.socket.send_str(text)

    async def close(self) -> None:
        for task in self.tasks:
            task.cancel()
        if self.socket is not None:
            await self.socket.close()
        await self.peer.close()


class FakeServer:
    """The doors. Change its attributes to change what it answers next."""

    def __init__(self) -> None:
        self.info: dict[str, Any] = json.loads(json.dumps(INFO))
        self.refuse: web.Response | None = None
        """Answer of the next offers instead of a call."""
        self.mute_answer = False
        """Answers offers with a peer that is not there: no packet ever comes."""
        self.calls: list[FakeCall] = []
        self.records: dict[str, dict[str, Any]] = {}
        self.deleted: list[str] = []
        self.beacons: list[str] = []
        self.ranges: list[str] = []
        self.url = ""
        self._runner: web.AppRunner | None = None

    @property
    def call(self) -> FakeCall:
        """The latest call."""
        return self.calls[-1]

    async def emit(self, name: str, /, **fields: Any) -> None:
        await self.call.emit(name, **fields)

    async def start(self) -> None:
        app = web.Application(middlewares=[_secure])
        app.add_routes(
            [
                web.get("/", self._index),
                web.static("/web", WEB),
                web.get("/api/info", self._info),
                web.post("/webrtc/offer", self._offer),
                web.get("/webrtc/events/{pc_id}", self._events),
                web.post("/webrtc/hangup/{pc_id}", self._hangup),
                web.get("/api/calls", self._list),
                web.get("/api/calls/{id}", self._show),
                web.delete("/api/calls/{id}", self._delete),
                web.get("/api/calls/{id}/recording", self._recording),
            ]
        )
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}/"

    async def stop(self) -> None:
        """As a killed server: sockets close, nothing is said."""
        for call in self.calls:
            await call.close()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _index(self, request: web.Request) -> web.StreamResponse:
        return web.FileResponse(WEB / "index.html")

    async def _info(self, request: web.Request) -> web.Response:
        return web.json_response(self.info)

    async def _offer(self, request: web.Request) -> web.Response:
        if self.refuse is not None:
            answer, self.refuse = self.refuse, None
            return answer
        body = await request.json()
        assert body["client"] == "page"
        call = FakeCall(len(self.calls) + 1, body["sdp"])
        self.calls.append(call)
        sdp = await call.answer()
        if self.mute_answer:
            await call.peer.close()
        return web.json_response({"sdp": sdp, "pc_id": call.pc_id, "call_id": call.call_id})

    async def _events(self, request: web.Request) -> web.StreamResponse:
        call = next(each for each in self.calls if each.pc_id == request.match_info["pc_id"])
        assert request.query["format"] == "native"
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        agent = self.info["agent"]["name"]
        hello = {"type": "hello", "call_id": call.call_id, "agent": agent}
        await socket.send_json({**hello, "taken": len(call.lines)})
        for text in call.backlog:
            await socket.send_str(text)
        call.backlog.clear()
        call.socket = socket
        call.sockets += 1
        async for message in socket:
            if message.type is not WSMsgType.TEXT:
                break
            told = json.loads(message.data)
            if call.deaf:
                call.lost.append(told)
                continue
            if told["type"] == "ping":
                await socket.send_json({"type": "pong"})
                continue
            call.messages.append(told)
            if told["type"] == "hangup":
                call.hung_up = True
                await call.emit("call_ended", reason="caller.hung_up")
        return socket

    async def _hangup(self, request: web.Request) -> web.Response:
        self.beacons.append(request.match_info["pc_id"])
        return web.Response()

    async def _list(self, request: web.Request) -> web.Response:
        calls = [record["call"] for record in self.records.values()]
        return web.json_response({"calls": calls[: int(request.query["limit"])]})

    async def _show(self, request: web.Request) -> web.Response:
        record = self.records.get(request.match_info["id"])
        return web.json_response(record) if record else web.Response(status=404)

    async def _delete(self, request: web.Request) -> web.Response:
        self.deleted.append(request.match_info["id"])
        self.records.pop(request.match_info["id"], None)
        return web.Response(status=204)

    async def _recording(self, request: web.Request) -> web.Response:
        asked = request.headers.get("Range", "")
        self.ranges.append(asked)
        sound = recording()
        if not asked:
            return web.Response(body=sound, content_type="audio/wav")
        first, _, last = asked.removeprefix("bytes=").partition("-")
        start, end = int(first), min(int(last or len(sound) - 1), len(sound) - 1)
        return web.Response(
            status=206,
            body=sound[start : end + 1],
            content_type="audio/wav",
            headers={"Content-Range": f"bytes {start}-{end}/{len(sound)}"},
        )


@web.middleware
async def _secure(request: web.Request, handler: Any) -> web.StreamResponse:
    response: web.StreamResponse = await handler(request)
    response.headers["Content-Security-Policy"] = CSP
    return response


@contextlib.asynccontextmanager
async def serving() -> AsyncIterator[FakeServer]:
    """A running server for one test."""
    server = FakeServer()
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


def recording(seconds: float = 12.0, rate: int = 8000) -> bytes:
    """Stereo, caller left, agent right: bursts like speech, turn by turn."""
    at = np.arange(int(seconds * rate)) / rate
    syllables = np.abs(np.sin(2 * np.pi * 1.9 * at)) * np.abs(np.sin(2 * np.pi * 0.37 * at + 1))
    tone = np.sin(2 * np.pi * 190 * at) * 12000 * syllables
    agent = (at % 6) > 3
    stereo = np.stack([np.where(agent, 0, tone), np.where(agent, tone, 0)], axis=1)
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(2)
        out.setsampwidth(2)
        out.setframerate(rate)
        out.writeframes(stereo.astype("<i2").tobytes())
    return file.getvalue()


def record(
    identity: str, turns: Sequence[dict[str, Any]], *, events: Sequence[Any] = (), **fields: Any
) -> dict[str, Any]:
    """A call as `/api/calls/{id}` tells it."""
    call = {
        "id": identity,
        "agent": "Willow Lane Clinic",
        "channel": "webrtc",
        "from": "",
        "to": "",
        "started_at": "2026-11-03T10:15:00Z",
        "duration_ms": 12000,
        "ended_reason": "agent.ended",
        "turns": len(turns),
        "recording": True,
        "live": False,
        **fields,
    }
    return {"call": call, "turns": list(turns), "events": list(events), "variables": {}}
