import json
from typing import Any

import pytest

from flowcat_server.config.document import Document
from flowcat_server.config.graph import Defaults, build_graph, prompt_graph
from flowcat_server.config.yaml import parse_yaml
from flowcat_server.core.graph import TRANSFER_FAILED, Graph
from flowcat_server.core.keypad import Keys


def node(identity: str, kind: str, **data: Any) -> dict[str, Any]:
    return {"id": identity, "type": kind, "data": data}


def edge(source: str, target: str, **more: Any) -> dict[str, Any]:
    return {"id": f"{source}-{target}", "source": source, "target": target, **more}


START = node("s", "startCall", prompt="Hello")
END = node("e", "endCall", prompt="Bye")


def build(
    nodes: list[Any], edges: list[Any], *, greeting: str = "", tools: tuple[str, ...] = ()
) -> tuple[Graph | None, list[str]]:
    spec = {"nodes": nodes, "edges": edges}
    graph, problems = build_graph(Document(spec), defaults=Defaults(greeting), tools=tools)
    return graph, [("warning: " if p.warning else "") + p.message for p in problems]


def good(nodes: list[Any], edges: list[Any], **more: Any) -> Graph:
    graph, problems = build(nodes, edges, **more)
    assert problems == []
    assert graph is not None
    return graph


@pytest.mark.parametrize(
    "names",
    [("start", "agent", "end", "global"), ("startCall", "agentNode", "endCall", "globalNode")],
)
def test_both_families_of_node_types(names: tuple[str, ...]) -> None:
    start, agent, end, shared = names
    graph = good(
        [
            node("s", start, prompt="a"),
            node("a", agent),
            node("e", end),
            node("g", shared, prompt="Be kind."),
        ],
        [edge("s", "a"), edge("a", "e")],
    )
    assert [n.kind for n in graph.nodes.values()] == ["start", "agent", "end", "global"]
    assert graph.global_prompt == "Be kind."


def test_an_editor_export_with_uuids_wrapped_and_texts_in_data() -> None:
    first, last = "7f0e8c1e-6c3f-4c26-9b55-0d4d7a6f2b11", "0c9f3a52-1111-4222-8333-444455556666"
    export = {
        "name": "Export",
        "workflow_definition": {
            "nodes": [
                {**node(first, "startCall", name="Intro", prompt="Hi", allowInterrupt=False),
                 "position": {"x": 1}},
                node(last, "endCall", name="Bye", prompt="Bye"),
            ],
            "edges": [
                edge(first, last, data={"label": "End Call!", "condition": "Done",
                                        "transition_speech": "One second."})
            ],
            "viewport": {"zoom": 1},
        },
    }  # fmt: skip
    graph, problems = build_graph(parse_yaml(json.dumps(export), "export.json"))
    assert problems == []
    assert graph is not None
    (found,) = graph.outgoing(first)
    assert (found.label, found.tool_name) == ("End Call!", "end_call_")
    assert (found.condition, found.speech) == ("Done", "One second.")
    assert graph.nodes[first].name == "Intro"
    assert graph.nodes[first].allow_interrupt is False


def test_numbers_as_ids_join() -> None:
    graph = good(
        [{"id": 1, "type": "start", "data": {"prompt": "x"}}, {"id": 2, "type": "end"}],
        [{"source": 1, "target": "2"}],
    )
    assert graph.start == "1"
    assert graph.edges[0].tool_name == "transition_0"


def test_tool_names_are_unique_within_their_node() -> None:
    graph = good(
        [{**START, "data": {"prompt": "x", "tools": ["book"]}}, END, node("a", "agent")],
        [
            edge("s", "a", label="Book"),
            edge("s", "e", label="book"),
            edge("s", "e", label="予約"),
            edge("s", "e", label="Réserver"),
            edge("a", "e", label="Book"),
        ],
        tools=("book",),
    )
    names = [found.tool_name for found in graph.outgoing("s")]
    assert names == ["book_2", "book_3", "transition_2", "reserver"]
    assert [found.tool_name for found in graph.outgoing("a")] == ["book"]


def test_the_condition_falls_back_to_the_label() -> None:
    graph = good(
        [START, END],
        [edge("s", "e", label="Done"), edge("s", "e", data={"transition_criteria": "Wants out"})],
    )
    assert [found.condition for found in graph.edges] == ["Done", "Wants out"]


def test_examples_in_edge_or_data() -> None:
    graph = good(
        [START, END],
        [edge("s", "e", examples=["bye"]), edge("s", "e", data={"examples": "see you"})],
    )
    assert [found.examples for found in graph.edges] == [("bye",), ("see you",)]


def test_a_start_node_with_nothing_to_say_is_passed_through() -> None:
    graph = good(
        [{"id": "s", "type": "start"}, node("a", "agent", prompt="x"), END],
        [edge("s", "a"), edge("a", "e")],
        greeting="Good day.",
    )
    assert graph.start == "a"
    assert graph.nodes["a"].greeting == "Good day."


def test_the_agents_greeting_yields_to_the_nodes() -> None:
    graph = good([node("s", "start", greeting="Mine"), END], [edge("s", "e")], greeting="Yours")
    assert graph.nodes["s"].greeting == "Mine"


def test_slots_transfers_and_fixed_wordings() -> None:
    graph = good(
        [
            node(
                "s", "start", prompt="x", say=["One.", "Two."], extraction_enabled=True,
                extraction_variables=[
                    {"name": "size", "type": "choice", "choices": ["small", "large"],
                     "ask": "Which size?"},
                ],
                transfer_targets=[
                    {"target_phone": " +441 ", "mode": "warm", "say": "Hold on."},
                    {"name": "Night desk", "target_phone": "+442"},
                ],
            ),
            END,
        ],
        [edge("s", "e")],
    )  # fmt: skip
    start = graph.nodes["s"]
    (slot,) = start.slots
    assert (slot.kind, slot.choices, slot.ask) == ("choice", ("small", "large"), ("Which size?",))
    assert [(t.name, t.phone, t.mode) for t in start.transfers] == [
        ("transfer_call", "+441", "warm"),
        ("night_desk", "+442", "cold"),
    ]
    assert start.say == ("One.", "Two.")
    assert start.data["say"] == ["One.", "Two."]


def test_what_a_transfer_says_and_what_follows_when_it_fails() -> None:
    target = {
        "name": "desk", "target_phone": "+441", "mode": "warm", "introduce": "Hello, {{name}}.",
        "failed": "Nobody.", "then": "end", "ring": "12s",
    }  # fmt: skip
    graph = good(
        [node("s", "start", prompt="x", transfer_targets=[target, {"target_phone": "+442"}]), END],
        [edge("s", "e")],
    )
    warm, plain = graph.nodes["s"].transfers
    assert (warm.introduce, warm.failed, warm.then, warm.ring_ms) == (
        "Hello, {{name}}.", "Nobody.", "end", 12_000
    )  # fmt: skip
    assert (plain.introduce, plain.failed, plain.then, plain.ring_ms) == (
        "", TRANSFER_FAILED, "go_on", 30_000
    )  # fmt: skip


@pytest.mark.parametrize(
    ("nodes", "edges", "message"),
    [
        pytest.param([END], [], "the graph has no start node (type: startCall)", id="no start"),
        pytest.param([START, node("t", "start")], [], "has one start node", id="two starts"),
        pytest.param([START, END], [edge("s", "f")], "no node has the id 'f'", id="dangling"),
        pytest.param([START, END, END], [edge("s", "e")], "'e' is given twice", id="same id"),
        pytest.param([START, node("", "end")], [], "the node has no id", id="no id"),
        pytest.param([START, END], [{"target": "e"}], "has no source", id="no source"),
        pytest.param([START, "end"], [], 'must be a block of keys; found "end"', id="not a node"),
        pytest.param("x", [], 'must be a list; found "x"', id="not nodes"),
        pytest.param([{**START, "data": []}, END], [edge("s", "e")],
                     "must be a block of keys; found a list of 0", id="data is a list"),
        pytest.param([node("s", "start", tools=["x"])], [], "'x' is not defined", id="tool"),
        pytest.param([START, END], [edge("s", "f"), edge("s", "e")], "no node", id="one of two"),
    ],
)  # fmt: skip
def test_errors(nodes: Any, edges: Any, message: str) -> None:
    graph, problems = build(nodes, edges)
    assert graph is None
    assert any(message in p for p in problems if not p.startswith("warning"))


@pytest.mark.parametrize(
    ("nodes", "edges", "message"),
    [
        pytest.param([START, END, node("a", "agent")], [edge("s", "e")],
                     "the node 'a' can never be reached from the start node", id="unreachable"),
        pytest.param([START, END], [edge("s", "e"), edge("e", "s")],
                     "edges leave the end node 'e'; they can never be taken", id="out of end"),
        pytest.param([START, END, node("a", "agent")],
                     [edge("s", "a"), edge("a", "s"), edge("a", "e")],
                     "no edge should lead to the start node 's'", id="into start"),
        pytest.param([START, END, node("g", "globalNode")], [edge("s", "e"), edge("g", "e")],
                     "the global node 'g' should have no edges", id="global with edges"),
        pytest.param([START, END, node("w", "webhook")], [edge("s", "e"), edge("s", "w")],
                     "the webhook node 'w' should have no edges", id="webhook with edges"),
        pytest.param([START, END, node("t", "trigger")], [edge("s", "e"), edge("s", "t")],
                     "no edge should lead to the trigger node 't'", id="into trigger"),
        pytest.param([node("s", "start", prompt="x", tool_uuids=["u"]), END], [edge("s", "e")],
                     "the tool 'u' is not defined in tools: and is left out", id="unknown uuid"),
        pytest.param([node("s", "start", prompt="x", extraction_variables=[{"name": "n"}]), END],
                     [edge("s", "e")], "nothing is collected unless extraction_enabled is true",
                     id="extraction off"),
    ],
)  # fmt: skip
def test_warnings_do_not_stop_a_start(nodes: Any, edges: Any, message: str) -> None:
    graph, problems = build(nodes, edges)
    assert graph is not None
    assert f"warning: {message}" in problems


@pytest.mark.parametrize("kind", ["trigger", "webhook", "qa", "tuner", "other"])
def test_other_kinds_are_carried_silently(kind: str) -> None:
    graph = good([START, END, node("o", kind)], [edge("s", "e")])
    assert graph.nodes["o"].kind == "other"


def test_a_prompt_alone_gets_all_tools() -> None:
    graph = prompt_graph("Help.", Defaults("Hi."), ["find"])
    assert graph.nodes[graph.start].tools == ("find",)
    assert graph.outgoing(graph.start)[0].target == "end"


def test_what_the_agent_says_of_keys_is_for_nodes_that_say_nothing_of_them() -> None:
    own = {"length": 4}
    nodes = [
        node("s", "startCall", prompt="Hi"),
        node("a", "agent", prompt="Hi", keypad=own),
        node("b", "agent", prompt="Hi", keypad=False),
        node("c", "agent", prompt="Hi", keypad=True),
    ]
    spec = {"nodes": nodes, "edges": [edge("s", "a"), edge("s", "b"), edge("s", "c")]}
    shared = Keys(length=2, terminator="")
    graph, problems = build_graph(Document(spec), defaults=Defaults(keypad=shared))
    assert graph is not None
    assert problems == []
    keypads = [found.keypad for found in graph.nodes.values()]
    assert keypads == [shared, Keys(length=4), None, Keys()]
