"""Carriers' calls from the webhook that announces them to their end, whatever the media socket."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import structlog

from flowcat_server.calls import Calls, Incoming, Reservation
from flowcat_server.core import ended
from flowcat_server.core.carrier import (
    OVER,
    CallStatus,
    Carrier,
    LiveCall,
    RestRequest,
    Ringing,
    Started,
)
from flowcat_server.errors import CallRefused
from flowcat_server.providers.http import Http
from flowcat_server.routes import rest
from flowcat_server.routes.lines import Line
from flowcat_server.routes.router import Router
from flowcat_server.routes.rules import Asked
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
        *,
        waiting: Waiting | None = None,
        tell_others: Callable[[str, CallStatus], None] = lambda carrier, told: None,
    ) -> None:
        """Expect nobody yet.

        Args:
            calls: Where calls are admitted and run.
            tokens: Mints and checks the media sockets' tokens.
            http: For requests to the carriers.
            clock: Seconds since 1970, for requests that are signed.
            waiting: Keeps expected calls for several processes; absent: for this one.
            tell_others: Given what a carrier said of a call that is not here.
        """
        self._calls = calls
        self._router = Router(calls, http, clock)
        self._tokens = tokens
        self._http = http
        self._clock = clock
        self._expected = waiting or OwnWaiting()
        self._tell_others = tell_others
        self._deciding: dict[Key, Expected] = {}
        """Calls whose agent is being chosen."""
        self._live: dict[Key, str] = {}
        """Our ids of the carriers' calls."""

    async def expect(self, carrier: Carrier, call: Ringing, run_id: str) -> str:
        """Keep a place for a call that a verified webhook announced; returns its socket's token.

        Raises:
            CallRefused: There is no place, or the call is not wanted.
        """
        key = carrier.name, call.call_id
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
            CallRefused: Nobody kept a place for it, and there is none; or it is not wanted.
            SharedStateError: Whether its token was used before cannot be found out.
        """
        carrier = line.carrier
        suffices = vouched and (carrier.handshake_suffices or not line.account.guarded)
        if token or not suffices:
            await self._tokens.consume(token, carrier.name, started.call_id)
        key = carrier.name, started.call_id
        expected = await self._expected.pop(key)
        if expected is not None and expected.reservation.held:
            return expected
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
        self, line: Line, transport: CarrierTransport, started: Started, expected: Expected
    ) -> None:
        """Run the call to its end."""

        async def before_close(session: Session) -> None:
            if session.reason in (ended.CALLER_HUNG_UP, ended.CARRIER_CLOSED):
                return
            request = self._last_request(line, session, started, expected)
            if request is not None:
                await rest.send(self._http, request)

        key = line.carrier.name, started.call_id
        self._live[key], task = self._calls.start(
            expected.reservation,
            transport,
            expected.incoming,
            work=[("receive", transport.serve)],
            before_hang_up=before_close,
        )
        over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        task.add_done_callback(lambda _: None if over.done() else over.set_result(None))
        try:
            await over
        finally:
            self._live.pop(key, None)

    async def follow(self, carrier: Carrier, told: CallStatus) -> None:
        """The carrier's own account of a call: it may be over whatever its socket says."""
        log.info("call_status", carrier=carrier.name, external_id=told.call_id, status=told.status)
        if told.status not in OVER:
            return
        waited = await self._release((carrier.name, told.call_id))
        if not self.hear(carrier.name, told) and not waited:
            self._tell_others(carrier.name, told)

    def hear(self, carrier: str, told: CallStatus) -> bool:
        """The same of a call that is live here; False: it is not."""
        session = self._calls.live.get(self._live.get((carrier, told.call_id), ""))
        if session is not None and told.status in OVER:
            session.end(ended.CALLER_HUNG_UP)
        return session is not None

    def _last_request(
        self, line: Line, session: Session, started: Started, expected: Expected
    ) -> RestRequest | None:
        """What to ask of the carrier when we end the call; None if closing the socket will do."""
        carrier, now_s = line.carrier, int(self._clock())
        call = LiveCall(
            started.call_id, expected.account_id or started.account_id, session.to_number
        )
        if session.transfer is None:
            return carrier.hang_up(line.account, call, now_s) if carrier.outlives_socket else None
        request = carrier.transfer(line.account, call, session.transfer.phone, now_s)
        if request is None:
            why = f"no credentials in carriers.{carrier.name}"
            log.warning(
                "transfer_impossible",
                carrier=carrier.name,
                reason=why if carrier.moves_calls else "the carrier cannot",
            )
        return request

    async def _release(self, key: Key) -> bool:
        """Give back the place of a call whose socket has not come; False: there is none."""
        found = [self._deciding.pop(key, None), await self._expected.pop(key)]
        for expected in found:
            if expected is not None:
                expected.reservation.release()
        return any(found)


def _variables(asked: Asked) -> Mapping[str, Any]:
    known = {
        "caller_number": asked.from_number,
        "called_number": asked.to_number,
        "run_id": asked.run_id,
    }
    return {name: value for name, value in known.items() if value}
