"""Carriers' calls from the webhook that announces them to their end, whatever the media socket."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import structlog

from flowcat_server.calls import Calls, Incoming
from flowcat_server.core import ended
from flowcat_server.core.carrier import (
    OVER,
    CallStatus,
    Carrier,
    Detected,
    DialOver,
    LiveCall,
    Report,
    RestRequest,
    Ringing,
    Started,
)
from flowcat_server.core.control import Comeback, Consultation
from flowcat_server.core.graph import TransferTarget
from flowcat_server.errors import CallRefused
from flowcat_server.places import Reservation
from flowcat_server.providers.http import Http
from flowcat_server.routes import rest
from flowcat_server.routes.control import CarrierControl, Desk
from flowcat_server.routes.lines import Line
from flowcat_server.routes.outbound import RUN_ID, OutboundCalls
from flowcat_server.routes.placed import Placed
from flowcat_server.routes.router import Router
from flowcat_server.routes.rules import Asked
from flowcat_server.routes.tickets import Tickets
from flowcat_server.routes.tokens import StreamTokens
from flowcat_server.session import Session
from flowcat_server.transports.carrier import CarrierTransport

log = structlog.get_logger()

Key = tuple[str, str]
"""A carrier, and its id of a call."""


@dataclass(slots=True)
class Expected:
    """A call that has a place."""

    reservation: Reservation
    incoming: Incoming
    account_id: str = ""
    only_here: bool = False
    """Something of it lives in this process. Its media socket has to come here: the socket's
    address begins with `StreamTokens.mark`."""
    placed: Placed | None = None
    """We made the call; it is ours until its media socket comes."""


Told = tuple[Incoming, str]
"""A call, and the carrier's id of its account."""


class Waiting(Protocol):
    """Calls that have a place, and whose media socket has not come."""

    async def put(self, key: Key, expected: Expected) -> None:
        """Keep one, for as long as its reservation lasts."""

    async def pop(self, key: Key) -> Expected | None:
        """Whom this socket was expected from; only the first that asks gets it."""

    async def told(self, key: Key) -> Told | None:
        """What another machine's webhook said of a call that has no place here."""


class OwnWaiting:
    """The waiting calls of a process that shares them with no other."""

    def __init__(self) -> None:
        self._expected: dict[Key, Expected] = {}

    async def put(self, key: Key, expected: Expected) -> None:
        """Keep one, and forget those whose place was given back."""
        gone = [each for each, entry in self._expected.items() if not entry.reservation.held]
        for each in gone:
            del self._expected[each]
        self._expected[key] = expected

    async def pop(self, key: Key) -> Expected | None:
        """Whom this socket was expected from."""
        return self._expected.pop(key, None)

    async def told(self, key: Key) -> Told | None:
        """There is no other machine."""
        del key
        return None


class CarrierCalls:
    """Who is expected, and who is there."""

    def __init__(
        self,
        calls: Calls,
        tokens: StreamTokens,
        http: Http,
        clock: Callable[[], float] = time.time,
        outbound: OutboundCalls | None = None,
        *,
        waiting: Waiting | None = None,
        tell_others: Callable[[str, Report], None] = lambda carrier, report: None,
    ) -> None:
        """Expect nobody yet.

        Args:
            calls: Where calls are admitted and run.
            tokens: Mints and checks the media sockets' tokens.
            http: For requests to the carriers.
            clock: Seconds since 1970, for requests that are signed.
            outbound: Knows the calls that we make; None: there are none.
            waiting: Keeps expected calls for several processes; absent: for this one.
            tell_others: Given what a carrier said of a call that is not here.
        """
        self._calls = calls
        self._router = Router(calls, http, clock)
        self._tokens = tokens
        self._http = http
        self._outbound = outbound
        self._clock = clock
        self._expected = waiting or OwnWaiting()
        self._tell_others = tell_others
        self.desk = Desk(calls, http, Tickets(tokens, clock), clock)
        """What goes on with calls that are passed on."""
        self._deciding: dict[Key, Expected] = {}
        """Calls whose agent is being chosen."""
        self._live: dict[Key, str] = {}
        """Our ids of the carriers' calls."""

    async def expect(self, carrier: Carrier, call: Ringing, run_id: str) -> str:
        """Keep a place for a call that a verified webhook announced; returns its socket's token.

        Args:
            carrier: Whose call it is.
            call: The call.
            run_id: Of the webhook's address.

        Raises:
            CallRefused: There is no place, or the call is not wanted; or it is a call of ours
                that is over.
        """
        key = carrier.name, call.call_id
        placed = self._find_placed(carrier, run_id, call.call_id)
        if placed is not None:
            placed.answered()
            await self._expected.put(key, self._place_of(placed, call.account_id))
            log.info("call_answered", carrier=carrier.name, external_id=call.call_id)
            return self._tokens.mint(carrier.name, call.call_id)
        await self._release(key)  # asked again about the same call: it keeps its place
        asked = Asked(
            carrier.name, call.call_id, call.from_number, call.to_number, call.headers, run_id
        )
        self._deciding[key] = expected = self._place(asked, call.account_id)
        try:
            await self._route(expected, asked)
        finally:
            if self._deciding.get(key) is expected:
                del self._deciding[key]
        if not expected.reservation.held:
            raise CallRefused("over")  # it has ended, or was asked about again, meanwhile
        await self._expected.put(key, expected)
        log.info("call_answered", carrier=carrier.name, external_id=call.call_id)
        return self._tokens.mint(carrier.name, call.call_id)

    @property
    def here(self) -> str:
        """The run id of addresses that this process has to serve; empty where it is alone."""
        return f"{self._tokens.mark}c" if self._tokens.mark else ""

    async def expect_again(
        self,
        carrier: Carrier,
        call: Ringing,
        agent: str,
        *,
        comeback: Comeback | None = None,
        consultation: Consultation | None = None,
    ) -> str:
        """As `expect`, for a call that nobody has to choose an agent for.

        Args:
            carrier: Whose call it is.
            call: The call.
            agent: Who had it before, or has the other.
            comeback: It was passed on, and nobody was reached.
            consultation: It is that of a colleague, who is asked whether they take another.

        Raises:
            CallRefused: There is no place.
        """
        key = carrier.name, call.call_id
        await self._release(key)
        asked = Asked(carrier.name, call.call_id, call.from_number, call.to_number, {}, "")
        expected = self._place(asked, call.account_id)
        expected.incoming = replace(
            expected.incoming, agent=agent, comeback=comeback, consultation=consultation
        )
        expected.only_here = True
        await self._expected.put(key, expected)
        return self._tokens.mint(carrier.name, call.call_id)

    async def claim(
        self, line: Line, started: Started, token: str, run_id: str, *, vouched: bool
    ) -> Expected:
        """The place of the call that a media socket named.

        Args:
            line: The carrier.
            started: What the socket said.
            token: What it brought; it is used up, if it is good.
            run_id: Of its address.
            vouched: Its handshake proved who opened it.

        Raises:
            AuthError: The socket does not prove that the call is its own.
            CallRefused: Nobody kept a place for it, and there is none; or it is not wanted, or a
                call of ours that is over.
            SharedStateError: Whether its token was used before cannot be found out.
        """
        carrier = line.carrier
        suffices = vouched and (carrier.handshake_suffices or not line.account.guarded)
        if token or not suffices:
            await self._tokens.consume(token, carrier.name, started.call_id)
        key = carrier.name, started.call_id
        expected = await self._expected.pop(key)
        if expected is None:
            placed = self._find_placed(carrier, run_id, started.call_id)
            expected = self._place_of(placed) if placed is not None else None
        if expected is not None and expected.reservation.held:
            if expected.placed is not None:
                expected.incoming = expected.placed.take(started.call_id)
            return expected
        if expected is not None and expected.placed is not None:
            raise CallRefused("over")
        told = await self._expected.told(key)
        if told is not None:
            return Expected(self._calls.reserve(), *told)
        # No webhook announced it, or its place was given back.
        asked = Asked(
            carrier.name,
            started.call_id,
            started.from_number,
            started.to_number,
            {name: text for name, text in started.parameters.items() if name != "token"},
            run_id,
        )
        expected = self._place(asked)
        await self._route(expected, asked)
        return expected

    def _find_placed(self, carrier: Carrier, run_id: str, call_id: str) -> Placed | None:
        if self._outbound is None:
            return None
        placed = self._outbound.find(carrier.name, run_id, call_id)
        if placed is None and RUN_ID.fullmatch(run_id):
            raise CallRefused("over")  # given up, and answered all the same
        return placed

    def _place_of(self, placed: Placed, account_id: str = "") -> Expected:
        return Expected(
            placed.reservation, placed.incoming, account_id, only_here=True, placed=placed
        )

    def _place(self, asked: Asked, account_id: str = "") -> Expected:
        incoming = Incoming(
            channel=asked.carrier,
            from_number=asked.from_number,
            to_number=asked.to_number,
            external_id=asked.call_id,
            variables=_variables(asked),
        )
        return Expected(self._calls.reserve(), incoming, account_id)

    async def _route(self, expected: Expected, asked: Asked) -> None:
        """Give a call that has a place its agent; it loses the place if that cannot be done."""
        try:
            choice = await self._router.choose(asked)
        except BaseException:
            expected.reservation.release()
            raise
        known = expected.incoming
        expected.incoming = replace(
            known, agent=choice.agent, variables={**known.variables, **choice.variables}
        )

    async def run(
        self,
        line: Line,
        transport: CarrierTransport,
        started: Started,
        expected: Expected,
        base: str = "",
    ) -> None:
        """Run the call to its end; `base` is this server as the carrier reaches it."""

        async def before_close(session: Session) -> None:
            gone = (ended.CALLER_HUNG_UP, ended.CARRIER_CLOSED, ended.AGENT_TRANSFERRED)
            if session.reason in gone:
                return
            request = self._last_request(line, session, started, expected)
            if request is not None:
                await rest.send(self._http, request)

        key = line.carrier.name, started.call_id
        call = LiveCall(started.call_id, expected.account_id or started.account_id)

        def control(session: Session) -> CarrierControl:
            about = replace(call, from_number=_ours(session, expected))
            agent = expected.incoming.agent
            return CarrierControl(self.desk, line, about, session, transport, base, agent)

        if expected.incoming.consultation is not None:
            expected.incoming.consultation.key = key
        self._live[key], task = self._calls.start(
            expected.reservation,
            transport,
            replace(expected.incoming, hears_keys=line.hears_keys),
            work=[("receive", transport.serve)],
            before_hang_up=before_close,
            control=control,
        )
        over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        task.add_done_callback(lambda _: None if over.done() else over.set_result(None))
        try:
            await over
        finally:
            self._live.pop(key, None)

    def target(self, agent: str, node: str, name: str) -> TransferTarget:
        """One of the file's transfer targets; one without a number if it is not there any more."""
        parts = self._calls.agents.get(agent)
        found = parts.profile.graph.nodes.get(node) if parts is not None else None
        targets = found.transfers if found is not None else ()
        return next((each for each in targets if each.name == name), TransferTarget(name, ""))

    async def follow(self, carrier: Carrier, report: Report, run_id: str = "") -> None:
        """The carrier's own account of a call, whoever has it.

        Args:
            carrier: Who says it.
            report: What; of a call that is over it is true whatever its socket says.
            run_id: Of the address that it came to.
        """
        key = carrier.name, report.call_id
        over = False
        if isinstance(report, CallStatus):
            log.info("call_status", carrier=key[0], external_id=key[1], status=report.status)
            over = report.status in OVER
        here = self.hear(carrier.name, report, run_id)
        waited = over and not here and await self._release(key)
        if not here and not waited:
            self._tell_others(carrier.name, report)

    def hear(self, carrier: str, report: Report, run_id: str = "") -> bool:
        """The same, as far as it is about a call of this process; False: it is not."""
        session = self._calls.live.get(self._live.get((carrier, report.call_id), ""))
        outbound = self._outbound
        match report:
            case CallStatus():
                if outbound is not None and outbound.follow(carrier, run_id, report):
                    return True
                self.desk.told(carrier, report)
                if session is not None and report.status in OVER:
                    session.end(ended.CALLER_HUNG_UP)
            case Detected():
                placed = outbound.find(carrier, run_id, report.call_id) if outbound else None
                if placed is not None:
                    placed.detected(report)
                    return True
                if session is not None:
                    session.receive_detection(report.answerer, greeting_over=report.greeting_over)
            case DialOver():
                return self.desk.dialled(carrier, report)
        return session is not None

    def _last_request(
        self, line: Line, session: Session, started: Started, expected: Expected
    ) -> RestRequest | None:
        """What to ask of the carrier when we end the call; None if closing the socket will do."""
        carrier, now_s = line.carrier, int(self._clock())
        if not carrier.outlives(expected.account_id):
            return None
        call = LiveCall(
            started.call_id, expected.account_id or started.account_id, _ours(session, expected)
        )
        return carrier.hang_up(line.account, call, now_s)

    async def _release(self, key: Key) -> bool:
        """Give back the place of a call whose socket has not come; False: there is none."""
        found = [self._deciding.pop(key, None), await self._expected.pop(key)]
        for expected in found:
            if expected is not None:
                expected.reservation.release()
        return any(found)


def _ours(session: Session, expected: Expected) -> str:
    """Our own number in a call."""
    return session.to_number if expected.placed is None else session.from_number


def socket_address(
    base: str, carrier: Carrier, run_id: str, token: str
) -> tuple[str, Mapping[str, str]]:
    """Our media socket as a carrier is told of it, and the parameters that travel with it."""
    url = f"ws{base.removeprefix('http')}/telephony/ws/{carrier.name}"
    url = f"{url}/{run_id}" if run_id else url
    if carrier.ticket_in == "path":
        return f"{url}/token/{token}", {}
    if carrier.ticket_in == "query":
        return f"{url}?token={token}", {}
    return url, {"token": token}


def _variables(asked: Asked) -> Mapping[str, Any]:
    known = {
        "caller_number": asked.from_number,
        "called_number": asked.to_number,
        "run_id": asked.run_id,
    }
    return {name: value for name, value in known.items() if value}
