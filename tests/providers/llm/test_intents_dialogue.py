"""The dialogue with graphs of its own and an embedder that only knows words."""

from __future__ import annotations

from datetime import date
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowcat_server.core.agent import Agent, Profile
from flowcat_server.core.graph import Edge, Fact, Graph, Node, Slot, TransferTarget
from flowcat_server.core.interfaces import Message, Remember, TextDelta, ToolCall, ToolSpec
from flowcat_server.errors import ProviderRefused
from flowcat_server.providers.llm._intents.dialogue import Dialogue
from flowcat_server.providers.llm._intents.embedding import Cached
from flowcat_server.providers.llm._intents.memory import KEY, Memory
from flowcat_server.providers.llm._intents.settings import IntentsOptions
from flowcat_server.providers.llm.intents import Intents
from tests.fakes.text_call import TextCall
from tests.fakes.word_vectors import WordVectors

FACTS = (
    Fact("parking", ("where can I park", "is there parking"), "Sure. Behind the house."),
    Fact("opening hours", ("opening hours", "when are you open"), "From 8 to 6."),
)
BOOK_TOOL = ToolSpec(
    "book",
    "Book.",
    {"type": "object", "properties": {"day": {}, "time": {}}, "required": ["day", "time"]},
)


def edge(source: str, target: str, label: str, *examples: str, condition: str = "") -> Edge:
    tool = label.lower().replace(" ", "_")
    return Edge(f"{source}-{target}", source, target, label, condition, "", examples, tool)


def graph(*edges: Edge, **data: Any) -> Graph:
    """start, a node with slots, a person, an end."""
    book = {"done_edge": "", **data}
    nodes = [
        Node("start", "start", "Start", greeting="Hello, how can I help?"),
        Node(
            "book",
            "agent",
            "Book",
            say=("Of course.",),
            slots=(Slot("day", "day"), Slot("time", "time", ask=("When?", "What time, please?"))),
            tools=("book",),
            data=book,
        ),
        Node("desk", "agent", "Desk", transfers=(TransferTarget("desk", "+12025550143"),)),
        Node("done", "end", "Done"),
    ]
    default = (
        edge("start", "book", "Book a visit", "I want to book a visit"),
        edge("start", "desk", "Talk to a person", "talk to a human person"),
        edge("start", "done", "Say goodbye", "goodbye bye"),
        edge("book", "done", "Booked", condition="The visit is booked"),
    )
    return Graph({node.id: node for node in nodes}, edges or default, "start")


MODELS: list[Intents] = []


@pytest.fixture(autouse=True)
async def close_models():
    yield
    while MODELS:
        await MODELS.pop().close()


async def start(options: dict[str, Any] | None = None) -> Intents:
    model = Intents(IntentsOptions.model_validate(options or {}), lambda: Cached(WordVectors()))
    MODELS.append(model)
    await model.start()
    return model


async def call(options: dict[str, Any] | None = None, agent: Graph | None = None, **more: Any):
    return TextCall(await start(options), agent or graph(), FACTS, **more)


async def test_a_start_node_without_words_is_greeted_generically():
    nodes = {"start": Node("start", "start", "Start", prompt="Sell shoes.")}
    talk = await call(agent=Graph(nodes, (), "start"))
    assert await talk.begin() == "Hello! How can I help?"


async def test_a_prompt_is_never_spoken():
    nodes = {
        "start": Node("start", "start", "Start", prompt="Secret instruction."),
        "next": Node("next", "agent", "Next", prompt="Secret instruction."),
    }
    talk = await call(agent=Graph(nodes, (edge("start", "next", "Shoes", "shoes"),), "start"))
    said = [await talk.begin(), await talk.hear("shoes"), await talk.hear("purple")]
    assert talk.node == "next"
    assert not any("Secret" in text for text in said)


async def test_answers_a_fact_and_says_it_differently_the_second_time():
    talk = await call()
    await talk.begin()
    assert await talk.hear("where can I park?") == "Sure. Behind the house."
    again = await talk.hear("where can I park?")
    assert again.endswith("Behind the house.")
    assert again != "Sure. Behind the house."


async def test_answers_two_questions_at_once():
    talk = await call()
    await talk.begin()
    said = await talk.hear("When are you open, and where can I park?")
    assert said == "From 8 to 6. Sure. Behind the house."


async def test_facts_of_the_options_and_of_the_node_are_known_too():
    agent = graph()
    node = agent.nodes["start"]
    faq = [{"q": "favourite colour", "a": ["Blue.", "Still blue."], "id": "colour"}]
    nodes = {**agent.nodes, "start": Node("start", "start", "Start", "", "Hi.", data={"faq": faq})}
    talk = await call({"faq": [{"q": ["what lunch"], "a": "Soup."}]}, Graph(nodes, (), "start"))
    assert node.greeting
    await talk.begin()
    assert await talk.hear("favourite colour?") == "Blue."
    assert await talk.hear("favourite colour?") == "Still blue."
    assert await talk.hear("what lunch?") == "Soup."


async def test_repeats_what_was_heard():
    talk = await call()
    await talk.begin()
    talk.messages.append(Message("user", "where can I park?"))
    talk.messages.append(Message("assistant", "Behind the", interrupted=True))
    assert await talk.hear("say that again") == "Sure. Behind the"


async def test_collects_slots_calls_the_tool_and_leaves():
    talk = await call(tools=[(BOOK_TOOL, ["ok"])])
    await talk.begin()
    assert await talk.hear("I want to book a visit on Friday") == (
        "Of course. Great, Friday the 27th. When?"
    )
    assert "Friday the 27th at 3 PM" in await talk.hear("three")
    said = await talk.hear("yes")
    assert talk.called[-2].name == "book"
    assert talk.called[-2].arguments == {"day": "2026-11-27", "time": "15:00"}
    assert talk.node == "done"
    assert "Goodbye" in said


async def test_a_failing_tool_is_admitted_and_can_be_tried_again():
    failed = "The tool failed: no line"
    talk = await call(tools=[(BOOK_TOOL, [failed, '{"error": "full"}', '{"ok": true}'])])
    await talk.begin()
    await talk.hear("I want to book a visit on Friday at three")
    assert "didn't work" in await talk.hear("yes")
    assert talk.node == "book"
    assert "didn't work" in await talk.hear("yes")
    await talk.hear("yes")
    assert talk.node == "done"


async def test_wordings_of_a_question_take_turns():
    talk = await call()
    await talk.begin()
    first = await talk.hear("I want to book a visit tomorrow")
    second = await talk.hear("gibberish nonsense")
    assert first.endswith("When?")
    assert second.endswith("What time, please?")


async def test_a_question_between_slots_is_answered_and_the_slot_asked_again():
    talk = await call()
    await talk.begin()
    await talk.hear("I want to book a visit tomorrow")
    said = await talk.hear("where can I park?")
    assert said.startswith("Sure. Behind the house.")
    assert said.endswith("what time, please?")


async def test_a_correction_is_taken_at_the_confirmation():
    talk = await call()
    await talk.begin()
    await talk.hear("I want to book a visit on Friday at three")
    assert "Thursday the 26th at 3 PM" in await talk.hear("No, Thursday.")
    assert "Thursday the 26th at 4 PM" in await talk.hear("no, four")
    assert talk.variables["day"] == "2026-11-26"
    assert talk.variables["time"] == "16:00"


async def test_a_plain_no_asks_what_to_change():
    talk = await call()
    await talk.begin()
    await talk.hear("I want to book a visit on Friday at three")
    assert "day or time" in await talk.hear("No.")
    assert (await talk.hear("the time")).endswith("When?")


async def test_closed_days_and_hours_are_explained():
    talk = await call(agent=graph(open={"mon-fri": "8:00-18:00"}))
    await talk.begin()
    assert "closed on Sundays" in await talk.hear("I want to book a visit on Sunday")
    assert "8 AM to 6 PM" in await talk.hear("Monday at 9 pm")
    assert talk.variables == {"day": "2026-11-23"}


async def test_confirmation_can_be_left_out():
    talk = await call(agent=graph(confirm=False), tools=[(BOOK_TOOL, ["ok"])])
    await talk.begin()
    await talk.hear("I want to book a visit on Friday at three")
    assert talk.node == "done"


async def test_templates_say_values_as_they_are_spoken():
    talk = await call(agent=graph(confirm=["{{day}} at {{time}} for {{who | you}}?"]))
    await talk.begin()
    said = await talk.hear("I want to book a visit on Friday at three")
    assert said.endswith("Friday the 27th at 3 PM for you?")
    assert talk.variables["day"] == "2026-11-27"


async def test_an_unusable_node_is_named():
    talk = await call(agent=graph(open={"someday": "8:00-9:00"}))
    await talk.begin()
    with pytest.raises(ProviderRefused, match=r"node 'book': data\.open: 'someday'"):
        await talk.hear("I want to book a visit")


async def test_two_misses_offer_a_person_and_yes_accepts():
    talk = await call({"suggestions": ["book a visit", "ask about parking"]})
    await talk.begin()
    first = await talk.hear("zebra")
    assert "book a visit" in first
    assert "ask about parking" in first
    assert "Shall I put you through" in await talk.hear("giraffe elephant")
    await talk.hear("yes please")
    assert talk.node == "desk"
    assert talk.transferred == "desk"


async def test_a_third_miss_makes_the_transfer():
    talk = await call()
    await talk.begin()
    for text in ("zebra", "giraffe", "elephant"):
        await talk.hear(text)
    assert talk.transferred == "desk"


async def test_something_foreign_is_answered_honestly():
    talk = await call()
    await talk.begin()
    assert "offline demo" in await talk.hear("zebras giraffes elephants dance quietly tonight")


async def test_without_a_way_to_a_person_it_says_so():
    nodes = {"start": Node("start", "start", "Start", greeting="Hi.")}
    talk = await call(agent=Graph(nodes, (), "start"))
    await talk.begin()
    assert "can't put you through" in await talk.hear("I want to speak to a person")


async def test_goodbye_without_an_end_node_uses_the_built_in_tool():
    nodes = {"start": Node("start", "start", "Start", greeting="Hi.")}
    talk = await call(agent=Graph(nodes, (), "start"))
    await talk.begin()
    talk._results["end_call"] = ["ends"]
    assert "Goodbye" in await talk.hear("goodbye")
    assert [c.name for c in talk.called] == ["end_call"]


async def test_keys_fill_the_slot_that_was_asked_for():
    nodes = {"start": Node("start", "start", "S", slots=(Slot("phone", "phone"),))}
    talk = await call(agent=Graph(nodes, (), "start"))
    await talk.begin()
    assert "2 0 2, 5 5 5, 0 1 4 3" in await talk.hear("[keypad: 2 0 2 5 5 5 0 1 4 3 #]")
    assert talk.variables == {"phone": "2025550143"}


async def test_keys_that_mean_nothing_are_answered():
    talk = await call()
    await talk.begin()
    assert "keys" in await talk.hear("[keypad: 7]")
    await talk.hear("[keypad: 0]")
    assert talk.transferred == "desk"


async def test_silence_is_answered():
    talk = await call()
    await talk.begin()
    assert await talk.hear(" . ") == "Sorry, I didn't hear anything. Are you there?"


async def test_an_optional_slot_may_be_refused():
    slots = (Slot("email", "email"), Slot("size", "choice", choices=("small", "large")))
    variables = [{"name": "email", "optional": True}, {"name": "size", "hint": "Small or large."}]
    data = {"extraction_variables": variables}
    nodes = {"start": Node("start", "start", "S", slots=slots, data=data)}
    talk = await call(agent=Graph(nodes, (), "start"))
    await talk.begin()
    assert "small or large" in await talk.hear("I'd rather not say")
    await talk.hear("gibberish")
    assert (await talk.hear("nonsense")).endswith("Small or large.")
    await talk.hear("small")
    assert talk.variables == {"size": "small"}


async def test_never_mind_leaves_the_form():
    talk = await call()
    await talk.begin()
    await talk.hear("I want to book a visit on Friday")
    assert "What else can I do" in await talk.hear("never mind")
    assert talk.variables["day"] is None


async def test_persona_replaces_wordings():
    talk = await call({"persona": {"name": "Ada", "thanks": "My pleasure!"}})
    await talk.begin()
    assert await talk.hear("thank you") == "My pleasure!"
    assert "Ada" in await talk.hear("who are you")


async def test_calls_do_not_share_anything():
    model = await start()
    one, two = (TextCall(model, graph(), FACTS) for _ in range(2))
    await one.begin()
    await two.begin()
    await one.hear("I want to book a visit on Friday")
    assert await two.hear("where can I park?") == "Sure. Behind the house."
    assert "day" not in two.variables


async def test_the_same_call_gets_the_same_words():
    async def run():
        talk = await call()
        await talk.begin()
        return [await talk.hear(text) for text in ("zebra", "thank you", "hello", "zebra")]

    assert await run() == await run()


async def test_memory_precedes_speech_and_speech_the_call():
    model = await start()
    agent = Agent(Profile("t", graph(), {}, {}, "", FACTS))
    text = "Where can I park? And I want to book a visit"
    events = [e async for e in model.reply(agent.request("c", [Message("user", text)]))]
    assert isinstance(events[0], Remember)
    assert isinstance(events[-1], ToolCall)
    assert all(isinstance(event, TextDelta) for event in events[1:-1])
    assert set(events[0].values) == {KEY}


def test_memory_survives_its_own_storage_and_ignores_others():
    memory = Memory(node="a", turn=3, told=["x"], counts={"y": 1})
    assert Memory.of(memory.store()) == memory
    assert Memory.of({KEY: "nonsense"}) == Memory()


SAID = (
    "yes", "no", "book a visit", "Friday", "three", "never mind", "[keypad: 1 2]", "what?",
    "the time is wrong", "a person", "where can I park", "No, Thursday", "on Sunday at 3", "bye",
)  # fmt: skip
DIALOGUE = Dialogue(Cached(WordVectors()), IntentsOptions())


@settings(deadline=None, max_examples=50)
@given(st.lists(st.one_of(st.text(max_size=40), st.sampled_from(SAID)), max_size=8))
def test_whatever_is_said_the_agent_answers(texts):
    agent = Agent(Profile("t", graph(), {}, {"book": BOOK_TOOL}, "", FACTS))
    for text in texts:
        messages = [Message("user", text)]
        said = ""
        for _ in range(4):
            events = DIALOGUE.respond(agent.request("c", messages), date(2026, 11, 22))
            agent.remember(events[0].values)
            said += "".join(event.text for event in events if isinstance(event, TextDelta))
            if not isinstance(events[-1], ToolCall):
                break
            called = events[-1]
            if called.name.startswith("transfer_to_"):
                return
            if edge := agent.edge(called.name):
                agent.enter(edge)
            messages += [Message("assistant", tool_calls=(called,)), Message("tool", "ok")]
        assert said.strip()
        assert "{" not in said.replace(text, "")
        if agent.finished:
            return
