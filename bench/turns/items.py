"""One labelled piece of a call, and what ought to happen."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from bench.turns.sound import Sound, milliseconds, place, samples

Expect = Literal["continue", "stop", "turns"]
"""``continue``: the agent must finish its reply; ``stop``: it must not; ``turns``: the agent is
silent, and every labelled span is one turn of the caller (no span: no turn)."""
Channel = Literal["phone", "wide"]
"""``phone``: mu-law at 8 kHz, the far end buffers; ``wide``: PCM at 16 kHz, paced."""


@dataclass(frozen=True, slots=True)
class Span:
    """Speech in an item. Samples at 16 kHz from the item's start."""

    start: int
    end: int
    text: str = ""

    @property
    def start_ms(self) -> int:
        return milliseconds(self.start)

    @property
    def end_ms(self) -> int:
        return milliseconds(self.end)


@dataclass(frozen=True, slots=True)
class Echo:
    """The agent's own sound in the caller's microphone."""

    gain_db: float
    delay_ms: int


@dataclass(frozen=True, slots=True, eq=False)
class Item:
    """What the caller's side sends, from `wait_ms` after its cue on.

    The cue is the agent's first audible sample in scenario ``tell``, and otherwise the last one.
    """

    id: str
    kind: str
    """``group/class``."""
    sound: Sound
    speech: tuple[Span, ...]
    scenario: str
    expect: Expect
    channel: Channel
    wait_ms: int
    echo: Echo | None = None
    about: dict[str, Any] = field(default_factory=dict)
    """How it was made."""

    @property
    def length_ms(self) -> int:
        return milliseconds(len(self.sound))

    def labels(self) -> dict[str, Any]:
        """Everything but the sound, as JSON."""
        return {
            "id": self.id,
            "kind": self.kind,
            "expect": self.expect,
            "scenario": self.scenario,
            "channel": self.channel,
            "wait_ms": self.wait_ms,
            "samples": len(self.sound),
            "sample_rate": 16_000,
            "speech": [{"start": s.start, "end": s.end, "text": s.text} for s in self.speech],
            "echo": None if self.echo is None else [self.echo.gain_db, self.echo.delay_ms],
            "about": self.about,
        }


def joined(parts: list[tuple[Sound, str]], gaps_ms: list[int]) -> tuple[Sound, Span]:
    """Pieces of one turn with silence between them."""
    at, end = 0, 0
    placed = []
    for (sound, _), gap in zip(parts, [*gaps_ms, 0], strict=True):
        placed.append((at, sound))
        end = at + len(sound)
        at = end + samples(gap)
    return place(placed), Span(0, end, " ".join(text for _, text in parts))


def under(
    sound: Sound, spans: tuple[Span, ...], noise: Sound, at: int
) -> tuple[Sound, tuple[Span, ...]]:
    """Speech laid into a longer noise, `at` samples from its start; the labels move with it."""
    moved = tuple(Span(s.start + at, s.end + at, s.text) for s in spans)
    return place([(0, noise), (at, sound)]), moved


def spread(items: list[Item], most: int) -> list[Item]:
    """At most `most` items of every kind, evenly chosen, in order."""
    kinds: dict[str, list[Item]] = {}
    for item in items:
        kinds.setdefault(item.kind, []).append(item)
    kept: set[str] = set()
    for of_kind in kinds.values():
        count = min(most, len(of_kind))
        chosen = np.linspace(0, len(of_kind) - 1, count).round().astype(int)
        kept |= {of_kind[index].id for index in chosen}
    return [item for item in items if item.id in kept]
