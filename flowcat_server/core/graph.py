"""The agent's graph: nodes, edges and what the caller is asked for.

The shape is Flowcat's (and Dograh's); the file loader builds it, the conversation walks it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from flowcat_server.core.keypad import Keys

NodeKind = Literal["start", "agent", "end", "global", "other"]


@dataclass(frozen=True, slots=True)
class Slot:
    """One value that a node collects (Flowcat's ``extraction_variables``)."""

    name: str
    kind: str = "string"
    """string, number, boolean, or a rule of the `intents` provider: day, time, name, phone,
    choice."""
    prompt: str = ""
    """What it means, for a language model."""
    ask: tuple[str, ...] = ()
    """How to ask for it; one is chosen in turn."""
    choices: tuple[str, ...] = ()
    digits: int = 0
    """How many digits a number has; 0: not known."""


@dataclass(frozen=True, slots=True)
class Fact:
    """One thing the agent knows, written once in the file (``knowledge:``).

    Language models find it in their instructions; the `intents` provider matches its questions.
    """

    id: str
    questions: tuple[str, ...]
    """How callers ask for it, two or three wordings."""
    answer: str
    """What to say, in spoken sentences. Holds ``{{variables}}``."""


TRANSFER_FAILED = "I am sorry, I could not reach anybody. Is there anything else I can do for you?"


@dataclass(frozen=True, slots=True)
class TransferTarget:
    """A number that calls may be passed to; never chosen freely by a model."""

    name: str
    phone: str
    mode: Literal["cold", "warm"] = "cold"
    """warm: the agent speaks to who answers first, then connects the two."""
    say: str = ""
    """Said to the caller before."""
    introduce: str = ""
    """Warm: said to who answers. Holds ``{{variables}}``."""
    failed: str = TRANSFER_FAILED
    """Said to the caller when nobody could be reached."""
    then: Literal["go_on", "end"] = "go_on"
    """What follows that."""
    ring_ms: int = 30_000
    """How long it rings."""


@dataclass(frozen=True, slots=True)
class Node:
    """One state of the conversation."""

    id: str
    kind: NodeKind
    name: str
    prompt: str = ""
    greeting: str = ""
    """Exact words spoken on entering the node, without a model. Holds ``{{variables}}``."""
    allow_interrupt: bool = True
    protect_greeting: bool = False
    """The caller cannot cut off the first reply here, but every later one."""
    keypad: Keys | None = None
    """What makes a number where the agent listens for keys; None: keys do not interrupt."""
    tools: tuple[str, ...] = ()
    slots: tuple[Slot, ...] = ()
    transfers: tuple[TransferTarget, ...] = ()
    say: tuple[str, ...] = ()
    """Fixed wordings for this node, for the `intents` provider; one is chosen in turn."""
    data: Mapping[str, Any] = field(default_factory=dict)
    """The node's whole ``data`` block as it stood in the file."""


@dataclass(frozen=True, slots=True)
class Edge:
    """A way from one node to another; offered to the model as a tool."""

    id: str
    source: str
    target: str
    label: str = ""
    condition: str = ""
    speech: str = ""
    """Spoken while passing the edge (Dograh's ``transition_speech``)."""
    examples: tuple[str, ...] = ()
    """Caller sentences that mean this edge; the `intents` provider matches against them."""
    tool_name: str = ""
    """Name under which the model sees the edge; unique within its source node."""


@dataclass(frozen=True, slots=True)
class Graph:
    """A validated graph. Exactly one start node; every edge joins two known nodes."""

    nodes: Mapping[str, Node]
    edges: tuple[Edge, ...]
    start: str
    global_prompt: str = ""

    def outgoing(self, node_id: str) -> tuple[Edge, ...]:
        """The edges that leave a node, in file order."""
        return tuple(edge for edge in self.edges if edge.source == node_id)
