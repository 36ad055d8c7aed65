"""The metrics of several processes as those of one: counted together, series by series."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterable, Iterator
from typing import Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.parser import text_string_to_metric_families

from flowcat_server.workers.board import Member

WORKER_METRICS: Final[dict[str, str]] = {
    "flowcat_workers": "Workers that take calls.",
    "flowcat_worker_calls_active": (
        "Calls of each worker, and connections that are about to become calls."
    ),
    "flowcat_worker_restarts_total": "Workers that died and were started again.",
    "flowcat_connections_moved_total": (
        "Connections that a worker gave to another: to the least loaded, for a new call, or to "
        "the one that has the call. Of the workers that live."
    ),
}
"""Metrics of a server with several workers, and what they say."""

_HIGHEST: Final = frozenset(
    {
        "flowcat_build_info",
        "flowcat_provider_breaker_state",
        "flowcat_loop_stall_longest_seconds",
        "flowcat_gc_longest_seconds",
    }
)
"""Gauges of which the highest tells more than the sum: a breaker is open somewhere."""

Series = dict[tuple[str, tuple[tuple[str, str], ...]], float]


async def add(texts: Iterable[str], *, gone: Iterable[str] = ()) -> list[Metric]:
    """One metric for all of that name.

    To read one process's text takes 5 ms, and audio flows on this event loop: it has its turn
    after each family.

    Args:
        texts: In Prometheus' text format, of processes that live.
        gone: The same, last seen of processes that do not answer: their counters still count,
            their gauges do not.
    """
    families: dict[str, Metric] = {}
    sums: dict[str, Series] = {}
    for text, lives in [*((text, True) for text in texts), *((text, False) for text in gone)]:
        for family in text_string_to_metric_families(text):
            await asyncio.sleep(0)
            if not lives and family.type == "gauge":
                continue
            kept = families.setdefault(
                family.name, Metric(family.name, family.documentation, family.type)
            )
            series = sums.setdefault(family.name, {})
            combine = max if kept.name in _HIGHEST else _sum
            for sample in family.samples:
                key = sample.name, tuple(sample.labels.items())
                series[key] = combine(series.get(key, 0.0), sample.value)
    for name, family in families.items():
        for (series_name, labels), value in sums[name].items():
            family.add_sample(series_name, dict(labels), value)
    return list(families.values())


def _sum(one: float, other: float) -> float:
    return one if math.isnan(other) else one + other


def of_workers(members: Iterable[Member], restarts: int) -> Iterator[Metric]:
    """What is said of the workers themselves."""
    members = [member for member in members if member.ready]
    about = WORKER_METRICS
    name = "flowcat_workers"
    yield GaugeMetricFamily(name, about[name], value=len(members))
    name = "flowcat_worker_calls_active"
    calls = GaugeMetricFamily(name, about[name], labels=["worker"])
    name = "flowcat_connections_moved_total"
    moved = CounterMetricFamily(name, about[name], labels=["worker"])
    for member in members:
        calls.add_metric([str(member.number)], member.load)
        moved.add_metric([str(member.number)], member.moved)
    yield calls
    yield moved
    name = "flowcat_worker_restarts_total"
    yield CounterMetricFamily(name, about[name], value=restarts)


class _Collected:
    """What a registry asks."""

    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = list(metrics)

    def collect(self) -> Iterable[Metric]:
        return self._metrics


def render(metrics: Iterable[Metric]) -> bytes:
    """Prometheus' text format."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collected(metrics))
    return generate_latest(registry)
