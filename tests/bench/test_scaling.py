from __future__ import annotations

from dataclasses import replace

from bench.scaling import spread
from bench.scaling.__main__ import Measured, _together, page
from bench.wire.point import Point, Spread

LATE = Spread(1000, 0.1, 0.2, 0.3, 1.0, 2.0, 3.0)
POINT = Point(
    calls=100, seconds=8, faults=(), latency=LATE, own_lateness=LATE, first_audio=None, answer=None,
    lateness=None, cpu_s=2.0, rss_kb=1, frames=40_000,
)  # fmt: skip


def test_two_generators_are_one_measurement_with_the_worse_latency():
    worse = replace(POINT, latency=replace(LATE, p99=9.0), faults=("1 lost",), frames=39_999)
    both = _together([POINT, worse])
    assert (both.calls, both.frames, both.cpu_s) == (200, 79_999, 4.0)
    assert both.latency is not None
    assert both.latency.p99 == 9.0
    assert both.faults == ("1 lost",)
    assert not both.held
    assert round(both.us_per_frame, 1) == POINT.us_per_frame


def test_a_generator_that_sent_nothing_held_nothing():
    assert not _together([POINT, replace(POINT, frames=0)]).held


def test_the_ratio_is_that_of_calls_that_were_held():
    failed = replace(POINT, calls=300, faults=("1 lost",))
    one = Measured(1, (POINT, failed), ())
    for held, verdict in ((185, "1.85 times"), (170, "1.70 times")):
        two = Measured(2, (replace(POINT, calls=held), failed), (held // 2, held - held // 2))
        text = page([one, two])
        assert verdict in text
        assert ("reached" in text) == (held >= 180)
    assert "none" in page([one, Measured(2, (failed,), ())])


def test_every_connection_is_counted_on_some_worker():
    for shared in (False, True):
        for counts in spread.measure(2, 6, shared=shared, rounds=2):
            assert sum(counts) == 6
