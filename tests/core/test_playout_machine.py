"""The ledger against a far end that really plays: whatever happens, it knows what was heard."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

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


@dataclass
class FarEnd:
    """Plays what arrives, in order and without a pause of its own. Knows what it has played."""

    buffers: bool
    arrived: deque[tuple[int, int, str | int]] = field(default_factory=deque)
    """When it can be played at the earliest, its turn, and a mark's name or milliseconds."""
    played: dict[int, int] = field(default_factory=dict)
    now: int = 0
    marks: list[str] = field(default_factory=list)

    def receive(self, turn: int, item: str | int, now: int) -> None:
        self.arrived.append((now + DELAY_MS, turn, item))

    def advance(self, ms: int) -> None:
        for _ in range(ms):
            left = 1
            while self.arrived and self.arrived[0][0] <= self.now:
                ready, turn, item = self.arrived.popleft()
                if isinstance(item, str):
                    self.marks.append(item)
                elif left:
                    left = 0
                    self.played[turn] = self.played.get(turn, 0) + 1
                    if item > 1:
                        self.arrived.appendleft((ready, turn, item - 1))
                else:
                    self.arrived.appendleft((ready, turn, item))
                    break
            self.now += 1

    def clear(self) -> None:
        if self.buffers:
            self.arrived.clear()
        else:  # what was sent cannot be taken back
            while self.arrived:
                self.advance(1)


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
        self.queue: deque[tuple[int, int]] = deque()
        self.settled: dict[int, Reply] = {}
        self.stale: list[str] = []

    # --- the agent ------------------------------------------------------------------------

    @precondition(lambda self: len(self.open) < 2)
    @rule(caller=st.booleans())
    def reply(self, caller: bool) -> None:
        self.turn += 1
        if caller:
            self.conversation.caller(f"caller {self.turn}")
        self.playout.begin(self.turn)
        self.conversation.reply_begins(self.turn)
        self.open[self.turn] = []
        self.texts[self.turn] = []

    @precondition(lambda self: self.open)
    @rule(words=st.integers(0, 8), newest=st.booleans())
    def sentence(self, words: int, newest: bool) -> None:
        turn = max(self.open) if newest else min(self.open)
        if self.open[turn] and self.open[turn][-1]:
            self.push(turn, self.open[turn][-1], True)
        number = len(self.texts[turn])
        text = text_of(turn, number, words) or "…"
        assert self.playout.add_piece(turn, text) == number
        self.texts[turn].append(text)
        self.open[turn].append(words)

    @precondition(lambda self: any(words and words[-1] for words in self.open.values()))
    @rule(count=st.integers(1, 4), timed=st.booleans())
    def some_words(self, count: int, timed: bool) -> None:
        self.push(min(t for t, words in self.open.items() if words and words[-1]), count, timed)

    def push(self, turn: int, count: int, timed: bool) -> None:
        pieces = self.open[turn]
        piece = len(pieces) - 1
        count = min(count, pieces[-1])
        total = len(self.texts[turn][piece].split())
        first = total - pieces[-1]
        words = [Word(f"w{n}", n * WORD_MS, (n + 1) * WORD_MS) for n in range(first, first + count)]
        audio = b"\x00" * (count * WORD_MS * BYTES_PER_MS)
        assert self.playout.push(turn, piece, audio, self.far.now, words if timed else ())
        self.queue.append((turn, count * WORD_MS))
        pieces[-1] -= count
        if not pieces[-1]:
            self.playout.piece_complete(turn, piece)

    @precondition(lambda self: self.open)
    @rule()
    def reply_is_made(self) -> None:
        turn = min(self.open)
        pieces = self.open.pop(turn)
        if pieces and pieces[-1]:
            self.open[turn] = pieces
            self.push(turn, pieces[-1], True)
            del self.open[turn]
        self.playout.reply_complete(turn)

    # --- the wire ------------------------------------------------------------------------

    @rule(ms=st.integers(1, 1500), mark=st.booleans())
    def send(self, ms: int, mark: bool) -> None:
        sent = len(self.playout.pull(self.far.now, ms * BYTES_PER_MS)) // BYTES_PER_MS
        while sent:
            turn, there = self.queue[0]
            taken = min(sent, there)
            self.far.receive(turn, taken, self.far.now)
            sent -= taken
            self.queue[0] = (turn, there - taken)
            if taken == there:
                self.queue.popleft()
        name = self.playout.take_mark() if mark else None
        if name is not None and self.answers:
            self.far.receive(0, name, self.far.now)

    @rule(ms=st.integers(1, 2000))
    def time_passes(self, ms: int) -> None:
        for _ in range(ms):
            self.far.advance(1)
            self.return_marks()

    @rule(count=st.integers(1, 3))
    def late_marks(self, count: int) -> None:
        for name in self.stale[-count:]:
            self.playout.acknowledge(name, self.far.now)

    def return_marks(self) -> None:
        for name in self.far.marks:
            self.playout.acknowledge(name, self.far.now)
            self.stale.append(name)
        self.far.marks.clear()

    @rule()
    def settle(self) -> None:
        for reply in self.playout.settle(self.far.now):
            assert not reply.interrupted
            self.take(reply)

    @rule()
    def interrupt(self) -> None:
        now = self.far.now
        for reply in self.playout.clear(now):
            self.settled[reply.turn] = reply
            self.open.pop(reply.turn, None)
        self.queue.clear()
        self.stale += [item for _, _, item in self.far.arrived if isinstance(item, str)]
        self.far.clear()
        for turn in list(self.settled):
            self.check(self.settled[turn])

    # --- what must hold -------------------------------------------------------------------

    def take(self, reply: Reply) -> None:
        self.settled[reply.turn] = reply
        self.check(reply)

    def check(self, reply: Reply) -> None:
        """The heard words against the milliseconds that the far end has really played."""
        played = self.far.played.get(reply.turn, 0)
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
    def nothing_grows(self) -> None:
        if hasattr(self, "playout"):
            assert self.playout.queued() == sum(ms for _, ms in self.queue) * BYTES_PER_MS


Ledger.TestCase.settings = settings(deadline=None, max_examples=80, stateful_step_count=60)
TestLedger = Ledger.TestCase
