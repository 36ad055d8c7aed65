"""Providers that fail: who takes over, what other calls learn of it, and how they come back."""

from __future__ import annotations

from dataclasses import replace

from flowcat_server.core import ended, events
from flowcat_server.core.breaker import Breaker, BreakerRules
from flowcat_server.core.interfaces import Usage
from flowcat_server.errors import (
    ProviderBusy,
    ProviderError,
    ProviderRefused,
    ProviderTimeout,
    ProviderUnavailable,
)
from flowcat_server.pipeline import Parts
from flowcat_server.processors.deadlines import Deadline
from flowcat_server.processors.lineup import Lineup, Member
from tests import virtual
from tests.callscript import Script, call, loaded, parts
from tests.fakes.thinker import Step, Thinker

YAML = """
agent: {prompt: Be kind., greeting: Hello.}
turn: {deadlines: {llm: {first: 2s, gap: 2s}}}
topology:
  vad: {provider: scripted}
  stt: {provider: scripted, options: {lines: [some words], loop: true, delay_ms: 50}}
  llm: {provider: scripted}
  tts: {provider: scripted, options: {ms_per_char: 40}}
"""
GONE = ProviderUnavailable("x", "gone")
BUSY = ProviderBusy("x", "busy")
REFUSED = ProviderRefused("x", "no")
LATE = ProviderTimeout("x", "late")


class Log:
    """As much of a call as a lineup needs."""

    def __init__(self) -> None:
        self.codes: list[str] = []

    def trouble(self, kind: str, code: str, error: ProviderError) -> None:
        assert error.stage == kind
        self.codes.append(code)


def asked(errors: list[ProviderError], members: int = 2) -> tuple[list[str], list[str], bool]:
    """Who is asked in a use that fails so, what was told, and whether there is somebody left."""

    async def main() -> tuple[list[str], list[str], bool]:
        log = Log()
        names = "ABC"[:members]
        line = Lineup[str](log, "llm", [Member(n, n, Deadline(2000, 1000)) for n in names])  # type: ignore[arg-type]
        order, left = [line.current.name], True
        for error in errors:
            left = line.failed(error)
            order.append(line.current.name)
        return order, log.codes, left

    return virtual.run(main())


def test_what_may_pass_is_tried_again_and_then_elsewhere():
    assert asked([GONE, GONE]) == (["A", "A", "B"], ["llm_retried", "llm_fallback"], True)


def test_what_cannot_pass_is_tried_elsewhere_at_once():
    assert asked([REFUSED]) == (["A", "B"], ["llm_fallback"], True)


def test_nobody_waits_a_second_time_while_there_is_another():
    assert asked([LATE])[0] == ["A", "B"]
    assert asked([BUSY])[0] == ["A", "B"]
    assert asked([LATE], members=1) == (["A", "A"], ["llm_retried"], True)


def test_when_all_have_failed_nobody_is_left():
    assert asked([REFUSED, REFUSED, REFUSED], members=3)[2] is False
    assert asked([LATE, LATE], members=1)[2] is False


def test_the_last_one_gets_twice_as_long_but_once():
    async def main() -> None:
        members = [Member(name, name, Deadline(2000, 1000)) for name in "AB"]
        line = Lineup[str](Log(), "llm", members)  # type: ignore[arg-type]
        limits = [line.deadline.first_ms]
        for _ in range(2):
            assert line.failed(LATE)
            limits.append(line.deadline.first_ms)
        assert limits == [2000, 4000, 2000]

    virtual.run(main())


# --- over several calls -----------------------------------------------------------------------


async def process(*models: Thinker) -> Parts:
    """What the calls of one process share."""
    made = await parts(loaded(YAML), extra={"llm": models})
    rules = BreakerRules(failures=2, open_ms=30_000)
    return replace(made, llm=[replace(c, breaker=Breaker(rules)) for c in made.llm])


async def one_call(shared: Parts, turns: int = 1) -> Script:
    async with call(YAML, shared=shared) as script:
        await script.until(events.AgentHeard)
        for turn in range(turns):
            await script.speaks()
            await script.until(events.AgentHeard, count=2 + turn)
    return script


def failing(*steps: Step) -> Thinker:
    return Thinker(list(steps))


def test_calls_begin_with_the_fallback_while_the_breaker_is_open():
    async def main() -> None:
        dead, spare = failing(60.0), Thinker(["Here I am."])
        shared = await process(dead, spare)
        waits = []
        for _ in range(4):
            script = await one_call(shared)
            assert script.agent_lines[-1].endswith("Here I am.")
            latency = script.all(events.TurnCompleted)[-1].latency
            assert latency is not None
            waits.append(script.agent_lines[-1] == "Here I am.")
        assert len(dead.requests) == 2
        assert waits == [False, False, True, True], "without a filler once it is open"
        assert shared.llm[0].breaker.opened == 1

    virtual.run(main())


def test_the_next_call_tries_a_provider_that_was_left_alone():
    async def main() -> None:
        healed = Thinker([REFUSED], ["Back again."])
        spare = Thinker(["From the spare."])
        shared = await process(healed, spare)
        first = await one_call(shared)
        second = await one_call(shared)
        assert [s.agent_lines[-1] for s in (first, second)] == ["From the spare."] * 2
        assert len(healed.requests) == 1
        async with call(YAML, shared=shared) as waiting:
            await waiting.passes(31_000)
        third = await one_call(shared)
        fourth = await one_call(shared)
        assert [s.agent_lines[-1] for s in (third, fourth)] == ["Back again."] * 2
        assert len(spare.requests) == 2

    virtual.run(main())


def test_a_call_that_has_changed_over_stays_there():
    async def main() -> None:
        once, spare = Thinker([REFUSED], ["Well again."]), Thinker(["One."], ["Two."])
        script = await one_call(await process(once, spare), turns=2)
        assert script.agent_lines == ["Hello.", "One.", "Two."]
        assert len(once.requests) == 1

    virtual.run(main())


# --- hedging ----------------------------------------------------------------------------------

HEDGED = YAML.replace("turn: {", "turn: {dead_air: {hedge_after: 700ms}, ")


def hedged(first: Thinker, second: Thinker) -> tuple[Script, Parts]:
    async def main() -> tuple[Script, Parts]:
        shared = await parts(loaded(HEDGED), extra={"llm": [first, second]})
        return await one_call(shared), shared

    return virtual.run(main())


def test_a_model_that_is_late_is_overtaken_by_the_next():
    slow, fast = Thinker([1.5, "Too late."]), Thinker([0.2, "Here."])
    script, shared = hedged(slow, fast)
    assert script.agent_lines == ["Hello.", "Here."]
    assert slow.cancelled == 1
    assert shared.llm[0].breaker.hedges_lost == 1
    assert script.all(events.Notice) == []


def test_tokens_are_those_of_the_model_that_was_heard():
    slow, fast = Thinker([1.5, "Too late.", Usage(9, 9)]), Thinker(["Here.", Usage(1), Usage(7, 2)])
    script, _ = hedged(slow, fast)
    (used,) = [event for event in script.all(events.UsageCounted) if event.kind == "llm"]
    assert (used.provider, used.input_tokens, used.output_tokens) == ("llm.1", 7, 2)


def test_the_first_to_answer_is_heard_though_it_was_late():
    slow, slower = Thinker([0.9, "Here."]), Thinker([1.5, "Too late."])
    script, shared = hedged(slow, slower)
    assert script.agent_lines == ["Hello.", "Here."]
    assert slower.cancelled == 1
    assert shared.llm[0].breaker.hedges_lost == 0


def test_a_model_that_answers_in_time_is_asked_alone():
    quick, other = Thinker([0.5, "Here."]), Thinker(["Never."])
    script, _ = hedged(quick, other)
    assert script.agent_lines == ["Hello.", "Here."]
    assert other.requests == []


def test_a_race_that_one_loses_by_failing_is_won_by_the_other():
    broken, fine = Thinker([0.9, GONE]), Thinker([0.6, "Here."])
    script, _ = hedged(broken, fine)
    assert script.agent_lines == ["Hello.", "Here."]


# --- the end of the ladder --------------------------------------------------------------------


def test_a_call_that_cannot_go_on_is_passed_on_with_its_cause():
    async def main() -> None:
        yaml = YAML.replace(
            "turn: {",
            'turn: {dead_air: {transfer: {name: desk, phone: "+442079460000", '
            "say: One moment please.}}, ",
        )
        async with call(yaml, extra={"llm": [failing(REFUSED)]}) as script:
            await script.until(events.AgentHeard)
            await script.speaks()
            over = await script.until(events.CallEnded)
        assert (over.reason, over.detail) == (ended.AGENT_TRANSFERRED, "desk, for llm x: no")
        assert script.agent_lines == ["Hello.", "One moment please."]
        assert script.session.transfer is not None
        assert script.session.transfer.phone == "+442079460000"

    virtual.run(main())


def test_an_answer_between_two_failures_starts_the_count_anew():
    async def main() -> None:
        moody = Thinker([GONE], [GONE], ["Fine."], [GONE], [GONE], ["Fine."])
        async with call(YAML, extra={"llm": [moody]}) as script:
            await script.until(events.AgentHeard)
            for turn in range(3):
                await script.speaks()
                await script.until(events.AgentHeard, count=2 + turn)
            assert script.ended is None
        lost = "Sorry, I lost my thread. Could you repeat that?"
        assert script.agent_lines == ["Hello.", lost, "Fine.", lost]

    virtual.run(main())


def test_a_caller_who_talks_over_the_goodbye_ends_it():
    async def main() -> None:
        async with call(YAML, extra={"llm": [failing(REFUSED)]}) as script:
            await script.until(events.AgentHeard)
            await script.speaks()
            await script.until(events.AgentSpeaking, count=3)
            await script.passes(600)
            await script.speaks()
            over = await script.until(events.CallEnded)
        assert over.reason == ended.PROVIDER_FAILED
        assert "I am sorry".startswith(script.agent_lines[-1][:10])
        assert not script.agent_lines[-1].endswith("later.")

    virtual.run(main())
