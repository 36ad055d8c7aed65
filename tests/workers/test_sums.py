"""The metrics of several processes as those of one."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from flowcat_server.core import events as ev
from flowcat_server.metrics import Metrics
from flowcat_server.workers import sums
from flowcat_server.workers.board import Member
from flowcat_server.workers.sums import WORKER_METRICS


def process(calls: int, live: int = 0) -> str:
    """What a process shows after so many calls, with some still live."""
    metrics = Metrics("1.2.3", reasons=["caller.hung_up"], channels=["twilio"])
    for _ in range(calls):
        metrics.call("twilio").on_event(ev.CallEnded(7_000, "caller.hung_up"))
    for _ in range(live):
        metrics.call("twilio")
    return metrics.render()[0].decode()


def values(text: bytes) -> dict[str, float]:
    return {
        f"{s.name}{s.labels or ''}": s.value
        for family in text_string_to_metric_families(text.decode())
        for s in family.samples
    }


ENDED = "flowcat_calls_total{'channel': 'twilio', 'reason': 'caller.hung_up'}"


async def test_counters_gauges_and_histograms_are_added_series_by_series():
    found = values(sums.render(await sums.add([process(2, live=1), process(3, live=4)])))
    assert found[ENDED] == 5
    assert found["flowcat_calls_active"] == 5
    assert found["flowcat_call_duration_seconds_count"] == 5
    assert found["flowcat_call_duration_seconds_sum"] == 35
    assert found["flowcat_call_duration_seconds_bucket{'le': '5.0'}"] == 0
    assert found["flowcat_call_duration_seconds_bucket{'le': '15.0'}"] == 5
    assert found["flowcat_build_info{'version': '1.2.3'}"] == 1


async def test_everything_that_one_process_shows_is_shown_for_all():
    alone = process(1)
    together = sums.render(await sums.add([alone, alone])).decode()
    names = {line.split(" ")[2] for line in alone.splitlines() if line.startswith("# TYPE")}
    assert names == {
        each.split(" ")[2] for each in together.splitlines() if each.startswith("# TYPE")
    }
    assert len(alone.splitlines()) == len(together.splitlines())


async def test_of_what_was_longest_the_longest_is_shown():
    longest = "flowcat_loop_stall_longest_seconds"
    texts = [f"# TYPE {longest} gauge\n{longest} {seconds}\n" for seconds in (0.25, 0.5, 0.1)]
    assert values(sums.render(await sums.add(texts))) == {longest: 0.5}


async def test_what_is_over_still_counts_but_is_not_live():
    found = values(sums.render(await sums.add([process(2, live=1)], gone=[process(3, live=4)])))
    assert found[ENDED] == 5
    assert found["flowcat_calls_active"] == 1


async def test_sums_of_what_is_over_can_be_added_again():
    over = sums.render(await sums.add([], gone=[process(1), process(2)])).decode()
    assert values(sums.render(await sums.add([process(4)], gone=[over])))[ENDED] == 7


def test_workers_are_told_apart_by_their_number():
    members = [Member(1, 1, 11, True, 3, 2), Member(2, 2, 12, True, 4, 0)]
    starting = Member(3, 3, 13, False, 0, 0)
    found = values(sums.render(sums.of_workers([*members, starting], restarts=5)))
    assert found == {
        "flowcat_workers": 2,
        "flowcat_worker_calls_active{'worker': '1'}": 3,
        "flowcat_worker_calls_active{'worker': '2'}": 4,
        "flowcat_connections_moved_total{'worker': '1'}": 2,
        "flowcat_connections_moved_total{'worker': '2'}": 0,
        "flowcat_worker_restarts_total": 5,
    }
    assert {name.partition("{")[0] for name in found} == set(WORKER_METRICS)
