from __future__ import annotations

import ast
import inspect
from dataclasses import dataclass
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from flowcat_server import metrics as module
from flowcat_server.core import ended
from flowcat_server.core import events as ev
from flowcat_server.core.breaker import Breaker, BreakerRules
from flowcat_server.errors import ProviderTimeout
from flowcat_server.metrics import METRICS, Metrics


@dataclass
class Frames:
    frames_in: int = 0
    frames_out: int = 0


def values(metrics: Metrics) -> dict[str, float]:
    """``name{label=value}`` to value."""
    body, content_type = metrics.render()
    assert content_type.startswith("text/plain")
    found = {}
    for family in text_string_to_metric_families(body.decode()):
        for sample in family.samples:
            labels = ",".join(f"{key}={value}" for key, value in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return found


@pytest.fixture
def metrics() -> Metrics:
    return Metrics("1.2.3", reasons=ended.REASONS, channels=["twilio"])


LATENCY = ev.Latency(400, 90, 210, 40, 120, 15)


def test_known_series_exist_from_the_start(metrics: Metrics) -> None:
    found = values(metrics)

    for reason in ended.REASONS:
        assert found[f"flowcat_calls_total{{channel=twilio,reason={reason}}}"] == 0
    assert found["flowcat_calls_refused_total{reason=full}"] == 0
    assert found["flowcat_turns_total{outcome=answered}"] == 0
    assert found["flowcat_turn_latency_seconds_count{part=total}"] == 0
    assert found["flowcat_audio_frames_total{direction=in}"] == 0
    assert found["flowcat_records_dropped_total"] == 0
    assert found["flowcat_calls_active"] == 0
    assert found["flowcat_build_info{version=1.2.3}"] == 1


def test_every_metric_is_in_the_table_and_no_other(metrics: Metrics) -> None:
    body, _ = metrics.render()
    help_lines = [line.split(" ", 3) for line in body.decode().splitlines() if "# HELP" in line]

    assert {name: text for _, _, name, text in help_lines} == METRICS


def test_a_call_is_counted_from_its_events(metrics: Metrics) -> None:
    call = metrics.call("twilio")
    assert values(metrics)["flowcat_calls_active"] == 1
    call.on_event(ev.CallStarted(0, "a", "x", "twilio"))
    call.on_event(ev.TurnCompleted(900, 0, "", "Hello", 0))
    call.on_event(ev.TurnCompleted(3000, 1, "hours?", "Nine to five", 1000, latency=LATENCY))
    call.on_event(ev.AgentHeard(5000, 2, "We", " are", interrupted=True))
    call.on_event(ev.TurnCompleted(5000, 2, "and?", "We", 4000, interrupted=True, latency=LATENCY))
    call.on_event(ev.TurnCompleted(6000, 3, "well", "", 5500))
    call.on_event(ev.ToolEnded(6100, "t", "hours", "", ok=False, duration_ms=80))
    call.on_event(ev.UsageCounted(60_000, "tts", "piper", characters=40, audio_ms=2500))
    call.on_event(ev.CallEnded(61_000, ended.AGENT_ENDED))
    call.on_event(ev.CallEnded(61_000, ended.SERVER_ERROR))
    call.close()

    found = values(metrics)
    assert found["flowcat_calls_active"] == 0
    assert found["flowcat_calls_total{channel=twilio,reason=agent.ended}"] == 1
    assert found["flowcat_calls_total{channel=twilio,reason=server.error}"] == 0
    assert found["flowcat_call_duration_seconds_sum"] == 61
    assert found["flowcat_turns_total{outcome=answered}"] == 2
    assert found["flowcat_turns_total{outcome=interrupted}"] == 1
    assert found["flowcat_turns_total{outcome=unanswered}"] == 1
    assert found["flowcat_interruptions_total"] == 1
    assert found["flowcat_tool_duration_seconds_count{ok=false,tool=hours}"] == 1
    assert found["flowcat_usage_total{kind=tts,provider=piper,unit=characters}"] == 40
    assert found["flowcat_usage_total{kind=tts,provider=piper,unit=audio_seconds}"] == 2.5
    assert "flowcat_usage_total{kind=tts,provider=piper,unit=input_tokens}" not in found
    assert found["flowcat_turn_latency_seconds_sum{part=total}"] == pytest.approx(1.75)
    parts = [f"flowcat_turn_latency_seconds_sum{{part={part}}}" for part in LATENCY.parts()]
    assert sum(found[part] for part in parts) == pytest.approx(1.75)


def test_latency_parts_are_the_events_own(metrics: Metrics) -> None:
    assert ("total", *LATENCY.parts()) == module.LATENCY_PARTS


def test_events_are_told_apart_by_names_that_exist(metrics: Metrics) -> None:
    names = {kind.__name__ for kind in ev.EVENT_NAMES}

    assert set(metrics.call("x")._handlers) <= names


def test_frames_of_live_and_past_calls_are_summed(metrics: Metrics) -> None:
    one, two = Frames(10, 5), Frames(1, 1)
    first, _second = metrics.call("twilio", one), metrics.call("webrtc", two)
    one.frames_in += 1
    first.on_event(ev.CallEnded(1, ended.CALLER_HUNG_UP))
    one.frames_in += 1_000  # nobody reads a call that is over
    two.frames_in += 1

    found = values(metrics)
    assert found["flowcat_audio_frames_total{direction=in}"] == 13
    assert found["flowcat_audio_frames_total{direction=out}"] == 6


def test_a_call_that_ends_without_an_end_is_not_live_for_ever(metrics: Metrics) -> None:
    call = metrics.call("twilio", Frames(3, 0))
    call.close()
    call.close()

    found = values(metrics)
    assert found["flowcat_calls_active"] == 0
    assert found["flowcat_audio_frames_total{direction=in}"] == 3


def test_failures_and_losses_are_counted(metrics: Metrics) -> None:
    metrics.provider_error("stt", "deepgram", ProviderTimeout("deepgram", "too late"))
    metrics.call_refused("full")
    metrics.record_dropped(3)
    metrics.watch_dropped("recorder", lambda: 7)

    found = values(metrics)
    assert found[
        "flowcat_provider_errors_total{error=ProviderTimeout,kind=stt,provider=deepgram}"
    ] == 1  # fmt: skip
    assert found["flowcat_calls_refused_total{reason=full}"] == 1
    assert found["flowcat_records_dropped_total"] == 3
    assert found["flowcat_media_dropped_frames_total{where=recorder}"] == 7


def test_tool_names_cannot_fill_the_memory(metrics: Metrics) -> None:
    call = metrics.call("twilio")
    for number in range(1_000):
        call.on_event(ev.ToolEnded(1, "t", f"made_up_{number}", "", duration_ms=1))

    tools = [name for name in values(metrics) if "tool_duration_seconds_count" in name]
    assert len(tools) == 101
    assert values(metrics)["flowcat_tool_duration_seconds_count{ok=true,tool=other}"] == 900


def test_the_table_is_complete_in_the_source() -> None:
    tree = ast.parse(Path(inspect.getfile(module)).read_text())
    named = {
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and node.value.startswith("flowcat_")
        and "." not in node.value
    }

    assert named == set(METRICS)


def test_breakers_are_read_when_somebody_asks():
    metrics = Metrics()
    breaker = Breaker(BreakerRules(failures=1, open_ms=1000))
    now = [0]
    metrics.watch_breaker("tts", "elevenlabs", breaker, lambda: now[0])
    series = "flowcat_provider_breaker_state{kind=tts,provider=elevenlabs}"
    states = []
    breaker.failed(0)
    for now[0] in (0, 1000):
        states.append(values(metrics)[series])
    breaker.succeeded()
    states.append(values(metrics)[series])
    assert states == [2, 1, 0]
    assert values(metrics)[series.replace("state", "opened_total")] == 1
