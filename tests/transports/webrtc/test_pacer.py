from __future__ import annotations

import asyncio

import pytest

from flowcat_server.transports.webrtc.pacer import MAX_BEHIND, Pacer


class Member:
    def __init__(self, *, breaks_at: int = -1) -> None:
        self.beats: list[int] = []
        self.broken = False
        self.breaks_at = breaks_at

    def beat(self, number: int) -> None:
        self.beats.append(number)
        if len(self.beats) == self.breaks_at:
            raise RuntimeError("a fault in one call")

    def failed(self) -> None:
        self.broken = True


async def test_each_member_is_called_every_20_ms() -> None:
    pacer = Pacer()
    members = [Member() for _ in range(9)]
    for member in members:
        pacer.add(member)
    await asyncio.sleep(0.205)
    for member in members:
        pacer.discard(member)
        assert 9 <= len(member.beats) <= 11
        assert member.beats == list(range(member.beats[0], member.beats[0] + len(member.beats)))


async def test_nothing_is_scheduled_without_members() -> None:
    pacer = Pacer()
    member = Member()
    pacer.add(member)
    pacer.discard(member)
    await asyncio.sleep(0.03)
    assert member.beats == []


async def test_beats_missed_while_the_loop_stood_still_are_caught_up() -> None:
    pacer = Pacer()
    member = Member()
    pacer.add(member)
    await asyncio.sleep(0.03)
    import time

    time.sleep(0.1)  # noqa: ASYNC251 - the point is to block the loop
    await asyncio.sleep(0.005)
    pacer.discard(member)
    assert 6 <= len(member.beats) <= 8
    assert member.beats == list(range(member.beats[0], member.beats[0] + len(member.beats)))


async def test_a_long_standstill_is_skipped() -> None:
    pacer = Pacer()
    member = Member()
    pacer.add(member)
    await asyncio.sleep(0.03)
    import time

    time.sleep(0.4)  # noqa: ASYNC251 - the point is to block the loop
    await asyncio.sleep(0.005)
    pacer.discard(member)
    assert len(member.beats) <= MAX_BEHIND + 4
    assert member.beats[-1] - member.beats[0] >= 18


async def test_a_fault_in_one_call_leaves_the_others_in_time() -> None:
    loop = asyncio.get_running_loop()
    faults: list[object] = []
    loop.set_exception_handler(lambda _, context: faults.append(context.get("exception")))
    pacer = Pacer()
    bad = Member(breaks_at=2)
    good = [Member() for _ in range(7)]
    for member in [*good[:3], bad, *good[3:]]:
        pacer.add(member)
    await asyncio.sleep(0.15)
    for member in good:
        pacer.discard(member)
        assert len(member.beats) >= 6
        assert member.beats == sorted(set(member.beats))
    assert bad.broken
    assert len(bad.beats) == 2
    assert len(faults) == 1


@pytest.mark.parametrize("count", [1, 4, 10])
async def test_members_are_spread_over_the_phases(count: int) -> None:
    pacer = Pacer()
    members = [Member() for _ in range(count)]
    for member in members:
        pacer.add(member)
    sizes = [len(phase.members) for phase in pacer._phases]
    assert max(sizes) - min(sizes) <= 1
    for member in members:
        pacer.discard(member)
