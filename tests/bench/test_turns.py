"""The measuring stick itself: labels, the line, the clock, the verdicts and the table."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from bench.turns import noises, report, sound
from bench.turns.clock import WorkLoop, counted_workers
from bench.turns.items import Echo, Item, Span, joined, spread, under
from bench.turns.line import FarEnd, Played
from bench.turns.run import Trace
from bench.turns.score import Outcome, Pause, locator, pauses, right_word, score
from bench.turns.sound import Sound, from_pcm, milliseconds, samples, silence, to_pcm
from flowcat_server.core import ended, events
from flowcat_server.core.interfaces import Word
from flowcat_server.providers.workers import Workers


def tone(ms: int, hz: float = 300) -> Sound:
    at = np.arange(samples(ms)) / sound.RATE
    return np.asarray(0.3 * np.sin(2 * np.pi * hz * at), np.float32)


# --- labels ---------------------------------------------------------------------------------------


def test_bounds_are_the_first_and_last_sound_of_a_clip():
    clip = np.concatenate((silence(130), tone(500), silence(70)))
    assert sound.bounds(clip) == (samples(130), samples(630))
    assert len(sound.trim(clip)) == samples(500)


def test_bounds_of_a_recording_leave_its_noise_out():
    rng = np.random.default_rng(1)
    clip = np.concatenate((silence(400), tone(600), silence(500)))
    clip = (clip + 0.005 * rng.standard_normal(len(clip))).astype(np.float32)
    start, end = sound.bounds_in_room(clip)
    assert milliseconds(start) == pytest.approx(400, abs=30)
    assert milliseconds(end) == pytest.approx(1000, abs=30)


def test_the_label_of_a_turn_spans_its_gaps():
    clip, span = joined([(tone(300), "one"), (tone(200), "two"), (tone(100), "three")], [700, 950])
    assert span == Span(0, samples(300 + 700 + 200 + 950 + 100), "one two three")
    assert span.end == len(clip)
    assert not clip[samples(300) : samples(1000)].any()
    assert clip[samples(1010)] != 0


def test_labels_move_with_speech_that_is_laid_into_noise():
    noise = np.zeros(samples(3000), np.float32)
    clip, (span,) = under(tone(400), (Span(0, samples(400), "x"),), noise, samples(1200))
    assert (span.start_ms, span.end_ms) == (1200, 1600)
    assert sound.bounds(clip) == (span.start, span.end)
    assert len(clip) == samples(3000)


def test_noise_lies_at_its_level_under_the_speech():
    line = noises.line("pink", np.random.default_rng(2), 2000, -30)
    assert sound.level_db(line) == pytest.approx(-30, abs=0.5)


@pytest.mark.parametrize("name", sorted(noises.EVENTS))
def test_a_noise_is_the_same_for_the_same_seed_and_another_for_another(name: str):
    first, again, other = (noises.EVENTS[name](np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert np.abs(first).max() <= 1
    assert sound.level_db(first) > -60


def test_a_quick_run_takes_the_same_few_items_of_every_kind():
    items = [item(kind=kind, name=f"{kind}{i}") for kind in ("a/x", "b/y") for i in range(9)]
    chosen = spread(items, 3)
    assert [i.id for i in chosen] == ["a/x0", "a/x4", "a/x8", "b/y0", "b/y4", "b/y8"]


# --- verdicts -------------------------------------------------------------------------------------

START = 3000
"""When the items of these tests begin on the line."""


def item(
    expect: Any = "continue",
    speech: Sequence[tuple[int, int]] = (),
    kind: str = "noise/cough",
    name: str = "item",
    length_ms: int = 2000,
) -> Item:
    spans = tuple(Span(samples(start), samples(end)) for start, end in speech)
    scenario = "ask" if expect == "turns" else "tell"
    return Item(name, kind, silence(length_ms), spans, scenario, expect, "wide", 0)


def heard(at_ms: int, *, interrupted: bool) -> tuple[int, events.CallEvent]:
    return at_ms, events.AgentHeard(at_ms, 0, "words", interrupted=interrupted)


def turn_ended(at_ms: int, text: str = "words") -> tuple[int, events.CallEvent]:
    return at_ms, events.CallerText(at_ms, 1, text, final=True)


def spoken(start_ms: int, end_ms: int) -> list[Played]:
    frame = tone(20)
    return [Played(at, at + 20, to_pcm(frame), True) for at in range(start_ms, end_ms, 20)]


def judge(of: Item, **trace: Any) -> Outcome:
    return score(of, Trace(of.id, START, ended=ended.CALLER_HUNG_UP, **trace), (), lambda *_: None)


def test_a_reply_that_was_heard_to_its_end_was_not_stopped():
    outcome = judge(item(), played=spoken(0, 8000), events=[heard(8000, interrupted=False)])
    assert not outcome.stopped
    assert not outcome.failed
    assert outcome.pauses == []


def test_a_false_stop_is_timed_from_the_noise():
    played = spoken(0, START + 280) + spoken(START + 2000, START + 3000)
    outcome = judge(item(), played=played, events=[heard(START + 270, interrupted=True)])
    assert outcome.stopped
    assert outcome.failed
    assert outcome.stop_ms == 280


@pytest.mark.parametrize(
    ("last", "missed", "early"),
    [
        pytest.param(START + 500 + 300, False, False, id="in time"),
        pytest.param(START + 500 + 2300, True, False, id="much too late"),
        pytest.param(START + 300, False, True, id="before the caller spoke"),
        pytest.param(None, True, False, id="never"),
    ],
)
def test_an_interruption(last: int | None, missed: bool, early: bool):
    end = last or 15_000
    outcome = judge(
        item("stop", [(500, 1500)], kind="interrupt/word"),
        played=spoken(0, end),
        events=[heard(end, interrupted=last is not None)],
    )
    assert (outcome.missed, outcome.early) == (missed, early)
    assert outcome.failed == (missed or early)
    if last is not None:
        assert outcome.stop_ms == last - START - 500


def test_the_latency_of_an_interruption_counts_from_the_pause_that_it_confirmed():
    played = spoken(0, START + 200)  # silent from here on, settled only when words were heard
    outcome = judge(
        item("stop", [(0, 900)]), played=played, events=[heard(START + 900, interrupted=True)]
    )
    assert outcome.stop_ms == 200


@pytest.mark.parametrize(
    ("ends", "cut", "lost", "extra", "delays"),
    [
        pytest.param([1950], 0, 0, 0, [450], id="one turn"),
        pytest.param([900, 1950], 1, 0, 0, [], id="cut off in the middle"),
        pytest.param([700, 1100, 1950], 1, 0, 0, [], id="cut off twice is one turn cut off"),
        pytest.param([1460], 0, 0, 0, [-40], id="within the label's fading end"),
        pytest.param([], 0, 1, 0, [], id="never answered"),
        pytest.param([1950, 3100], 0, 0, 1, [450], id="a turn that nobody took"),
    ],
)
def test_a_turn(ends: list[int], cut: int, lost: int, extra: int, delays: list[int]):
    outcome = judge(
        item("turns", [(0, 1500)], kind="turn/x"), events=[turn_ended(START + at) for at in ends]
    )
    assert (outcome.cut, outcome.lost, outcome.extra) == (cut, lost, extra)
    assert outcome.delays_ms == delays
    assert outcome.failed == (cut + lost + extra > 0)


def test_two_turns_answered_as_one_are_one_turn_lost():
    two = item("turns", [(0, 1000), (4000, 5000)], kind="turn/two", length_ms=5000)
    ok = judge(two, events=[turn_ended(START + 1450), turn_ended(START + 5460)])
    assert (ok.expected, ok.delays_ms, ok.failed) == (2, [450, 460], False)
    late = judge(two, events=[turn_ended(START + 5460)])
    assert (late.lost, late.delays_ms) == (1, [460])


def test_noise_that_becomes_a_turn_is_an_extra_one():
    outcome = judge(item("turns", kind="quiet/noise"), events=[turn_ended(START + 900, "you")])
    assert (outcome.expected, outcome.extra) == (0, 1)


def test_a_backchannel_that_is_answered_after_the_reply_is_an_extra_turn():
    events_ = [turn_ended(START + 900, "yeah"), heard(8000, interrupted=False)]
    outcome = judge(item(kind="backchannel/yeah"), played=spoken(0, 8000), events=events_)
    assert (outcome.stopped, outcome.extra) == (False, 1)


def test_a_call_that_was_served_late_does_not_count():
    assert not judge(item(), late_ms=90).counts
    assert judge(item(), late_ms=10).counts


WORDS = (Word("we", 0, 200), Word("are", 250, 500), Word("open", 520, 900), Word("now", 1300, 1600))


@pytest.mark.parametrize(
    ("cut", "resumed", "right"),
    [
        pytest.param(700, 520, True, id="from the start of the word that was cut"),
        pytest.param(700, 700, True, id="from the very sample"),
        pytest.param(700, 250, False, id="a word too early"),
        pytest.param(700, 1300, False, id="the rest of the word is lost"),
        pytest.param(1000, 1300, True, id="cut between words, on with the next"),
        pytest.param(1000, 1000, True, id="cut between words, on with the silence"),
        pytest.param(400, 900, False, id="a whole word lost"),
    ],
)
def test_resuming_at_the_right_word(cut: int, resumed: int, right: bool):
    assert right_word(cut, resumed, WORDS) is right


@pytest.mark.parametrize(
    ("back_ms", "right"), [(0, True), (100, True), (700, False), (-500, False)]
)
def test_a_pause_is_found_and_its_resume_is_located_by_ear(back_ms: int, right: bool):
    rng = np.random.default_rng(3)
    reply = (0.1 * rng.standard_normal(samples(4000))).astype(np.float32)
    words = [Word(str(n), 400 * n, 400 * n + 380) for n in range(10)]

    def frames(first_ms: int, count: int, line_ms: int) -> list[Played]:
        at = samples(first_ms)
        return [
            Played(line_ms + 20 * n, line_ms + 20 * n + 20, to_pcm(part), True)
            for n, part in enumerate(np.split(reply[at : at + samples(20 * count)], count))
        ]

    played = frames(0, 70, 100)  # heard to 1400 ms, in the middle of a word
    played += frames(1400 - back_ms, 30, 100 + 1400 + 620)
    locate = locator(reply, lambda payload, _: from_pcm(payload, sound.RATE))
    (pause,) = pauses(played, 1000, words, lambda payload: locate(payload, "pcm16"))
    assert pause == Pause(500, 620, right)


# --- the line -------------------------------------------------------------------------------------


class Peer:
    """Session and playout as the far end sees them."""

    def __init__(self, agent: bytes = b"") -> None:
        self.now = 0
        self.agent = agent
        self.heard = b""

    def now_ms(self) -> int:
        return self.now

    def receive_audio(self, payload: bytes) -> None:
        self.heard += payload

    def receive_mark(self, name: str) -> None:
        pass

    def queued(self) -> int:
        return len(self.agent)

    def lead_ms(self, now_ms: int) -> int:
        return 0 if self.agent else 10_000

    def take_mark(self) -> str | None:
        return None

    def pull(self, now_ms: int, size: int) -> bytes:
        taken, self.agent = self.agent[:size], self.agent[size:]
        return taken


def on_line(far: FarEnd, peer: Peer, ms: int) -> Sound:
    far.attach(peer, peer)  # type: ignore[arg-type]
    for _ in range(ms // 20):
        far.tick()
        peer.now += 20
    return from_pcm(peer.heard, sound.RATE)


def test_the_caller_is_heard_at_the_labelled_sample():
    far, peer = FarEnd("wide", None, 1), Peer()
    far.says(tone(100), 330)
    heard = on_line(far, peer, 600)
    assert sound.bounds(heard) == (samples(330), samples(430))


@pytest.mark.parametrize(("gain", "delay"), [(-15, 80), (-30, 300)])
def test_echo_is_the_agent_later_and_softer(gain: int, delay: int):
    rng = np.random.default_rng(4)
    agent = (0.2 * rng.standard_normal(samples(400))).astype(np.float32)
    heard = on_line(FarEnd("wide", Echo(gain, delay), 1), Peer(to_pcm(agent)), 1000)
    alike = np.correlate(heard, agent, "valid")
    assert int(np.argmax(alike)) == samples(delay)
    echo = heard[samples(delay) : samples(delay + 400)]
    assert sound.level_db(echo) == pytest.approx(sound.level_db(agent) + gain, abs=1.5)
    assert sound.level_db(heard[: samples(delay)]) < -60


def test_clearing_ends_the_sound_of_a_far_end_that_buffers_at_once():
    far, peer = FarEnd("phone", None, 1), Peer(b"\x10" * 8000)
    on_line(far, peer, 200)
    peer.now -= 13
    peer.agent = b""
    far.clear()
    assert far.played[-1].end_ms == 187
    before = len(far.played)
    on_line(far, peer, 100)
    assert len(far.played) == before


# --- the clock ------------------------------------------------------------------------------------


def test_waiting_takes_no_time_and_work_takes_its_own():
    async def main() -> tuple[float, float]:
        loop = asyncio.get_running_loop()
        begun = loop.time()
        await asyncio.sleep(30)
        waited, begun = loop.time() - begun, loop.time()
        result = await workers.run(lambda _: sum(range(400_000)), owner=1)
        assert result == sum(range(400_000))
        return waited, loop.time() - begun

    workers = Workers("test", 1)
    wall = time.monotonic()
    with asyncio.Runner(loop_factory=WorkLoop) as runner:
        loop = runner.get_loop()
        assert isinstance(loop, WorkLoop)
        with counted_workers(loop.owed):
            waited, worked = runner.run(main())
        assert not loop.owed.any()
        assert loop.owed.total == 1
        assert loop.stuck == 0
    workers.close()
    assert 30 <= waited < 30.1
    assert 0.001 < worked < 5
    assert time.monotonic() - wall < 10


def test_a_timer_does_not_jump_ahead_of_a_model_that_works():
    order: list[str] = []

    def work(_: threading.Event) -> None:
        end = time.thread_time() + 0.03
        while time.thread_time() < end:
            pass

    async def main() -> None:
        asyncio.get_running_loop().call_later(5, order.append, "timer")
        await workers.run(work, owner=1)
        order.append("model")
        await asyncio.sleep(6)

    workers = Workers("test", 1)
    with asyncio.Runner(loop_factory=WorkLoop) as runner:
        loop = runner.get_loop()
        assert isinstance(loop, WorkLoop)
        with counted_workers(loop.owed):
            runner.run(main())
    workers.close()
    assert order == ["model", "timer"]


def test_a_job_that_nobody_wants_any_more_is_waited_for():
    release = threading.Event()
    begun = threading.Event()

    def work(_: threading.Event) -> None:
        begun.set()
        release.wait(5)

    async def main(loop: WorkLoop) -> None:
        task = asyncio.create_task(workers.run(work, owner=1))
        await asyncio.sleep(0)
        begun.wait(5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert loop.owed.any()
        release.set()
        await asyncio.sleep(0.01)  # cannot pass while the thread is at it
        assert not loop.owed.any()

    workers = Workers("test", 1)
    with asyncio.Runner(loop_factory=WorkLoop) as runner:
        loop = runner.get_loop()
        assert isinstance(loop, WorkLoop)
        with counted_workers(loop.owed):
            runner.run(main(loop))
    workers.close()


# --- the table ------------------------------------------------------------------------------------


def outcome(name: str, kind: str, expect: str, **more: Any) -> Outcome:
    voice = {"peak": 1.0, "voiced_ms": 0, "longest_ms": 0, "chunks": []}
    return Outcome(name, kind, expect, voice=voice, **more)


RUN = [
    *(outcome(f"n{i}", "noise/cough", "continue", stopped=i == 0, stop_ms=300) for i in range(4)),
    outcome("b", "backchannel/yeah", "continue", pauses=[Pause(200, 600, True)]),
    outcome("s1", "interrupt/word", "stop", stopped=True, stop_ms=250),
    outcome("s2", "interrupt/word", "stop", stopped=True, stop_ms=900),
    outcome("s3", "interrupt/word", "stop"),
    outcome("t1", "turn/two", "turns", expected=2, delays_ms=[400, 500]),
    outcome(
        "t3", "human/turn", "turns", expected=1, about={"scenario": "number"}, delays_ms=[1500]
    ),
    outcome("t2", "turn/number", "turns", expected=1, cut=1),
    outcome("late", "turn/number", "turns", expected=1, cut=1, counts=False),
]


def test_the_summary_is_made_of_what_counts_and_knows_its_targets():
    found = {figure.name: figure for figure in report.figures(RUN)}
    assert found["false stops, non-speech"].value == 25
    assert found["false stops, non-speech"].met is False
    assert found["false stops, backchannels"].met is True
    assert found["resumes at the right word"].value == 100
    assert found["missed interruptions"].value == pytest.approx(100 / 3)
    assert found["stop latency p50"].value == 250
    assert found["stop latency p95"].met is False
    assert (found["cut-off turns"].value, found["cut-off turns"].of) == (25, 4)
    assert found["end-of-turn delay p50"].value == 500
    assert found["... without numbers and spellings p95"].value == 500
    assert found["turns made of noise"].value is None


@pytest.mark.parametrize(
    ("values", "share", "value"),
    [([5], 0.95, 5), ([1, 2, 3, 4], 0.5, 2), (list(range(1, 101)), 0.95, 95), ([], 0.5, None)],
)
def test_percentiles_are_values_that_occurred(values: list[int], share: float, value: float | None):
    assert report.percentile(values, share) == value


def test_the_table_names_what_did_not_count_and_the_list_why_items_failed():
    table = report.table(RUN)
    assert "not counted (served late or broken): late" in table
    assert "noise/cough" in table
    lines = report.failures(RUN).splitlines()
    assert [line.split()[0] for line in lines] == ["n0", "s3", "t2"]
    assert "never stopped" in lines[1]


def test_two_runs_can_be_compared():
    better = [*RUN[1:], outcome("n0", "noise/cough", "continue")]
    first, second = report.as_json("before", RUN), report.as_json("after", better)
    text = report.compare(first, second)
    assert "better n0" in text
    assert "worse" not in text
    assert "25.0 %" in text
