from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from flowcat_server.transports.webrtc.pacer import MAX_BEHIND, Pacer


class Handle:
    def __init__(
        self, due: float, callback: Callable[..., object], args: tuple[object, ...]
    ) -> None:
        self.due, self.callback, self.args = due, callback, args
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class Loop(asyncio.AbstractEventLoop):
    """Timers on a clock that moves when told to."""

    def __init__(self) -> None:
        self.now = 100.0
        self.handles: list[Handle] = []
        self.faults: list[Exception] = []

    def call_later(self, delay: float, callback: Callable[..., object], *args: object) -> Handle:  # type: ignore[override]
        assert delay >= 0
        handle = Handle(self.now + delay, callback, args)
        self.handles.append(handle)
        return handle

    def call_soon(self, callback: Callable[..., object], *args: object) -> Handle:  # type: ignore[override]
        return self.call_later(0, callback, *args)

    def run_for(self, seconds: float) -> None:
        end = self.now + seconds
        while due := sorted(
            (h for h in self.handles if not h.cancelled and h.due <= end), key=lambda h: h.due
        ):
            handle = due[0]
            self.handles.remove(handle)
            self.now = max(self.now, handle.due)
            try:
                handle.callback(*handle.args)
            except RuntimeError as fault:
                self.faults.append(fault)
        self.now = end

    def stand_still(self, seconds: float) -> None:
        """The process does something else: timers become late."""
        self.now += seconds


class Member:
    def __init__(self, loop: Loop, *, breaks_at: int = -1) -> None:
        self.loop = loop
        self.beats: list[int] = []
        self.times: list[float] = []
        self.broken = False
        self.breaks_at = breaks_at

    def beat(self, number: int) -> None:
        self.beats.append(number)
        self.times.append(self.loop.now)
        if len(self.beats) == self.breaks_at:
            raise RuntimeError("a fault in one call")

    def failed(self) -> None:
        self.broken = True


@pytest.fixture
def loop() -> Loop:
    return Loop()


@pytest.fixture
def pacer(loop: Loop) -> Pacer:
    return Pacer(lambda: loop.now, loop)


def test_each_member_is_called_every_20_ms(loop: Loop, pacer: Pacer) -> None:
    members = [Member(loop) for _ in range(9)]
    for member in members:
        pacer.add(member)
    loop.run_for(60.0)
    for member in members:
        assert 2_999 <= len(member.beats) <= 3_001
        assert member.beats == list(range(member.beats[0], member.beats[0] + len(member.beats)))
        assert abs(member.times[-1] - member.times[0] - 0.02 * (len(member.beats) - 1)) < 0.002


def test_lateness_does_not_add_up(loop: Loop, pacer: Pacer) -> None:
    member = Member(loop)
    pacer.add(member)
    for _ in range(100):
        loop.run_for(0.05)
        loop.stand_still(0.013)
    assert abs(len(member.beats) - 315) <= 1
    assert 0 < pacer.max_late_ms <= 13


def test_nothing_is_scheduled_without_members(loop: Loop, pacer: Pacer) -> None:
    member = Member(loop)
    pacer.add(member)
    pacer.discard(member)
    loop.run_for(1.0)
    assert member.beats == []
    assert all(handle.cancelled for handle in loop.handles)


def test_it_begins_again_after_a_rest(loop: Loop, pacer: Pacer) -> None:
    member = Member(loop)
    pacer.add(member)
    loop.run_for(0.1)
    pacer.discard(member)
    loop.run_for(5.0)
    before = len(member.beats)
    pacer.add(member)
    loop.run_for(0.1)
    assert before + 4 <= len(member.beats) <= before + 6


def test_beats_missed_while_the_loop_stood_still_are_caught_up(loop: Loop, pacer: Pacer) -> None:
    member = Member(loop)
    pacer.add(member)
    loop.run_for(0.03)
    loop.stand_still(0.1)
    loop.run_for(0.001)
    assert 6 <= len(member.beats) <= 8
    assert member.beats == list(range(member.beats[0], member.beats[0] + len(member.beats)))


def test_a_long_standstill_is_skipped(loop: Loop, pacer: Pacer) -> None:
    member = Member(loop)
    pacer.add(member)
    loop.run_for(0.03)
    loop.stand_still(2.0)
    loop.run_for(0.001)
    assert len(member.beats) <= MAX_BEHIND + 4
    assert member.beats[-1] - member.beats[0] >= 99


def test_a_fault_in_one_call_leaves_the_others_in_time(loop: Loop, pacer: Pacer) -> None:
    bad = Member(loop, breaks_at=2)
    good = [Member(loop) for _ in range(7)]
    for member in [*good[:3], bad, *good[3:]]:
        pacer.add(member)
    loop.run_for(0.2)
    for member in good:
        assert 9 <= len(member.beats) <= 11
        assert member.beats == sorted(set(member.beats))
    assert bad.broken
    assert len(bad.beats) == 2
    assert len(loop.faults) == 1


@pytest.mark.parametrize("count", [1, 4, 10])
def test_members_are_spread_over_the_phases(loop: Loop, pacer: Pacer, count: int) -> None:
    members = [Member(loop) for _ in range(count)]
    for member in members:
        pacer.add(member)
    loop.run_for(0.021)
    moments = [member.times[0] for member in members]
    busiest = max(sum(abs(a - b) < 0.002 for b in moments) for a in moments)
    assert busiest <= (count + 3) // 4


async def test_it_runs_on_a_real_loop() -> None:
    pacer = Pacer()
    beats: list[int] = []

    class Real:
        def beat(self, number: int) -> None:
            beats.append(number)
            if len(beats) == 3:
                done.set()

        def failed(self) -> None:
            raise AssertionError

    done = asyncio.Event()
    member = Real()
    pacer.add(member)
    await asyncio.wait_for(done.wait(), 5)
    pacer.discard(member)
