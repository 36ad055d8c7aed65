"""The latency budget names the stage that overspends."""

from __future__ import annotations

from flowcat_server.core.budget import ENOUGH, LatencyBudget
from flowcat_server.core.events import Latency


def turn(**parts: int) -> Latency:
    fields = dict.fromkeys(
        (
            "endpointing_ms",
            "stt_tail_ms",
            "llm_first_token_ms",
            "llm_first_sentence_ms",
            "tts_first_audio_ms",
            "send_ms",
        ),
        50,
    )
    return Latency(**(fields | {f"{name}_ms": value for name, value in parts.items()}))


def test_a_budget_that_is_kept_says_nothing():
    budget = LatencyBudget(400)
    assert all(budget.observe(turn()) is None for _ in range(200))


def test_one_slow_turn_in_twenty_is_within_a_95th_percentile():
    budget = LatencyBudget(400)
    verdicts = [
        budget.observe(turn(llm_first_token=5000 if n % 20 == 0 else 50)) for n in range(20)
    ]
    assert verdicts[-1] is None


def test_the_slow_stage_is_named():
    budget = LatencyBudget(400)
    for n in range(ENOUGH):
        verdict = budget.observe(turn(tts_first_audio=900 if n % 5 == 0 else 50))
    assert verdict is not None
    assert (verdict.stage, verdict.stage_ms, verdict.p95_ms) == ("tts_first_audio", 900, 1150)


def test_old_turns_are_forgotten():
    budget = LatencyBudget(400)
    for _ in range(50):
        budget.observe(turn(send=1000))
    verdicts = [budget.observe(turn()) for _ in range(100)]
    assert verdicts[0] is not None
    assert verdicts[-1] is None
