"""Where a carrier asks what is next for a call that was passed on: addresses for it alone.

``/telephony/next/{carrier}/token/{ticket}``. The ticket says what is wanted (`routes.control`
writes it), the carrier's own signature or password is asked for as at every door, and a ticket is
good for one use.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import structlog
from aiohttp import web

from flowcat_server.config.models import Config
from flowcat_server.core.carrier import Document, Handing, LiveCall, Request, Ringing
from flowcat_server.core.control import Comeback, Consultation, Progress
from flowcat_server.core.graph import TransferTarget
from flowcat_server.errors import AuthError, CallRefused
from flowcat_server.routes import rest
from flowcat_server.routes.control import Remembered
from flowcat_server.routes.expected import CarrierCalls, socket_address
from flowcat_server.routes.gate import Gate
from flowcat_server.routes.lines import Line, lines

log = structlog.get_logger()

Wish = Mapping[str, str]


class NextDoor:
    """The door."""

    def __init__(self, config: Config, calls: CarrierCalls, gate: Gate) -> None:
        """Create the door.

        Args:
            config: What carriers there are.
            calls: Where calls are expected and run.
            gate: Lets carriers in.
        """
        self._calls = calls
        self._gate = gate
        self._lines = {line.carrier.name: line for line in lines(config)}

    def routes(self) -> Sequence[web.AbstractRouteDef]:
        """The door's routes."""
        return [web.route("*", "/telephony/next/{carrier}/token/{ticket}", self.next)]

    async def next(self, request: web.Request) -> web.Response:
        """What a ticket asks for."""
        line = self._lines.get(request.match_info["carrier"])
        if line is None or not line.carrier.has_webhook:
            raise web.HTTPNotFound
        tickets = self._calls.desk.tickets
        wire = await self._gate.read(request)
        await self._gate.admit_webhook(request, wire, line)
        try:
            wish = tickets.read(request.match_info["ticket"], line.carrier.name)
            document = await self._document(line, wire, wish, self._gate.base(request))
            if document is None:
                return web.Response(status=204)
            await tickets.use(wish)
        except AuthError as error:
            log.warning("ticket_refused", carrier=line.carrier.name, reason=str(error))
            raise web.HTTPForbidden(text="refused") from error
        if document.rest is not None:
            await rest.send(self._calls.desk.http, document.rest)
        return web.Response(
            text=document.body, content_type=document.content_type, status=document.status
        )

    async def _document(self, line: Line, wire: Request, wish: Wish, base: str) -> Document | None:
        """The answer; None: nothing yet, and the ticket is still good."""
        carrier = line.carrier
        match wish.get("do"):
            case "dial":
                return self._dial(line, wish, base)
            case "room":
                return carrier.joined(LiveCall(wish["other"]), wish["room"])
            case "over":
                over = carrier.read_dial(wire)
                if over is None:
                    return None
                if over.answered:
                    self._calls.desk.recall((carrier.name, wish["call"]))
                    return carrier.hung_up()
                log.warning("transfer_failed", carrier=carrier.name, reason=over.why)
                return await self._come_back(line, wish, base)
            case "consult":
                return await self._consult(line, wire, wish, base)
            case _:
                raise AuthError("a ticket for nothing")

    def _dial(self, line: Line, wish: Wish, base: str) -> Document | None:
        name = line.carrier.name
        known = {each: wish[each] for each in ("call", "agent", "node", "target")}
        ticket = self._calls.desk.tickets.mint(name, {"do": "over", **known})
        remembered = self._calls.desk.peek((name, wish["call"]))
        target = remembered.comeback.target if remembered is not None else None
        handing = Handing(
            over_url=f"{base}/telephony/next/{name}/token/{ticket}",
            ring_s=(target.ring_ms if target is not None else TransferTarget("", "").ring_ms)
            // 1000,
        )
        call = LiveCall(wish["call"], from_number=remembered.to_number if remembered else "")
        return line.carrier.fetched(line.account, call, wish["phone"], handing)

    async def _come_back(self, line: Line, wish: Wish, base: str) -> Document:
        """Connect the caller to us once more."""
        remembered = self._calls.desk.recall((line.carrier.name, wish["call"]))
        if remembered is None:  # another worker had the call: where it was is all that is known
            target = self._calls.target(wish["agent"], wish["node"], wish["target"])
            comeback = Comeback(Progress(wish["node"]), target)
            remembered = Remembered(comeback, "", "", wish["agent"])
        call = Ringing(wish["call"], remembered.from_number, remembered.to_number)
        document = await self._connect(
            line, call, base, comeback=remembered.comeback, agent=remembered.agent
        )
        return document or line.carrier.hung_up()

    async def _consult(self, line: Line, wire: Request, wish: Wish, base: str) -> Document | None:
        carrier = line.carrier
        call = carrier.read_call(wire)
        if call is None:
            told = carrier.read_status(wire)
            if told is not None:
                await self._calls.follow(carrier, told)
            return None
        consultation = self._calls.desk.consultations.get(wish["consultation"])
        if consultation is None or consultation.decision.done():
            return carrier.hung_up()
        document = await self._connect(
            line, call, base, consultation=consultation, agent=wish["agent"]
        )
        if document is None:
            consultation.decide("no place for the colleague's call")
        return document or carrier.hung_up()

    async def _connect(
        self,
        line: Line,
        call: Ringing,
        base: str,
        *,
        comeback: Comeback | None = None,
        consultation: Consultation | None = None,
        agent: str,
    ) -> Document | None:
        """Connects a call to us; None: there is no place for it."""
        carrier = line.carrier
        try:
            token = await self._calls.expect_again(
                carrier, call, agent, comeback=comeback, consultation=consultation
            )
        except CallRefused:
            return None
        url, parameters = socket_address(base, carrier, self._calls.here, token)
        return carrier.answer(line.account, call, url, parameters)
