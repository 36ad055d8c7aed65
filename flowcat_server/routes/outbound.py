"""Calls that the server makes, from the request for one until it is answered or over.

Theory of operation. A place is taken and a record begun before anybody is asked to dial. The
carrier is given addresses that end in the call's own id, so that whatever it tells or asks finds
the call, also before the carrier's own id for it is known. What is dialled costs money, so a
request to dial is sent once: where it is unclear what became of it, the call counts as failed, and
if somebody answers it after all, it is hung up.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import structlog

from flowcat_server.calls import Calls, Incoming, new_id
from flowcat_server.config.models import Config
from flowcat_server.config.outbound import Machine
from flowcat_server.core import ended
from flowcat_server.core.carrier import (
    E164,
    OVER,
    CallStatus,
    Dial,
    RestRequest,
)
from flowcat_server.core.templates import render
from flowcat_server.errors import CallNotMade
from flowcat_server.places import Reservation
from flowcat_server.processors.machine import MachineRules
from flowcat_server.providers.http import Http
from flowcat_server.records.models import CallRow
from flowcat_server.routes import rest
from flowcat_server.routes.lines import Line, lines
from flowcat_server.routes.placed import GRACE_S, MEDIA_S, Placed

log = structlog.get_logger()

T = TypeVar("T")

MINUTE_S = 60.0
DIAL_TIMEOUT_S = 10.0
"""How long the carrier may take to say that it dials."""
MAX_UNNAMED = 1_000
RUN_ID = re.compile(r"out-([0-9a-f]{23})")
"""What our addresses of an outbound call end in."""


class Pace(Protocol):
    """Counts the calls that are begun: in this process (`OwnPace`), or for several of them."""

    def begin(self) -> float:
        """Count one. Returns 0, or for how many seconds none may be begun; then it counts not."""


class OwnPace:
    """So many calls a minute, of a process that shares them with no other."""

    def __init__(self, per_minute: int) -> None:
        self._per_minute = per_minute
        self._begun: deque[float] = deque()
        """When the last calls were begun, on the loop's clock."""

    def begin(self) -> float:
        """Count a call, unless it has to wait."""
        now, begun = asyncio.get_running_loop().time(), self._begun
        while begun and begun[0] <= now - MINUTE_S:
            begun.popleft()
        if len(begun) >= self._per_minute:
            return begun[0] + MINUTE_S - now if begun else MINUTE_S
        begun.append(now)
        return 0.0


@dataclass(slots=True, frozen=True)
class Order:
    """A call that is asked for."""

    to: str
    from_number: str = ""
    carrier: str = ""
    agent: str = ""
    variables: Mapping[str, Any] = field(default_factory=dict)
    machine: Machine | None = None
    """None: what the agent's file says."""
    ring_ms: int | None = None
    """None: ``outbound.ring_timeout``."""


class OutboundCalls:
    """Makes calls, and knows those that nobody has answered yet."""

    def __init__(
        self,
        config: Config,
        calls: Calls,
        http: Http,
        tasks: asyncio.TaskGroup,
        clock: Callable[[], float] = time.time,
        pace: Pace | None = None,
    ) -> None:
        """Make no call yet.

        Args:
            config: Whom the server may call, and by which carrier.
            calls: Where places are taken and calls run.
            http: For requests to the carriers.
            tasks: Owns what goes on without a request.
            clock: Seconds since 1970, for requests that are signed.
            pace: Counts calls for several processes; absent: for this one.
        """
        self.http = http
        self.clock = clock
        self._rules = config.outbound
        self._limit_ms = config.limits.max_call
        self._base = config.server.public_url.rstrip("/")
        self._calls = calls
        self._tasks = tasks
        self._lines = {line.carrier.name: line for line in lines(config) if line.carrier.dial_keys}
        self._placed: dict[str, Placed] = {}
        self._unnamed: dict[str, Placed] = {}
        """Given up before the carrier had said what it calls them."""
        self._later: set[asyncio.Task[None]] = set()
        self._pace = pace or OwnPace(config.outbound.max_per_minute)

    # --- a call is asked for ------------------------------------------------------------------

    async def place(self, order: Order) -> Placed:
        """Make a call; returns when the carrier dials.

        Raises:
            CallNotMade: It is not allowed, cannot be done, or the carrier refuses.
            CallRefused: The server is full or draining.
        """
        line = self._line(order)
        parts = self._calls.agents.get(order.agent)
        if parts is None:
            known = ", ".join(self._calls.agents.names)
            raise CallNotMade(
                "agent_unknown", f"there is no agent {order.agent!r} (there are: {known})",
                field="agent",
            )  # fmt: skip
        self._check_number(order.to)
        caller = order.from_number or line.account.from_number
        _check_caller(caller, line)
        if not self._base:
            raise CallNotMade(
                "no_public_url", "server.public_url is not set: the carrier could not reach us"
            )
        machine = order.machine or parts.config.outbound.machine
        ring_ms = order.ring_ms or self._rules.ring_timeout
        call_id = new_id()
        dial = self._dial(call_id, line, order.to, caller, machine, ring_ms)
        request = line.carrier.dial(line.account, dial, int(self.clock()))
        if request is None:
            raise _no_credentials(line)
        self._count()
        reservation = self._calls.reserve(ring_ms / 1000 + DIAL_TIMEOUT_S + GRACE_S + MEDIA_S)
        self._calls.announce(reservation, call_id)
        try:
            placed = await self._begin(call_id, line, order, caller, reservation)
        except BaseException:
            reservation.release()
            raise
        # Whoever asked may go away meanwhile: the carrier's answer has to be taken all the same.
        failure = await asyncio.shield(
            self.spawn("dial", self._send(placed, request, ring_ms / 1000))
        )
        if failure is not None:
            raise failure
        return placed

    async def _begin(
        self, call_id: str, line: Line, order: Order, caller: str, reservation: Reservation
    ) -> Placed:
        """Record the call, so that it is known from now on."""
        parts = self._calls.agents.get(order.agent) or self._calls.agents.default
        at = time.time_ns() // 1_000_000
        known = {
            "caller_number": caller,
            "called_number": order.to,
            "direction": "outbound",
            **order.variables,
        }
        row = CallRow(
            call_id, parts.profile.name, line.carrier.name, at, caller, order.to,
            variables=known, dialled_at=at,
        )  # fmt: skip
        writer = await self._calls.dialling(row)
        machine = order.machine or parts.config.outbound.machine
        rules = _machine_rules(machine, {**parts.profile.seed_variables, **known})
        incoming = Incoming(line.carrier.name, caller, order.to, variables=known, agent=order.agent)
        placed = Placed(self, line, incoming, reservation, at, writer, rules)
        self._placed[call_id] = self._calls.ringing[call_id] = placed
        return placed

    async def _send(
        self, placed: Placed, request: RestRequest, ring_s: float
    ) -> CallNotMade | None:
        """Have the carrier dial; returns why it does not."""
        carrier = placed.line.carrier
        log.info("call_dialled", call_id=placed.id, carrier=carrier.name)
        try:
            answer = await rest.ask(self.http, request, DIAL_TIMEOUT_S)
            if not answer.problem:
                placed.dialled(carrier.read_dialled(answer.body), ring_s)
                return None
        except Exception as error:  # it must not end the server
            log.exception("dial_broke", call_id=placed.id)
            answer = rest.Answer(f"{type(error).__name__} in the server")
        said = " ".join(answer.body[:500].decode("utf-8", "replace").split())
        detail = f"{carrier.title}: {answer.problem}" + (f": {said}" if said else "")
        log.warning("dial_failed", call_id=placed.id, carrier=carrier.name, error=detail)
        if placed.status != "dialling":  # the carrier has called back, so it does dial
            return None
        placed.finish("failed", ended.CALLEE_FAILED, detail)
        return CallNotMade("carrier_refused", detail, call_id=placed.id)

    def _dial(
        self, call_id: str, line: Line, to: str, caller: str, machine: Machine, ring_ms: int
    ) -> Dial:
        name = line.carrier.name
        return Dial(
            to=to,
            from_number=caller,
            answer_url=f"{self._base}/telephony/answer/{name}/out-{call_id}",
            status_url=f"{self._base}/telephony/status/{name}/out-{call_id}",
            socket_url=f"ws{self._base.removeprefix('http')}/telephony/ws/{name}/out-{call_id}",
            ring_s=-(-ring_ms // 1000),
            limit_s=self._limit_ms // 1000 + 60,
            detect=machine.detect in ("both", "carrier"),
            await_greeting=machine.on_machine == "leave_message",
        )

    # --- whether it may be made ---------------------------------------------------------------

    def _line(self, order: Order) -> Line:
        wanted = order.carrier or self._rules.carrier
        ready = {name: line for name, line in self._lines.items() if not missing(line)}
        if wanted:
            line = self._lines.get(wanted)
            if line is None:
                known = ", ".join(self._lines)
                raise CallNotMade(
                    "carrier_unknown", f"{wanted!r} makes no calls (these do: {known})",
                    field="carrier",
                )  # fmt: skip
            if wanted not in ready:
                raise _no_credentials(line)
            return line
        if len(ready) == 1:
            return next(iter(ready.values()))
        if ready:
            raise CallNotMade(
                "carrier_unclear",
                f"more than one carrier can make the call ({', '.join(ready)}): name one, here or "
                "in outbound.carrier",
                field="carrier",
            )
        raise CallNotMade(
            "no_carrier",
            "no carrier is configured to make calls: give one of them its keys and a from_number "
            "under carriers",
        )

    def _check_number(self, number: str) -> None:
        """See `outbound.allow`.

        Who holds the API token must not be able to call anywhere: calls cost money, and premium
        rates are what stolen tokens are used for.
        """
        if not E164.fullmatch(number):
            raise CallNotMade(
                "number_invalid",
                f"to: {number[:40]!r} is no number in E.164, such as +441234567890",
                field="to",
            )
        if not self._rules.allow:
            raise CallNotMade(
                "number_not_allowed",
                f"to: {number} may not be called: outbound.allow names no numbers yet, such as "
                f"{number[:3]}*",
                field="to",
            )
        fits = any(_fits(number, pattern) for pattern in self._rules.allow)
        if not fits or any(_fits(number, pattern) for pattern in self._rules.deny):
            raise CallNotMade(
                "number_not_allowed",
                f"to: {number} may not be called (outbound.allow: "
                f"{', '.join(self._rules.allow)}; outbound.deny: "
                f"{', '.join(self._rules.deny) or 'none'})",
                field="to",
            )

    def _count(self) -> None:
        """Keep to `outbound.max_per_minute`."""
        wait_s = self._pace.begin()
        if wait_s:
            raise CallNotMade(
                "too_many",
                f"{self._rules.max_per_minute} calls were begun within a minute, which is all that "
                "outbound.max_per_minute allows",
                wait_s=max(1, round(wait_s)),
            )

    # --- what carriers say --------------------------------------------------------------------

    def find(self, carrier: str, run_id: str, external_id: str) -> Placed | None:
        """The call that an address of ours names, or the carrier, if it is still on its way out."""
        named = RUN_ID.fullmatch(run_id)
        if named:
            placed = self._placed.get(named[1])
            return placed if placed is not None and placed.line.carrier.name == carrier else None
        return next(
            (
                placed
                for placed in self._placed.values()
                if placed.external_id == external_id and placed.line.carrier.name == carrier
            ),
            None,
        )

    def follow(self, carrier: str, run_id: str, told: CallStatus) -> bool:
        """What a status callback says; False: of no call that rings."""
        placed = self.find(carrier, run_id, told.call_id)
        if placed is None:
            self._named(run_id, told)
            return False
        placed.follow(told)
        return True

    def _named(self, run_id: str, told: CallStatus) -> None:
        """A call that was given up too early to be taken back can be taken back now."""
        named = RUN_ID.fullmatch(run_id)
        placed = self._unnamed.pop(named[1], None) if named else None
        if placed is not None and told.status not in OVER:
            placed.external_id = told.call_id
            self.later("cancel", placed.take_back())

    # --- for `Placed` -------------------------------------------------------------------------

    def forget(self, placed: Placed) -> None:
        """It does not ring any more."""
        self._placed.pop(placed.id, None)
        self._calls.ringing.pop(placed.id, None)

    def await_name(self, placed: Placed) -> None:
        """Take it back as soon as its carrier says what it is called."""
        while len(self._unnamed) >= MAX_UNNAMED:
            del self._unnamed[next(iter(self._unnamed))]
        self._unnamed[placed.id] = placed

    def closed(self, placed: Placed, status: str) -> None:
        """It is over: have its record finished."""
        work = self._calls.unanswered(placed.id, placed.line.carrier.name, status)
        self.later("record", work)

    def later(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        """Do something that nobody waits for."""
        self._later.add(task := self.spawn(name, _quietly(work)))
        task.add_done_callback(self._later.discard)

    def spawn(self, name: str, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Do something that goes on when the request for it is gone. It must not raise."""
        return self._tasks.create_task(work, name=f"outbound-{name}")


async def _quietly(work: Coroutine[Any, Any, None]) -> None:
    try:
        await work
    except Exception:  # it must not end the server
        log.exception("outbound_task_failed")


def missing(line: Line) -> list[str]:
    """The keys of a carrier's block without which it makes no calls."""
    block, name = line.block, line.carrier.name
    keys = [key for key in line.carrier.dial_keys if not _value(getattr(block, key, ""))]
    if "connection_id" in keys and _value(getattr(block, "texml_application_id", "")):
        keys.remove("connection_id")
    return [f"carriers.{name}.{key}" for key in keys]


def _value(value: object) -> str:
    secret = getattr(value, "get_secret_value", None)
    return str(secret() if secret is not None else value)


def _no_credentials(line: Line) -> CallNotMade:
    keys = " and ".join(missing(line)) or "its credentials, which it cannot use"
    return CallNotMade(
        "no_credentials", f"{line.carrier.title} makes no calls without {keys}", field="carrier"
    )


def _check_caller(number: str, line: Line) -> None:
    if not number:
        raise CallNotMade(
            "no_from_number",
            f"from: say which number is shown, here or in carriers.{line.carrier.name}.from_number",
            field="from",
        )
    if not E164.fullmatch(number):
        raise CallNotMade(
            "number_invalid",
            f"from: {number[:40]!r} is no number in E.164, such as +441234567890",
            field="from",
        )


def _fits(number: str, pattern: str) -> bool:
    if pattern.endswith("*"):
        return number.startswith(pattern[:-1])
    return number == pattern


def _machine_rules(machine: Machine, variables: Mapping[str, Any]) -> MachineRules:
    return MachineRules(
        on_human=machine.on_human,
        on_machine=machine.on_machine,
        on_unknown=machine.on_unknown,
        message=render(machine.message, variables),
        own=machine.detect in ("both", "own"),
        wait=machine.wait,
    )
