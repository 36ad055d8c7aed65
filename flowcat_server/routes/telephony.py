"""Phone calls: every carrier's webhook, status callback and media WebSocket."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import structlog
from aiohttp import WSCloseCode, web

from flowcat_server.config.models import Config
from flowcat_server.core import ended
from flowcat_server.core.carrier import (
    CarrierStream,
    Document,
    Refuse,
    Request,
    Ringing,
    Started,
)
from flowcat_server.errors import AuthError, CallRefused, SharedStateError
from flowcat_server.providers.http import Http
from flowcat_server.routes import refusals, rest
from flowcat_server.routes.expected import CarrierCalls, socket_address
from flowcat_server.routes.gate import Gate
from flowcat_server.routes.lines import Line, lines
from flowcat_server.routes.outbound import RUN_ID
from flowcat_server.routes.router import REJECTED
from flowcat_server.transports.media_socket import MediaSocket
from flowcat_server.transports.pacer import Pacer
from flowcat_server.transports.websocket import WebSocketTransport, read_start

log = structlog.get_logger()

START_TIMEOUT_MS = 10_000
MAX_WAITING_SOCKETS = 256
MAX_WAITING_PER_ADDRESS = 32
"""Media sockets that nobody has vouched for and that have not said which call they belong to."""
_RUN_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


class TelephonyDoor:
    """``/telephony/{answer,ws,status}/{carrier}``, for all carriers alike.

    A media socket needs a token minted for its call in the answer to a webhook, or, where a
    carrier asks no webhook, a handshake that proves who opens it.
    """

    def __init__(
        self,
        config: Config,
        calls: CarrierCalls,
        gate: Gate,
        pacer: Pacer,
        http: Http,
    ) -> None:
        """Create the door.

        Args:
            config: What carriers there are.
            calls: Where calls are expected and run.
            gate: Lets carriers in.
            pacer: The clock of all media sockets.
            http: For requests to the carriers.
        """
        self._calls = calls
        self._gate = gate
        self._pacer = pacer
        self._http = http
        self._lines = {
            line.carrier.name: line for line in lines(config) if line.carrier.over == "websocket"
        }
        self._when_full = config.limits.when_full
        self._waiting: Counter[str] = Counter()

    def routes(self) -> Sequence[web.AbstractRouteDef]:
        """The door's routes."""
        answer, media, status = (
            f"/telephony/{door}/{{carrier}}" for door in ("answer", "ws", "status")
        )
        return [
            web.route("*", answer, self.answer),
            web.route("*", answer + "/{run_id}", self.answer),
            web.route("*", status, self.status),
            web.route("*", status + "/{run_id}", self.status),
            *(
                web.get(media + path, self.media, allow_head=False)
                for path in ("", "/token/{token}", "/{run_id}", "/{run_id}/token/{token}")
            ),
        ]

    def _line(self, request: web.Request) -> Line:
        line = self._lines.get(request.match_info["carrier"])
        if line is None:
            raise web.HTTPNotFound(text=f"no such carrier (known: {', '.join(self._lines)})")
        return line

    # --- webhooks ---------------------------------------------------------------------------

    async def answer(self, request: web.Request) -> web.Response:
        """Verify the webhook, keep a place, and connect the call to our media socket."""
        line = self._line(request)
        carrier, account = line.carrier, line.account
        if not carrier.has_webhook:
            raise web.HTTPNotFound(text=f"{carrier.title} opens its media socket unasked")
        run_id = _run_id(request)
        wire = await self._gate.read(request)
        await self._gate.admit_webhook(request, wire, line)
        call = carrier.read_call(wire)
        if call is None and carrier.is_report(wire):
            return await self._reported(line, wire, run_id)
        if call is None:
            raise web.HTTPBadRequest(text=refusals.NO_CALL)
        try:
            token = await self._calls.expect(carrier, call, run_id)
        except CallRefused as error:
            if RUN_ID.fullmatch(run_id):  # a call of ours, given up and answered all the same
                return await self._respond(carrier.drop(account, call))
            return await self._respond(self._turned_away(line, call, error))
        url, parameters = socket_address(self._gate.base(request), carrier, run_id, token)
        document = carrier.answer(account, call, url, parameters)
        if document.status >= 500:
            log.warning("call_not_answered", carrier=carrier.name, reason=document.body)
        return await self._respond(document)

    def _turned_away(self, line: Line, call: Ringing, error: CallRefused) -> Document:
        """The carrier's own words for a caller who is not taken, else its busy signal."""
        carrier, account = line.carrier, line.account
        full = self._when_full
        say = error.say or ("" if error.reason == REJECTED else full.say)
        spoken = carrier.say(account, call, say, full.language) if say else None
        return spoken or carrier.busy(account, call)

    async def _respond(self, document: Document) -> web.Response:
        if document.rest is not None:
            await rest.send(self._http, document.rest)
        return web.Response(
            text=document.body, content_type=document.content_type, status=document.status
        )

    async def status(self, request: web.Request) -> web.Response:
        """Follow a call by the carrier's own account of it."""
        line = self._line(request)
        run_id = _run_id(request)
        wire = await self._gate.read(request)
        await self._gate.admit_webhook(request, wire, line)
        return await self._reported(line, wire, run_id)

    async def _reported(self, line: Line, wire: Request, run_id: str) -> web.Response:
        carrier = line.carrier
        over = carrier.read_dial(wire) if carrier.reports_dials else None
        for report in (over, carrier.read_detection(wire), carrier.read_status(wire)):
            if report is not None:
                await self._calls.follow(carrier, report, run_id)
        return web.Response(status=204)

    # --- the media socket -------------------------------------------------------------------

    async def media(self, request: web.Request) -> web.WebSocketResponse:
        """Authenticate the socket, find its call and run it to its end."""
        line = self._line(request)
        run_id = _run_id(request)
        wire = self._gate.handshake(request)
        vouched = await self._gate.admit_handshake(request, wire, line)
        socket = MediaSocket(line.carrier.subprotocols)
        stream = line.carrier.open(line.account, wire)
        token = request.match_info.get("token") or dict(wire.query).get("token")
        del wire  # a call may last for hours
        with self._waits("" if vouched else self._gate.address(request)):
            await socket.prepare(request)
            started = await read_start(socket, stream, START_TIMEOUT_MS)
        if not isinstance(started, Started) or not _is_readable(started):
            return await _turn_away(socket, stream, line, started)
        token = token or started.parameters.get("token", "")
        try:
            expected = await self._calls.claim(line, started, token, run_id, vouched=vouched)
        except AuthError as error:
            log.warning("media_refused", carrier=line.carrier.name, reason=str(error))
            return await _close(socket, stream, WSCloseCode.POLICY_VIOLATION, "refused")
        except SharedStateError as error:
            log.error("media_refused", carrier=line.carrier.name, reason=str(error))  # noqa: TRY400 - no fault of ours
            return await _close(socket, stream, WSCloseCode.TRY_AGAIN_LATER, "unavailable")
        except CallRefused as error:
            return await _close(socket, stream, WSCloseCode.TRY_AGAIN_LATER, error.reason)
        transport = WebSocketTransport(socket, stream, started, self._pacer)
        await self._calls.run(line, transport, started, expected, self._gate.base(request))
        socket.undivert()
        return socket

    @contextmanager
    def _waits(self, address: str) -> Iterator[None]:
        """Count a socket that has yet to name its call; too many of strangers are refused."""
        strangers = self._waiting.total() - self._waiting[""]
        if address and (
            strangers >= MAX_WAITING_SOCKETS or self._waiting[address] >= MAX_WAITING_PER_ADDRESS
        ):
            raise web.HTTPServiceUnavailable(text="too many sockets without a call")
        self._waiting[address] += 1
        try:
            yield
        finally:
            self._waiting[address] -= 1
            if not self._waiting[address]:
                del self._waiting[address]


def _run_id(request: web.Request) -> str:
    run_id = request.match_info.get("run_id", "")
    if run_id and not _RUN_ID.fullmatch(run_id):
        raise web.HTTPNotFound
    return run_id


def _is_readable(started: Started) -> bool:
    return started.input_format is not None and started.output_format is not None


async def _turn_away(
    socket: MediaSocket,
    stream: CarrierStream,
    line: Line,
    started: Started | Refuse | None,
) -> web.WebSocketResponse:
    """Close a socket that did not begin as it should."""
    if isinstance(started, Refuse):
        code, reason = started.close_code, started.reason
    else:
        code, reason = int(WSCloseCode.POLICY_VIOLATION), "no usable start"
    log.warning("media_refused", carrier=line.carrier.name, reason=reason)
    return await _close(socket, stream, code, reason)


async def _close(
    socket: MediaSocket, stream: CarrierStream, code: int, reason: str
) -> web.WebSocketResponse:
    """Close a socket, in the carrier's own words first."""
    try:
        for message in stream.end(ended.SERVER_ERROR):
            socket.post(message)
    except ConnectionError:
        pass  # it is gone already
    await socket.close(code=code, message=reason.encode())
    return socket
