"""What the provider remembers of one call, carried in the call's variables.

The provider object is shared by all calls and keeps nothing of any of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

KEY = "_intents"


@dataclass(slots=True)
class Memory:
    """One call's state. Plain JSON values only."""

    node: str = ""
    turn: int = 0
    misses: int = 0
    """Sentences in a row that were not understood."""
    asked: str = ""
    """The slot that was asked for last."""
    slot_misses: int = 0
    stage: str = ""
    """Of a node with slots: filling, confirming, correcting, submitted, done."""
    offer: str = ""
    """What a "yes" would now mean: human, anything, or ``edge:<tool name>``."""
    leaving: str = ""
    """The tool that was called last."""
    period: str = ""
    digits: str = ""
    counts: dict[str, int] = field(default_factory=dict)
    spoken: dict[str, str] = field(default_factory=dict)
    """How values are said, by slot."""
    told: list[str] = field(default_factory=list)
    """Ids of the facts that were told."""
    skipped: list[str] = field(default_factory=list)
    """Optional slots that the caller would not fill."""
    finished: list[str] = field(default_factory=list)
    """Nodes whose slots were filled and confirmed once."""
    name: str = ""
    """The caller's name, where it was given before anybody asked."""

    @classmethod
    def of(cls, variables: Mapping[str, Any]) -> Memory:
        """The memory found in a call's variables; a new one if there is none."""
        stored = variables.get(KEY)
        if not isinstance(stored, Mapping):
            return cls()
        memory = cls(**{f.name: stored[f.name] for f in fields(cls) if f.name in stored})
        memory.counts = dict(memory.counts)
        memory.spoken = dict(memory.spoken)
        memory.told, memory.skipped = list(memory.told), list(memory.skipped)
        memory.finished = list(memory.finished)
        return memory

    def enter(self, node: str) -> None:
        """Begin in another node."""
        self.node, self.stage, self.asked, self.offer = node, "", "", ""
        self.misses = self.slot_misses = 0
        self.period = self.digits = ""
        self.skipped = []

    def store(self) -> dict[str, Any]:
        """As it is kept in the call's variables."""
        return {KEY: asdict(self)}
