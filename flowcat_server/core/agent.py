"""One call's walk through the agent's graph: where it is, what it knows, what it may do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flowcat_server.core.graph import Edge, Fact, Graph, Node, Slot
from flowcat_server.core.interfaces import Message, ModelRequest, ToolSpec
from flowcat_server.core.templates import render

VOICE_RULES = """\
You are speaking on a live voice call. Everything you write is read aloud at once, so write plain \
spoken language: no lists, no markdown, no emoji, no stage directions. Keep answers to one or two \
short sentences unless asked for more. Write numbers, times and prices the way they are said. \
If you did not understand, ask. A message that ends in [interrupted by the caller] was cut off \
there: the caller did not hear the rest of it. Text such as [keypad: 4 2] means that the caller \
pressed these keys."""

REMEMBER = "remember"
"""Built-in tool that stores what a node collects."""
TRANSFER = "transfer_to_"
"""Prefix of the built-in tools that pass the call on."""
SEND_KEYS = "send_keys"
"""Built-in tool that presses keys of the telephone, for nodes that name it."""
END_CALL = "end_call"
"""Built-in tool of agents without an end node."""

_JSON_TYPES = {"number": "number", "boolean": "boolean", "integer": "integer"}


@dataclass(frozen=True, slots=True)
class Profile:
    """What all calls of one agent share."""

    name: str
    graph: Graph
    seed_variables: Mapping[str, Any]
    tools: Mapping[str, ToolSpec]
    """The tools that nodes may name."""
    facts: str = ""
    """Knowledge appended to every system prompt."""
    knowledge: Sequence[Fact] = ()
    """The same knowledge as `Fact`s, for providers that look answers up."""


class Agent:
    """The agent in one call."""

    def __init__(self, profile: Profile, variables: Mapping[str, Any] | None = None) -> None:
        self.profile = profile
        self.graph = profile.graph
        self.variables: dict[str, Any] = {**profile.seed_variables, **(variables or {})}
        self.node: Node = self.graph.nodes[self.graph.start]
        self._before_end: Node | None = None

    @property
    def finished(self) -> bool:
        """The conversation has reached an end node."""
        return self.node.kind == "end"

    def interruptible(self, *, first: bool = False) -> bool:
        """Whether the caller may cut a reply off; `first`: it is the first one in this node."""
        return self.node.allow_interrupt and not (first and self.node.protect_greeting)

    def render(self, text: str) -> str:
        """Fill the call's variables into a text."""
        return render(text, self.variables)

    def enter(self, edge: Edge) -> Node:
        """Walk along an edge."""
        if not self.finished:
            self._before_end = self.node
        self.node = self.graph.nodes[edge.target]
        return self.node

    def go_back(self) -> bool:
        """Leave an end node for the node before it: the caller was not done. False elsewhere."""
        if not self.finished or self._before_end is None:
            return False
        self.node = self._before_end
        return True

    def resume(self, node_id: str) -> None:
        """Go on in a node where the conversation has been before; an unknown one is ignored."""
        self.node = self.graph.nodes.get(node_id, self.node)

    def edge(self, tool_name: str) -> Edge | None:
        """The current node's edge that the model sees under this name."""
        return next(
            (edge for edge in self.graph.outgoing(self.node.id) if edge.tool_name == tool_name),
            None,
        )

    def remember(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Store values; returns those that belong in the record and have changed."""
        changed = {
            name: value
            for name, value in values.items()
            if not name.startswith("_") and self.variables.get(name) != value
        }
        self.variables.update(values)
        return changed

    def recorded_variables(self) -> dict[str, Any]:
        """The variables without the providers' own memory."""
        return {name: v for name, v in self.variables.items() if not name.startswith("_")}

    def system_prompt(self) -> str:
        """Instructions for the current node."""
        parts = [VOICE_RULES, self.render(self.graph.global_prompt), self.render(self.node.prompt)]
        if self.profile.facts:
            parts.append("What you know:\n" + self.render(self.profile.facts))
        if self.node.slots:
            wanted = "\n".join(
                f"- {slot.name}: {slot.prompt or slot.kind}"
                + (f" (one of: {', '.join(slot.choices)})" if slot.choices else "")
                for slot in self.node.slots
            )
            parts.append(
                f"Find out the following, one at a time, and store each with the {REMEMBER} tool "
                f"as soon as you know it:\n{wanted}"
            )
        return "\n\n".join(part.strip() for part in parts if part.strip())

    def tools(self) -> list[ToolSpec]:
        """What the model may call in the current node."""
        specs = [
            ToolSpec(
                edge.tool_name,
                edge.condition or edge.label or f"Go on to {self.graph.nodes[edge.target].name}.",
            )
            for edge in self.graph.outgoing(self.node.id)
        ]
        specs += [
            self.profile.tools[name] for name in self.node.tools if name in self.profile.tools
        ]
        if SEND_KEYS in self.node.tools:
            specs.append(_SEND_KEYS_SPEC)
        specs += [
            ToolSpec(f"{TRANSFER}{target.name}", f"Pass the call on to {target.name}.")
            for target in self.node.transfers
        ]
        if self.node.slots:
            specs.append(_remember_spec(self.node.slots))
        if not any(node.kind == "end" for node in self.graph.nodes.values()):
            specs.append(ToolSpec(END_CALL, "Say goodbye first, then end the call."))
        return specs

    def request(self, call_id: str, messages: Sequence[Message]) -> ModelRequest:
        """Everything the model needs for its next reply."""
        return ModelRequest(
            system=self.system_prompt(),
            messages=messages,
            tools=self.tools(),
            call_id=call_id,
            node=self.node,
            edges=self.graph.outgoing(self.node.id),
            variables=dict(self.variables),
            knowledge=self.profile.knowledge,
        )


_SEND_KEYS_SPEC = ToolSpec(
    SEND_KEYS,
    "Press keys of the telephone, to find the way through the menu of a machine. Listen to its "
    "answer before you go on.",
    {
        "type": "object",
        "properties": {
            "keys": {
                "type": "string",
                "description": "The keys in order: 0-9, *, #, A-D; w is a pause of half a second.",
            }
        },
        "required": ["keys"],
    },
)


def _remember_spec(slots: Sequence[Slot]) -> ToolSpec:
    properties = {
        slot.name: {
            "type": _JSON_TYPES.get(slot.kind, "string"),
            "description": slot.prompt or slot.name,
            **({"enum": list(slot.choices)} if slot.choices else {}),
        }
        for slot in slots
    }
    return ToolSpec(
        REMEMBER,
        "Store what the caller told you.",
        {"type": "object", "properties": properties},
    )
