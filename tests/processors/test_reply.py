"""Replies in the making, against everything that may happen meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from flowcat_server.core import ended, events
from flowcat_server.core.interfaces import Message, ToolCall, ToolSpec
from flowcat_server.errors import ProviderRefused, ProviderUnavailable
from flowcat_server.processors.reply import UNFINISHED
from flowcat_server.tools.toolbox import Tool
from tests import virtual
from tests.callscript import VOICE, Script, call
from tests.fakes.thinker import Thinker

TOPOLOGY = """
topology:
  vad: {provider: scripted}
  stt: {provider: scripted, options: {lines: [first words, second words, third words], delay_ms: 50}}
  llm: {provider: scripted}
  tts: {provider: scripted, options: {ms_per_char: 40}}
"""  # noqa: E501
PLAIN = "agent: {prompt: Be kind., greeting: Hello.}\n" + TOPOLOGY
ENDLESS = (
    """
agent:
  graph_inline:
    nodes:
      - {id: start, type: startCall, data: {prompt: Help., greeting: Hello.}}
"""
    + TOPOLOGY
)
GRAPH = (
    """
agent:
  graph_inline:
    nodes:
      - {id: start, type: startCall, data: {prompt: Help., greeting: Hello., tools: [book]}}
      - {id: rules, type: agentNode, data: {prompt: Rules., allow_interrupt: false, greeting: "These are the rules of the house, all of them."}}
      - {id: done, type: endCall, data: {prompt: End., greeting: "Goodbye, and thank you so much for calling us today."}}
    edges:
      - {id: a, source: start, target: rules, label: rules, data: {condition: rules}}
      - {id: b, source: start, target: done, label: bye, data: {condition: bye}}
tools: [{name: book, description: Books a visit., python: "tools:book"}]
"""  # noqa: E501
    + TOPOLOGY
)


class Booking:
    """A tool that takes a while."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self.begun = self.finished = 0

    async def run(self, arguments: Mapping[str, Any], variables: Mapping[str, Any]) -> str:
        self.begun += 1
        await asyncio.sleep(self._seconds)
        self.finished += 1
        return "booked"

    def tool(self, timeout_ms: int = 20_000) -> Tool:
        return Tool(ToolSpec("book", "Books a visit."), self, timeout_ms)


def heard(script: Script) -> list[str]:
    return [text for text in script.agent_lines if text]


def test_words_added_before_the_agent_has_spoken_are_answered_together():
    async def main() -> None:
        thinker = Thinker([3.0, "Too late."], ["Both answered."])
        async with call(PLAIN, extra={"llm": [thinker]}) as script:
            await script.until(events.AgentHeard)
            await script.speaks()
            await script.speaks(160)  # too short to interrupt anything
            await script.until(events.AgentHeard, count=3)
            assert script.session._line is not None
            assert script.session._line.playout.active() is None
        assert heard(script) == ["Hello.", "Both answered."]
        assert thinker.cancelled == 1
        said = [message.text for message in thinker.requests[1].messages]
        assert said == ["Hello.", "first words", "second words"]

    virtual.run(main())


def test_a_reply_that_may_not_be_interrupted_is_finished_before_the_next():
    async def main() -> None:
        thinker = Thinker([ToolCall("1", "rules", {})], ["And", 0.3, " the answer."])
        async with call(GRAPH, extra={"llm": [thinker]}) as script:
            await script.until(events.AgentHeard)
            await script.speaks()
            await script.until(events.AgentSpeaking, count=3)
            await script.speaks(600, 0)
            await script.until(events.AgentHeard, count=3)
        rules = "These are the rules of the house, all of them."
        assert heard(script) == ["Hello.", rules, "And the answer."]
        assert script.transport.cleared == []

    virtual.run(main())


def test_a_reply_still_being_written_is_finished_before_the_next():
    async def main() -> None:
        thinker = Thinker(["Well, one. ", 2.0, "And two."], ["Three."])
        yaml = PLAIN + "turn: {interruption: {enabled: false}}\n"
        async with call(yaml, extra={"llm": [thinker]}) as script:
            await script.until(events.AgentHeard)
            await script.speaks()
            await script.speaks(400)
            await script.until(events.AgentHeard, count=3)
        assert heard(script) == ["Hello.", "Well, one. And two.", "Three."]

    virtual.run(main())


def test_the_model_is_told_of_a_tool_that_an_interruption_cut_off():
    async def main() -> None:
        booking = Booking(5.0)
        thinker = Thinker(["One moment. ", ToolCall("1", "book", {})], ["Yes?"])
        async with call(GRAPH, extra={"llm": [thinker]}, tools=[booking.tool()]) as script:
            await script.until(events.AgentHeard)
            await script.speaks()
            await script.until(events.ToolStarted)
            await script.speaks()
            await script.until(events.AgentHeard, count=3)
        assert (booking.begun, booking.finished) == (1, 0)
        asked = thinker.requests[1].messages
        assert Message("tool", UNFINISHED, tool_call_id="1") in asked
        assert asked[-1] == Message("user", "second words")
        assert not script.all(events.ToolEnded)[0].ok

    virtual.run(main())


def test_a_short_word_does_not_stop_a_tool():
    async def main() -> None:
        booking = Booking(3.0)
        thinker = Thinker([ToolCall("1", "book", {})], ["It is booked."], ["Yes."])
        async with call(GRAPH, extra={"llm": [thinker]}, tools=[booking.tool()]) as script:
            await script.until(events.AgentHeard)
            await script.speaks()
            await script.until(events.ToolStarted)
            await script.speaks(160)
            await script.until(events.AgentHeard, count=3)
        assert booking.finished == 1
        asked = [(message.role, message.text) for message in thinker.requests[2].messages]
        assert asked[-4:] == [
            ("assistant", "One moment."),
            ("tool", "booked"),
            ("assistant", "It is booked."),
            ("user", "second words"),
        ]

    virtual.run(main())


def test_a_slow_tool_is_waited_for_and_talked_over():
    async def main() -> None:
        booking = Booking(7.0)
        thinker = Thinker([ToolCall("1", "book", {})], ["It is booked."])
        yaml = (
            GRAPH
            + "turn: {dead_air: {filler_after: 1s, filler: [One moment., Soon.], "
            + "give_up_after: 3s}}\n"
        )
        async with call(yaml, extra={"llm": [thinker]}, tools=[booking.tool()]) as script:
            await script.until(events.AgentHeard)
            await script.speaks()
            await script.until(events.AgentHeard, count=2)
        assert heard(script)[1] == "One moment. Soon. One moment. Soon. One moment. It is booked."

    virtual.run(main())


def test_tools_of_a_node_are_run_before_the_node_is_left():
    async def main() -> None:
        booking = Booking(0.1)
        calls = [ToolCall("1", "rules", {}), ToolCall("2", "book", {})]
        thinker = Thinker(calls, ["Fine."])
        async with call(GRAPH, extra={"llm": [thinker]}, tools=[booking.tool()]) as script:
            await script.until(events.AgentHeard)
            await script.speaks()
            await script.until(events.AgentHeard, count=2)
            script.session.receive_text("go on")
            await script.until(events.AgentHeard, count=3)
        assert booking.finished == 1
        results = [m.text for m in thinker.requests[1].messages if m.role == "tool"]
        assert results == ["You are now at: rules.", "booked"]

    virtual.run(main())


def test_speech_into_the_goodbye_brings_the_call_back():
    async def main() -> None:
        thinker = Thinker([ToolCall("1", "bye", {})], ["Of course, we are open."])
        async with call(GRAPH, extra={"llm": [thinker]}, tools=[Booking(0).tool()]) as script:
            await script.until(events.AgentHeard)
            await script.speaks()
            await script.until(events.AgentSpeaking, count=3)
            await script.passes(400)
            await script.speaks()
            await script.until(events.AgentHeard, count=3)
            await script.passes(1000)
            assert script.ended is None
        assert heard(script)[-1] == "Of course, we are open."
        assert [event.node for event in script.all(events.NodeEntered)] == [
            "start",
            "done",
            "start",
        ]
        assert "book" in [tool.name for tool in thinker.requests[1].tools]

    virtual.run(main())


def test_a_call_is_not_ended_without_a_word():
    async def main() -> None:
        thinker = Thinker([ToolCall("1", "end_call", {})], ["Goodbye then."])
        async with call(ENDLESS, extra={"llm": [thinker]}) as script:
            await script.until(events.AgentHeard)
            await script.speaks()
            over = await script.until(events.CallEnded)
        assert over.reason == ended.AGENT_ENDED
        assert heard(script) == ["Hello.", "Goodbye then."]

    virtual.run(main())


def test_a_goodbye_said_before_the_tool_is_enough():
    async def main() -> None:
        thinker = Thinker(["Goodbye. ", ToolCall("1", "end_call", {})], ["Never said."])
        async with call(ENDLESS, extra={"llm": [thinker]}) as script:
            await script.until(events.AgentHeard)
            await script.speaks()
            await script.until(events.CallEnded)
        assert heard(script) == ["Hello.", "Goodbye."]
        assert len(thinker.requests) == 1

    virtual.run(main())


def test_a_model_without_words_is_covered():
    async def main() -> None:
        yaml = PLAIN + "turn: {dead_air: {say: [Sorry?]}}\n"
        async with call(yaml, extra={"llm": [Thinker([])]}) as script:
            await script.until(events.AgentHeard)
            await script.speaks()
            await script.until(events.AgentHeard, count=2)
        assert heard(script) == ["Hello.", "Sorry?"]
        assert [notice.code for notice in script.all(events.Notice)] == ["reply_empty"]

    virtual.run(main())


def test_a_filler_does_not_keep_the_next_model_from_taking_over():
    async def main() -> None:
        broken = Thinker([2.0, ProviderUnavailable("one", "gone")])
        spare = Thinker(["From the other."])
        yaml = PLAIN + "turn: {dead_air: {filler_after: 1s}}\n"
        async with call(yaml, extra={"llm": [broken, spare]}) as script:
            await script.until(events.AgentHeard)
            await script.speaks()
            completed = await script.until(events.TurnCompleted, count=2)
        assert completed.agent == "One moment. From the other."
        assert completed.latency is not None
        assert min(completed.latency.parts().values()) >= 0
        assert completed.latency.llm_first_token_ms == pytest.approx(680, abs=40)

    virtual.run(main())


def test_a_model_that_fails_in_mid_answer_is_replaced_from_there_on():
    async def main() -> None:
        broken = Thinker(["So far so good. Then", ProviderRefused("one", "gone")])
        spare = Thinker(["So far so good. From the other."], ["Again."])
        async with call(PLAIN, extra={"llm": [broken, spare]}) as script:
            await script.until(events.AgentHeard)
            await script.speaks()
            await script.until(events.AgentHeard, count=2)
            await script.speaks()
            await script.until(events.AgentHeard, count=3)
        assert heard(script) == ["Hello.", "So far so good. From the other.", "Again."]
        takes_over, later = spare.requests
        assert 'this much of your answer: "So far so good."' in takes_over.system
        assert takes_over.messages[-1] == Message("user", "first words")
        assert "fault" not in later.system
        said = [message.text for message in later.messages]
        assert said == [*heard(script)[:1], "first words", heard(script)[1], "second words"]

    virtual.run(main())


def test_a_model_that_calls_tools_for_ever_is_stopped():
    async def main() -> None:
        thinker = Thinker([ToolCall("1", "remember", {})])
        async with call(PLAIN, extra={"llm": [thinker]}) as script:
            await script.until(events.AgentHeard)
            await script.speaks()
            await script.until(events.AgentHeard, count=2)
        assert len(thinker.requests) == 8
        assert len(heard(script)) == 2

    virtual.run(main())


def test_what_was_heard_when_the_caller_hangs_up_is_told_before_the_end():
    async def main() -> None:
        async with call(PLAIN, extra={"llm": [Thinker(["One two three four five."])]}) as script:
            await script.until(events.AgentHeard)
            await script.speaks()
            await script.until(events.AgentSpeaking, count=3)
            await script.passes(400)
        completed = script.all(events.TurnCompleted)[-1]
        assert completed.caller == "first words"
        assert completed.agent
        assert "One two three four".startswith(completed.agent)
        assert completed.interrupted
        told = [type(event).__name__ for event in script.events]
        kinds = [kind for kind in told if kind != "UsageCounted"][-4:]
        assert kinds == ["AgentSpeaking", "AgentHeard", "TurnCompleted", "CallEnded"]

    virtual.run(main())


def test_an_interruption_before_the_first_sound_leaves_no_trace_in_the_context():
    async def main() -> None:
        thinker = Thinker([1.0, "Never heard."], ["Yes."])
        async with call(PLAIN, extra={"llm": [thinker]}) as script:
            await script.until(events.AgentHeard)
            await script.speaks(600, 600)
            await script.passes(600, VOICE)
            await script.until(events.AgentHeard, count=3)
        said = [message.text for message in thinker.requests[1].messages]
        assert said == ["Hello.", "first words", "second words"]

    virtual.run(main())
