"""Answers to what a caller says outside of slots: facts, ways out, small talk, not understood."""

from __future__ import annotations

import re
from collections.abc import Sequence

from flowcat_server.core.agent import END_CALL, TRANSFER
from flowcat_server.core.graph import Edge
from flowcat_server.providers.llm._intents.language import Language
from flowcat_server.providers.llm._intents.match import (
    Index,
    Match,
    Matcher,
    Target,
    clauses,
)
from flowcat_server.providers.llm._intents.settings import IntentsOptions
from flowcat_server.providers.llm._intents.slots import person, phone
from flowcat_server.providers.llm._intents.slots.numbers import normalize
from flowcat_server.providers.llm._intents.slots.rules import yes_or_no
from flowcat_server.providers.llm._intents.turn import Turn, is_question
from flowcat_server.providers.llm._intents.ways import Ways
from flowcat_server.providers.llm._intents.wording import lower_first, sentences, without_lead

_SHORT_WORDS = 4
_SMALL_TALK = frozenset({"thanks", "greeting", "affirm", "how_are_you"})
_PAIR = 2
_NOTHING_ELSE, _GOODBYE = Target("intent", "nothing_else"), Target("intent", "goodbye")
_UNNAMED = re.compile(r"fact-\d+")
"""The id that an agent file's fact without a name is given."""


class Answering:
    """The provider's conversation outside of slots."""

    def __init__(
        self, matcher: Matcher, ways: Ways, language: Language, options: IntentsOptions
    ) -> None:
        self._matcher, self._ways = matcher, ways
        self._language, self._options = language, options

    def hear(self, turn: Turn, index: Index, ranked: Sequence[Match]) -> None:
        """Answer the caller's last sentence."""
        if self._short_answer(turn, ranked):
            turn.memory.misses = 0
            return
        meanings = self.meanings(turn, index, ranked)
        if not meanings:
            if not self._greet_name(turn):
                self.miss(turn, ranked)
            return
        if meanings[0] == Target("intent", "who") and self._greet_name(turn):
            return
        turn.memory.misses = 0
        over = self._is_over(ranked) or self._offered(turn) == "anything"
        if meanings[0] == Target("intent", "deny") and over:
            self.goodbye(turn)
            return
        turn.memory.offer = ""
        if len(meanings) == 1 and (other := self._tie(ranked)):
            first, second = (self._as_proposal(turn, target) for target in (meanings[0], other))
            turn.use("either", first=first, second=second)
            return
        for target in meanings:
            self.act(turn, target)

    def meanings(self, turn: Turn, index: Index, ranked: Sequence[Match]) -> list[Target]:
        """Everything the sentence means: one target, or several if its parts mean more."""
        whole = ranked[0].target if ranked and self.accepts(ranked[0]) else None
        parts = clauses(turn.utterance)
        if len(parts) < _PAIR:
            return [whole] if whole else []
        found: dict[Target, None] = {}
        for part in parts:
            if _gives_value(part):
                continue
            best = self._matcher.meaning(index, part)[0]
            sure = is_question(part) or best.score >= self._options.thresholds.clear
            if sure and self.accepts(best):
                found[best.target] = None
        if len(found) < _PAIR:
            return [whole] if whole else list(found)
        return self._arrange(list(found)) or ([whole] if whole else [])

    def besides(self, turn: Turn, index: Index) -> list[Target]:
        """Facts asked for in one part of a sentence whose other parts were understood already."""
        parts = [part for part in clauses(turn.utterance) if is_question(part)]
        if not parts or len(clauses(turn.utterance)) < _PAIR:
            return []
        best = [self._matcher.meaning(index, part)[0] for part in parts]
        clear = self._options.thresholds.clear
        found = [m.target for m in best if m.target.kind == "fact" and m.score >= clear]
        return list(dict.fromkeys(found))

    def accepts(self, match: Match) -> bool:
        """Whether a match is near enough for its kind."""
        limits = self._options.thresholds
        least = {"edge": limits.edge, "fact": limits.fact, "intent": limits.intent}
        return match.score >= least[match.target.kind]

    def act(self, turn: Turn, target: Target) -> None:
        """Do or say what a target stands for."""
        if target.kind == "edge":
            turn.run(target.key)
        elif target.kind == "fact" and (fact := turn.fact(target.key)):
            turn.tell(fact)
            last = sentences(fact.answer)[-1:] or [""]
            if last[0].endswith("?") and (edge := self._ways.meant_by(turn, last[0])):
                turn.memory.offer = f"edge:{edge.tool_name}"
        else:
            self.intent(turn, target.key)

    def intent(self, turn: Turn, name: str) -> None:
        """Answer a built-in intent."""
        match name:
            case "human":
                self.to_human(turn)
            case "goodbye" | "nothing_else":
                self.goodbye(turn)
            case "repeat":
                heard = turn.heard
                turn.use("repeat", text=without_lead(heard)) if heard else turn.use(
                    "nothing_to_repeat"
                )
            case "help" | "unsure":
                self._help(turn)
            case "who":
                agent = self._options.persona.get("name", ("",))[0]
                turn.use("who", agent=agent) if agent else turn.use("robot")
            case "robot":
                turn.use("robot")
            case "greeting":
                turn.use("hello_again")
            case "affirm":
                turn.use("go_ahead")
            case "deny" | "cancel" | "refuse":
                self._more(turn, "no_problem")
            case "thanks":
                self._more(turn, "thanks")
            case _:
                turn.use(name)

    def to_human(self, turn: Turn) -> None:
        """Pass the caller on to a person, if there is a way."""
        turn.memory.misses = 0
        if edge := self._ways.to_human(turn):
            turn.run(edge.tool_name)
        elif turn.request.node.transfers:
            self.transfer(turn)
        else:
            turn.use("no_human")
            self._more(turn, "anything_else")

    def transfer(self, turn: Turn) -> None:
        """Use the node's first transfer target."""
        target = turn.request.node.transfers[0]
        tool = turn.tool(f"{TRANSFER}{target.name}")
        if tool is None:
            turn.use("transfer_unavailable", name=target.name.replace("_", " "))
            self._more(turn, "anything_else")
            return
        turn.run(tool.name)

    def goodbye(self, turn: Turn) -> None:
        """End the call, if there is a way; else say goodbye."""
        if edge := self._ways.to_end(turn):
            turn.run(edge.tool_name)
            return
        turn.use("goodbye")
        if tool := turn.tool(END_CALL):
            turn.run(tool.name)

    def miss(self, turn: Turn, ranked: Sequence[Match]) -> None:
        """Not understood: two suggestions, then a person, and honesty about what this is."""
        memory = turn.memory
        memory.misses += 1
        memory.offer = ""
        human = self._ways.to_human(turn) or turn.request.node.transfers
        if memory.misses > _PAIR and human:
            self.to_human(turn)
            return
        if memory.misses == _PAIR and human:
            turn.use("offer_human")
            memory.offer = "human"
            return
        foreign = not ranked or ranked[0].score < self._options.thresholds.foreign
        first, second = self.suggestions(turn, ranked)
        if memory.misses >= _PAIR or (foreign and len(turn.utterance.split()) > _SHORT_WORDS):
            turn.use("offline")
            if second:
                turn.use("help", first=first, second=second)
        elif second:
            turn.use("unclear", first=first, second=second)
        else:
            turn.use("unclear_bare")

    def suggestions(self, turn: Turn, ranked: Sequence[Match]) -> tuple[str, str]:
        """Two things the caller could say: the nearest, else the file's own, in turn."""
        ends = {
            edge.tool_name for edge in (self._ways.to_end(turn), self._ways.to_human(turn)) if edge
        }
        targets = [
            match
            for match in ranked
            if match.target.kind != "intent" and match.target.key not in ends
        ]
        near = [m for m in targets if m.score > self._options.thresholds.foreign][:_PAIR]
        proposals = [self._as_proposal(turn, match.target) for match in near]
        own = turn.node.suggest or self._options.suggestions
        if len(proposals) < _PAIR and own:
            start = turn.memory.counts.get("suggested", 0)
            turn.memory.counts["suggested"] = start + _PAIR
            proposals += [own[(start + step) % len(own)] for step in range(len(own))]
        proposals += [self._as_proposal(turn, match.target) for match in targets]
        distinct = [text for text in dict.fromkeys(proposals) if text][:_PAIR]
        return (distinct[0], distinct[1]) if len(distinct) == _PAIR else ("", "")

    def _short_answer(self, turn: Turn, ranked: Sequence[Match]) -> bool:
        """A yes or no to what the agent asked last, or just said."""
        answer = yes_or_no(turn.utterance)
        if answer is None or len(turn.utterance.split()) > _SHORT_WORDS:
            return False
        means_more = ranked and ranked[0].target.kind != "intent" and self.accepts(ranked[0])
        if means_more and not self._offered(turn):
            return False
        offer, turn.memory.offer = self._offered(turn), ""
        if answer:
            self._accepted(turn, offer)
            return True
        if offer == "anything" or (not offer and self._is_over(ranked)):
            self.goodbye(turn)
        elif ranked[0].target.key in ("goodbye", "cancel", "human") and self.accepts(ranked[0]):
            return False
        else:
            self._more(turn, "no_problem")
        return True

    def _is_over(self, ranked: Sequence[Match]) -> bool:
        """Whether a "no" says that nothing else is wanted ("no thanks, that's all", "no, bye")."""
        clear = self._options.thresholds.clear
        return any(
            (m.target == _NOTHING_ELSE and m.score >= clear)
            or (m.target == _GOODBYE and self.accepts(m))
            for m in ranked
        )

    def _offered(self, turn: Turn) -> str:
        """What a yes or no refers to: our own offer, or the question heard last."""
        if turn.memory.offer:
            return turn.memory.offer
        questions = [text for text in sentences(turn.heard) if text.endswith("?")]
        asked_more = self._language.wordings["anything_else"]
        likeness = self._matcher.likeness(questions[-1:], asked_more)
        return "anything" if likeness >= self._options.thresholds.clear else ""

    def _accepted(self, turn: Turn, offer: str) -> None:
        edge = turn.edge(offer.removeprefix("edge:"))
        if edge is None and not offer:
            questions = [text for text in sentences(turn.heard) if text.endswith("?")]
            edge = self._ways.meant_by(turn, questions[-1]) if questions else None
        if edge:
            turn.run(edge.tool_name)
        elif offer == "human":
            self.to_human(turn)
        elif offer:
            turn.use("go_ahead")
        else:
            self._more(turn, "anything_else")

    def _greet_name(self, turn: Turn) -> bool:
        found = person.find(turn.utterance, asked=False)
        if not found or turn.memory.name == found.value:
            return False
        turn.memory.name = str(found.value)
        turn.memory.misses = 0
        turn.use("hello_name", first_name=turn.memory.name.split()[0])
        return True

    def _help(self, turn: Turn) -> None:
        first, second = self.suggestions(turn, ())
        if not second:
            edges = [
                self._as_proposal(turn, Target("edge", e.tool_name)) for e in turn.request.edges
            ]
            facts = [self._as_proposal(turn, Target("fact", fact.id)) for fact in turn.facts]
            known = [text for text in edges[:1] + facts[:1] + edges[1:] + facts[1:] if text]
            first, second = [*known, "", ""][:_PAIR]
        turn.use("help", first=first, second=second) if second else turn.use("help_bare")

    def _more(self, turn: Turn, group: str) -> None:
        turn.use(group)
        turn.memory.offer = "anything"

    def _tie(self, ranked: Sequence[Match]) -> Target | None:
        """The second meaning, where it cannot be told from the first."""
        limits = self._options.thresholds
        if len(ranked) < _PAIR or ranked[0].score >= limits.clear:
            return None
        first, second = ranked[:_PAIR]
        if abs(first.score - second.score) > limits.tie or "intent" in (
            first.target.kind,
            second.target.kind,
        ):
            return None
        return second.target

    def _as_proposal(self, turn: Turn, target: Target) -> str:
        """A target as one would propose it: "book a visit", "ask about parking"."""
        if target.kind == "fact":
            fact = turn.fact(target.key)
            if fact is not None and fact.questions and _UNNAMED.fullmatch(fact.id):
                return f'ask "{lower_first(fact.questions[0]).strip(" .?!")}"'
            return f"ask about {re.sub(r'[_-]+', ' ', target.key)}"
        edge = turn.edge(target.key)
        if edge is None or edge.tool_name == END_CALL:
            return ""  # nobody needs to be told that they may hang up
        return self._edge_proposal(edge)

    def _edge_proposal(self, edge: Edge) -> str:
        text = edge.label
        if not text:
            text = self._language.as_proposal(edge.condition)
        return lower_first(re.sub(r"[_-]+", " ", text).strip(" .?!"))

    @staticmethod
    def _arrange(targets: list[Target]) -> list[Target]:
        """Facts first, then at most one thing to do; small talk only if there is nothing else."""
        facts = [target for target in targets if target.kind == "fact"]
        doing = [
            target
            for target in targets
            if target.kind == "edge" or (target.kind == "intent" and target.key not in _SMALL_TALK)
        ]
        return [*facts, *doing[:1]] or targets[-1:]


def _gives_value(part: str) -> bool:
    """Whether a part of a sentence only tells a name or a number: that asks for nothing."""
    return person.introduced(part) or phone.find(normalize(part), asked=False) is not None
