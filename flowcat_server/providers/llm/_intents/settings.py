"""What an agent file can say to the `intents` provider: its options, and keys of a node's data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from flowcat_server.core.graph import Node
from flowcat_server.errors import ProviderRefused
from flowcat_server.providers.llm._intents.slots.rules import Opening
from flowcat_server.providers.registry import Options


def _as_tuple(value: object) -> object:
    return (value,) if isinstance(value, str) else value


Texts = Annotated[tuple[str, ...], BeforeValidator(_as_tuple)]
"""One text or a list of them."""


class FaqItem(BaseModel):
    """A question and its answer; several answers are used in turn."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    q: Texts = Field(min_length=1, validation_alias=AliasChoices("q", "questions"))
    a: Texts = Field(min_length=1, validation_alias=AliasChoices("a", "answer", "answers"))
    id: str = ""


class Thresholds(BaseModel):
    """How near (cosine) a sentence must come before it counts."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    edge: float = Field(0.45, ge=0, le=1)
    fact: float = Field(0.45, ge=0, le=1)
    intent: float = Field(0.50, ge=0, le=1)
    tie: float = Field(0.03, ge=0, le=1)
    """Two meanings this close to each other, and not clear, are asked back."""
    clear: float = Field(0.60, ge=0, le=1)
    """From here on a sentence is taken as meant, also where a slot's value was awaited."""
    foreign: float = Field(0.25, ge=0, le=1)
    """Below it, the sentence is about something else altogether."""


class IntentsOptions(Options):
    """Options of ``llm: {provider: intents}``. All are optional."""

    language: Literal["en"] = "en"
    faq: tuple[FaqItem, ...] = ()
    """Questions answered in every node, besides the file's ``knowledge``."""
    thresholds: Thresholds = Thresholds.model_construct()
    suggestions: tuple[str, ...] = ()
    """What to propose when nothing was understood, each as in "you can ...": "book a visit"."""
    persona: Mapping[str, Texts] = Field(default_factory=dict)
    """``name``, and wordings that replace the shipped ones (see ``data/en.yaml``)."""
    human_edge: str = ""
    """Id, label or target node of the edges that lead to a person; found by meaning if empty."""
    end_edge: str = ""
    """The same for the edges that end the call."""
    threads: int = Field(2, ge=1, le=16)
    """Calls whose sentences are worked on at the same time."""


class NodeOptions(BaseModel):
    """The keys of a node's ``data`` that this provider reads.

    Of an entry of ``extraction_variables`` it reads, besides what every provider does, ``optional``
    (the caller may refuse), ``label`` (what it is called), ``hint`` (said when it was not
    understood twice) and ``digits`` (fewest digits of a phone number).
    """

    model_config = ConfigDict(extra="ignore", frozen=True, arbitrary_types_allowed=True)

    faq: tuple[FaqItem, ...] = ()
    suggest: Texts = ()
    confirm: Texts | Literal[False] = ()
    """How to ask whether all values are right; False: do not ask."""
    done: Texts = ()
    """Said when they are, before the node is left."""
    submit: str = ""
    """The tool that is given the values; without it, the one whose parameters they fill."""
    done_edge: str = ""
    cancel_edge: str = ""
    opening: Opening = Opening()
    optional: frozenset[str] = frozenset()
    labels: Mapping[str, str] = Field(default_factory=dict)
    hints: Mapping[str, Texts] = Field(default_factory=dict)
    digits: Mapping[str, int] = Field(default_factory=dict)
    """Fewest digits of a phone number, by slot."""

    @classmethod
    def of(cls, node: Node) -> NodeOptions:
        """Read a node's data; raises `ProviderRefused` naming the node and the key."""
        slots = node.data.get("extraction_variables") or ()
        described: Sequence[Mapping[str, Any]] = [
            s for s in slots if isinstance(s, Mapping) and s.get("name")
        ]
        known = {key: node.data[key] for key in cls.model_fields if key in node.data}
        try:
            return cls.model_validate(
                known
                | {
                    "opening": Opening.from_node(node),
                    "optional": {s.get("name") for s in described if s.get("optional")},
                    "labels": {s["name"]: s["label"] for s in described if s.get("label")},
                    "hints": {s["name"]: s["hint"] for s in described if s.get("hint")},
                    "digits": {s["name"]: s["digits"] for s in described if s.get("digits")},
                }
            )
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            message = f"node {node.id!r}: data.{where}: {first['msg']}"
            raise ProviderRefused("intents", message) from error
        except ValueError as error:
            raise ProviderRefused("intents", f"node {node.id!r}: data.open: {error}") from error
