"""One call on its way out, until it is answered or over.

    dialling --> ringing --> answered --> its media socket comes: the call is live (`Calls`)
        |           |           |
        +-----------+-----------+-------> busy, no-answer, failed, canceled, completed

Callbacks repeat and come out of order: a call only ever goes forward. Its place is given back at
the end, whatever the end is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import replace
from typing import Any, Protocol

import structlog

from flowcat_server.calls import Dialled, Incoming
from flowcat_server.core import ended, events
from flowcat_server.core.carrier import (
    OVER,
    RANK,
    CallStatus,
    Detected,
    LiveCall,
    RestRequest,
    Status,
)
from flowcat_server.places import Reservation
from flowcat_server.processors.machine import MachineRules
from flowcat_server.providers.http import Http
from flowcat_server.records.writer import CallWriter
from flowcat_server.routes import rest
from flowcat_server.routes.lines import Line

log = structlog.get_logger()

GRACE_S = 5.0
"""Our own ring timeout comes so much later than the carrier's, which knows why."""
MEDIA_S = 30.0
"""An answered call whose media socket has not come by then is lost."""
_REASONS: Mapping[Status, str] = {
    "busy": ended.CALLEE_BUSY,
    "no-answer": ended.CALLEE_NO_ANSWER,
    "failed": ended.CALLEE_FAILED,
    "canceled": ended.OPERATOR_HUNG_UP,
    "completed": ended.CALLER_HUNG_UP,
}


class Owner(Protocol):
    """Who makes the calls; `routes.outbound.OutboundCalls`."""

    http: Http
    clock: Callable[[], float]

    def forget(self, placed: Placed) -> None:
        """It does not ring any more."""

    def await_name(self, placed: Placed) -> None:
        """Take it back as soon as its carrier says what it is called."""

    def closed(self, placed: Placed, status: str) -> None:
        """It is over: have its record finished."""

    def later(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        """Do something that nobody waits for."""


class Placed:
    """One call on its way out."""

    def __init__(
        self,
        owner: Owner,
        line: Line,
        incoming: Incoming,
        reservation: Reservation,
        at: int,
        writer: CallWriter,
        rules: MachineRules,
    ) -> None:
        """Begin. `incoming.dialled` is made when the call is answered."""
        self.id = writer.call_id
        self.line = line
        self.reservation = reservation
        self.status = "dialling"
        """``dialling``, then a `Status`."""
        self.external_id = ""
        """The carrier's id, once it is known."""
        self._owner = owner
        self.incoming = incoming
        self._at = at
        self._writer = writer
        self._rules = rules
        self._begun = asyncio.get_running_loop().time()
        self._rank = RANK["initiated"]
        self._detected: Detected | None = None
        self._timer: asyncio.TimerHandle | None = None
        self.over = False
        self._progress("dialling")

    # --- what happens to it -----------------------------------------------------------------

    def dialled(self, external_id: str, ring_s: float) -> None:
        """The carrier dials."""
        self.external_id = self.external_id or external_id
        if self.over:  # given up while it was asked
            self._owner.later("cancel", self.take_back())
        elif self.status != "answered":
            self._after(ring_s + GRACE_S, self._rang_out)

    def follow(self, told: CallStatus) -> None:
        """The carrier's account of it."""
        self.external_id = told.call_id
        if self.over or RANK[told.status] <= self._rank:
            return
        if told.status in OVER:
            self.finish(told.status, _REASONS[told.status], told.detail)
        elif told.status == "answered":
            self.answered()
        elif told.status == "ringing":
            self._rank = RANK["ringing"]
            self._progress("ringing")

    def answered(self) -> None:
        """Somebody has answered; the media socket is to come."""
        if self.status != "answered":
            self._rank = RANK["answered"]
            self._progress("answered")
            self._after(MEDIA_S, self._mute)

    def detected(self, found: Detected) -> None:
        """The carrier knows who answered, before the sound has come."""
        self._detected = found

    def take(self, external_id: str) -> Incoming:
        """The media socket has come: the call is `Calls`' from now on."""
        self.answered()
        self._stop()
        self._owner.forget(self)
        dialled = Dialled(self.id, self._at, self._writer, self._rules, self._detected)
        return replace(self.incoming, external_id=external_id, dialled=dialled)

    async def cancel(self, reason: str) -> None:
        """Give it up, and tell the carrier."""
        if not self.over:
            self.finish("canceled", reason)
            await self.take_back()

    async def take_back(self) -> None:
        """Have the carrier stop ringing, as far as it is known what it calls the call."""
        if not self.external_id:
            # The first callback will name it; `Owner.await_name` comes back here then.
            self._owner.await_name(self)
            return
        request = self._last_request()
        if request is not None:
            await rest.send(self._owner.http, request)

    def finish(self, status: Status, reason: str, detail: str = "") -> None:
        """It is over and nobody has spoken with anybody."""
        if self.over:
            return
        self.over = True
        self._stop()
        self.reservation.release()
        self._progress(status, detail)
        self._writer.on_event(events.CallEnded(self._dialled_ms, reason, detail))
        self._owner.forget(self)
        log.info("call_not_answered", call_id=self.id, status=status, detail=detail)
        self._owner.closed(self, status)

    # --- inside -----------------------------------------------------------------------------

    @property
    def _dialled_ms(self) -> int:
        return int((asyncio.get_running_loop().time() - self._begun) * 1000)

    def _progress(self, status: str, detail: str = "") -> None:
        self.status = status
        self._writer.on_event(events.CallProgress(0, status, self._dialled_ms, detail))

    def _after(self, seconds: float, then: Callable[[], None]) -> None:
        self._stop()
        self._timer = asyncio.get_running_loop().call_later(seconds, then)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _rang_out(self) -> None:
        self.finish("no-answer", ended.CALLEE_NO_ANSWER, "nobody answered in time")
        self._owner.later("cancel", self.take_back())

    def _mute(self) -> None:
        self.finish("failed", ended.CALLEE_FAILED, "answered, but its media socket never came")
        self._owner.later("cancel", self.take_back())

    def _last_request(self) -> RestRequest | None:
        carrier, account = self.line.carrier, self.line.account
        call = LiveCall(self.external_id, account.id, self.incoming.from_number)
        return carrier.cancel(account, call, int(self._owner.clock()))
