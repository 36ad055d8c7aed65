"""What a carrier is asked to do with a live call: pass it on, connect it to another, press keys.

Theory of operation. A *cold* transfer is one request, after which the carrier dials. What it asks
or tells afterwards comes to addresses that only it has been given (`routes.next`). A *warm* one has
a second call: the caller waits, a colleague is called and spoken to, and when they take the call,
both are connected to each other and we leave. Whatever fails, the caller is still with us, or comes
back (`Comeback`).
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

import structlog

from flowcat_server.calls import Calls
from flowcat_server.core import ended
from flowcat_server.core.carrier import (
    OVER,
    CallStatus,
    Dial,
    DialOver,
    Handing,
    LiveCall,
    RestRequest,
)
from flowcat_server.core.control import Comeback, Consultation, Progress
from flowcat_server.core.graph import TransferTarget
from flowcat_server.providers.http import Http
from flowcat_server.routes import rest
from flowcat_server.routes.lines import Line
from flowcat_server.routes.tickets import Tickets
from flowcat_server.session import Session
from flowcat_server.transports.carrier import CarrierTransport

log = structlog.get_logger()

DIAL_TIMEOUT_S = 10.0
"""How long the carrier may take to say that it dials."""
GRACE_S = 8.0
"""The carrier knows first that nobody answers, and why."""
INTRODUCTION_S = 60.0
"""From a colleague's answer to their decision."""
LIMIT_S = 4 * 3600
"""Longest call with a colleague."""
TICKET_S = 120
"""Longest way from our request to the carrier's."""
COMEBACK_S = 600.0
"""So long after a call was passed on its conversation is remembered."""
MAX_COMEBACKS = 10_000

Key = tuple[str, str]


@dataclass(slots=True)
class Remembered:
    """A conversation whose call was passed on."""

    comeback: Comeback
    from_number: str
    to_number: str
    agent: str = ""


@dataclass(slots=True)
class Desk:
    """What is going on with calls that are passed on, for all of them."""

    calls: Calls
    http: Http
    tickets: Tickets
    clock: Callable[[], float] = time.time
    consultations: dict[str, Consultation] = field(default_factory=dict)
    """Colleagues who are being called, by the names that tickets give them."""
    dials: dict[Key, asyncio.Future[DialOver]] = field(default_factory=dict)
    """Calls that stay with us until it is known whether somebody answers."""
    _comebacks: dict[Key, Remembered] = field(default_factory=dict)

    def remember(self, key: Key, remembered: Remembered) -> None:
        """Keep a conversation, for a time."""
        if len(self._comebacks) >= MAX_COMEBACKS:
            self._comebacks.pop(next(iter(self._comebacks)))
        self._comebacks[key] = remembered
        asyncio.get_running_loop().call_later(COMEBACK_S, self._forget, key, remembered)

    def recall(self, key: Key) -> Remembered | None:
        """A conversation that was kept; once."""
        return self._comebacks.pop(key, None)

    def peek(self, key: Key) -> Remembered | None:
        """A conversation that is kept."""
        return self._comebacks.get(key)

    def _forget(self, key: Key, remembered: Remembered) -> None:
        if self._comebacks.get(key) is remembered:
            del self._comebacks[key]

    def told(self, carrier: str, told: CallStatus) -> None:
        """A colleague's call is over, perhaps before it was answered."""
        if told.status not in OVER:
            return
        for consultation in self.consultations.values():
            if consultation.key == (carrier, told.call_id):
                consultation.decide(told.status.replace("-", " "))

    def dialled(self, carrier: str, over: DialOver) -> bool:
        """What became of a number that was dialled for a call of ours; False: it is none."""
        waiting = self.dials.get((carrier, over.call_id))
        if waiting is None:
            return False
        if not waiting.done():
            waiting.set_result(over)
        return True

    async def send(self, request: RestRequest) -> bool:
        """Send a request; False: the carrier did not take it."""
        return await rest.send(self.http, request)


class CarrierControl:
    """What the carrier of one call can be asked for."""

    def __init__(
        self,
        desk: Desk,
        line: Line,
        call: LiveCall,
        session: Session,
        transport: CarrierTransport,
        base: str,
        agent: str = "",
    ) -> None:
        """Take over a call.

        Args:
            desk: What goes on with all calls.
            line: The carrier.
            call: The carrier's call.
            session: The same, as we have it.
            transport: Its media socket.
            base: This server as the carrier reaches it; empty: it does not.
            agent: Name of the agent that has the call; empty: the default one.
        """
        self._desk = desk
        self._line = line
        self._call = call
        self._session = session
        self._transport = transport
        self._base = base
        self._agent = agent

    # --- keys -------------------------------------------------------------------------------

    async def press(self, keys: str) -> bool:
        """Send keys; False: it cannot be done but by sound."""
        if self._transport.send_keys(keys):
            return True
        request = self._line.carrier.send_keys(self._line.account, self._call, keys, self._now_s())
        return request is not None and await self._desk.send(request)

    # --- passing on -------------------------------------------------------------------------

    async def transfer(
        self, target: TransferTarget, introduction: Awaitable[str], progress: Progress
    ) -> str:
        """Pass the call on; returns why it could not be done, empty: it is out of our hands."""
        carrier = self._line.carrier
        if carrier.returns_to_flow:
            self._transport.target = target.name
            return ""
        if target.mode == "warm" and carrier.joins_calls:
            return await self._warm(target, introduction)
        if target.mode == "warm":
            log.warning("transfer_is_cold", carrier=carrier.name, target=target.name)
        return await self._cold(target, progress)

    async def _cold(self, target: TransferTarget, progress: Progress) -> str:
        carrier, session = self._line.carrier, self._session
        wish = {
            "call": self._call.call_id,
            "agent": self._agent,
            "node": progress.node,
            "target": target.name,
        }
        handing = Handing(
            document_url=self._address({"do": "dial", "phone": target.phone, **wish}),
            over_url=self._address({"do": "over", **wish}, 0),
            ring_s=target.ring_ms // 1000,
        )
        request = carrier.transfer(
            self._line.account, self._call, target.phone, self._now_s(), handing
        )
        if request is None:
            return self._why_not(carrier.moves_calls)
        self._transport.target = target.name
        key = carrier.name, self._call.call_id
        remembered = Remembered(
            Comeback(progress, target), session.from_number, session.to_number, self._agent
        )
        self._desk.remember(key, remembered)
        failure = ""

        async def hand() -> bool:
            nonlocal failure
            if carrier.reports_dials:
                failure = await self._dialled(request, target)
            elif not await self._desk.send(request):
                failure = f"{carrier.title} did not take the transfer"
            return not failure

        if not await session.hand_over(hand()):
            self._desk.recall(key)
            self._transport.target = ""
        return failure

    async def _dialled(self, request: RestRequest, target: TransferTarget) -> str:
        """Have the carrier dial while the call stays here; returns why nobody was reached."""
        carrier, key = self._line.carrier, (self._line.carrier.name, self._call.call_id)
        over: asyncio.Future[DialOver] = asyncio.get_running_loop().create_future()
        self._session.hold()  # nobody is to wait for an answer in silence
        self._desk.dials[key] = over
        try:
            if not await self._desk.send(request):
                return f"{carrier.title} did not take the transfer"
            async with asyncio.timeout(target.ring_ms / 1000 + GRACE_S):
                told = await over
        except TimeoutError:
            return "no answer"
        finally:
            del self._desk.dials[key]
        return "" if told.answered else told.why or "no answer"

    # --- with a colleague -------------------------------------------------------------------

    async def _warm(self, target: TransferTarget, introduction: Awaitable[str]) -> str:
        carrier, account, desk = self._line.carrier, self._line.account, self._desk
        name = secrets.token_hex(8)
        decision: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        consultation = Consultation(target, introduction, decision)
        request = carrier.dial(
            account,
            Dial(
                to=target.phone,
                from_number=account.from_number or self._call.from_number,
                answer_url=self._address(
                    {"do": "consult", "consultation": name, "agent": self._agent}, 0
                ),
                status_url=f"{self._base}/telephony/status/{carrier.name}",
                ring_s=target.ring_ms // 1000,
                limit_s=LIMIT_S,
            ),
            self._now_s(),
        )
        if request is None or not self._base:
            return self._why_not(bool(carrier.dial_keys))
        self._session.hold()
        desk.consultations[name] = consultation
        joined = False
        try:
            answer = await rest.ask(desk.http, request, DIAL_TIMEOUT_S)
            if answer.problem:
                return f"{carrier.title} did not dial: {answer.problem}"
            consultation.key = carrier.name, carrier.read_dialled(answer.body)
            failure = await self._decision(consultation)
            if not failure:
                failure = await self._join(consultation)
                joined = not failure
            return failure
        finally:
            del desk.consultations[name]
            self._dismiss(consultation, joined=joined)

    async def _decision(self, consultation: Consultation) -> str:
        """Wait for the colleague; returns why they do not take the call."""
        ring_s = consultation.target.ring_ms / 1000
        try:
            async with asyncio.timeout(ring_s + GRACE_S + INTRODUCTION_S):
                return await consultation.decision
        except TimeoutError:
            return "no answer"

    async def _join(self, consultation: Consultation) -> str:
        """Connect the two calls."""
        carrier, colleague = self._line.carrier, consultation.session
        if colleague is None:
            return "the colleague is gone"
        room = f"flowcat-{secrets.token_hex(8)}"
        other = LiveCall(consultation.key[1], self._call.account_id, self._call.from_number)
        failure = f"{carrier.title} did not connect the calls"

        async def enter(one: LiveCall, two: LiveCall) -> bool:
            wish = {"do": "room", "room": room, "other": two.call_id}
            handing = Handing(document_url=self._address(wish))
            request = carrier.join(self._line.account, one, two, room, self._now_s(), handing)
            return request is not None and await self._desk.send(request)

        async def both() -> bool:
            if carrier.joins_calls == "both" and not await enter(other, self._call):
                return False
            return await enter(self._call, other)

        self._transport.target = consultation.target.name
        if await self._session.hand_over(colleague.hand_over(both())):
            return ""
        self._transport.target = ""
        alone = carrier.hang_up(self._line.account, other, self._now_s())
        if alone is not None:
            self._desk.calls.spawn("hang-up-colleague", self._sent(alone))
        return failure

    def _dismiss(self, consultation: Consultation, *, joined: bool) -> None:
        """The colleague's call has served its purpose, or none."""
        if not consultation.decision.done():
            consultation.decide("nobody waits any more")
        colleague = consultation.session
        if colleague is not None:
            reason = ended.AGENT_TRANSFERRED if joined else ended.AGENT_ENDED
            colleague.end(reason, "" if joined else "the call was not taken")
            return
        call_id = consultation.key[1]
        if call_id:
            request = self._line.carrier.cancel(
                self._line.account, LiveCall(call_id, self._call.account_id), self._now_s()
            )
            if request is not None:
                self._desk.calls.spawn("cancel-dial", self._sent(request))

    async def _sent(self, request: RestRequest) -> None:
        await self._desk.send(request)

    # --- inside -----------------------------------------------------------------------------

    def _address(self, wish: Mapping[str, str], lifetime_s: int = TICKET_S) -> str:
        """An address of ours for the carrier alone; empty: it cannot reach us."""
        if not self._base:
            return ""
        name = self._line.carrier.name
        ticket = self._desk.tickets.mint(name, wish, lifetime_s)
        return f"{self._base}/telephony/next/{name}/token/{ticket}"

    def _why_not(self, able: bool) -> str:
        carrier = self._line.carrier
        if not able:
            return f"{carrier.title} cannot"
        return f"credentials or server.public_url are missing for carriers.{carrier.name}"

    def _now_s(self) -> int:
        return int(self._desk.clock())
