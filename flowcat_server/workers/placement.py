"""Which worker serves a request: the least loaded for a new call, the call's own for all others.

The kernel spreads connections by a hash, or gives them to whoever is awake; at the numbers that
calls come in, either leaves one worker with much more than its share (docs/decisions/). And a
connection is not a call: a reverse proxy sends one caller's media socket over a connection that
it opened for another. So workers choose when a *request* begins a call. The one that has read it
gives the connection away, together with the bytes of the request, before it has answered a
single one: the client notices nothing, and no worker stands between a caller and its call.
"""

from __future__ import annotations

import re
from zlib import crc32

import msgspec
import structlog
from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.typedefs import Handler, Middleware

from flowcat_server.errors import SharedStateError
from flowcat_server.routes.bodies import READ, read_body
from flowcat_server.routes.dialling import IDEMPOTENCY_KEY
from flowcat_server.workers.board import Board
from flowcat_server.workers.post import Moved, Post
from flowcat_server.workers.shared import ARRIVING

log = structlog.get_logger()

MAX_BODY_BYTES = 96 * 1024
"""Of a request that changes hands."""
MEDIA = "/telephony/ws/"
ANSWER = "/telephony/answer/"
OFFERS = frozenset({"/webrtc/offer", "/api/offer"})
DIAL = "/api/calls"
_MARK = re.compile(r"at-([0-9]{1,15})-")
_MARKED_PATH = re.compile(r"/(?:webrtc|api|telephony)/(?:[^/]+/)+?(?:pc-)?at-([0-9]{1,15})-")
_CALL_PATH = re.compile(
    r"/(?:api/calls|telephony/[a-z]{1,20}/[a-z_]{1,30})/(?:[a-z]{1,4}-)?([0-9a-f]{23})(?:/.*)?"
)
_REWRITTEN = frozenset(
    {b"connection", b"keep-alive", b"content-length", b"transfer-encoding", b"expect"}
)
"""A body that was read is passed on in one piece (RFC 9112, section 7.1)."""


def mark(run: int) -> str:
    """What a part of an address begins with that this run has to serve."""
    return f"at-{run}-"


class Placement:
    """Serves a request here, or gives its connection to the worker that should."""

    def __init__(self, board: Board, post: Post, run: int) -> None:
        self._board = board
        self._post = post
        self._run = run
        self._given: dict[object, int] = {}
        """Connections that came from other workers, and what they arrive as."""

    def given(self, protocol: object, arriving: int) -> None:
        """The next request of this connection is served here, whatever it is."""
        self._given[protocol] = arriving

    def forget(self, protocol: object) -> None:
        """The connection has brought its request, or never will."""
        self._given.pop(protocol, None)

    def middleware(self) -> Middleware:
        """For the application, behind the one that checks who is asking."""

        @web.middleware
        async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
            arriving = self._given.pop(request.protocol, None)
            if arriving is None:
                best, arriving = self._run, 0
                try:
                    best, arriving = await self._choose(request)
                except SharedStateError as error:
                    log.error("connection_kept", reason=str(error))  # noqa: TRY400 - no fault of ours
                if best != self._run and await self._give(request, best, arriving):
                    return _Gone()
            # aiohttp handles each request in a task, and so in a context, of its own.
            ARRIVING.set(arriving)
            try:
                return await handler(request)
            finally:
                if arriving:
                    self._board.arrived(arriving)

        return middleware

    async def _choose(self, request: web.Request) -> tuple[int, int]:
        """The run that serves it, and the number it arrives under (0: it is no new call)."""
        path = request.path
        if found := _MARKED_PATH.match(path):
            return int(found[1]), 0
        if (found := _CALL_PATH.fullmatch(path)) and (owner := self._board.owner(found[1])):
            return owner, 0
        if path.startswith(MEDIA):
            if request.headers.get("Upgrade", "").lower() == "websocket":
                return self._board.place_call(self._run)
        elif path.startswith(ANSWER):
            # The socket finds its worker later. But one that does not keep up takes no call.
            if any(m.run == self._run and m.overloaded for m in self._board.members()):
                return self._board.place_call(self._run)
        elif path in OFFERS and request.can_read_body:
            body = await read_body(request, MAX_BODY_BYTES)
            READ.set(body)
            peer = _peer_of(body)
            if found := _MARK.match(peer.removeprefix("pc-")):
                return int(found[1]), 0
            if not peer and request.method == "POST":
                return self._board.place_call(self._run)
        elif path == DIAL and request.method == "POST":
            key = request.headers.get(IDEMPOTENCY_KEY)
            return (self._keeper(key), 0) if key else self._board.place_call(self._run)
        return self._run, 0

    def _keeper(self, key: str) -> int:
        """The run that remembers what came of the request with this idempotency key."""
        # The highest of a number for each worker and key (rendezvous hashing): when a worker
        # comes or goes, the keys of the others stay where they are remembered.
        ready = [member.run for member in self._board.members() if member.ready]
        told = key.encode("utf-8", "replace")
        return max(ready, key=lambda run: crc32(told, crc32(b"%d" % run)), default=self._run)

    async def _give(self, request: web.Request, run: int, arriving: int) -> bool:
        """Give a connection away; False if it stays."""
        number = next((m.number for m in self._board.members() if m.run == run), 0)
        transport = request.transport
        if not number or transport is None:
            return False
        body = READ.get()
        if body is None and request.can_read_body:
            body = await read_body(request, MAX_BODY_BYTES)
            READ.set(body)
        # What comes next on the connection is the new owner's to read.
        transport.pause_reading()
        descriptor = transport.get_extra_info("socket").fileno()
        if self._post.send(number, Moved(head(request, body), arriving), descriptor):
            return True
        transport.resume_reading()
        log.warning("connection_kept", worker=number, reason="its inbox is full")
        if arriving:
            self._board.stays(arriving, self._run)
        return False


class _Gone(web.Response):
    """What is answered on a connection that is no longer ours: nothing."""

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        raise ConnectionResetError("the connection was given to another worker")


def head(request: web.Request, body: bytes | None) -> bytes:
    """The request as it came, for whoever reads it next.

    All but an upgrade is to be the connection's last: what a client may have sent behind it was
    read here, is lost, and is sent again when the connection closes (RFC 9112, section 9.3.2).
    """
    version = f"HTTP/{request.version.major}.{request.version.minor}"
    lines = [f"{request.method} {request.raw_path} {version}".encode()]
    upgrade = "Upgrade" in request.headers
    for name, value in request.raw_headers:
        if upgrade or name.lower() not in _REWRITTEN:
            lines.append(name + b": " + value)
    if not upgrade:
        lines.append(b"Connection: close")
        if body is not None:
            lines.append(b"Content-Length: %d" % len(body))
    return b"\r\n".join(lines) + b"\r\n\r\n" + (b"" if upgrade else body or b"")


def _peer_of(body: bytes) -> str:
    """The call that an offer continues; empty: it begins one."""
    try:
        found = msgspec.json.decode(body, type=dict[str, object]).get("pc_id")
    except (msgspec.MsgspecError, RecursionError):
        return ""
    return found if isinstance(found, str) else ""
