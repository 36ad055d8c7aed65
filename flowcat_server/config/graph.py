"""Builds the agent's graph from Flowcat's and Dograh's node-and-edge form, or from one prompt.

Facts about the form: node types ``startCall``, ``agentNode``, ``endCall``, ``globalNode`` and their
short names; everything else a node says stands in its ``data``. An edge says ``label``,
``condition`` and ``transition_speech`` itself or in its ``data``. A start node that says nothing is
passed through, as in Flowcat.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace

from flowcat_server.config.document import Document, Path
from flowcat_server.config.node import Reader, read_edge, read_node, slug
from flowcat_server.config.suggest import did_you_mean
from flowcat_server.core.graph import Edge, Graph, Node, NodeKind
from flowcat_server.core.keypad import Keys
from flowcat_server.errors import Problem

BUILT_IN_TOOLS = frozenset({"end_call", "transfer_call", "send_keys"})
"""Tools that exist without being defined in the file."""

_WRAPPERS = ("workflow_definition", "workflow_json", "graph_spec", "graph")
"""Keys under which exports hold the graph itself."""

_ISOLATED = frozenset({"global", "webhook", "qa", "tuner"})


@dataclass(frozen=True, slots=True)
class Defaults:
    """What the file's ``agent`` block says of its nodes."""

    greeting: str = ""
    """The first node's, where that has none."""
    protect_greeting: bool = False
    """The first node's."""
    keypad: Keys | None = None
    """That of every node which says nothing of it."""


def prompt_graph(prompt: str, defaults: Defaults, tools: Iterable[str] = ()) -> Graph:
    """The graph of an agent that has just a prompt: one node, and a way to end the call."""
    start = Node(
        "start", "start", "start", prompt=prompt, tools=tuple(tools), keypad=defaults.keypad
    )
    start = _opened(start, defaults)
    end = Node("end", "end", "end", prompt="Say goodbye in one short sentence.", say=("Goodbye!",))
    edge = Edge(
        "end",
        "start",
        "end",
        label="End call",
        condition="The caller is finished, says goodbye or wants to end the call.",
        examples=("goodbye", "bye", "that is all, thank you", "you can hang up now"),
        tool_name="end_call",
    )
    return Graph({"start": start, "end": end}, (edge,), "start")


def build_graph(
    document: Document,
    path: Path = (),
    *,
    defaults: Defaults = Defaults(),
    tools: Iterable[str] = (),
) -> tuple[Graph | None, list[Problem]]:
    """The graph at a path of a document; None if it has errors.

    `tools` are the names that nodes may use.
    """
    builder = _Builder(document, path, frozenset(tools) | BUILT_IN_TOOLS)
    graph = builder.build(defaults)
    problems = builder.read.problems
    return (None if any(not p.warning for p in problems) else graph), problems


class _Builder:
    def __init__(self, document: Document, path: Path, tools: frozenset[str]) -> None:
        self.read = Reader(document, [])
        self._path = self._unwrap(document, path)
        self._tools = tools
        self._places: dict[str, Path] = {}
        """Where each node stands."""
        self._types: dict[str, str] = {}
        self._dangling = False

    @staticmethod
    def _unwrap(document: Document, path: Path) -> Path:
        block = document.get(path)
        if isinstance(block, dict) and "nodes" not in block:
            for name in _WRAPPERS:
                inner = block.get(name)
                if isinstance(inner, dict) and "nodes" in inner:
                    return (*path, name)
        return path

    def build(self, defaults: Defaults) -> Graph | None:
        if not isinstance(self.read.document.get(self._path), dict):
            self.read.error(self._path, "the graph must be a block with nodes and edges")
            return None
        nodes = self._nodes(defaults.keypad)
        edges = self._edges(nodes)
        starts = [node.id for node in nodes.values() if node.kind == "start"]
        if not starts:
            self.read.error(
                (*self._path, "nodes"), "the graph has no start node (type: startCall)", key=True
            )
            return None
        for extra in starts[1:]:
            first = self.read.document.mark(self._places[starts[0]])
            where = f" in line {first.line}" if first and first.line else ""
            self.read.error(
                self._places[extra],
                f"a graph has one start node; {starts[0]!r}{where} is one already",
            )
        self._check_edges_of_kinds(nodes, edges)
        if not self._dangling:
            # A dangling edge makes what lies behind it look unreachable; one mistake is enough.
            self._check_reachable(nodes, edges, starts[0])
        start = _first_speaking(nodes, edges, starts[0])
        nodes[start] = _opened(nodes[start], defaults)
        shared = [node.prompt for node in nodes.values() if node.kind == "global" and node.prompt]
        return Graph(nodes, tuple(_named(edges, nodes)), start, "\n\n".join(shared))

    def _nodes(self, keypad: Keys | None) -> dict[str, Node]:
        nodes: dict[str, Node] = {}
        for place in self.read.items((*self._path, "nodes")):
            node = read_node(self.read, place, self._tools)
            if keypad is not None and node.data.get("keypad") is None:
                node = replace(node, keypad=keypad)
            if not node.id:
                self.read.error(place, "the node has no id")
            elif node.id in nodes:
                first = self.read.document.mark(self._places[node.id])
                where = f", here and in line {first.line}" if first and first.line else ""
                self.read.error((*place, "id"), f"the node id {node.id!r} is given twice{where}")
            else:
                nodes[node.id] = node
                self._places[node.id] = place
                self._types[node.id] = str(self.read.document.get((*place, "type"), ""))
        return nodes

    def _edges(self, nodes: dict[str, Node]) -> list[Edge]:
        edges: list[Edge] = []
        for number, place in enumerate(self.read.items((*self._path, "edges"))):
            edge = read_edge(self.read, place, number)
            known = True
            for end, identity in (("source", edge.source), ("target", edge.target)):
                if not identity:
                    self.read.error(place, f"the edge {edge.id!r} has no {end}")
                elif identity not in nodes:
                    self.read.error(
                        (*place, end),
                        f"no node has the id {identity!r}{did_you_mean(identity, nodes)}",
                    )
                known = known and identity in nodes
            if known:
                edges.append(edge)
            else:
                self._dangling = True
        return edges

    def _check_edges_of_kinds(self, nodes: dict[str, Node], edges: list[Edge]) -> None:
        """Flowcat's rules of which kind of node may have which edges."""
        incoming = Counter(edge.target for edge in edges)
        outgoing = Counter(edge.source for edge in edges)
        for node in nodes.values():
            kind: NodeKind | str = node.kind
            if kind == "other":
                kind = self._types[node.id]
            place = self._places[node.id]
            if kind in _ISOLATED and (incoming[node.id] or outgoing[node.id]):
                self.read.warn(place, f"the {kind} node {node.id!r} should have no edges")
            elif kind in ("start", "trigger") and incoming[node.id]:
                self.read.warn(place, f"no edge should lead to the {kind} node {node.id!r}")
            elif kind == "end" and outgoing[node.id]:
                self.read.warn(
                    place, f"edges leave the end node {node.id!r}; they can never be taken"
                )

    def _check_reachable(self, nodes: dict[str, Node], edges: list[Edge], start: str) -> None:
        ways: dict[str, list[str]] = {}
        for edge in edges:
            ways.setdefault(edge.source, []).append(edge.target)
        reached = {start}
        waiting = [start]
        while waiting:
            for target in ways.get(waiting.pop(), ()):
                if target not in reached:
                    reached.add(target)
                    waiting.append(target)
        for node in nodes.values():
            if node.kind in ("agent", "end") and node.id not in reached:
                self.read.warn(
                    self._places[node.id],
                    f"the node {node.id!r} can never be reached from the start node",
                )


def _opened(node: Node, defaults: Defaults) -> Node:
    return replace(
        node,
        greeting=node.greeting or defaults.greeting,
        protect_greeting=node.protect_greeting or defaults.protect_greeting,
    )


def _first_speaking(nodes: dict[str, Node], edges: list[Edge], start: str) -> str:
    """The start node, or the next one if it has nothing to say or do."""
    node = nodes[start]
    if node.prompt or node.greeting or node.say or node.slots or node.tools or node.transfers:
        return start
    return next((edge.target for edge in edges if edge.source == start), start)


def _named(edges: list[Edge], nodes: dict[str, Node]) -> Iterable[Edge]:
    """The edges with tool names, unique in each source node."""
    taken: dict[str, set[str]] = {}
    counts: Counter[str] = Counter()
    for edge in edges:
        node = nodes[edge.source]
        names = taken.setdefault(
            edge.source, {*node.tools, *(target.name for target in node.transfers)}
        )
        plain = slug(edge.label) or f"transition_{counts[edge.source]}"
        counts[edge.source] += 1
        name, number = plain, 2
        while name in names:
            name, number = f"{plain}_{number}", number + 1
        names.add(name)
        yield replace(edge, tool_name=name)
