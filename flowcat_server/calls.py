"""Admission and the calls that are live.

A place is reserved before anything is spent on a call (at the carrier's webhook, at a browser's
offer) and given back when the call is over or never came. The count is exact: whoever counts
(`Places`: this process alone, or all workers of a server together) takes a place in one step.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import structlog

from flowcat_server.agents import Agents
from flowcat_server.config.models import Config
from flowcat_server.core import ended
from flowcat_server.core.budget import LatencyBudget
from flowcat_server.core.carrier import Detected
from flowcat_server.core.control import Comeback, Consultation, LineControl
from flowcat_server.core.events import CallEnded, CallEvent, Latency, TurnCompleted
from flowcat_server.core.interfaces import Transport
from flowcat_server.core.overload import Overload
from flowcat_server.errors import CallRefused, ConfigError, TransportError
from flowcat_server.introduction import IntroductionLine
from flowcat_server.metrics import Metrics
from flowcat_server.pipeline import CallLine, Parts
from flowcat_server.places import RESERVATION_S, OwnPlaces, Places, Reservation
from flowcat_server.processors.machine import MachineRules
from flowcat_server.records.models import CallRow
from flowcat_server.records.recorder import Recorder
from flowcat_server.records.recording import Recording
from flowcat_server.records.store import Store
from flowcat_server.records.writer import CallWriter
from flowcat_server.session import BeforeHangUp, Line, Session, Subscriber

log = structlog.get_logger()

Work = tuple[str, Callable[[], Coroutine[Any, Any, None]]]

END_ALL_S = 15.0
BUDGET_LOG_S = 60.0
"""At most one line a minute about a budget that is exceeded."""
RECORDING_RATE = 16_000
"""Hertz, at most; phone calls are recorded at their own rate."""


@dataclass(frozen=True, slots=True)
class Incoming:
    """What is known of a call before it starts."""

    channel: str
    from_number: str = ""
    to_number: str = ""
    external_id: str = ""
    """The carrier's own id of the call."""
    variables: Mapping[str, Any] = field(default_factory=dict)
    agent: str = ""
    """Name of the agent that answers; empty: the default one."""
    dialled: Dialled | None = None
    """We made the call; None: it came to us."""
    comeback: Comeback | None = None
    """It was passed on before, and nobody was reached."""
    consultation: Consultation | None = None
    """It is no caller's: a colleague is asked whether they take one."""
    hears_keys: bool = False
    """Keys are heard in its audio."""


@dataclass(frozen=True, slots=True)
class Dialled:
    """A call that we made, when it is answered."""

    call_id: str
    """Our own id, which it has had from the beginning."""
    at: int
    """When it was dialled, milliseconds since 1970."""
    writer: CallWriter
    """Has recorded it so far."""
    machine: MachineRules
    detected: Detected | None = None
    """What the carrier has said already of who answered."""


class Ringing(Protocol):
    """A call that we make and nobody has answered yet; `Calls.ringing` has them all."""

    async def cancel(self, reason: str) -> None:
        """Give it up, and tell the carrier. Idempotent."""


class Calls:
    """The live calls of this process."""

    def __init__(
        self,
        agents: Agents,
        store: Store,
        recorder: Recorder | None,
        metrics: Metrics,
        tasks: asyncio.TaskGroup,
        on_ended: Callable[[], None] = lambda: None,
        overload: Overload | None = None,
        places: Places | None = None,
    ) -> None:
        self.agents = agents
        self.draining = False
        self.live: dict[str, Session] = {}
        self.ringing: dict[str, Ringing] = {}
        """Calls on their way out, by our ids; kept by `routes.outbound`."""
        self._store = store
        self._recorder = recorder
        self._metrics = metrics
        self._tasks = tasks
        self._on_ended = on_ended
        self._overload = overload or Overload(0)
        self._places = places or OwnPlaces(self.config.limits.max_calls)
        self._reserved: set[Reservation] = set()
        self._connecting: dict[str, Transport] = {}
        self._ending = ""
        """Why every call ends now; empty while they may go on."""
        limit_ms = self.config.observability.budget.first_audio_p95
        self._budget = LatencyBudget(limit_ms) if limit_ms else None
        self._budget_log_at = 0.0
        self._errands: set[asyncio.Task[None]] = set()
        self._quiet = asyncio.Event()
        self._quiet.set()

    @property
    def metrics(self) -> Metrics:
        """Where calls are counted."""
        return self._metrics

    @property
    def config(self) -> Config:
        """What holds for all agents: limits, records, observability."""
        return self.agents.default.config

    # --- admission -------------------------------------------------------------------------

    @property
    def count(self) -> int:
        """Places in use, live and reserved."""
        return self._places.used

    @property
    def live_ids(self) -> Set[str]:
        """Ids of the calls that are live, whichever process runs them."""
        return {*self.live, *self.ringing, *self._places.live}

    @property
    def closed_for(self) -> str:
        """Why no new call is taken now: ``draining``, ``full``, ``overloaded``; empty: it is."""
        if self.draining:
            return "draining"
        if self.count >= self.config.limits.max_calls:
            return "full"
        # Without a call there is none to protect, and nothing to gain by waiting for one to end.
        return "overloaded" if self._overload.overloaded and self._reserved else ""

    def reserve(self, hold_s: float = 0) -> Reservation:
        """Take a place, for a call that comes within `hold_s` (0: within a minute).

        Raises:
            CallRefused: None is given away, see `closed_for`.
        """
        reason = self.closed_for
        place = None if reason else self._places.take()
        if place is None:
            reason = reason or "full"  # another process was faster
            self._metrics.call_refused(reason)
            log.warning("call_refused", reason=reason, live=self.count)
            raise CallRefused(reason)
        return self.adopt(place, hold_s)

    def adopt(self, place: int, hold_s: float = 0) -> Reservation:
        """Look after a place that was taken elsewhere."""
        reservation = Reservation(place, self._give_back, hold_s or RESERVATION_S)
        self._reserved.add(reservation)
        self._quiet.clear()
        return reservation

    def announce(self, reservation: Reservation, call_id: str) -> None:
        """The place is that of this call, which is on its way: requests about it come here."""
        self._places.begun(reservation.place, call_id)

    def part_with(self, reservation: Reservation) -> None:
        """Leave a place, which stays taken, to whoever runs the call."""
        reservation.part()
        self._forget(reservation)

    def _give_back(self, reservation: Reservation) -> None:
        self._places.give_back(reservation.place)
        self._forget(reservation)

    def _forget(self, reservation: Reservation) -> None:
        self._reserved.discard(reservation)
        if not self._reserved:
            self._quiet.set()

    # --- a call ----------------------------------------------------------------------------

    def start(
        self,
        reservation: Reservation,
        transport: Transport,
        incoming: Incoming,
        *,
        subscribers: Sequence[Subscriber] = (),
        work: Sequence[Work] = (),
        before_hang_up: BeforeHangUp | None = None,
        control: Callable[[Session], LineControl] | None = None,
    ) -> tuple[str, asyncio.Task[None]]:
        """Run a call as a task of its own; returns its id and the task.

        Args:
            reservation: The call's place; released when it ends.
            transport: The way to the far end.
            incoming: What is known of the call.
            subscribers: Hear the call's events.
            work: The transport's own loops, by name, run as tasks of the call; the call ends
                when one of them does.
            before_hang_up: Run when the call has ended and the transport is still open.
            control: Makes what the far end can be asked for; None: it only carries audio.
        """
        call_id = incoming.dialled.call_id if incoming.dialled else new_id()
        reservation.take()
        self._places.begun(reservation.place, call_id)
        task = self._tasks.create_task(
            self._run(
                call_id,
                reservation,
                transport,
                incoming,
                subscribers,
                work,
                before_hang_up,
                control,
            ),
            name=f"call-{call_id}",
        )
        return call_id, task

    async def _run(
        self,
        call_id: str,
        reservation: Reservation,
        transport: Transport,
        incoming: Incoming,
        subscribers: Sequence[Subscriber],
        work: Sequence[Work],
        before_hang_up: BeforeHangUp | None,
        control: Callable[[Session], LineControl] | None,
    ) -> None:
        try:
            if not reservation.taken:
                await transport.hang_up("the place was given back")
                return
            await self._connected(call_id, transport)
            await self._run_reserved(
                call_id, transport, incoming, subscribers, work, before_hang_up, control
            )
        except TransportError as error:
            log.info("call_never_connected", channel=incoming.channel, error=str(error))
        except Exception:  # records or pipeline are broken: this call is lost, the others live
            log.exception("call_lost", call_id=call_id)
            await transport.hang_up(ended.SERVER_ERROR)
        finally:
            reservation.release()
            if incoming.dialled is not None:  # it has a record; if it has no end, this is it
                incoming.dialled.writer.on_event(CallEnded(0, ended.SERVER_ERROR))
                await self._store.call_ended(call_id)

    async def _connected(self, call_id: str, transport: Transport) -> None:
        self._connecting[call_id] = transport
        try:
            await transport.wait_connected()
        finally:
            del self._connecting[call_id]

    async def _run_reserved(
        self,
        call_id: str,
        transport: Transport,
        incoming: Incoming,
        subscribers: Sequence[Subscriber],
        work: Sequence[Work],
        before_hang_up: BeforeHangUp | None,
        control: Callable[[Session], LineControl] | None,
    ) -> None:
        config = self.config
        parts = self.agents.get(incoming.agent)
        if parts is None:
            raise ConfigError(f"there is no agent {incoming.agent!r}")
        dialled = incoming.dialled
        accepted_at = time.time_ns() // 1_000_000
        name = self._store.new_recording(call_id, accepted_at) if self._recorder else ""
        recording: Recording | None = None

        def build(session: Session) -> Line:
            nonlocal recording
            if self._recorder is not None:
                recording = self._recorder.open(
                    self._store.directory / name,
                    caller=transport.input_format,
                    agent=transport.output_format,
                    sample_rate=min(RECORDING_RATE, transport.input_format.sample_rate),
                    mono=config.records.audio == "mono",
                    now_ms=session.now_ms,
                )
            line = self._line(session, parts, transport, recording, incoming)
            for task_name, coroutine in work:
                session.own(session.spawn(task_name, coroutine()))
            return line

        async def close_recording() -> None:
            if recording is not None:
                await recording.close(session.now_ms())

        session = Session(
            call_id,
            transport,
            build,
            agent_name=parts.profile.name,
            channel=incoming.channel,
            from_number=incoming.from_number,
            to_number=incoming.to_number,
            max_call_ms=config.limits.max_call,
            media_timeout_ms=config.limits.media_timeout,
            before_hang_up=before_hang_up,
            on_provider_error=self._metrics.provider_error,
        )
        if control is not None:
            session.control = control(session)
        if incoming.consultation is not None:
            incoming.consultation.session = session
        row = CallRow(
            call_id,
            parts.profile.name,
            incoming.channel,
            accepted_at,
            incoming.from_number,
            incoming.to_number,
            incoming.external_id,
            name,
            dict(incoming.variables),
            dialled.at if dialled is not None else None,
        )
        self.live[call_id] = session
        try:
            if self._ending:
                session.end(self._ending)
            if dialled is None:
                writer = await self._store.call_accepted(row)
            else:
                self._metrics.dialled(incoming.channel, "answered")
                writer = dialled.writer
                writer.answered(accepted_at, name, incoming.external_id)
            del row
            try:
                meter = self._metrics.call(incoming.channel, session, parts.profile.name)
                try:
                    hearers = (writer.on_event, meter.on_event, self._on_event, *subscribers)
                    for subscriber in hearers:
                        session.subscribe(subscriber)
                    await session.run()
                finally:
                    meter.close()
            finally:
                await self._put_away(call_id, close_recording)
        finally:
            del self.live[call_id]

    async def _put_away(
        self, call_id: str, close_recording: Callable[[], Coroutine[Any, Any, None]]
    ) -> None:
        """Close what was kept of a call; a fault of one part does not keep the others open."""
        try:
            await close_recording()
        finally:
            try:
                await self._store.call_ended(call_id)
            finally:
                self._on_ended()

    def _line(
        self,
        session: Session,
        parts: Parts,
        transport: Transport,
        recording: Recording | None,
        incoming: Incoming,
    ) -> Line:
        if incoming.consultation is not None:
            return IntroductionLine(session, parts, transport, incoming.consultation, recording)
        dialled = incoming.dialled
        line = CallLine(
            session,
            parts,
            transport,
            recording,
            incoming.variables,
            dialled.machine if dialled is not None else None,
            comeback=incoming.comeback,
            hears_keys=incoming.hears_keys,
        )
        session.subscribe(line.on_event)
        if dialled is not None and (told := dialled.detected) is not None:
            session.call_at(
                0, partial(line.detected, told.answerer, greeting_over=told.greeting_over)
            )
        return line

    def spawn(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        """Run something bounded that outlives the call it is for."""
        task = self._tasks.create_task(work, name=name)
        self._errands.add(task)
        task.add_done_callback(self._errands.discard)

    def _on_event(self, event: CallEvent) -> None:
        if not isinstance(event, TurnCompleted):
            return
        latency = event.latency
        parts = {f"{part}_ms": ms for part, ms in latency.parts().items()} if latency else {}
        log.info(
            "turn_completed",
            turn=event.turn,
            interrupted=event.interrupted,
            total_ms=latency.total_ms if latency else None,
            **parts,
        )
        if latency is not None:
            self._watch_budget(latency)

    def _watch_budget(self, latency: Latency) -> None:
        if self._budget is None:
            return
        verdict = self._budget.observe(latency)
        if verdict is None:
            return
        self._metrics.over_budget(verdict.stage)
        now = time.monotonic()
        if now >= self._budget_log_at:
            self._budget_log_at = now + BUDGET_LOG_S
            log.warning(
                "latency_over_budget",
                p95_ms=verdict.p95_ms,
                budget_ms=self._budget.p95_ms,
                stage=verdict.stage,
                stage_ms=verdict.stage_ms,
            )

    # --- the record of a call that nobody has answered ---------------------------------------

    async def dialling(self, row: CallRow) -> CallWriter:
        """A call is about to be made: record it."""
        return await self._store.call_accepted(row)

    async def unanswered(self, call_id: str, carrier: str, status: str) -> None:
        """It is over; its writer was told so."""
        self._metrics.dialled(carrier, status)
        await self._store.call_ended(call_id)
        self._on_ended()

    # --- the end ---------------------------------------------------------------------------

    async def hang_up(self, call_id: str, reason: str) -> bool:
        """End a call, also one that still rings or connects; False if there is none."""
        session = self.live.get(call_id)
        if session is not None:
            session.end(reason)
            return True
        ringing = self.ringing.get(call_id)
        if ringing is not None:
            await ringing.cancel(reason)
            return True
        transport = self._connecting.get(call_id)
        if transport is not None:
            await transport.hang_up(reason)
        return transport is not None

    async def drain(self, timeout_s: float, nobody_waits: Awaitable[None] | None = None) -> None:
        """Take no new call; wait for those that have a place, then end what is left.

        `nobody_waits` returns when no call may still come that another process gave a place.
        """
        self.draining = True
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                if nobody_waits is not None:
                    await nobody_waits
                await self._quiet.wait()
        await self.end_all(ended.SERVER_DRAINED)

    async def end_all(self, reason: str) -> None:
        """End every call and wait for the ends, a bounded time."""
        self.draining = True
        self._ending = self._ending or reason
        for reservation in list(self._reserved):
            if not reservation.taken:
                reservation.release()
        with suppress(TimeoutError):
            async with asyncio.timeout(END_ALL_S):
                for call_id in [*self.live, *self._connecting, *self.ringing]:
                    await self.hang_up(call_id, reason)
                await self._quiet.wait()


def new_id() -> str:
    """A call id: sortable by time, unguessable, safe in file names."""
    return f"{time.time_ns() // 1_000_000:011x}{secrets.token_hex(6)}"
