"""One call: owns its tasks, its clock, its log context and its end.

Everything that waits on behalf of the call is a task started by `Session.spawn`; everything else
is plain calls on the loop's thread. `end` is idempotent, the first reason wins, and every wait on
the way out is bounded: that is why the tasks are kept in a set of the session's own and not in a
`TaskGroup`, which would wait for a task that cannot be cancelled for ever.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Protocol

import structlog

from flowcat_server.core import ended, events
from flowcat_server.core.agent import Agent
from flowcat_server.core.carrier import Answerer
from flowcat_server.core.control import LineControl
from flowcat_server.core.events import CallEvent
from flowcat_server.core.frames import AudioIn, Digit, Frame, TextIn
from flowcat_server.core.graph import TransferTarget
from flowcat_server.core.interfaces import Transport
from flowcat_server.core.playout import Playout
from flowcat_server.core.processor import Emit, Processor
from flowcat_server.errors import ProviderError
from flowcat_server.processors.control import CallControl

log = structlog.get_logger()

TEARDOWN_S = 5.0
"""Longest wait for a call's tasks after they were cancelled."""
HANG_UP_S = 8.0
"""Longest step of the farewell: a request to the carrier, closing the transport."""
REANCHOR_MS = 60
REANCHOR_AFTER_MS = 1000
"""Audio that is later than its position says by more than this, and stays so for so long, was
not delayed: the far end had stopped sending for a while."""
NEVER_MS = 1 << 62
WATCH_INTERVAL_MS = 1000

Subscriber = Callable[[CallEvent], None]
BeforeHangUp = Callable[["Session"], Awaitable[None]]


def _nowhere(frame: Frame) -> None:
    del frame


class Line(Protocol):
    """A linked pipeline, as the session drives it."""

    @property
    def processors(self) -> Sequence[Processor]:
        """The stages in order."""

    @property
    def playout(self) -> Playout:
        """The ledger."""

    @property
    def agent(self) -> Agent | None:
        """The agent, unless the call is an echo."""

    def entry(self, frame: Frame) -> None:
        """The chain's first `process`."""

    def begin(self) -> None:
        """The call is up: greet."""

    def played(self) -> None:
        """A mark came back."""

    @property
    def control(self) -> CallControl | None:
        """What can be done with the call besides talking; None: nothing."""

    def transfer_failed(self, target: TransferTarget) -> None:
        """Nobody could be reached: the caller is told."""

    def detected(self, answerer: Answerer, *, greeting_over: bool) -> None:
        """The carrier says who answered."""

    def stop(self) -> None:
        """The call is over: of what the agent says, nothing more will be heard."""

    def close(self) -> None:
        """The stages are closed, and no task of the call runs: let go of everything."""


class Session:
    """One call."""

    # So many attributes do not fit into what instances share: each call would have a dictionary.
    __slots__ = (
        "__dict__",
        "__weakref__",
        "_anchor",
        "_before_hang_up",
        "_build",
        "_bytes_per_s",
        "_children",
        "_context",
        "_entry",
        "_epoch",
        "_handing",
        "_handing_lost",
        "_last_media_ms",
        "_late_since",
        "_least_late",
        "_line",
        "_loop",
        "_max_call_ms",
        "_moving",
        "_media_timeout_ms",
        "_on_provider_error",
        "_over",
        "_owned",
        "_pieces_sent",
        "_position_bytes",
        "_running",
        "_subscribers",
        "_timer",
        "agent_name",
        "channel",
        "control",
        "detail",
        "frames_in",
        "from_number",
        "id",
        "reason",
        "to_number",
        "transfer",
        "transport",
    )

    def __init__(
        self,
        call_id: str,
        transport: Transport,
        build: Callable[[Session], Line],
        *,
        agent_name: str,
        channel: str,
        from_number: str = "",
        to_number: str = "",
        max_call_ms: int,
        media_timeout_ms: int,
        before_hang_up: BeforeHangUp | None = None,
        on_provider_error: Callable[[str, str, ProviderError], None] = lambda *_: None,
    ) -> None:
        """Create a call; `run` starts it.

        Args:
            call_id: Our own id.
            transport: The way to the far end.
            build: Makes the pipeline once the session can own its tasks.
            agent_name: For records and logs.
            channel: The door it came through.
            from_number: The caller, as far as the carrier says.
            to_number: Who was called.
            max_call_ms: Longest call.
            media_timeout_ms: Longest time without any audio from the caller.
            before_hang_up: Run at the end, while the transport is still open.
            on_provider_error: Told kind, provider and error of every failure.
        """
        self.id = call_id
        self.transport = transport
        self.channel = channel
        self.agent_name = agent_name
        self.from_number, self.to_number = from_number, to_number
        self.reason: str | None = None
        self.detail = ""
        self.transfer: TransferTarget | None = None
        """To whom the call has been passed on."""
        self.control: LineControl | None = None
        """What the far end can do; None: nothing but carry audio."""
        self.frames_in = 0
        self._pieces_sent = 0
        """By a line that is closed."""
        self._build = build
        self._before_hang_up = before_hang_up
        self._on_provider_error = on_provider_error
        self._max_call_ms = max_call_ms
        self._media_timeout_ms = media_timeout_ms
        self._loop = asyncio.get_running_loop()
        self._epoch = self._loop.time()
        self._subscribers: tuple[Subscriber, ...] = ()
        self._moving: asyncio.Task[None] | None = None
        """The call is being passed on."""
        self._handing = False
        """The far end has been asked to take the call out of our hands."""
        self._handing_lost = ""
        """Why our end of it was lost meanwhile."""
        self._over = self._loop.create_future()
        self._running = False
        self._children: dict[asyncio.Task[None], Coroutine[Any, Any, None]] = {}
        """The call's tasks, and what they run."""
        self._owned: list[asyncio.Task[None]] = []
        """Of the children, the transport's own: needed until the line is dropped."""
        self._timer: asyncio.TimerHandle | None = None
        self._context = contextvars.Context()
        self._line: Line | None = None
        self._entry: Emit = _nowhere
        self._anchor = NEVER_MS
        """When the audio at position 0 was due; audio comes when it is due or later."""
        self._position_bytes = 0
        self._bytes_per_s = transport.input_format.bytes_for(1000)
        self._late_since: int | None = None
        self._least_late = 0
        self._last_media_ms = 0

    # --- for processors and transports ------------------------------------------------------

    def now_ms(self) -> int:
        """Milliseconds since the call was accepted."""
        # The microsecond makes up for binary fractions: a timer never fires before its time.
        return int((self._loop.time() - self._epoch) * 1000 + 0.001)

    def spawn(self, name: str, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Start a task that is cancelled with the call; see `processors.call.Call`."""
        if not self._running:
            work.close()
            raise RuntimeError("the call has not started or is over")
        task = self._loop.create_task(
            self._guard(name, work), name=f"{self.id}:{name}", context=self._context.copy()
        )
        self._children[task] = work
        task.add_done_callback(self._ended)
        return task

    def call_at(self, at_ms: int, callback: Callable[[], None]) -> asyncio.TimerHandle:
        """Run `callback` at a time of the call's clock, unless the call is over by then."""
        due = self._epoch + at_ms / 1000
        return self._loop.call_at(due, self.protect, callback, context=self._context)

    def protect(self, callback: Callable[..., None], *arguments: object) -> None:
        """Run a callback that the loop or another owner calls; its fault ends only this call."""
        if self.reason is not None:
            return
        try:
            callback(*arguments)
        except ProviderError as error:
            self.fail(error)
        except Exception as error:  # noqa: BLE001 - one call's fault must not reach another
            self._failed(getattr(callback, "__name__", "callback"), error)

    def publish(self, event: CallEvent) -> None:
        """Give an event to every subscriber, in order of subscription."""
        for subscriber in self._subscribers:
            try:
                subscriber(event)
            except Exception:  # a reader's fault must not reach the call
                log.exception("subscriber_failed", event_type=type(event).__name__)

    def trouble(self, kind: str, code: str, error: ProviderError) -> None:
        """A provider failed and the call goes on."""
        log.warning(code, provider=error.provider, error=str(error))
        self._on_provider_error(kind, error.provider, error)
        self.publish(events.Notice(self.now_ms(), "warning", code, str(error)))

    def end(self, reason: str, detail: str = "") -> None:
        """End the call; the first reason wins."""
        if self.reason is None:
            self.reason, self.detail = reason, detail
            if not self._over.done():
                self._over.set_result(None)

    def fail(self, error: ProviderError) -> None:
        """End the call for a provider without which it cannot go on."""
        if self.reason is not None:
            log.debug("provider_failed_after_end", provider=error.provider, error=str(error))
            return
        self.end(ended.PROVIDER_FAILED, error.detail)
        log.warning("provider_failed", provider=error.provider, error=error.detail)
        self._on_provider_error(error.stage or "call", error.provider, error)
        self.publish(events.Notice(self.now_ms(), "error", "provider_failed", error.detail))

    @property
    def moving(self) -> bool:
        """The call is being passed on."""
        return self._moving is not None

    def pass_on(self, target: TransferTarget, cause: str = "") -> None:
        """Pass the call on; it ends when that has been done, and else goes on."""
        if self._moving is not None or self.reason is not None:
            return
        self.publish(
            events.Notice(self.now_ms(), "info", "transfer", f"Passing the call to {target.name}.")
        )
        self._moving = self.spawn("transfer", self._pass_on(target, cause))

    async def _pass_on(self, target: TransferTarget, cause: str) -> None:
        failure = "the far end cannot pass calls on"
        control = self._control
        if self.control is not None and control is not None:
            introduction = control.introduction(target)
            failure = await self.control.transfer(target, introduction, control.progress())
        self._moving = None
        if not failure:
            self.transfer = target
            detail = f"{target.name}, for {cause}" if cause else target.name
            self.end(ended.AGENT_TRANSFERRED, detail)
            return
        log.warning("transfer_failed", target=target.name, reason=failure)
        self.publish(
            events.Notice(self.now_ms(), "warning", "transfer_failed", f"{target.name}: {failure}")
        )
        if self._line is not None and self.reason is None:
            self._hold(wanted=False)
            self._line.transfer_failed(target)

    async def hand_over(self, request: Awaitable[bool]) -> bool:
        """Await a request that takes the call out of our hands; says whether it did.

        That the far end leaves us meanwhile is what was asked for, and no hang-up.
        """
        self._handing = True
        try:
            done = await request
        finally:
            self._handing = False
        if not done and self._handing_lost:
            self.end(self._handing_lost)
        return done

    async def press(self, keys: str) -> bool:
        """Send keys to the far end; False: it takes them as sound only."""
        return self.control is not None and await self.control.press(keys)

    def own(self, task: asyncio.Task[None]) -> None:
        """End the call when this task ends: it is the transport's loop."""
        self._owned.append(task)

    @property
    def frames_out(self) -> int:
        """Pieces of audio that the caller was sent."""
        return self._pieces_sent if self._line is None else self._line.playout.pieces

    def receive_audio(self, payload: bytes) -> None:
        """The next piece of the caller's audio.

        It is stamped with when it was due: by its position, not by when we got round to it.
        """
        if self._line is None or self.reason is not None:
            return
        self.frames_in += 1
        # `now_ms`, `_stamp` of what comes in time, and `protect`, without a call for every frame.
        self._last_media_ms = now = int((self._loop.time() - self._epoch) * 1000 + 0.001)
        self._position_bytes = size = self._position_bytes + len(payload)
        position = size * 1000 // self._bytes_per_s
        late = now - position - self._anchor
        if late < 0 or late > REANCHOR_MS or self._late_since is not None:
            self._reanchor(now, late)
        try:
            self._entry(AudioIn(payload, self._anchor + position))
        except ProviderError as error:
            self.fail(error)
        except Exception as error:  # noqa: BLE001 - one call's fault must not reach another
            self._failed("receive_audio", error)

    def receive_digit(self, digit: str) -> None:
        """A DTMF key."""
        if self._line is not None and self.reason is None:
            self.protect(self._line.entry, Digit(digit, self.now_ms()))

    def receive_text(self, text: str) -> None:
        """Typed text."""
        if self._line is not None and self.reason is None and text.strip():
            self.protect(self._line.entry, TextIn(text.strip(), self.now_ms()))

    def receive_mark(self, name: str) -> None:
        """The far end has played everything before a mark."""
        if self._line is not None and self.reason is None:
            self._line.playout.acknowledge(name, self.now_ms())
            self.protect(self._line.played)

    def receive_detection(self, answerer: Answerer, *, greeting_over: bool) -> None:
        """The carrier's own result of who answered."""
        if self._line is not None and self.reason is None:
            self.protect(partial(self._line.detected, answerer, greeting_over=greeting_over))

    def lost(self, reason: str) -> None:
        """The far end is gone."""
        if self._handing:
            self._handing_lost = self._handing_lost or reason
        else:
            self.end(reason)

    # --- for the server -----------------------------------------------------------------------

    @property
    def running(self) -> bool:
        """The call has begun, and its pipeline with it; it may be on its way out."""
        return self._running

    def targets(self) -> Mapping[str, TransferTarget]:
        """To whom the call may be passed on, by name."""
        return self._control.targets() if self._control is not None else {}

    def hold(self) -> bool:
        """Have the caller wait; False: they do already, or the call has not begun."""
        return self._hold(wanted=True)

    def resume(self) -> bool:
        """Go on with a caller who waits; False: they do not, or are being passed on."""
        return self._moving is None and self._hold(wanted=False)

    def _hold(self, *, wanted: bool) -> bool:
        line, control = self._line, self._control
        if line is None or control is None or not control.hold(wanted=wanted):
            return False
        self._entry = line.entry  # the stages have been linked anew
        return True

    def send_keys(self, keys: str) -> None:
        """Send keys to the far end, behind what the agent is saying."""
        if self._control is not None:
            self._control.send_keys(keys)

    @property
    def _control(self) -> CallControl | None:
        """What can be done with the call, while it is live."""
        return self._line.control if self._line is not None and self.reason is None else None

    def subscribe(self, subscriber: Subscriber) -> None:
        """Hear every event from now on. A subscriber must not block."""
        self._subscribers += (subscriber,)

    def unsubscribe(self, subscriber: Subscriber) -> None:
        """Stop hearing events."""
        self._subscribers = tuple(other for other in self._subscribers if other != subscriber)

    async def run(self) -> None:
        """Run the call to its end. Returns when every task of it is gone, or given up."""
        bound = structlog.contextvars.bind_contextvars(call_id=self.id)
        try:
            self._context = contextvars.copy_context()
            self._running = True
            self._start()
            await self._over
            await self._finish()
        except asyncio.CancelledError:
            self.end(ended.OPERATOR_HUNG_UP, "cancelled")
            raise
        finally:
            try:
                await self._reap()
            finally:
                self._running = False
                self._close()
                structlog.contextvars.reset_contextvars(**bound)

    # --- inside ---------------------------------------------------------------------------------

    def _start(self) -> None:
        self.publish(
            events.CallStarted(
                self.now_ms(),
                self.id,
                self.agent_name,
                self.channel,
                self.from_number,
                self.to_number,
            )
        )
        log.info("call_started", channel=self.channel, agent=self.agent_name)
        try:
            self._line = self._build(self)
            self._entry = self._line.entry
            self._last_media_ms = self.now_ms()
            self.transport.attach(self, self._line.playout)
            self._watch_again()
            self._line.begin()
        except ProviderError as error:
            self.fail(error)
        except Exception as error:  # noqa: BLE001 - one call's fault must not reach another
            self._failed("start", error)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """One of the call's tasks is over."""
        # A task that is cancelled before its first step never starts its work.
        self._children.pop(task).close()
        if task.cancelled():
            # Taken from the task, the error is freed; left, its traceback holds the frames, and
            # they hold the task.
            with suppress(asyncio.CancelledError):
                task.exception()
        if task in self._owned:
            self._owned.remove(task)
            self.lost(ended.CALLER_HUNG_UP)

    async def _guard(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        """The call's one error boundary."""
        try:
            await work
        except ProviderError as error:
            self.fail(error)
        except Exception as error:  # noqa: BLE001 - one call's fault must not reach another
            self._failed(name, error)

    def _failed(self, where: str, error: Exception) -> None:
        log.error("call_task_failed", task=where, exc_info=error)
        self.end(ended.SERVER_ERROR, f"{where}: {type(error).__name__}")

    async def _finish(self) -> None:
        """Fall silent, then say farewell to the carrier and drop the line."""
        if self._line is not None:
            try:
                self._line.stop()
            except Exception:  # the line has to be dropped all the same
                log.exception("call_stop_failed")
        for task in self._children:
            if task not in self._owned:
                task.cancel()
        if self._before_hang_up is not None:
            await self._bounded("before_hang_up", self._before_hang_up(self))
        await self._bounded("hang_up", self.transport.hang_up(self.reason or ended.SERVER_ERROR))

    async def _bounded(self, step: str, work: Awaitable[None]) -> None:
        try:
            async with asyncio.timeout(HANG_UP_S):
                await work
        except TimeoutError:
            log.warning("hang_up_timeout", step=step)
        except Exception:  # the next step has to be taken all the same
            log.exception("hang_up_failed", step=step)

    async def _reap(self) -> None:
        """Cancel what is left and wait for it, but not for ever."""
        left = list(self._children)
        for task in left:
            task.cancel()
        if left:
            _, stuck = await asyncio.wait(left, timeout=TEARDOWN_S)
            for task in stuck:
                log.error("call_task_stuck", task=task.get_name())

    def _close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        line, self._line = self._line, None
        self._entry = _nowhere
        variables: dict[str, Any] = {}
        if line is not None:
            for processor in line.processors:
                try:
                    processor.close()
                except Exception:  # the others have to be closed all the same
                    log.exception("processor_close_failed", processor=type(processor).__name__)
            if line.agent is not None:
                variables = line.agent.recorded_variables()
            self._pieces_sent = line.playout.pieces
            line.close()
        reason = self.reason or ended.SERVER_ERROR
        self.publish(events.CallEnded(self.now_ms(), reason, self.detail, variables))
        log.info("call_ended", reason=reason, detail=self.detail, duration_ms=self.now_ms())
        self._subscribers = ()
        # They know the call as it knows them; apart, all of it is freed without a collection.
        self.control = None
        del self.transport, self._build

    def _reanchor(self, now: int, late: int) -> None:
        """Audio came earlier or later than its position says."""
        if late < 0:
            self._anchor += late
            self._late_since = None
        elif late <= REANCHOR_MS:
            self._late_since = None
        elif self._late_since is None:
            self._late_since, self._least_late = now, late
        else:
            # What a stall of ours has gathered is read at once and ends this again.
            self._least_late = min(self._least_late, late)
            if now - self._late_since >= REANCHOR_AFTER_MS:
                self._anchor += self._least_late
                self._late_since = None

    def _watch(self) -> None:
        now = self.now_ms()
        silent = now - self._last_media_ms
        if now >= self._max_call_ms:
            self.end(ended.SERVER_LIMIT, f"longer than {self._max_call_ms} ms")
        elif silent >= self._media_timeout_ms:
            self.end(ended.CALLER_MEDIA_LOST, f"no audio for {silent} ms")
        else:
            self._watch_again()

    def _watch_again(self) -> None:
        due = min(self.now_ms() + WATCH_INTERVAL_MS, self._max_call_ms)
        self._timer = self.call_at(due, self._watch)
