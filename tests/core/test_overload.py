"""When a loop that is late counts as one that does not keep up."""

from __future__ import annotations

from flowcat_server.core.overload import TICKS, Overload

BOUND = 100


def after(*lags: float, overload: Overload | None = None) -> Overload:
    overload = overload or Overload(BOUND)
    for lag in lags:
        overload.observe(lag)
    return overload


def test_a_loop_that_is_late_again_and_again_is_overloaded():
    changes = [Overload(BOUND).observe(1)]
    overload = Overload(BOUND)
    changes += [overload.observe(BOUND + 1) for _ in range(6)]
    assert changes == [False, False, False, False, False, True, False]
    assert overload.overloaded
    assert overload.lag_ms() == BOUND + 1


def test_one_stall_however_long_says_nothing_about_the_next_call():
    assert not after(*[0] * TICKS, 60_000, *[0] * TICKS).overloaded


def test_late_by_the_bound_is_not_later_than_the_bound():
    assert not after(*[BOUND] * TICKS).overloaded


def test_now_and_then_a_late_tick_is_no_overload():
    assert not after(*([BOUND * 9] + [0] * 19) * 10).overloaded


def test_it_is_over_when_the_loop_has_kept_up_for_a_second_and_not_before():
    overload = after(*[BOUND * 2] * TICKS)
    changes = [overload.observe(1) for _ in range(TICKS)]
    assert changes.index(True) == TICKS - 5
    assert changes.count(True) == 1
    assert not overload.overloaded


def test_between_half_the_bound_and_the_bound_nothing_changes():
    between = [BOUND * 0.7] * TICKS * 2
    assert not after(*between).overloaded
    assert after(*between, overload=after(*[BOUND * 2] * TICKS)).overloaded


def test_without_a_bound_nothing_is_ever_too_late():
    assert not after(*[60_000] * TICKS, overload=Overload(0)).overloaded
