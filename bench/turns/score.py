"""From what happened to what it is worth: pure functions of an item and its trace."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from bench.turns.items import Item, Span
from bench.turns.line import Played
from bench.turns.run import Trace
from bench.turns.sound import Sound, samples
from flowcat_server.core import events
from flowcat_server.core.interfaces import Word

GAP_MS = 45
"""A hole in the reply longer than two frames is a pause; the fixed voice makes none."""
MISSED_MS = 2000
"""An agent that still speaks so long after the onset has missed the interruption."""
EARLY_MS = 60
"""A turn ended less than this before its label is not cut off: labels are 10 ms sharp, and the
last 10 ms of a word fade."""
MATCH_MS = 240
"""How much sound is compared to find where a resumed reply goes on."""
ALIKE = 0.6
SLACK_MS = 80
"""How far from the word's edge a resume may be."""

Locate = Callable[[bytes, str], int | None]
"""Finds a piece of what was played (payload, encoding) in the reply: its first ms, or None."""


@dataclass(slots=True)
class Pause:
    """A hole in the reply."""

    at_ms: int
    """After the onset of the item's first sound."""
    length_ms: int
    right: bool | None
    """It went on at the word where it had stopped; None: that could not be told."""


@dataclass(slots=True)
class Outcome:
    """What one item showed. Times are ms after the labelled onset, if there is one, else after
    the item's first sample."""

    item: str
    kind: str
    expect: str
    stopped: bool = False
    """The first reply was cut off."""
    stop_ms: int | None = None
    """Its last sample."""
    pauses: list[Pause] = field(default_factory=list)
    turns: list[tuple[int, str]] = field(default_factory=list)
    """When each turn was decided to be over, and its text."""
    expected: int = 0
    cut: int = 0
    """Expected turns that were ended before their label."""
    lost: int = 0
    """Expected turns that were never ended after their label."""
    extra: int = 0
    """Turns that nobody took."""
    delays_ms: list[int] = field(default_factory=list)
    """From the label to the decision, of the turns that were not cut."""
    voice: dict[str, Any] = field(default_factory=dict)
    """What the voice detector said of the item."""
    late_ms: int = 0
    counts: bool = True
    about: dict[str, Any] = field(default_factory=dict)

    @property
    def early(self) -> bool:
        """Stopped by something that came before the caller's first word."""
        return self.stopped and self.stop_ms is not None and self.stop_ms < 0

    @property
    def missed(self) -> bool:
        """The caller spoke, and the agent went on."""
        late = self.stop_ms is None or self.stop_ms > MISSED_MS
        return self.expect == "stop" and (not self.stopped or late)

    @property
    def failed(self) -> bool:
        if self.expect == "continue":
            return self.stopped
        if self.expect == "stop":
            return self.missed or self.early
        return bool(self.cut or self.lost or self.extra)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def score(item: Item, trace: Trace, words: Sequence[Word], locate: Locate) -> Outcome:
    """Judge one call."""
    onset = trace.start_ms + (item.speech[0].start_ms if item.speech else 0)
    outcome = Outcome(
        item.id,
        item.kind,
        item.expect,
        late_ms=trace.late_ms,
        counts=trace.counts,
        about={**item.about, "channel": item.channel, "scenario": item.scenario},
    )
    outcome.voice = heard_voice(trace.voice, trace.start_ms, trace.start_ms + item.length_ms)
    ends = [(at, e.text) for at, e in trace.events if isinstance(e, events.CallerText) and e.final]
    outcome.turns = [(at - onset, text) for at, text in ends]
    if item.expect == "turns":
        _turns(outcome, item.speech, trace.start_ms, [at for at, _ in ends])
        return outcome
    settled = [
        (at, e) for at, e in trace.events if isinstance(e, events.AgentHeard) and e.turn == 0
    ]
    reply = [p for p in trace.played if not settled or p.start_ms <= settled[0][0]]
    outcome.extra = len(ends) if item.expect == "continue" else 0
    outcome.stopped = bool(settled) and settled[0][1].interrupted
    if outcome.stopped and reply:
        outcome.stop_ms = reply[-1].end_ms - onset
    encoding = "mulaw" if item.channel == "phone" else "pcm16"
    outcome.pauses = pauses(reply, onset, words, lambda payload: locate(payload, encoding))
    return outcome


def _turns(outcome: Outcome, speech: Sequence[Span], start_ms: int, ends: Sequence[int]) -> None:
    """Match decided turns with the labelled ones."""
    outcome.expected = len(speech)
    used: set[int] = set()
    for number, span in enumerate(speech):
        begin, end = start_ms + span.start_ms, start_ms + span.end_ms
        following = speech[number + 1 :]
        until = start_ms + following[0].start_ms if following else None
        inside = {i for i, at in enumerate(ends) if begin <= at < end - EARLY_MS}
        after = [
            i
            for i, at in enumerate(ends)
            if at >= end - EARLY_MS and i not in used and (until is None or at < until)
        ]
        used |= inside
        outcome.cut += bool(inside)
        if not after:
            outcome.lost += 1
            continue
        used.add(after[0])
        if not inside:
            outcome.delays_ms.append(ends[after[0]] - end)
    outcome.extra = len(ends) - len(used)


def pauses(
    reply: Sequence[Played],
    onset: int,
    words: Sequence[Word],
    locate: Callable[[bytes], int | None],
) -> list[Pause]:
    """Holes in a reply, and whether it went on where it had stopped."""
    found = []
    for index in range(1, len(reply)):
        before, after = reply[index - 1], reply[index]
        length = after.start_ms - before.end_ms
        if length < GAP_MS:
            continue
        frames = MATCH_MS // 20
        cut = locate(b"".join(p.payload for p in reply[max(0, index - frames) : index]))
        resumed = locate(b"".join(p.payload for p in reply[index : index + frames]))
        right = None
        if cut is not None and resumed is not None and index >= frames:
            # The last frame may have been played in part.
            cut += MATCH_MS - (20 - (before.end_ms - before.start_ms))
            right = right_word(cut, resumed, words)
        found.append(Pause(before.end_ms - onset, length, right))
    return found


def right_word(cut_ms: int, resumed_ms: int, words: Sequence[Word]) -> bool:
    """Whether a reply that stopped at `cut_ms` and went on at `resumed_ms` lost no word and
    repeated no more than the one that was cut off."""
    begun = [word for word in words if word.start_ms <= cut_ms]
    if not begun:
        return resumed_ms <= cut_ms + SLACK_MS
    latest = cut_ms
    if begun[-1].end_ms <= cut_ms + SLACK_MS:  # it was said: the silence after it may be left out
        following = [word.start_ms for word in words if word.start_ms > cut_ms]
        latest = max([cut_ms, *following[:1]])
    return begun[-1].start_ms - SLACK_MS <= resumed_ms <= latest + SLACK_MS


def locator(reply: Sound, decode: Callable[[bytes, str], Sound]) -> Locate:
    """Finds sound in the reply by normalized cross-correlation."""
    size = 1 << (len(reply) + samples(MATCH_MS)).bit_length()
    spectrum = np.fft.rfft(reply.astype(np.float64), size)
    energy = np.concatenate(([0.0], np.cumsum(reply.astype(np.float64) ** 2)))

    def locate(payload: bytes, encoding: str) -> int | None:
        piece = decode(payload, encoding).astype(np.float64)
        norm = float(np.sqrt(np.sum(piece**2)))
        if norm < 1e-3 * len(piece) ** 0.5 or len(piece) >= len(reply):
            return None
        product = np.fft.irfft(spectrum * np.conj(np.fft.rfft(piece, size)), size)
        places = len(reply) - len(piece) + 1
        local = np.sqrt(np.maximum(energy[len(piece) :] - energy[:places], 1e-9))
        likeness = product[:places] / (local * norm)
        best = int(np.argmax(likeness))
        return best * 1000 // 16_000 if likeness[best] >= ALIKE else None

    return locate


def heard_voice(voice: Sequence[tuple[int, float]], start_ms: int, end_ms: int) -> dict[str, Any]:
    """What the voice detector made of an item: peak, time above a half, longest run of it."""
    inside = [(at, p) for at, p in voice if start_ms < at <= end_ms + 300]
    step = voice[1][0] - voice[0][0] if len(voice) > 1 else 0
    longest = run = 0
    for _, probability in inside:
        run = run + 1 if probability >= 0.5 else 0
        longest = max(longest, run)
    above = sum(probability >= 0.5 for _, probability in inside)
    return {
        "peak": round(max((p for _, p in inside), default=0.0), 2),
        "voiced_ms": above * step,
        "longest_ms": longest * step,
        "chunks": [[at - start_ms, round(p, 2)] for at, p in inside],
    }
