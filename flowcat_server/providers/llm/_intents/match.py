"""What a caller's sentence is nearest to: a way out of the node, a fact, a built-in intent."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Literal

import numpy as np
import numpy.typing as npt

from flowcat_server.core.graph import Edge, Fact
from flowcat_server.providers.llm._intents.embedding import Cached, Embedder, Vectors
from flowcat_server.providers.llm._intents.language import Language
from flowcat_server.providers.llm._intents.sound import code, likeness

_INDEXES = 256

# Weights and limits, chosen by leaving out one phrase at a time.
_NEAREST = 0.7
_LEAST = 4
_MOST = 6
_MIDDLING = 0.75
_SOUNDS_LIKE = 0.82
_CERTAIN = 0.75

_FILLERS = re.compile(
    r"^(?:(?:um+|uh+|er+|erm|ah+|oh|well|so|okay|ok|hi|hello|hey|and|alright|right|yeah|yes|"
    r"please|listen|good (?:morning|afternoon|evening)|thanks|thank you|great|"
    r"i was (?:just )?wondering(?: if)?|can you tell me|could you tell me|do you know)\b"
    r"[\s,.!-]*)+",
    re.IGNORECASE,
)
_ASKING = (
    "what|where|when|how|who|which|why|do|does|is|are|can|could|would|will|should|may|i|i'd|i'm"
)
_CLAUSES = re.compile(
    r"[?.!;]+\s+"
    rf"|,?\s+\b(?:and|also|plus|oh and)\b[,\s]+(?=(?:also |then )?(?:{_ASKING}|my|it's|your|the)\b)"
    rf"|,\s+(?=(?:{_ASKING}|i want|i need|my name)\b)",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Target:
    """Something a sentence can mean."""

    kind: Literal["edge", "fact", "intent"]
    key: str
    """Tool name of an edge, id of a fact, name of a built-in intent."""


@dataclass(frozen=True, slots=True)
class Match:
    """A target and how near it is: a cosine, 1 is the same sentence."""

    target: Target
    score: float


@dataclass(frozen=True, slots=True)
class Index:
    """The phrases of everything that can be meant in one node."""

    targets: tuple[Target, ...]
    owners: npt.NDArray[np.intp]
    """For each row of `vectors`, which target it is a phrase of."""
    vectors: Vectors
    codes: tuple[str, ...]
    """For each row, how it sounds."""

    def rank(self, vector: Vectors) -> list[Match]:
        """All targets, most likely first.

        A target is as near as its nearest phrase, but of several near ones that wins whose other
        phrases are near, too: one phrase alone may share no more than a word.
        """
        near = self.vectors @ vector
        best = np.full(len(self.targets), -1.0, dtype=np.float32)
        rank = np.empty(len(self.targets), dtype=np.float32)
        for at in range(len(self.targets)):
            scores = np.sort(near[self.owners == at])[::-1][:_MOST]
            best[at] = scores[0]
            # Few phrases tell little: a target counts as if it had some more, less near ones.
            missing = max(_LEAST - len(scores), 0)
            mean = (scores.sum() + missing * scores[0] * _MIDDLING) / (len(scores) + missing)
            rank[at] = _NEAREST * scores[0] + (1 - _NEAREST) * mean
        order = np.argsort(-rank, kind="stable")
        return [Match(self.targets[at], float(best[at])) for at in order]

    def sounds_like(self, sentence: str) -> Match | None:
        """The target one of whose phrases sounds like `sentence`."""
        said = code(sentence)
        found = [likeness(said, known, _SOUNDS_LIKE) for known in self.codes]
        at = max(range(len(found)), key=found.__getitem__, default=None)
        if at is None or not found[at]:
            return None
        return Match(self.targets[self.owners[at]], found[at])


class Matcher:
    """Builds and keeps the indexes; shared by all calls, used from worker threads."""

    def __init__(self, embedder: Embedder, language: Language) -> None:
        self._embedder = embedder
        self._phrases = Cached(embedder)
        self._language = language
        self._indexes: OrderedDict[tuple[object, ...], Index] = OrderedDict()
        self._lock = Lock()

    def warm(self) -> None:
        """Embed the built-in phrases."""
        for group in (self._language.intents, self._language.conditions):
            for phrases in group.values():
                self._phrases.embed(phrases)

    def index(self, edges: Sequence[Edge], facts: Sequence[Fact]) -> Index:
        """The index over these edges and facts and the built-in intents."""
        key = (
            tuple((e.tool_name, e.label, e.condition, e.examples) for e in edges),
            tuple((fact.id, fact.questions) for fact in facts),
        )
        with self._lock:
            if key in self._indexes:
                self._indexes.move_to_end(key)
                return self._indexes[key]
        index = self._build(edges, facts)
        with self._lock:
            self._indexes[key] = index
            if len(self._indexes) > _INDEXES:
                self._indexes.popitem(last=False)
        return index

    def meaning(self, index: Index, sentence: str) -> list[Match]:
        """`Index.rank` of a sentence without its opening fillers; misheard ones by their sound."""
        bare = strip(sentence)
        ranked = index.rank(self._embedder.embed([bare])[0])
        if ranked[0].score >= _CERTAIN:
            return ranked
        heard = index.sounds_like(bare)
        if heard is None or heard.score <= ranked[0].score:
            return ranked
        return [heard, *(match for match in ranked if match.target != heard.target)]

    def likeness(self, phrases: Sequence[str], others: Sequence[str]) -> float:
        """How near the nearest two of two groups of fixed phrases are."""
        if not phrases or not others:
            return -1.0
        return float((self._phrases.embed(phrases) @ self._phrases.embed(others).T).max())

    def edge_phrases(self, edge: Edge) -> list[str]:
        """Sentences that mean an edge: its examples, its condition in both persons, its label."""
        phrases = [*edge.examples]
        if edge.condition:
            phrases += [edge.condition, self._language.as_caller(edge.condition)]
        if edge.label:
            phrases.append(edge.label)
        return [phrase for phrase in dict.fromkeys(phrases) if phrase.strip()]

    def _build(self, edges: Sequence[Edge], facts: Sequence[Fact]) -> Index:
        groups: list[tuple[Target, Sequence[str]]] = [
            *((Target("edge", edge.tool_name), self.edge_phrases(edge)) for edge in edges),
            *((Target("fact", fact.id), fact.questions) for fact in facts),
            *((Target("intent", name), said) for name, said in self._language.intents.items()),
        ]
        groups = [(target, [strip(p) for p in phrases]) for target, phrases in groups if phrases]
        owners = [at for at, (_, phrases) in enumerate(groups) for _ in phrases]
        vectors = self._phrases.embed([phrase for _, phrases in groups for phrase in phrases])
        codes = tuple(code(phrase) for _, phrases in groups for phrase in phrases)
        return Index(tuple(target for target, _ in groups), np.array(owners), vectors, codes)


def strip(sentence: str) -> str:
    """A sentence without the words that only open it, unless there are no others."""
    bare = _FILLERS.sub("", sentence.strip()).strip(" ,.-")
    return bare if len(bare) > 1 else sentence.strip()


def clauses(sentence: str) -> list[str]:
    """The parts of a sentence that may each mean something of their own."""
    parts = (part.strip(" ,.?!") for part in _CLAUSES.split(sentence))
    return [part for part in parts if part and len(strip(part).split()) >= 2]
