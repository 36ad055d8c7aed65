"""One call's owner: its tasks, its clock and its end."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import structlog

from flowcat_server.core import ended, events
from flowcat_server.core.audio import PCM_8K
from flowcat_server.core.events import CallEvent
from flowcat_server.core.frames import AudioIn, Frame
from flowcat_server.core.playout import Playout
from flowcat_server.core.processor import Processor, link
from flowcat_server.errors import ProviderUnavailable
from flowcat_server.session import Session
from tests import virtual
from tests.callscript import SILENCE, LoopbackTransport
from tests.virtual import on_virtual_time


class Ear(Processor):
    """Keeps what reaches it; fails on command."""

    def __init__(self) -> None:
        self.frames: list[Frame] = []
        self.closed = 0
        self.fault: Exception | None = None

    def process(self, frame: Frame) -> None:
        if self.fault is not None:
            raise self.fault
        self.frames.append(frame)

    def close(self) -> None:
        self.closed += 1


class Line:
    """A pipeline of one stage."""

    agent = None

    def __init__(self) -> None:
        self.ear = Ear()
        self.processors = [self.ear]
        self.playout = Playout(PCM_8K, delay_ms=0, marks=False)
        self.entry = link(self.processors)
        self.stopped = 0

    def begin(self) -> None: ...

    def played(self) -> None: ...

    def stop(self) -> None:
        self.stopped += 1

    def close(self) -> None:
        self.entry = self.ear.process


class Running:
    """A session that runs until the block ends."""

    def __init__(self, **settings: Any) -> None:
        self.line = Line()
        self.transport = LoopbackTransport(buffers=False)
        self.events: list[CallEvent] = []
        self.errors: list[tuple[str, str]] = []
        self.session = Session(
            "c1",
            self.transport,
            settings.pop("build", lambda session: self.line),
            agent_name="test",
            channel="loopback",
            max_call_ms=settings.pop("max_call_ms", 60_000),
            media_timeout_ms=settings.pop("media_timeout_ms", 60_000),
            on_provider_error=lambda kind, name, _: self.errors.append((kind, name)),
            **settings,
        )
        self.session.subscribe(self.events.append)

    async def __aenter__(self) -> Running:
        self.task = asyncio.get_running_loop().create_task(self.session.run())
        await asyncio.sleep(0)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.session.end(ended.CALLER_HUNG_UP)
        await asyncio.wait([self.task])

    @property
    def end_event(self) -> events.CallEnded:
        assert isinstance(self.events[-1], events.CallEnded)
        return self.events[-1]


@on_virtual_time
async def test_the_first_reason_to_end_wins():
    async with Running() as call:
        call.session.end(ended.AGENT_ENDED, "first")
        call.session.end(ended.SERVER_ERROR, "second")
    assert (call.end_event.reason, call.end_event.detail) == (ended.AGENT_ENDED, "first")
    assert call.transport.hung_up == ended.AGENT_ENDED
    assert call.line.stopped == call.line.ear.closed == 1


@on_virtual_time
async def test_a_fault_in_a_task_ends_its_own_call_only():
    async def broken() -> None:
        raise KeyError("oops")

    async with Running() as other, Running() as call:
        call.session.spawn("broken", broken())
        await call.task
        assert call.session.reason == ended.SERVER_ERROR
        assert call.session.detail == "broken: KeyError"
        assert other.session.reason is None


@on_virtual_time
async def test_a_fault_in_the_chain_ends_the_call_and_spares_the_transport():
    async with Running() as call:
        call.line.ear.fault = ZeroDivisionError()
        call.session.receive_audio(SILENCE)
    assert call.end_event.reason == ended.SERVER_ERROR


@on_virtual_time
async def test_a_provider_that_fails_is_named_and_counted_once():
    async def failing() -> None:
        raise ProviderUnavailable("acme", "gone")

    async with Running() as call:
        call.session.spawn("a", failing())
        call.session.spawn("b", failing())
        await call.task
    assert (call.end_event.reason, call.end_event.detail) == (
        ended.PROVIDER_FAILED,
        "acme: gone",
    )
    assert call.errors == [("call", "acme")]


@on_virtual_time
async def test_a_pipeline_that_cannot_be_built_ends_the_call():
    def build(session: Session) -> Line:
        raise ValueError("no")

    async with Running(build=build) as call:
        await call.task
    assert call.end_event.reason == ended.SERVER_ERROR
    assert type(call.events[0]) is events.CallStarted


@on_virtual_time
async def test_a_task_that_ignores_its_end_is_reported_and_left():
    release = asyncio.Event()

    async def stubborn() -> None:
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue

    with structlog.testing.capture_logs() as logs:
        async with Running() as call:
            call.session.spawn("stubborn", stubborn())
            await asyncio.sleep(0)
            before = call.session.now_ms()
            call.session.end(ended.AGENT_ENDED)
            await call.task
            assert call.session.now_ms() - before < 6000
    assert call.end_event.reason == ended.AGENT_ENDED
    assert [log["task"] for log in logs if log["event"] == "call_task_stuck"] == ["c1:stubborn"]
    release.set()
    await asyncio.sleep(0.01)


@on_virtual_time
async def test_the_transports_own_task_outlives_the_others_until_the_line_is_dropped():
    order: list[str] = []

    async def forever(name: str) -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            order.append(name)

    async def farewell(session: Session) -> None:
        await asyncio.sleep(0.1)
        order.append("farewell")

    async with Running(before_hang_up=farewell) as call:
        call.session.own(call.session.spawn("serve", forever("serve")))
        call.session.spawn("think", forever("think"))
        await asyncio.sleep(0)
        call.session.end(ended.AGENT_ENDED)
        await call.task
    assert order == ["think", "farewell", "serve"]


@pytest.mark.parametrize("how", ["fails", "hangs"])
def test_a_farewell_that_goes_wrong_does_not_keep_the_line_open(how: str):
    async def farewell(session: Session) -> None:
        if how == "fails":
            raise OSError("no route to the carrier")
        await asyncio.get_running_loop().create_future()

    async def main() -> None:
        async with Running(before_hang_up=farewell) as call:
            call.session.end(ended.AGENT_ENDED)
            await call.task
        assert call.transport.hung_up == ended.AGENT_ENDED

    virtual.run(main())


@on_virtual_time
async def test_when_the_transports_task_ends_the_caller_has_gone():
    async def serve() -> None:
        await asyncio.sleep(0.01)

    async with Running() as call:
        call.session.own(call.session.spawn("serve", serve()))
        await call.task
    assert call.end_event.reason == ended.CALLER_HUNG_UP


@on_virtual_time
async def test_cancelling_the_call_still_closes_it():
    async with Running() as call:
        call.session.spawn("work", asyncio.sleep(1000))
        await asyncio.sleep(0)
        call.task.cancel()
        await asyncio.wait([call.task])
        assert call.task.cancelled()
    assert call.end_event.reason == ended.OPERATOR_HUNG_UP
    assert call.line.ear.closed == 1


@on_virtual_time
async def test_nothing_starts_after_the_end():
    async with Running() as call:
        pass
    with pytest.raises(RuntimeError):
        call.session.spawn("late", asyncio.sleep(0))
    called: list[int] = []
    call.session.call_at(0, lambda: called.append(1))
    await asyncio.sleep(0.1)
    assert called == []


@on_virtual_time
async def test_a_reader_that_fails_is_logged_and_the_others_are_served():
    def bad(event: CallEvent) -> None:
        raise RuntimeError("reader")

    async with Running() as call:
        call.session._subscribers = (bad, *call.session._subscribers)
        call.session.publish(events.Notice(1, "info", "x", "y"))
    assert [type(event) for event in call.events] == [
        events.CallStarted,
        events.Notice,
        events.CallEnded,
    ]


@on_virtual_time
async def test_a_reader_may_leave_while_it_is_told():
    heard: list[str] = []

    async with Running() as call:

        def once(event: CallEvent) -> None:
            heard.append("once")
            call.session.unsubscribe(once)

        call.session.subscribe(once)
        call.session.subscribe(lambda _: heard.append("always"))
        call.session.publish(events.Notice(1, "info", "x", "y"))
        call.session.publish(events.Notice(2, "info", "x", "y"))
        assert heard == ["once", "always", "always"]


# --- the clock of the caller's audio ----------------------------------------------------------


def stamps(call: Running) -> list[int]:
    return [frame.at_ms for frame in call.line.ear.frames if isinstance(frame, AudioIn)]


@on_virtual_time
async def test_audio_that_a_stall_held_up_keeps_its_time():
    async with Running() as call:
        for _ in range(10):
            await asyncio.sleep(0.02)
            call.session.receive_audio(SILENCE)
        await asyncio.sleep(1.5)
        for _ in range(75):
            call.session.receive_audio(SILENCE)
        await asyncio.sleep(0.02)
        call.session.receive_audio(SILENCE)
    steps = [b - a for a, b in zip(stamps(call), stamps(call)[1:], strict=False)]
    assert set(steps) == {20}


@on_virtual_time
async def test_after_a_pause_of_the_far_end_audio_is_stamped_with_the_present_again():
    async with Running() as call:
        for wait in [0.02] * 10 + [5.0] + [0.02] * 100:
            await asyncio.sleep(wait)
            call.session.receive_audio(SILENCE)
        assert abs(stamps(call)[-1] - call.session.now_ms()) <= 60


@on_virtual_time
async def test_time_of_audio_never_runs_ahead_of_the_clock_or_backwards():
    async with Running() as call:
        for number in range(400):
            await asyncio.sleep(0.0199 if number % 3 else 0.0203)  # a far end slightly too fast
            call.session.receive_audio(SILENCE)
            assert stamps(call)[-1] <= call.session.now_ms()
    times = stamps(call)
    assert times == sorted(times)
