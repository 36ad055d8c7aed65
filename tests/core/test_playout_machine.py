"""The ledger against a far end that really plays: whatever happens, it knows what was heard."""

from __future__ import annotations

import struct
from collections import deque
from dataclasses import dataclass, field
from itertools import pairwise

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from flowcat_server.core.audio import MULAW_8K
from flowcat_server.core.conversation import Conversation
from flowcat_server.core.interfaces import Word
from flowcat_server.core.playout import Playout
from flowcat_server.core.speech import Reply

BYTES_PER_MS = 8
WORD_MS = 450
DELAY_MS = 40
"""What the ledger assumes, and what the far end takes."""
LONGEST_AGAIN_MS = 1000


def sound(turn: int, piece: int, first_ms: int, ms: int) -> bytes:
    """Audio of which every millisecond says what it is."""
    return b"".join(struct.pack("<HHI", turn, piece, at) for at in range(first_ms, first_ms + ms))


@dataclass
class FarEnd:
    """Plays what arrives, in order and without a pause of its own. Knows what it has played."""

    buffers: bool
    arrived: deque[tuple[int, str | bytes]] = field(default_factory=deque)
    """When it can be played at the earliest, and a mark's name or a millisecond of audio."""
    played: dict[int, list[tuple[int, int]]] = field(default_factory=dict)
    """By turn, the pieces and milliseconds in them, in the order in which they sounded."""
    now: int = 0
    marks: list[str] = field(default_factory=list)

    def receive(self, item: str | bytes, now: int) -> None:
        parts = [item] if isinstance(item, str) else batched(item)
        self.arrived.extend((now + DELAY_MS, part) for part in parts)

    def advance(self, ms: int) -> None:
        for _ in range(ms):
            playing = False
            while self.arrived and self.arrived[0][0] <= self.now:
                item = self.arrived[0][1]
                if isinstance(item, str):
                    self.marks.append(item)
                elif playing:
                    break
                else:
                    playing = True
                    turn, piece, at = struct.unpack("<HHI", item)
                    self.played.setdefault(turn, []).append((piece, at))
                self.arrived.popleft()
            self.now += 1

    def clear(self) -> None:
        if self.buffers:
            self.arrived.clear()
        else:  # what was sent cannot be taken back
            while self.arrived:
                self.advance(1)


def batched(audio: bytes) -> list[bytes]:
    return [audio[at : at + BYTES_PER_MS] for at in range(0, len(audio), BYTES_PER_MS)]


def text_of(turn: int, piece: int, words: int) -> str:
    return " ".join(f"t{turn}p{piece}w{number}" for number in range(words))


class Ledger(RuleBasedStateMachine):
    """Random replies, pushes, pulls, marks and interruptions."""

    @initialize(buffers=st.booleans(), answers=st.booleans())
    def begin(self, buffers: bool, answers: bool) -> None:
        self.far = FarEnd(buffers)
        self.answers = answers
        self.playout = Playout(MULAW_8K, delay_ms=DELAY_MS, marks=buffers)
        self.conversation = Conversation(self.playout)
        self.turn = 0
        self.open: dict[int, list[int]] = {}
        """By turn, words of each piece that are still to be pushed."""
        self.texts: dict[int, list[str]] = {}
        self.settled: dict[int, Reply] = {}
        self.timed: dict[tuple[int, int], bool] = {}
        """Whether the voice tells when each word of a piece is spoken."""
        self.stale: list[str] = []
        self.checked: dict[int, int] = {}

    # --- the agent ------------------------------------------------------------------------

    @rule(
        caller=st.booleans(),
        words=st.lists(st.integers(0, 8), max_size=3),
        pushed=st.sampled_from([0, 2, 8, 8]),
        timed=st.booleans(),
        done=st.booleans(),
    )
    def speaks(self, caller: bool, words: list[int], pushed: int, timed: bool, done: bool) -> None:
        """A reply begins, or goes on, and perhaps all of it has been made now."""
        if len(self.open) < 2 and (caller or not self.open):
            self.begin_reply(caller)
        turn = min(self.open)
        for count in words:
            self.push(turn)
            number = len(self.texts[turn])
            text = text_of(turn, number, count) or "…"
            assert self.playout.add_piece(turn, text) == number
            self.texts[turn].append(text)
            self.timed[turn, number] = timed
            self.open[turn].append(count)
        self.push(turn, pushed)
        if done:
            self.push(turn)
            del self.open[turn]
            self.playout.reply_complete(turn)

    def begin_reply(self, caller: bool) -> None:
        self.turn += 1
        if caller:
            self.conversation.caller(f"caller {self.turn}")
        self.playout.begin(self.turn)
        self.conversation.reply_begins(self.turn)
        self.open[self.turn] = []
        self.texts[self.turn] = []

    def push(self, turn: int, count: int = 8) -> None:
        pieces = self.open[turn]
        if not pieces or not pieces[-1]:
            return
        piece = len(pieces) - 1
        count = min(count, pieces[-1])
        total = len(self.texts[turn][piece].split())
        first = total - pieces[-1]
        words = [Word(f"w{n}", n * WORD_MS, (n + 1) * WORD_MS) for n in range(first, first + count)]
        audio = sound(turn, piece, first * WORD_MS, count * WORD_MS)
        assert self.playout.push(
            turn, piece, audio, self.far.now, words if self.timed[turn, piece] else ()
        ) == bool(count)
        pieces[-1] -= count
        if not pieces[-1]:
            self.playout.piece_complete(turn, piece)

    # --- the wire ------------------------------------------------------------------------

    @rule(
        ms=st.sampled_from([20, 100, 400, 1000]),
        mark=st.booleans(),
        passes=st.sampled_from([0, 20, 70, 250, 600, 1300]),
        settles=st.booleans(),
    )
    def line(self, ms: int, mark: bool, passes: int, settles: bool) -> None:
        """Something is sent, time passes, and replies that were heard are settled."""
        audio = self.playout.pull(self.far.now, ms * BYTES_PER_MS)
        assert not (audio and self.playout.held)
        self.far.receive(audio, self.far.now)
        name = self.playout.take_mark() if mark else None
        if name is not None and self.answers:
            self.far.receive(name, self.far.now)
        self.passes(passes)
        if settles:
            for reply in self.playout.settle(self.far.now):
                assert not reply.interrupted
                self.take(reply)

    def passes(self, ms: int) -> None:
        for _ in range(ms):
            self.far.advance(1)
            for name in self.far.marks:
                self.playout.acknowledge(name, self.far.now)
                self.stale.append(name)
            self.far.marks.clear()

    @rule(count=st.integers(1, 3))
    def late_marks(self, count: int) -> None:
        for name in self.stale[-count:]:
            self.playout.acknowledge(name, self.far.now)

    # --- the caller -----------------------------------------------------------------------

    @precondition(lambda self: self.far.arrived or self.playout.held)
    @rule(
        waits=st.integers(0, 800),
        does=st.sampled_from(["resume", "resume", "interrupt", "nothing"]),
    )
    def caller_speaks(self, waits: int, does: str) -> None:
        """The agent falls silent; a moment later it is known what that was."""
        if self.playout.hold(self.far.now):
            assert self.far.buffers
            self.forget()
        self.passes(waits)
        if does == "resume":
            self.playout.resume()
        elif does == "interrupt":
            self.interrupt()

    @precondition(lambda self: self.far.arrived)
    @rule()
    def interrupt(self) -> None:
        for reply in self.playout.clear(self.far.now):
            self.settled[reply.turn] = reply
            self.open.pop(reply.turn, None)
        self.forget()
        for turn in list(self.settled):
            self.check(self.settled[turn])
        assert not self.playout.queued()

    def forget(self) -> None:
        """The far end is cleared."""
        self.stale += [item for _, item in self.far.arrived if isinstance(item, str)]
        self.far.clear()

    # --- what must hold -------------------------------------------------------------------

    def take(self, reply: Reply) -> None:
        self.settled[reply.turn] = reply
        self.check(reply)

    def check(self, reply: Reply) -> None:
        """The heard words against the milliseconds that the far end has really played."""
        played = len(set(self.far.played.get(reply.turn, ())))
        said = " ".join(self.texts[reply.turn]).replace("…", "").split()
        heard = reply.heard_text.split()
        assert heard == said[: len(heard)], "the order of words is kept"
        assert abs(len(heard) - played / WORD_MS) < 1.5, (heard, played)
        assert abs(reply.heard_ms - played) <= 2, (reply.heard_ms, played)

    @invariant()
    def the_context_holds_what_was_heard(self) -> None:
        if not hasattr(self, "playout"):
            return
        told = [m for m in self.conversation.messages() if m.role == "assistant"]
        wanted = []
        for turn in sorted(self.texts):
            reply = self.settled.get(turn)
            text = " ".join(self.texts[turn]) if reply is None else reply.heard_text
            if text:
                wanted.append(text)
        assert [message.text for message in told] == wanted

    @invariant()
    def nothing_is_left_out_and_only_a_cut_word_is_said_again(self) -> None:
        for turn in getattr(self, "texts", ()):
            sounds = self.far.played.get(turn, [])
            checked = self.checked.get(turn, 0)
            for before, after in pairwise(sounds[max(0, checked - 1) :]):
                if before[0] == after[0]:
                    assert -LONGEST_AGAIN_MS <= after[1] - before[1] <= 1, (before, after)
                else:
                    assert after[0] > before[0], (before, after)
                    assert after[1] == 0, (before, after)
            self.checked[turn] = len(sounds)


Ledger.TestCase.settings = settings(deadline=None, max_examples=150, stateful_step_count=60)
TestLedger = Ledger.TestCase
