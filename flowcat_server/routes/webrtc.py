"""Calls from browsers: offer and answer, the events socket, the beacon of a closing page."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import structlog
from aiohttp import WSMsgType, web

from flowcat_server.calls import Calls, Incoming
from flowcat_server.core import ended
from flowcat_server.errors import CallRefused, TransportError
from flowcat_server.routes.events import DIALECTS, EventFeed, encode
from flowcat_server.transports.webrtc import Offers

log = structlog.get_logger()

MAX_OFFER_BYTES = 64 * 1024
MAX_TEXT_CHARS = 2_000
MAX_COMMAND_BYTES = 16 * 1024
KEYS = frozenset("0123456789*#ABCD")
REFUSALS = {
    "full": "All lines are busy. Please try again in a moment.",
    "draining": "The server is being restarted. Please try again in a moment.",
}


@dataclass(slots=True)
class _Peer:
    """A browser's call."""

    call_id: str
    feed: EventFeed


class WebRtcDoor:
    """``/webrtc/offer``, ``/webrtc/events/{pc_id}``, ``/webrtc/hangup/{pc_id}``."""

    def __init__(self, calls: Calls, offers: Offers) -> None:
        self._calls = calls
        self._offers = offers
        self._peers: dict[str, _Peer] = {}

    def routes(self) -> Sequence[web.AbstractRouteDef]:
        """The door's routes."""
        return [
            web.post("/webrtc/offer", self.offer),
            web.get("/webrtc/events/{pc_id}", self.events),
            web.post("/webrtc/hangup/{pc_id}", self.hang_up),
        ]

    async def offer(self, request: web.Request) -> web.Response:
        """Answer an SDP offer and start the call behind it."""
        body = await _json(request)
        sdp = body.get("sdp")
        if not isinstance(sdp, str) or not sdp:
            raise web.HTTPUnprocessableEntity(text='the body must be {"sdp": "..."}')
        pc_id = body.get("pc_id")
        if pc_id is not None and (not isinstance(pc_id, str) or pc_id not in self._peers):
            pc_id = None
        restart = pc_id is not None
        try:
            reservation = None if restart else self._calls.reserve()
        except CallRefused as error:
            return _refused(error.reason)
        try:
            answer = await self._offers.accept(
                sdp, pc_id=pc_id, restart=restart, remote=request.remote or ""
            )
        except CallRefused as error:
            if reservation is not None:
                reservation.release()
            return _refused(error.reason)
        except TransportError as error:
            if reservation is not None:
                reservation.release()
            raise web.HTTPUnprocessableEntity(text=str(error)) from error
        except asyncio.CancelledError:
            if reservation is not None:
                reservation.release()
            raise
        if reservation is not None:
            feed = EventFeed()
            call_id, task = self._calls.start(
                reservation,
                answer.transport,
                Incoming(channel="webrtc", variables={"run_id": answer.pc_id}),
                subscribers=[feed.publish],
            )
            self._peers[answer.pc_id] = _Peer(call_id, feed)
            task.add_done_callback(self._forget(answer.pc_id))
        return web.json_response(
            {
                "sdp": answer.sdp,
                "type": "answer",
                "pc_id": answer.pc_id,
                "call_id": self._peers[answer.pc_id].call_id,
            }
        )

    def _forget(self, pc_id: str) -> Callable[[asyncio.Task[None]], None]:
        """Drop the peer when its call is over; a reader that is connected keeps its feed."""

        def forget(task: asyncio.Task[None]) -> None:
            del task
            self._peers.pop(pc_id, None)

        return forget

    async def hang_up(self, request: web.Request) -> web.Response:
        """The page is being closed or its user hung up."""
        peer = self._peers.get(request.match_info["pc_id"])
        session = self._calls.live.get(peer.call_id) if peer else None
        if session is not None:
            session.end(ended.CALLER_HUNG_UP)
        return web.Response(status=204)

    async def events(self, request: web.Request) -> web.WebSocketResponse:
        """Stream the call's events and take the page's commands. One reader per call."""
        peer = self._peers.get(request.match_info["pc_id"])
        dialect = request.query.get("format", "flowcat")
        if peer is None or peer.feed.taken or dialect not in DIALECTS:
            raise web.HTTPNotFound
        peer.feed.taken = True
        socket = web.WebSocketResponse(heartbeat=15, max_msg_size=MAX_COMMAND_BYTES)
        await socket.prepare(request)
        if dialect == "native":
            hello = {"type": "hello", "call_id": peer.call_id}
            await socket.send_str(encode({**hello, "agent": self._calls.parts.profile.name}))
        try:
            async with asyncio.TaskGroup() as tasks:
                sender = tasks.create_task(self._send(socket, peer.feed, dialect))
                async for message in socket:
                    if message.type is WSMsgType.TEXT:
                        await self._command(socket, peer, message.data)
                sender.cancel()
        finally:
            peer.feed.taken = False
        return socket

    async def _send(self, socket: web.WebSocketResponse, feed: EventFeed, dialect: str) -> None:
        translate = DIALECTS[dialect]
        try:
            while (event := await feed.next()) is not None:
                for message in translate(event):
                    await socket.send_str(encode(message))
            await socket.close()
        except ConnectionError:
            return

    async def _command(self, socket: web.WebSocketResponse, peer: _Peer, data: str) -> None:
        session = self._calls.live.get(peer.call_id)
        try:
            command = msgspec.json.decode(data, type=dict[str, Any])
        except (msgspec.MsgspecError, RecursionError):
            return
        match command:
            case {"type": "ping"}:
                await socket.send_str('{"type":"pong"}')
            case {"type": "text", "text": str(text)} if session is not None:
                session.receive_text(text[:MAX_TEXT_CHARS])
            case {"type": "digit", "digit": str(digit)} if session is not None and digit in KEYS:
                session.receive_digit(digit)
            case {"type": "hangup"} if session is not None:
                session.end(ended.CALLER_HUNG_UP)
            case _:
                pass


async def _json(request: web.Request) -> dict[str, Any]:
    if (request.content_length or 0) > MAX_OFFER_BYTES:
        raise web.HTTPRequestEntityTooLarge(MAX_OFFER_BYTES, request.content_length or 0)
    raw = await request.content.read(MAX_OFFER_BYTES + 1)
    if len(raw) > MAX_OFFER_BYTES:
        raise web.HTTPRequestEntityTooLarge(MAX_OFFER_BYTES, len(raw))
    try:
        return msgspec.json.decode(raw, type=dict[str, Any])
    except (msgspec.MsgspecError, RecursionError) as error:
        raise web.HTTPUnprocessableEntity(text="the body is not a JSON object") from error


def _refused(reason: str) -> web.Response:
    return web.json_response({"error": reason, "message": REFUSALS.get(reason, reason)}, status=503)
