"""The ledger: what was sent, what was heard."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowcat_server.core.audio import MULAW_8K, PCM_16K
from flowcat_server.core.interfaces import Word
from flowcat_server.core.playout import Playout

BYTES_PER_MS = 8
TEXT = "one two three four five six seven eight nine ten"


def ledger(*, marks: bool = False, delay_ms: int = 0) -> Playout:
    return Playout(MULAW_8K, delay_ms=delay_ms, marks=marks)


def speak(playout: Playout, ms: int, text: str = TEXT, turn: int = 1, *, done: bool = True) -> None:
    if playout.reply(turn) is None:
        playout.begin(turn)
    piece = playout.add_piece(turn, text)
    assert piece is not None
    playout.push(turn, piece, b"\x00" * (ms * BYTES_PER_MS), 0)
    if done:
        playout.piece_complete(turn, piece)
        playout.reply_complete(turn)


def send(playout: Playout, now: int, ms: int) -> int:
    return len(playout.pull(now, ms * BYTES_PER_MS)) // BYTES_PER_MS


def test_a_reply_is_settled_when_its_last_sample_has_been_played():
    playout = ledger(delay_ms=60)
    speak(playout, 1000)
    assert send(playout, 100, 5000) == 1000
    assert playout.settle(1159) == []
    assert playout.settles_at_ms(200) == 1160
    (reply,) = playout.settle(1160)
    assert reply.heard_text == TEXT
    assert reply.heard_ms == 1000
    assert playout.active() is None
    assert playout.settle(1200) == []


@pytest.mark.parametrize(
    ("ms", "said"),
    [(0, ""), (200, ""), (300, "one"), (700, "one two"), (4000, TEXT)],
)
def test_a_voice_that_fails_has_said_what_a_slower_one_would_have(ms: int, said: str):
    playout = ledger(marks=True)
    speak(playout, ms, done=False)
    rest = playout.cut_short(1, 0)
    assert f"{said} {rest}".strip() == TEXT
    reply = playout.reply(1)
    assert reply is not None
    assert reply.text == said
    playout.add_piece(1, rest)
    playout.push(1, 1, bytes(1000 * BYTES_PER_MS), 0)
    playout.piece_complete(1, 1)
    playout.reply_complete(1)
    send(playout, 0, 6000)
    (reply,) = playout.settle(6000)
    assert reply.heard_text == TEXT


def test_a_voice_that_fails_is_measured_by_its_own_pace():
    playout = ledger()
    for turn in range(1, 12):
        speak(playout, 100 * len(TEXT), turn=turn)  # slower than is assumed at first
    speak(playout, 1150, turn=12, done=False)
    playout.cut_short(12, 0)
    reply = playout.reply(12)
    assert reply is not None
    assert reply.text == "one two"
    assert playout.cut_short(99, 0) == ""


@pytest.mark.parametrize("heard_ms", range(0, 2001, 100))
def test_an_interrupted_reply_ends_at_the_heard_word(heard_ms: int):
    playout = ledger(marks=True)
    speak(playout, 2000)
    send(playout, 0, 2000)
    (reply,) = playout.clear(heard_ms)
    heard, said = reply.heard_text.split(), TEXT.split()
    assert heard == said[: len(heard)]
    # The voice is steady here, so the share of characters heard is the share of time.
    expected = len(TEXT[: len(TEXT) * heard_ms // 2000].split())
    assert abs(len(heard) - expected) <= 1
    assert f"{reply.heard_text} {reply.unheard_text}".strip() == TEXT
    assert reply.interrupted is (reply.heard_text != TEXT)


def test_word_times_are_believed_over_proportions():
    playout = ledger(marks=True)
    playout.begin(1)
    piece = playout.add_piece(1, "a very long word at the end extraordinarily")
    assert piece == 0
    spoken = ["a", "very", "long", "word", "at"]
    words = [Word(word, 100 * i, 100 * i + 100) for i, word in enumerate(spoken)]
    playout.push(1, 0, b"\x00" * 8000, 0, words)
    send(playout, 0, 1000)
    (reply,) = playout.clear(260)
    assert reply.heard_text == "a very long"


def test_what_a_far_end_without_a_buffer_was_sent_is_heard():
    playout = ledger(delay_ms=80)
    speak(playout, 1000)
    for at in range(0, 500, 20):
        send(playout, at, 20)
    (reply,) = playout.clear(490)
    assert reply.heard_ms == 500
    assert reply.heard_text == "one two three four five"


def test_of_what_was_never_sent_nothing_was_heard():
    playout = ledger()
    speak(playout, 1000)
    (reply,) = playout.clear(5000)
    assert reply.heard_text == ""
    assert reply.unheard_text == TEXT
    assert playout.queued() == 0


def test_audio_of_a_cut_reply_is_dropped():
    playout = ledger()
    speak(playout, 1000, done=False)
    playout.clear(10)
    playout.push(1, 0, b"\x00" * 800, 20)
    assert playout.queued() == 0
    assert playout.add_piece(1, "more") is None


def test_a_mark_corrects_what_was_assumed():
    playout = ledger(marks=True)
    speak(playout, 1000)
    send(playout, 0, 500)
    first = playout.take_mark()
    assert first is not None
    assert playout.take_mark() is None
    send(playout, 100, 500)
    last = playout.take_mark()
    assert last is not None
    playout.acknowledge(first, 800)  # 300 ms later than predicted
    assert playout.settle(1250) == []
    assert playout.settle(1301) == []  # the last mark is still out
    playout.acknowledge(last, 1310)
    (reply,) = playout.settle(1310)
    assert reply.source == "mark"


def test_a_mark_that_never_comes_is_not_waited_for_for_ever():
    playout = ledger(marks=True)
    speak(playout, 1000)
    send(playout, 0, 1000)
    playout.take_mark()
    assert playout.settle(1500) == []
    due = playout.settles_at_ms(1500)
    assert due is not None
    assert [reply.turn for reply in playout.settle(due)] == [1]


def test_marks_that_return_after_a_clear_mean_nothing():
    playout = ledger(marks=True)
    speak(playout, 1000)
    send(playout, 0, 1000)
    name = playout.take_mark()
    assert name is not None
    (reply,) = playout.clear(200)
    playout.acknowledge(name, 210)
    assert 0 < reply.heard_ms <= 200


def test_the_lead_shrinks_as_time_passes():
    playout = ledger()
    speak(playout, 1000)
    send(playout, 0, 400)
    assert playout.lead_ms(0) == 400
    assert playout.lead_ms(150) == 250
    assert playout.lead_ms(900) == 0
    assert playout.buffered_ms(150) == 250 + 600


def test_a_gap_in_sending_is_a_gap_in_hearing():
    playout = ledger(marks=True)
    speak(playout, 1000)
    send(playout, 0, 200)
    send(playout, 700, 200)
    (reply,) = playout.clear(800)
    assert reply.heard_ms == 200 + 100


def test_a_reply_of_two_sentences_keeps_them_apart():
    playout = ledger(marks=True)
    speak(playout, 500, "First sentence.", done=False)
    playout.piece_complete(1, 0)
    speak(playout, 500, "Second sentence.")
    send(playout, 0, 1000)
    (reply,) = playout.clear(520)
    assert reply.heard == ["First sentence.", ""]


def test_a_protected_reply_protects_everything_under_way():
    playout = ledger()
    playout.begin(1, interruptible=False)
    playout.begin(2)
    assert not playout.interruptible()
    assert playout.active() == 2


def test_the_tap_hears_what_is_sent_and_when_it_will_sound():
    tapped: list[tuple[int, int]] = []
    playout = Playout(PCM_16K, delay_ms=40, marks=False)
    playout.tap(lambda at, audio: tapped.append((at, len(audio))), lambda at: None)
    playout.begin(1)
    playout.add_piece(1, "x")
    playout.push(1, 0, b"\x00" * 1280, 0)
    playout.pull(100, 640)
    playout.pull(120, 640)
    assert tapped == [(140, 640), (160, 640)]


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("push"), st.integers(1, 3000)),
            st.tuples(st.just("pull"), st.integers(1, 3000)),
            st.tuples(st.just("wait"), st.integers(0, 500)),
        ),
        max_size=60,
    ),
    st.booleans(),
)
def test_every_byte_is_queued_or_sent_and_heard_never_exceeds_sent(
    steps: list[tuple[str, int]], marks: bool
):
    playout = ledger(marks=marks, delay_ms=20)
    playout.begin(1)
    playout.add_piece(1, TEXT)
    now = pushed = sent = 0
    for action, amount in steps:
        if action == "push":
            playout.push(1, 0, b"\x00" * amount, now)
            pushed += amount
        elif action == "pull":
            sent += len(playout.pull(now, amount))
        else:
            now += amount
        assert playout.queued() == pushed - sent
    (reply,) = playout.clear(now)
    assert 0 <= reply.heard_ms <= sent / BYTES_PER_MS + 1
    assert TEXT.startswith(reply.heard_text)


def test_small_pieces_of_audio_add_up():
    """A voice that sends 10.9 ms at a time loses nothing to rounding."""
    playout = ledger(marks=True)
    playout.begin(1)
    playout.add_piece(1, TEXT)
    for _ in range(200):
        playout.push(1, 0, b"\x00" * 87, 0)
    playout.piece_complete(1, 0)
    playout.reply_complete(1)
    send(playout, 0, 5000)
    (reply,) = playout.clear(2000)
    assert reply.heard_text == "one two three four five six seven eight nine"
    assert reply.interrupted


def test_a_reply_that_was_heard_to_its_end_is_not_interrupted():
    playout = ledger(marks=True)
    speak(playout, 500)
    send(playout, 0, 500)
    playout.take_mark()
    (reply,) = playout.clear(600)
    assert not reply.interrupted
    assert reply.heard_text == TEXT


def test_a_reply_still_being_made_is_interrupted_though_all_of_it_was_heard():
    playout = ledger(marks=True)
    speak(playout, 500, done=False)
    send(playout, 0, 500)
    (reply,) = playout.clear(600)
    assert reply.interrupted


def test_a_far_end_that_never_answers_marks_is_waited_for_once():
    playout = ledger(marks=True)
    for turn, start in ((1, 0), (2, 10_000)):
        speak(playout, 1000, turn=turn)
        send(playout, start, 1000)
        playout.take_mark()
        assert playout.settle(start + 1000) == []
        due = playout.settles_at_ms(start + 1000)
        assert due == start + 1000 + (1000 if turn == 1 else 200)
        assert [reply.turn for reply in playout.settle(due)] == [turn]


def test_an_early_mark_moves_what_follows_forward():
    playout = ledger(marks=True, delay_ms=100)
    speak(playout, 1000)
    send(playout, 0, 500)
    mark = playout.take_mark()
    assert mark is not None
    send(playout, 0, 500)
    playout.acknowledge(mark, 550)  # expected at 600
    (reply,) = playout.clear(750)
    assert reply.heard_ms == 700
    assert reply.source == "mark"


def test_a_late_mark_does_not_delay_what_follows_a_gap():
    playout = ledger(marks=True)
    speak(playout, 2000)
    send(playout, 0, 500)
    mark = playout.take_mark()
    assert mark is not None
    send(playout, 1000, 500)
    playout.acknowledge(mark, 700)  # 200 ms late, and 300 ms before the rest began
    (reply,) = playout.clear(1200)
    assert reply.heard_ms == 700


def test_words_that_come_ahead_of_their_audio_are_kept():
    playout = ledger(marks=True)
    playout.begin(1)
    playout.add_piece(1, "one two three")
    playout.push(1, 0, b"", 0, [Word("one", 0, 100)])
    playout.push(1, 0, b"\x00" * 2400, 0, [Word("two", 100, 200), Word("three", 200, 300)])
    send(playout, 0, 300)
    (reply,) = playout.clear(160)
    assert reply.heard_text == "one two"


def test_a_voice_that_counts_words_differently_keeps_their_share():
    playout = ledger(marks=True)
    playout.begin(1)
    playout.add_piece(1, "it is $5 now ok")
    spoken = ["it", "is", "five", "dollars", "now", "ok"]
    words = [Word(word, 100 * i, 100 * i + 100) for i, word in enumerate(spoken)]
    playout.push(1, 0, b"\x00" * 4800, 0, words)
    playout.piece_complete(1, 0)
    send(playout, 0, 600)
    (reply,) = playout.clear(400)
    assert reply.heard_text == "it is $5"


@pytest.mark.parametrize("marks", [True, False], ids=["marks are not answered", "no marks"])
def test_a_sound_without_end_leaves_little_behind(marks: bool):
    """One reply that never ends (an echo), sent with a little jitter for ten minutes."""
    playout = ledger(marks=marks, delay_ms=20)
    playout.begin(1)
    playout.add_piece(1, "")
    before = most = 0
    tracemalloc.start()
    for frame in range(50 * 600):
        now = frame * 20 + frame % 2
        playout.push(1, 0, bytes(160), now)
        playout.pull(now, 160)
        playout.take_mark()
        playout.settle(now)
        if frame == 50 * 60:
            before, _ = tracemalloc.get_traced_memory()
    most, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most - before < 20_000
    (reply,) = playout.clear(now)
    assert abs(reply.heard_ms - now) <= 80
