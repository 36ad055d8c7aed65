"""A provider's circuit breaker: when it is left alone, and how it comes back."""

from __future__ import annotations

from flowcat_server.core.breaker import Breaker, BreakerRules

RULES = BreakerRules(failures=2, open_ms=1000)


def opened(now_ms: int = 0) -> Breaker:
    breaker = Breaker(RULES)
    breaker.failed(now_ms)
    assert breaker.failed(now_ms)
    return breaker


def test_failures_in_a_row_open_it():
    breaker = Breaker(RULES)
    assert not breaker.failed(0)
    breaker.succeeded()
    assert not breaker.failed(0)
    assert breaker.admits(0)
    assert breaker.failed(0)
    assert not breaker.admits(0)


def test_a_refusal_opens_it_at_once():
    breaker = Breaker(RULES)
    assert breaker.failed(0, for_good=True)
    assert breaker.state(0) == "open"


def test_one_call_tries_it_while_the_others_stay_away():
    breaker = opened()
    assert not breaker.admits(999)
    assert breaker.state(1000) == "half_open"
    assert [breaker.admits(1000), breaker.admits(1000)] == [True, False]


def test_a_trial_that_goes_well_closes_it_for_all():
    breaker = opened()
    assert breaker.admits(1000)
    assert breaker.succeeded()
    assert [breaker.admits(1001), breaker.admits(1001)] == [True, True]


def test_a_trial_that_fails_opens_it_anew():
    breaker = opened()
    assert breaker.admits(1000)
    assert breaker.failed(1500)
    assert not breaker.admits(2499)
    assert breaker.admits(2500)
    assert breaker.opened == 2


def test_a_trial_without_an_outcome_becomes_somebody_elses():
    breaker = opened()
    assert breaker.admits(1000)
    assert not breaker.admits(1999)
    assert breaker.admits(2000)


def test_calls_that_fail_on_an_open_one_do_not_keep_it_open():
    breaker = opened()
    assert not breaker.failed(900)
    assert breaker.admits(1000)
