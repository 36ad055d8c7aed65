"""The graph as data."""

from __future__ import annotations

from flowcat_server.core.graph import Edge, Graph, Node


def test_outgoing_edges_come_in_file_order():
    nodes = {name: Node(name, "agent", name) for name in "abc"}
    edges = (Edge("1", "a", "b"), Edge("2", "b", "c"), Edge("3", "a", "c"))
    graph = Graph(nodes, edges, "a")
    assert [edge.id for edge in graph.outgoing("a")] == ["1", "3"]
    assert graph.outgoing("c") == ()
