"""One request being answered: what is asked, what is known, what will be said."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any

from flowcat_server.core.graph import Edge, Fact
from flowcat_server.core.interfaces import (
    Message,
    ModelEvent,
    ModelRequest,
    Remember,
    TextDelta,
    ToolCall,
    ToolSpec,
)
from flowcat_server.providers.llm._intents.memory import Memory
from flowcat_server.providers.llm._intents.settings import FaqItem, NodeOptions
from flowcat_server.providers.llm._intents.wording import Wording, render, sentences, without_lead

_QUESTION = re.compile(
    r"^\W*(?:(?:so|and|um+|uh+|okay|ok|but|well|sorry|hi|hello)\b\W*)*"
    r"(?:what|where|when|how|who|which|why|do|does|is|are|can|could|would|will|may|should)\b",
    re.IGNORECASE,
)


@dataclass(slots=True)
class Turn:
    """Collects one reply. Created per request, used by one thread."""

    request: ModelRequest
    memory: Memory
    today: date
    wording: Wording
    faq: Sequence[FaqItem] = ()
    """Questions of the provider's own options."""
    node: NodeOptions = field(init=False)
    facts: tuple[Fact, ...] = field(init=False)
    values: dict[str, Any] = field(default_factory=dict)
    """Slots read in this turn."""
    said: list[str] = field(default_factory=list)
    call: ToolCall | None = None
    _answers: dict[str, tuple[str, ...]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.node = NodeOptions.of(self.request.node)
        facts = []
        for item in (*self.node.faq, *self.faq):
            fact = Fact(item.id or item.q[0], item.q, item.a[0])
            self._answers[fact.id] = item.a
            facts.append(fact)
        facts += [fact for fact in self.request.knowledge if fact.id not in self._answers]
        self.facts = tuple(facts)

    # --- what there is ------------------------------------------------------------------------

    @property
    def variables(self) -> dict[str, Any]:
        """The call's variables with what was read in this turn."""
        return {**self.request.variables, **self.values}

    @property
    def utterance(self) -> str:
        """What the caller said last."""
        return next((m.text for m in reversed(self.request.messages) if m.role == "user"), "")

    @property
    def is_question(self) -> bool:
        """Whether that reads like a question."""
        return is_question(self.utterance)

    @property
    def last(self) -> Message | None:
        """The newest message."""
        return self.request.messages[-1] if self.request.messages else None

    @property
    def heard(self) -> str:
        """What the caller heard of the agent before speaking."""
        texts: list[str] = []
        for message in reversed(self.request.messages):
            if message.role == "assistant" and message.text:
                texts.append(message.text)
            elif message.role == "user" and texts:
                break
        return " ".join(reversed(texts))

    def edge(self, tool_name: str) -> Edge | None:
        """The edge offered under that name."""
        return next((e for e in self.request.edges if e.tool_name == tool_name), None)

    def named_edge(self, name: str) -> Edge | None:
        """The edge with that id, label, target or tool name."""
        if not name:
            return None
        return next(
            (e for e in self.request.edges if name in (e.id, e.label, e.target, e.tool_name)), None
        )

    def tool(self, prefix: str) -> ToolSpec | None:
        """The first offered tool whose name begins so."""
        return next((tool for tool in self.request.tools if tool.name.startswith(prefix)), None)

    def fact(self, key: str) -> Fact | None:
        """The fact of that id."""
        return next((fact for fact in self.facts if fact.id == key), None)

    # --- what is done -------------------------------------------------------------------------

    def say(self, text: str) -> None:
        """Say a text of the agent file, its variables filled in."""
        text = render(text, self.variables, self.memory.spoken)
        if text:
            self.said.append(text)

    def say_one(self, texts: Sequence[str], name: str) -> None:
        """Say the next of several texts of the agent file."""
        self.say(self.wording.choose(texts, name, self.memory.counts))

    def use(self, group: str, **fields: str) -> None:
        """Say the next wording of a group."""
        self.say(self.wording.pick(group, self.memory.counts, **fields))

    def drop_questions(self) -> None:
        """Take back questions said so far: another one follows."""
        kept = [" ".join(s for s in sentences(text) if not s.endswith("?")) for text in self.said]
        self.said = [text for text in kept if text]

    def tell(self, fact: Fact) -> None:
        """Say a fact; differently when it was told before."""
        answers = self._answers.get(fact.id, (fact.answer,))
        answer = self.wording.choose(answers, f"fact:{fact.id}", self.memory.counts)
        if fact.id in self.memory.told and len(answers) == 1:
            self.use("again", answer=without_lead(answer))
        else:
            self.say(answer)
        self.memory.told = [*(t for t in self.memory.told if t != fact.id), fact.id][-50:]

    def run(self, tool: str, arguments: Mapping[str, Any] | None = None) -> None:
        """End the reply with a tool call."""
        number = self.memory.counts.get("calls", 0) + 1
        self.memory.counts["calls"] = number
        self.memory.leaving = tool
        self.call = ToolCall(f"intents-{number}", tool, dict(arguments or {}))

    def events(self) -> list[ModelEvent]:
        """The reply. Memory comes first: a reply that is cut off was still given."""
        events: list[ModelEvent] = [Remember({**self.values, **self.memory.store()})]
        pieces = [piece for text in self.said for piece in sentences(text)]
        events += [
            TextDelta(piece if at == len(pieces) - 1 else f"{piece} ")
            for at, piece in enumerate(pieces)
        ]
        if self.call:
            events.append(self.call)
        return events


def is_question(text: str) -> bool:
    """Whether a sentence has a question mark or a question's first word."""
    return text.rstrip().endswith("?") or bool(_QUESTION.match(text))
