"""Prometheus metrics.

Everything that happens per audio frame is a plain attribute of whoever counts it, and read only
when somebody asks for the metrics. The rest is counted from the calls' event streams: events are
told apart by their class names, because this module lies below the one that defines them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, Protocol

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric

METRICS: Final[dict[str, str]] = {
    "flowcat_build_info": "Always 1; the version is a label.",
    "flowcat_calls_total": "Calls that ended, by channel and reason.",
    "flowcat_agent_calls_total": "Calls that ended, by agent and reason.",
    "flowcat_calls_active": "Calls that are live.",
    "flowcat_calls_refused_total": "Calls that were not taken, by reason.",
    "flowcat_outbound_calls_total": (
        "Calls that the server made, by carrier and what became of them: answered, busy, "
        "no-answer, failed, canceled, or completed before their sound came."
    ),
    "flowcat_machine_detection_total": (
        "Who answered calls that the server made (human, machine, fax, unknown), and by whom it "
        "was found out (own, carrier); a call counts again if it becomes known better."
    ),
    "flowcat_route_webhook_duration_seconds": (
        "How long routes.webhook took to say who answers a call, by outcome: answered, rejected, "
        "timeout or failed."
    ),
    "flowcat_call_duration_seconds": "Length of ended calls.",
    "flowcat_turns_total": "Finished turns: answered, interrupted or unanswered.",
    "flowcat_turn_latency_seconds": (
        "From the caller's last voiced sample to the first sample of the answer handed to the "
        "wire: in total, and each part of it."
    ),
    "flowcat_budget_exceeded_total": (
        "Turns with which the 95th percentile of response latency was over "
        "observability.budget.first_audio_p95, by the stage that took most of the time."
    ),
    "flowcat_interruptions_total": "Replies the caller cut off.",
    "flowcat_provider_errors_total": "Failures of providers, by kind, provider and error.",
    "flowcat_provider_breaker_state": (
        "Whether calls use a provider: 0 closed (they do), 1 half open (the next call tries it), "
        "2 open (they begin with its fallback)."
    ),
    "flowcat_provider_breaker_opened_total": "How often a provider's breaker opened.",
    "flowcat_provider_hedges_lost_total": (
        "How often the next provider, asked beside this one for turn.dead_air.hedge_after, was "
        "the first to answer."
    ),
    "flowcat_provider_guesses_total": (
        "Replies that a language model was asked for before the caller's turn had ended "
        "(turn.speculation): used, or dropped because the caller went on."
    ),
    "flowcat_tool_duration_seconds": "How long tools ran, by tool and outcome.",
    "flowcat_usage_total": (
        "What providers were used for, by kind, provider and unit: input_tokens, output_tokens, "
        "cached_tokens, characters, audio_seconds. Kind heard: what of it reached callers."
    ),
    "flowcat_audio_frames_total": "Pieces of audio received (in) and sent (out).",
    "flowcat_media_dropped_frames_total": "Pieces of audio that were dropped, by where.",
    "flowcat_records_dropped_total": "Events and rows that could not be recorded.",
    "flowcat_loop_lag_seconds": "How late the event loop ran a timer, sampled every 20 ms.",
    "flowcat_loop_stalls_total": (
        "Timers that were late by observability.stall or more, by what the time went into: "
        "computing, collecting (garbage), waiting (for a file, a lock, another thread), starved "
        "(no core was free)."
    ),
    "flowcat_loop_stall_longest_seconds": "The longest of these stalls since the start.",
    "flowcat_gc_collections_total": "Garbage collections, by generation.",
    "flowcat_gc_seconds_total": "What they took, in which nothing else ran, by generation.",
    "flowcat_gc_longest_seconds": "The longest collection since the start, by generation.",
}
"""Every metric and what it says."""

LATENCY_BUCKETS: Final = (
    0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.2, 1.5, 2.0, 3.0, 5.0, 10.0,
)  # fmt: skip
"""Seconds; finest where a pause begins to feel like one."""
DURATION_BUCKETS: Final = (5.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1200.0, 1800.0, 3600.0)
TOOL_BUCKETS: Final = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
ROUTE_BUCKETS: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 0.75, 1.0, 2.0, 5.0)
LAG_BUCKETS: Final = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0)

LATENCY_PARTS: Final = (
    "total",
    "endpointing",
    "stt_tail",
    "llm_first_token",
    "llm_first_sentence",
    "tts_first_audio",
    "send",
)
REFUSED: Final = ("full", "draining", "overloaded", "rejected")
STALLS: Final = ("computing", "collecting", "waiting", "starved")
ROUTED: Final = ("answered", "rejected", "timeout", "failed")
OUTCOMES: Final = ("answered", "interrupted", "unanswered")

BREAKER_STATES: Final = ("closed", "half_open", "open")

_MAX_TOOLS: Final = 100
"""Different tool names that get a label of their own; a model can invent names without end."""


class FrameCounts(Protocol):
    """Who counts a live call's audio; plain attributes."""

    frames_in: int
    frames_out: int


class CollectionCounts(Protocol):
    """What garbage collection took, each a list by generation; plain attributes."""

    count: list[int]
    seconds: list[float]
    longest: list[float]


class BreakerCounts(Protocol):
    """A provider's breaker, as far as it is counted."""

    opened: int
    hedges_lost: int
    guesses_used: int
    guesses_dropped: int

    def state(self, now_ms: int) -> str:
        """One of `BREAKER_STATES`."""


class CallMetrics:
    """Counts one call; `on_event` takes the call's event stream. Made by `Metrics.call`."""

    def __init__(self, metrics: Metrics, channel: str, frames: object, agent: str) -> None:
        self._metrics = metrics
        self._channel, self._agent = channel, agent
        self._handlers: dict[str, Callable[[Any], None]] = {
            "TurnCompleted": metrics._turn,
            "AgentHeard": metrics._heard,
            "ToolEnded": metrics._tool,
            "UsageCounted": metrics._used,
            "AnswerDetected": metrics._detected,
            "CallEnded": self._ended,
        }
        self.frames = frames
        self._live = True

    def on_event(self, event: object) -> None:
        """Count an event of the call."""
        handler = self._handlers.get(type(event).__name__)
        if handler is not None:
            handler(event)

    def close(self) -> None:
        """The call is over, also without an end in its events. Idempotent."""
        if self._live:
            self._live = False
            self._handlers = {}  # one of them is this object's own: freed at once, not as a cycle
            self._metrics._leave(self)

    def _ended(self, event: Any) -> None:
        if self._live:
            self._metrics._ended(self._channel, self._agent, event.reason, event.at_ms)
            self.close()


class Metrics:
    """The metrics of one server process.

    Args:
        version: Of the server.
        reasons: Why calls end (`flowcat_server.core.ended.REASONS`); counted from 0.
        channels: Doors that are open; counted from 0.
    """

    def __init__(
        self,
        version: str = "",
        *,
        reasons: Iterable[str] = (),
        channels: Iterable[str] = (),
    ) -> None:
        # Otherwise each series has a second one, which nobody reads.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        self._live: set[CallMetrics] = set()
        self._gone = {"in": 0, "out": 0}
        self._media_dropped: dict[str, Callable[[], int]] = {}
        self._breakers: dict[tuple[str, str], list[BreakerCounts]] = {}
        self._now_ms: Callable[[], int] = lambda: 0
        self._records_dropped = 0
        self._longest_stall = 0.0
        self._collections: CollectionCounts | None = None
        self._tools: set[str] = set()
        self._build(version)
        reasons = sorted(reasons)
        for channel in channels:
            for reason in reasons:
                self._calls.labels(channel, reason)
        self.registry.register(_Collector(self._collect))

    def _build(self, version: str) -> None:
        registry = self.registry
        Gauge(*_named("flowcat_build_info"), ["version"], registry=registry).labels(version).set(1)
        self._calls = Counter(
            *_named("flowcat_calls_total"), ["channel", "reason"], registry=registry
        )
        self._agent_calls = Counter(
            *_named("flowcat_agent_calls_total"), ["agent", "reason"], registry=registry
        )
        self._refused = Counter(
            *_named("flowcat_calls_refused_total"), ["reason"], registry=registry
        )
        self._outbound = Counter(
            *_named("flowcat_outbound_calls_total"), ["carrier", "status"], registry=registry
        )
        self._detection = Counter(
            *_named("flowcat_machine_detection_total"), ["result", "by"], registry=registry
        )
        self._routed = Histogram(
            *_named("flowcat_route_webhook_duration_seconds"),
            ["outcome"],
            buckets=ROUTE_BUCKETS,
            registry=registry,
        )
        self._duration = Histogram(
            *_named("flowcat_call_duration_seconds"), buckets=DURATION_BUCKETS, registry=registry
        )
        self._turns = Counter(*_named("flowcat_turns_total"), ["outcome"], registry=registry)
        self._latency = Histogram(
            *_named("flowcat_turn_latency_seconds"),
            ["part"],
            buckets=LATENCY_BUCKETS,
            registry=registry,
        )
        self._over_budget = Counter(
            *_named("flowcat_budget_exceeded_total"), ["stage"], registry=registry
        )
        for part in LATENCY_PARTS[1:]:
            self._over_budget.labels(part)
        self._interruptions = Counter(*_named("flowcat_interruptions_total"), registry=registry)
        self._provider_errors = Counter(
            *_named("flowcat_provider_errors_total"),
            ["kind", "provider", "error"],
            registry=registry,
        )
        self._tool_duration = Histogram(
            *_named("flowcat_tool_duration_seconds"),
            ["tool", "ok"],
            buckets=TOOL_BUCKETS,
            registry=registry,
        )
        self._usage = Counter(
            *_named("flowcat_usage_total"), ["kind", "provider", "unit"], registry=registry
        )
        self._lag = Histogram(
            *_named("flowcat_loop_lag_seconds"), buckets=LAG_BUCKETS, registry=registry
        )
        self._stalls = Counter(*_named("flowcat_loop_stalls_total"), ["cause"], registry=registry)
        for reason in REFUSED:
            self._refused.labels(reason)
        for cause in STALLS:
            self._stalls.labels(cause)
        for outcome in ROUTED:
            self._routed.labels(outcome)
        for outcome in OUTCOMES:
            self._turns.labels(outcome)
        for part in LATENCY_PARTS:
            self._latency.labels(part)

    # --- what is counted ----------------------------------------------------------------------

    def call(self, channel: str, frames: object = None, agent: str = "") -> CallMetrics:
        """A call began. `frames` has the attributes of `FrameCounts`, as far as it counts."""
        call = CallMetrics(self, channel, frames, agent)
        self._live.add(call)
        return call

    @property
    def active(self) -> int:
        """Live calls."""
        return len(self._live)

    def call_refused(self, reason: str) -> None:
        """A call was not taken: ``full``, ``draining``, ``rejected``, ..."""
        self._refused.labels(reason).inc()

    def dialled(self, carrier: str, status: str) -> None:
        """A call that we made was answered, or is over without."""
        self._outbound.labels(carrier, status).inc()

    def route_asked(self, outcome: str, seconds: float) -> None:
        """The inbound webhook was asked about a call; `outcome` is one of `ROUTED`."""
        self._routed.labels(outcome).observe(seconds)

    def over_budget(self, stage: str) -> None:
        """Response latency is over budget, mostly because of `stage`."""
        self._over_budget.labels(stage).inc()

    def provider_error(self, kind: str, provider: str, error: BaseException) -> None:
        """A provider failed; the error's class is the label."""
        self._provider_errors.labels(kind, provider, type(error).__name__).inc()

    def record_dropped(self, count: int) -> None:
        """Rows or events were lost to the records."""
        self._records_dropped += count

    def watch_dropped(self, where: str, count: Callable[[], int]) -> None:
        """Report dropped pieces of audio: `count` is asked whenever metrics are wanted."""
        self._media_dropped[where] = count

    def watch_breaker(
        self, kind: str, provider: str, breaker: BreakerCounts, now_ms: Callable[[], int]
    ) -> None:
        """Report a provider's breaker; `now_ms` is the clock it goes by.

        Agents that use a provider in different ways have a breaker each: they are counted
        together, and the worst state is shown.
        """
        known = self._breakers.setdefault((kind, provider), [])
        if breaker not in known:
            known.append(breaker)
        self._now_ms = now_ms

    def loop_lag(self, seconds: float) -> None:
        """One sample of how late the event loop was."""
        self._lag.observe(seconds)

    def loop_stalled(self, cause: str, seconds: float) -> None:
        """The loop was so late that it counts as a stall; `cause` is one of `STALLS`."""
        self._stalls.labels(cause).inc()
        self._longest_stall = max(self._longest_stall, seconds)

    def watch_collections(self, collections: CollectionCounts) -> None:
        """Report garbage collection."""
        self._collections = collections

    def render(self) -> tuple[bytes, str]:
        """Body and content type of ``GET /metrics`` (Prometheus text format 0.0.4)."""
        return generate_latest(self.registry), CONTENT_TYPE_LATEST

    # --- from a call's events -----------------------------------------------------------------

    def _turn(self, turn: Any) -> None:
        finished = "answered" if turn.agent else "unanswered"
        outcome = "interrupted" if turn.interrupted else finished
        self._turns.labels(outcome).inc()
        if turn.latency is not None:
            self._latency.labels("total").observe(turn.latency.total_ms / 1000)
            for part, ms in turn.latency.parts().items():
                self._latency.labels(part).observe(ms / 1000)

    def _heard(self, heard: Any) -> None:
        if heard.interrupted:
            self._interruptions.inc()

    def _detected(self, found: Any) -> None:
        self._detection.labels(found.answerer, found.by).inc()

    def _tool(self, tool: Any) -> None:
        name = tool.name
        if name not in self._tools:
            if len(self._tools) >= _MAX_TOOLS:
                name = "other"
            else:
                self._tools.add(name)
        self._tool_duration.labels(name, str(tool.ok).lower()).observe(tool.duration_ms / 1000)

    def _used(self, used: Any) -> None:
        amounts = {
            "input_tokens": used.input_tokens,
            "output_tokens": used.output_tokens,
            "cached_tokens": used.cached_tokens,
            "characters": used.characters,
            "audio_seconds": used.audio_ms / 1000,
        }
        for unit, amount in amounts.items():
            if amount:
                self._usage.labels(used.kind, used.provider, unit).inc(amount)

    def _ended(self, channel: str, agent: str, reason: str, duration_ms: int) -> None:
        self._calls.labels(channel, reason).inc()
        self._agent_calls.labels(agent, reason).inc()
        self._duration.observe(duration_ms / 1000)

    def _leave(self, call: CallMetrics) -> None:
        self._live.discard(call)
        for direction, count in _frames(call.frames).items():
            self._gone[direction] += count
        call.frames = None

    def _collect(self) -> Iterable[Metric]:
        frames = dict(self._gone)
        for call in self._live:
            for direction, count in _frames(call.frames).items():
                frames[direction] += count
        dropped = {where: count() for where, count in self._media_dropped.items()}
        yield GaugeMetricFamily(*_named("flowcat_calls_active"), value=len(self._live))
        yield _counters("flowcat_audio_frames_total", "direction", frames)
        yield _counters("flowcat_media_dropped_frames_total", "where", dropped)
        yield CounterMetricFamily(
            *_named("flowcat_records_dropped_total"), value=self._records_dropped
        )
        yield GaugeMetricFamily(
            *_named("flowcat_loop_stall_longest_seconds"), value=self._longest_stall
        )
        yield from self._collect_collections()
        yield from self._collect_breakers()

    def _collect_collections(self) -> Iterable[Metric]:
        labels = ["generation"]
        count = CounterMetricFamily(*_named("flowcat_gc_collections_total"), labels=labels)
        seconds = CounterMetricFamily(*_named("flowcat_gc_seconds_total"), labels=labels)
        longest = GaugeMetricFamily(*_named("flowcat_gc_longest_seconds"), labels=labels)
        told = self._collections
        for generation in range(len(told.count) if told is not None else 0):
            assert told is not None  # noqa: S101 - the range is empty otherwise
            name = [str(generation)]
            count.add_metric(name, told.count[generation])
            seconds.add_metric(name, told.seconds[generation])
            longest.add_metric(name, told.longest[generation])
        yield count
        yield seconds
        yield longest

    def _collect_breakers(self) -> Iterable[Metric]:
        labels = ["kind", "provider"]
        state = GaugeMetricFamily(*_named("flowcat_provider_breaker_state"), labels=labels)
        opened = CounterMetricFamily(
            *_named("flowcat_provider_breaker_opened_total"), labels=labels
        )
        lost = CounterMetricFamily(*_named("flowcat_provider_hedges_lost_total"), labels=labels)
        guesses = CounterMetricFamily(
            *_named("flowcat_provider_guesses_total"), labels=[*labels, "outcome"]
        )
        now_ms = self._now_ms()
        for names, breakers in self._breakers.items():
            state.add_metric(names, max(BREAKER_STATES.index(b.state(now_ms)) for b in breakers))
            opened.add_metric(names, sum(b.opened for b in breakers))
            lost.add_metric(names, sum(b.hedges_lost for b in breakers))
            guesses.add_metric((*names, "used"), sum(b.guesses_used for b in breakers))
            guesses.add_metric((*names, "dropped"), sum(b.guesses_dropped for b in breakers))
        yield state
        yield opened
        yield lost
        yield guesses


class _Collector:
    """What a registry asks; `collect` is called in the thread that renders."""

    def __init__(self, collect: Callable[[], Iterable[Metric]]) -> None:
        self.collect = collect


def _named(name: str) -> tuple[str, str]:
    return name, METRICS[name]


def _frames(source: object) -> dict[str, int]:
    return {
        "in": int(getattr(source, "frames_in", 0)),
        "out": int(getattr(source, "frames_out", 0)),
    }


def _counters(name: str, label: str, values: Mapping[str, int]) -> Metric:
    family = CounterMetricFamily(*_named(name), labels=[label])
    for value, count in values.items():
        family.add_metric([value], count)
    return family
