"""Calls from browsers: offer and answer, the events socket, the beacon of a closing page."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import msgspec
import structlog
from aiohttp import WSMsgType, web

from flowcat_server.calls import Calls, Incoming
from flowcat_server.core import ended
from flowcat_server.core.events import CallEvent, CallStarted
from flowcat_server.errors import CallRefused, TransportError
from flowcat_server.places import Reservation
from flowcat_server.routes.bodies import read_body
from flowcat_server.routes.events import DIALECTS, EventFeed, encode
from flowcat_server.session import Subscriber
from flowcat_server.transports.webrtc import Answer, BadOffer, Offers

log = structlog.get_logger()

MAX_OFFER_BYTES = 64 * 1024
MAX_TEXT_CHARS = 2_000
MAX_COMMAND_BYTES = 16 * 1024
HEARTBEAT_S = 5.0
"""A reader that is gone must be noticed before its page comes back, which is after 12 s."""
MAX_EARLY = 16
"""What a page says before its call has connected; more is dropped."""
LINGER_S = 10.0
"""How long the events of an ended call wait for a page that has lost its socket."""
KEYS = frozenset("0123456789*#ABCD")
REFUSALS = {
    "full": "All lines are busy. Please try again in a moment.",
    "overloaded": "The server is very busy. Please try again in a moment.",
    "draining": "The server is being restarted. Please try again in a moment.",
}


@dataclass(slots=True, eq=False)
class _Reader:
    """A socket that is given a call's events."""

    transport: asyncio.Transport | None
    sender: asyncio.Task[None] | None = None

    def drop(self) -> None:
        """Another one takes its place."""
        if self.sender is not None:
            self.sender.cancel()
        if self.transport is not None:
            self.transport.abort()


@dataclass(slots=True)
class _Peer:
    """A browser's call."""

    call_id: str
    agent: str
    feed: EventFeed
    reader: _Reader | None = None
    taken: int = 0
    """Lines and keys that came. A page whose socket broke sends the others once more."""
    begun: bool = False
    """The call's pipeline runs."""
    early: list[dict[str, Any]] = field(default_factory=list)
    """Text and keys from before that."""


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
            web.get("/webrtc/events/{pc_id}", self.events, allow_head=False),
            web.post("/webrtc/hangup/{pc_id}", self.hang_up),
        ]

    async def offer(self, request: web.Request) -> web.Response:
        """Answer an SDP offer and start the call behind it."""
        body = await _json(request)
        sdp = body.get("sdp")
        if not isinstance(sdp, str) or not sdp:
            raise web.HTTPUnprocessableEntity(text='the body must be {"sdp": "..."}')
        agent = self._agent(body.get("agent") or request.query.get("agent", ""))
        pc_id = body.get("pc_id")
        known = None
        if isinstance(pc_id, str) and self._offers.get(pc_id) is not None:
            known = self._peers.get(pc_id)
        restart = known is not None and body.get("restart_pc") is True
        try:
            reservation = None if known is not None else self._calls.reserve()
        except CallRefused as error:
            return self._refused(error.reason)
        try:
            answer = await self._offers.accept(
                sdp,
                pc_id=pc_id if known is not None else None,
                restart=restart,
                remote=request.remote or "",
            )
            if known is None and reservation is not None:
                known = self._start(reservation, answer, agent)
                reservation = None
        except CallRefused as error:
            return self._refused(error.reason)
        except BadOffer as error:
            raise web.HTTPUnprocessableEntity(text=str(error)) from error
        except TransportError as error:
            return _unavailable("no_media", str(error))
        finally:
            if reservation is not None:
                reservation.release()
        return web.json_response(
            {
                "sdp": answer.sdp,
                "type": "answer",
                "pc_id": answer.pc_id,
                "call_id": known.call_id if known is not None else "",
            }
        )

    def _refused(self, reason: str) -> web.Response:
        said = self._calls.config.limits.when_full.say
        return _unavailable(reason, said or REFUSALS.get(reason, reason))

    def _agent(self, name: object) -> str:
        """The agent that a page asks for."""
        agents = self._calls.agents
        parts = agents.get(name) if isinstance(name, str) else None
        if parts is None:
            raise web.HTTPUnprocessableEntity(
                text=f"there is no such agent (known: {', '.join(agents.names)})"
            )
        return parts.profile.name

    def _start(self, reservation: Reservation, answer: Answer, agent: str) -> _Peer:
        feed = EventFeed()
        call_id, task = self._calls.start(
            reservation,
            answer.transport,
            Incoming(channel="webrtc", variables={"run_id": answer.pc_id}, agent=agent),
            subscribers=[feed.publish, self._begun(answer.pc_id)],
        )
        self._peers[answer.pc_id] = peer = _Peer(call_id, agent, feed)
        task.add_done_callback(self._forget(answer.pc_id))
        return peer

    def _forget(self, pc_id: str) -> Callable[[asyncio.Task[None]], None]:
        """Drop the peer when its call is over and the page knows."""

        def forget(task: asyncio.Task[None]) -> None:
            del task
            feed = self._peers[pc_id].feed
            feed.close()  # a call that never connected has published no end
            delay = 0.0 if feed.finished else LINGER_S
            asyncio.get_running_loop().call_later(delay, self._peers.pop, pc_id, None)

        return forget

    def _begun(self, pc_id: str) -> Subscriber:
        """Hand over what was typed before the call, as soon as somebody listens."""

        def hand_over() -> None:
            if (peer := self._peers.get(pc_id)) is not None:
                peer.begun = True
                early, peer.early = peer.early, []
                for command in early:
                    self._obey(peer, command)

        def on_event(event: CallEvent) -> None:
            if isinstance(event, CallStarted):
                asyncio.get_running_loop().call_soon(hand_over)

        return on_event

    async def hang_up(self, request: web.Request) -> web.Response:
        """The page is being closed or its user hung up."""
        peer = self._peers.get(request.match_info["pc_id"])
        if peer is not None:
            await self._calls.hang_up(peer.call_id, ended.CALLER_HUNG_UP)
        return web.Response(status=204)

    async def events(self, request: web.Request) -> web.WebSocketResponse:
        """Stream the call's events and take the page's commands. One reader per call.

        ``after=N`` goes on behind the event with that ``seq``: the page has lost its socket, and
        should the server not have noticed yet, the old one makes way.
        """
        peer = self._peers.get(request.match_info["pc_id"])
        dialect = request.query.get("format", "flowcat")
        after = request.query.get("after", "")
        if peer is None or dialect not in DIALECTS:
            raise web.HTTPNotFound
        if peer.reader is not None:
            if not after.isdecimal():
                raise web.HTTPNotFound
            peer.reader.drop()
        reader = peer.reader = _Reader(request.transport)
        if after.isdecimal():
            peer.feed.resume(int(after[:9]))
        try:
            socket = web.WebSocketResponse(heartbeat=HEARTBEAT_S, max_msg_size=MAX_COMMAND_BYTES)
            await socket.prepare(request)
            async with asyncio.TaskGroup() as tasks:
                reader.sender = tasks.create_task(self._send(socket, peer, reader, dialect))
                async for message in socket:
                    if message.type is WSMsgType.TEXT:
                        await self._command(socket, peer, message.data)
                reader.sender.cancel()
        finally:
            if peer.reader is reader:
                peer.reader = None
        return socket

    async def _send(
        self, socket: web.WebSocketResponse, peer: _Peer, reader: _Reader, dialect: str
    ) -> None:
        translate = DIALECTS[dialect]
        with suppress(ConnectionError):
            if dialect == "native":
                hello = {"type": "hello", "call_id": peer.call_id, "agent": peer.agent}
                await socket.send_str(encode({**hello, "taken": peer.taken}))
            while peer.reader is reader and (event := await peer.feed.next()) is not None:
                for message in translate(event):
                    if dialect == "native":
                        message["seq"] = peer.feed.number
                    await socket.send_str(encode(message))
            await socket.close()

    async def _command(self, socket: web.WebSocketResponse, peer: _Peer, data: str) -> None:
        try:
            command = msgspec.json.decode(data, type=dict[str, Any])
        except (msgspec.MsgspecError, RecursionError):
            return
        match command:
            case {"type": "ping"}:
                with suppress(ConnectionError):
                    await socket.send_str('{"type":"pong"}')
            case {"type": "hangup"}:
                await self._calls.hang_up(peer.call_id, ended.CALLER_HUNG_UP)
            case {"type": "text" | "digit"}:
                peer.taken += 1
                self._obey(peer, command)
            case _:
                pass

    def _obey(self, peer: _Peer, command: dict[str, Any]) -> None:
        session = self._calls.live.get(peer.call_id)
        match command:
            case {"type": "text" | "digit"} if not peer.begun:
                if len(peer.early) < MAX_EARLY:
                    peer.early.append(command)
            case {"type": "text", "text": str(text)} if session is not None:
                session.protect(session.receive_text, text[:MAX_TEXT_CHARS])
            case {"type": "digit", "digit": str(digit)} if session is not None and digit in KEYS:
                session.protect(session.receive_digit, digit)
            case _:
                pass


async def _json(request: web.Request) -> dict[str, Any]:
    raw = await read_body(request, MAX_OFFER_BYTES)
    try:
        return msgspec.json.decode(raw, type=dict[str, Any])
    except (msgspec.MsgspecError, RecursionError) as error:
        raise web.HTTPUnprocessableEntity(text="the body is not a JSON object") from error


def _unavailable(error: str, message: str) -> web.Response:
    return web.json_response({"error": error, "message": message}, status=503)
