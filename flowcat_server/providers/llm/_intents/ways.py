"""Which way out of a node leads to a person, ends the call, or is for "done" and "never mind"."""

from __future__ import annotations

from collections.abc import Sequence

from flowcat_server.core.graph import Edge
from flowcat_server.providers.llm._intents.language import Language
from flowcat_server.providers.llm._intents.match import Matcher
from flowcat_server.providers.llm._intents.settings import IntentsOptions
from flowcat_server.providers.llm._intents.turn import Turn

_ALIKE = 0.5
_ROUGHLY = 0.4


class Ways:
    """Finds edges by the options' names, else by the meaning of their own words."""

    def __init__(self, matcher: Matcher, language: Language, options: IntentsOptions) -> None:
        self._matcher, self._language, self._options = matcher, language, options

    def to_human(self, turn: Turn) -> Edge | None:
        """The edge that leads to a person."""
        return turn.named_edge(self._options.human_edge) or self._nearest(
            turn.request.edges, self._language.intents["human"], _ALIKE
        )

    def to_end(self, turn: Turn) -> Edge | None:
        """The edge that ends the call."""
        said = self._language.intents
        return turn.named_edge(self._options.end_edge) or self._nearest(
            turn.request.edges, (*said["goodbye"], *said["nothing_else"]), _ALIKE
        )

    def when_done(self, turn: Turn) -> Edge | None:
        """The edge to follow when the node's values are complete."""
        if edge := turn.named_edge(turn.node.done_edge):
            return edge
        others = [edge for edge in turn.request.edges if edge not in self._exits(turn)]
        conditions = self._language.conditions
        done = self._nearest(others, conditions["done"], _ROUGHLY)
        return done or (others[0] if len(others) == 1 else None)

    def when_cancelled(self, turn: Turn) -> Edge | None:
        """The edge to follow when the caller does not want to go on."""
        if edge := turn.named_edge(turn.node.cancel_edge):
            return edge
        conditions = self._language.conditions
        edge = self._nearest(turn.request.edges, conditions["cancelled"], _ALIKE)
        return None if edge is self.to_human(turn) else edge

    def meant_by(self, turn: Turn, question: str) -> Edge | None:
        """The edge that a question of the agent offers ("Would you like to book?")."""
        best = max(
            turn.request.edges,
            key=lambda edge: self._matcher.likeness(self._matcher.edge_phrases(edge), [question]),
            default=None,
        )
        if best is None:
            return None
        likeness = self._matcher.likeness(self._matcher.edge_phrases(best), [question])
        return best if likeness >= _ALIKE else None

    def _exits(self, turn: Turn) -> list[Edge]:
        human = self.to_human(turn)
        cancelled = turn.named_edge(turn.node.cancel_edge)
        return [edge for edge in (human, cancelled) if edge]

    def _nearest(self, edges: Sequence[Edge], said: Sequence[str], least: float) -> Edge | None:
        best, nearest = least, None
        for edge in edges:
            likeness = self._matcher.likeness(self._matcher.edge_phrases(edge), said)
            if likeness >= best:
                best, nearest = likeness, edge
        return nearest
