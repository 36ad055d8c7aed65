"""One call's walk through the graph."""

from __future__ import annotations

from flowcat_server.core.agent import Agent, Profile
from flowcat_server.core.graph import Edge, Graph, Node, Slot, TransferTarget
from flowcat_server.core.interfaces import ToolSpec

GO = Edge("e1", "start", "ask", "Ask", tool_name="ask")
BYE = Edge("e2", "ask", "end", "Bye", condition="The caller is done", tool_name="bye")


def agent(*, end: bool = True, **variables: object) -> Agent:
    nodes = {
        "start": Node("start", "start", "Start", prompt="Help {{caller}}.", tools=("look", "gone")),
        "ask": Node(
            "ask",
            "agent",
            "Ask",
            slots=(Slot("size", "choice", choices=("small", "big")), Slot("count", "number")),
            transfers=(TransferTarget("desk", "+441632960001"),),
        ),
    }
    edges = (GO,)
    if end:
        nodes["end"] = Node("end", "end", "End")
        edges = (GO, BYE)
    graph = Graph(nodes, edges, "start", global_prompt="Be brief.")
    profile = Profile("a", graph, {"caller": "someone"}, {"look": ToolSpec("look", "Looks.")})
    return Agent(profile, variables)


def offered(found: Agent) -> list[str]:
    return [tool.name for tool in found.tools()]


def test_instructions_are_rules_global_prompt_and_node_with_variables():
    prompt = agent(caller="Ann").system_prompt()
    assert prompt.index("live voice call") < prompt.index("Be brief.") < prompt.index("Help Ann.")


def test_the_model_is_offered_what_its_node_has():
    found = agent()
    assert offered(found) == ["ask", "look"]
    found.enter(GO)
    assert offered(found) == ["bye", "transfer_to_desk", "remember"]


def test_an_agent_without_an_end_can_end_the_call():
    assert "end_call" in offered(agent(end=False))


def test_slots_become_a_schema():
    found = agent()
    found.enter(GO)
    (remember,) = [tool for tool in found.tools() if tool.name == "remember"]
    assert remember.parameters["properties"]["size"]["enum"] == ["small", "big"]
    assert remember.parameters["properties"]["count"]["type"] == "number"
    assert "small, big" in found.system_prompt()


def test_edges_are_found_by_the_name_the_model_sees_in_this_node_only():
    found = agent()
    assert found.edge("ask") is GO
    assert found.edge("bye") is None


def test_an_end_node_can_be_left_again_for_the_node_before_it():
    found = agent()
    assert not found.go_back()
    found.enter(GO)
    found.enter(BYE)
    assert found.finished
    assert found.go_back()
    assert (found.node.id, found.finished) == ("ask", False)


def test_a_providers_own_memory_is_kept_but_not_recorded():
    found = agent()
    assert found.remember({"_state": 1, "size": "big", "caller": "someone"}) == {"size": "big"}
    assert found.variables["_state"] == 1
    assert found.recorded_variables() == {"caller": "someone", "size": "big"}


def test_variables_of_a_call_do_not_leak_into_the_next():
    first, second = agent(), agent()
    first.remember({"size": "big"})
    assert "size" not in second.variables
