"""The jitter buffer, driven by lists of what arrives and when."""

from __future__ import annotations

import random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from flowcat_server.transports.webrtc.jitter import (
    HOLD_MAX_MS,
    HOLD_MS,
    STALL_MS,
    Action,
    Conceal,
    JitterBuffer,
    Play,
    Recover,
    Silence,
)

FRAME = 960


class Line:
    """A network between a sender with its own clock and a buffer."""

    def __init__(self, *, seq: int = 65_530, timestamp: int = 2**32 - 5 * FRAME) -> None:
        self.actions: list[Action] = []
        self.times: list[int] = []
        self.now = 1_000
        self.buffer = JitterBuffer(48_000, FRAME, self._emit)
        self.seq, self.timestamp = seq, timestamp

    def _emit(self, action: Action) -> None:
        self.actions.append(action)
        self.times.append(self.now)

    def packet(
        self, number: int, at_ms: int, *, shift: int = 0, pause: bool = False, seq_shift: int = 0
    ) -> None:
        self.now = at_ms
        self.buffer.push(
            (self.seq + number + seq_shift) & 0xFFFF,
            (self.timestamp + number * FRAME + shift) & 0xFFFFFFFF,
            number.to_bytes(4, "big"),
            at_ms,
            ticks=FRAME,
            pause=pause,
        )

    def tick(self, at_ms: int) -> None:
        self.now = at_ms
        self.buffer.tick(at_ms)

    def run(self, arrivals: dict[int, int], until_ms: int) -> None:
        """`arrivals`: packet number to time. Ticks every 20 ms, 7 ms off the packets."""
        events = sorted(
            [(at, number) for number, at in arrivals.items()]
            + [(at, -1) for at in range(self.now, until_ms, 20)]
        )
        for at, number in events:
            if number < 0:
                self.tick(at + 7)
            else:
                self.packet(number, at)

    def lose(self, pattern: list[bool], *, start: int = 0) -> None:
        """Every packet 20 ms after the one before; True: it is lost."""
        begin = 1_000 + start * 20
        self.run(
            {start + n: begin + n * 20 for n, lost in enumerate(pattern) if not lost},
            begin + len(pattern) * 20,
        )

    @property
    def played(self) -> list[int]:
        return [int.from_bytes(a.payload, "big") for a in self.actions if isinstance(a, Play)]

    @property
    def play_times(self) -> list[int]:
        return [t for t, a in zip(self.times, self.actions, strict=True) if isinstance(a, Play)]

    @property
    def ms(self) -> int:
        """Length of everything emitted."""
        ticks = 0
        for action in self.actions:
            ticks += FRAME if isinstance(action, Play) else action.ticks
        return ticks * 1000 // 48_000

    def count(self, kind: type) -> int:
        return sum(isinstance(action, kind) for action in self.actions)


def test_packets_in_order_pass_at_once() -> None:
    line = Line()
    for number in range(50):
        line.packet(number, 1_000 + number * 20)
        assert line.played[-1] == number
    assert line.times == [1_000 + n * 20 for n in range(50)]
    assert line.buffer.stats.lost == 0


def test_sequence_numbers_and_timestamps_wrap() -> None:
    line = Line(seq=65_533, timestamp=2**32 - 2 * FRAME)
    line.lose([False] * 20)
    assert line.played == list(range(20))
    assert line.count(Silence) == line.count(Conceal) == 0


def test_a_lost_packet_is_recovered_from_the_next() -> None:
    line = Line()
    line.lose([False, False, True, False, False, False])
    assert line.played == [0, 1, 3, 4, 5]
    recovered = [a for a in line.actions if isinstance(a, Recover)]
    assert recovered == [Recover((3).to_bytes(4, "big"), 0, FRAME)]
    assert line.actions.index(recovered[0]) == 2
    assert line.ms == 6 * 20
    assert line.buffer.stats.lost == 1


def test_of_a_burst_only_the_last_is_recovered_the_rest_concealed() -> None:
    line = Line()
    line.lose([False, False, True, True, True, False, False, False])
    kinds = [type(action) for action in line.actions]
    assert kinds == [Play, Play, Conceal, Conceal, Recover, Play, Play, Play]
    assert line.ms == 8 * 20


def test_a_long_burst_becomes_silence_after_100_ms() -> None:
    line = Line()
    line.packet(0, 1_000)
    line.packet(40, 1_010)
    line.packet(41, 1_030)
    assert line.count(Conceal) == 5
    assert line.count(Recover) == 1
    assert line.ms == 42 * 20


def test_two_packets_that_change_places_are_put_in_order() -> None:
    line = Line()
    line.run({0: 1_000, 1: 1_020, 3: 1_041, 2: 1_045, 4: 1_080}, 1_100)
    assert line.played == [0, 1, 2, 3, 4]
    assert line.buffer.stats.lost == 0


def test_a_hole_waits_no_longer_than_the_hold() -> None:
    line = Line()
    line.run({0: 1_000, 1: 1_020, 3: 1_060}, 1_100)
    assert line.played == [0, 1, 3]
    recovered_at = line.times[[type(a) for a in line.actions].index(Recover)]
    assert HOLD_MS <= recovered_at - 1_060 <= HOLD_MS + 20


def test_the_hold_grows_with_late_packets_and_shrinks_again() -> None:
    line = Line()
    arrivals = {n: 1_000 + n * 20 for n in range(20)}
    arrivals[10] += 55
    line.run(arrivals, 1_400)
    assert line.buffer.stats.late == 1
    assert 55 <= line.buffer.hold_ms <= HOLD_MAX_MS
    # The same lateness again is now waited for.
    later = {n: 1_000 + n * 20 for n in range(20, 40)}
    later[30] += 55
    line.run(later, 1_800)
    assert line.buffer.stats.lost == 1
    assert line.played[-20:] == list(range(20, 40))
    line.lose([False] * 600, start=40)
    assert line.buffer.hold_ms == HOLD_MS


def test_duplicates_are_dropped() -> None:
    line = Line()
    for number in range(10):
        line.packet(number, 1_000 + number * 20)
        line.packet(number, 1_005 + number * 20)
    assert line.played == list(range(10))
    assert line.buffer.stats.duplicate == 10
    assert line.buffer.hold_ms == HOLD_MS


def test_loss_leaves_no_delay_behind() -> None:
    """5 % for 10 s, then none: the delay is back at once, not only within 3 s."""
    line = Line()
    line.lose([n % 20 == 7 for n in range(500)])
    line.lose([False] * 150, start=500)
    delays = [
        at - (1_000 + number * 20) for number, at in zip(line.played, line.play_times, strict=True)
    ]
    assert max(delays) <= 2 * HOLD_MS + 20
    assert max(delays[-150:]) == 0
    assert line.ms == 650 * 20


@pytest.mark.parametrize("percent", [3, 8, 20])
def test_the_timeline_stays_complete_under_random_loss(percent: int) -> None:
    chance = random.Random(percent)
    pattern = [False] + [chance.random() * 100 < percent for _ in range(998)] + [False, False]
    line = Line()
    line.lose(pattern)
    assert line.played == [n for n, lost in enumerate(pattern) if not lost]
    assert abs(line.ms - 1_001 * 20) <= 20
    assert line.count(Recover) > 0.7 * sum(pattern)


def test_a_pause_of_the_sender_is_filled_by_its_timestamps() -> None:
    """DTX: sequence numbers go on, the timestamp jumps."""
    line = Line()
    line.packet(0, 1_000)
    line.packet(1, 1_020, pause=True)
    line.packet(2, 1_440, shift=20 * FRAME)
    assert line.played == [0, 1, 2]
    assert line.ms == 23 * 20


def test_during_a_pause_silence_comes_in_real_time() -> None:
    line = Line()
    line.packet(0, 1_000)
    line.packet(1, 1_020, pause=True)
    for at in range(1_040, 1_440, 20):
        line.tick(at)
    assert 300 <= line.ms <= 400
    assert line.count(Conceal) == 0
    line.packet(2, 1_440, shift=20 * FRAME)
    assert line.ms == 23 * 20


def test_a_stalled_line_is_waited_for_and_nothing_is_lost() -> None:
    line = Line()
    arrivals = {n: 1_000 + n * 20 for n in range(10)}
    arrivals |= {n: 1_000 + max(n * 20, 340) for n in range(10, 30)}
    line.run(arrivals, 1_700)
    assert line.played == list(range(30))
    assert line.ms == 600
    assert max(line.times) == 1_000 + 29 * 20


def test_a_longer_stall_is_made_up_for_and_the_late_speech_still_played() -> None:
    line = Line()
    arrivals = {n: 1_000 + n * 20 for n in range(10)}
    arrivals |= {n: 1_000 + max(n * 20, 800) for n in range(10, 60)}
    line.run(arrivals, 2_300)
    assert line.played == list(range(60))
    made_up = line.buffer.stats.silence_ms
    assert 600 - STALL_MS - 20 <= made_up <= 600 - STALL_MS + 40
    assert line.ms == 1_200 + made_up
    # What was inserted is taken back at the next pause.
    line.packet(60, 4_000, shift=90 * FRAME)
    assert line.ms == 151 * 20


def test_a_frozen_client_does_not_bring_back_the_past() -> None:
    """15 s of backlog within 2 s (a stopped browser): only its last second is news."""
    line = Line()
    arrivals = {n: 1_000 + n * 20 for n in range(50)}
    backlog = range(50, 800)
    arrivals |= {n: 17_000 + (n - 50) * 2_000 // 750 for n in backlog}
    arrivals |= {n: max(19_000, 1_000 + n * 20) + 2 for n in range(800, 1_000)}
    line.run(arrivals, 22_000)
    delays = {
        number: at - (1_000 + number * 20)
        for number, at in zip(line.played, line.play_times, strict=True)
        if number >= 50
    }
    assert line.buffer.stats.stale > 500
    assert max(delays.values()) <= 3_100
    assert line.played[-140:] == list(range(860, 1_000))


def test_a_way_that_became_longer_for_good_is_accepted() -> None:
    line = Line()
    line.lose([False] * 50)
    line.run({n: 1_000 + n * 20 + 1_500 for n in range(50, 250)}, 7_500)
    assert line.played[-100:] == list(range(150, 250))
    assert line.buffer.stats.stale <= 60


@pytest.mark.parametrize("pause_ms", [1_100, 2_500, 15_000])
def test_what_follows_a_clock_that_stood_still_is_new(pause_ms: int) -> None:
    """A page that makes its sound itself sends nothing while it is silent, not even time."""
    line = Line()
    line.lose([False] * 50)
    line.run({n: 1_000 + n * 20 + pause_ms for n in range(50, 150)}, 4_500 + pause_ms)
    line.run({n: 1_000 + n * 20 + 2 * pause_ms for n in range(150, 250)}, 6_500 + 2 * pause_ms)
    assert line.played == list(range(250))
    assert line.buffer.stats.stale == 0
    delays = [
        at - (1_000 + number * 20 + pause_ms * (1 + (number >= 150)))
        for number, at in zip(line.played, line.play_times, strict=True)
        if number >= 50
    ]
    assert max(delays) <= 120
    assert 0 <= line.now - 1_000 - line.ms <= STALL_MS + 20, "silence is counted in real time"


def test_a_short_word_after_a_still_clock_is_heard() -> None:
    line = Line()
    line.lose([False] * 50)
    line.run({n: 5_000 + n * 20 for n in range(50, 53)}, 7_000)
    assert line.played == list(range(53))


def test_a_longer_way_within_the_limit_does_not_stutter() -> None:
    line = Line()
    line.lose([False] * 50)
    line.run({n: 1_000 + n * 20 + 400 for n in range(50, 450)}, 10_400)
    assert line.played == list(range(450))
    assert line.buffer.stats.silence_ms <= 300


def test_a_new_stream_is_followed_after_two_packets() -> None:
    line = Line()
    line.lose([False] * 10)
    line.packet(20_000, 1_200, shift=5)
    assert line.played == list(range(10))
    line.packet(20_001, 1_220, shift=5)
    line.packet(20_002, 1_240, shift=5)
    assert line.played[-2:] == [20_001, 20_002]
    assert line.buffer.stats.resyncs == 1


def test_one_stray_packet_changes_nothing() -> None:
    line = Line()
    line.lose([False] * 10)
    line.packet(30_000, 1_199)
    line.lose([False] * 10, start=10)
    assert line.played == list(range(20))


def test_a_new_clock_of_the_sender_is_taken_over() -> None:
    line = Line()
    line.lose([False] * 10)
    for number in range(10, 20):
        line.packet(number, 1_000 + number * 20, shift=-(2**30))
    assert line.played == list(range(20))
    assert line.ms < 1_000


def test_another_source_goes_on_from_any_number() -> None:
    line = Line()
    line.lose([False] * 10)
    line.buffer.restart(1_200)
    line.packet(500, 1_205, seq_shift=17, shift=12_345)
    line.packet(501, 1_225, seq_shift=17, shift=12_345)
    assert line.played == [*range(10), 500, 501]


def test_our_own_pause_is_not_the_networks() -> None:
    """The loop stood still for 500 ms: the packets are there, only unread."""
    line = Line()
    for number in range(10):
        line.packet(number, 1_000 + number * 20)
        line.tick(1_005 + number * 20)
    line.tick(1_700)
    for number in range(10, 36):
        line.packet(number, 1_702)
    assert line.ms == 36 * 20


@example([(0, 0, 0, 0, False), (2, 33_600, 0, 480, False), (3, 0, 301, 480, False)])
@example([(0, 0, 0, 0, False), (2, 33_600, 0, 480, False), (1, 0, 301, 480, False)])
@given(
    st.lists(
        st.tuples(
            st.integers(0, 65_535) | st.integers(0, 40),
            st.integers(0, 2**32 - 1) | st.integers(0, 40).map(lambda n: n * FRAME),
            st.integers(0, 400),
            st.sampled_from([0, 480, FRAME, 2_880]),
            st.booleans(),
        ),
        max_size=60,
    )
)
def test_no_sequence_of_packets_breaks_it(
    packets: list[tuple[int, int, int, int, bool]],
) -> None:
    actions: list[Action] = []
    buffer = JitterBuffer(48_000, FRAME, actions.append)
    now = 0
    for seq, timestamp, wait, ticks, pause in packets:
        now += wait
        buffer.push(seq, timestamp, b"x", now, ticks=ticks, pause=pause)
        buffer.tick(now)
    for _ in range(10):
        now += 20
        buffer.tick(now)
    assert sum(isinstance(a, Play) for a in actions) <= len(packets)
    assert all(a.ticks > 0 for a in actions if not isinstance(a, Play))
    assert buffer.hold_ms <= HOLD_MAX_MS
    # Bounded by what a pause, a hole or a stall may make up for each packet.
    assert len(actions) <= 500 * (len(packets) + 1)


@settings(deadline=None)
@given(
    st.lists(st.booleans(), min_size=5, max_size=120),
    st.lists(st.integers(0, 45), min_size=120, max_size=120),
)
def test_any_loss_and_jitter_keeps_order_and_length(pattern: list[bool], jitter: list[int]) -> None:
    pattern = [False, *pattern, False, False, False, False, False]
    line = Line()
    line.run(
        {n: 1_000 + n * 20 + jitter[n % 120] for n, lost in enumerate(pattern) if not lost},
        1_200 + len(pattern) * 20,
    )
    assert line.played == sorted(set(line.played))
    assert line.ms >= len(pattern) * 20 - 100
