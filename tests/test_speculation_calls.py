"""Whole calls on virtual time whose replies are begun before the caller has finished."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest

from flowcat_server.core import events
from flowcat_server.core.interfaces import (
    EndOfTurn,
    ModelEvent,
    ModelRequest,
    Pause,
    SttCaps,
    SttInbox,
    ToolCall,
    ToolSpec,
    Transcript,
)
from flowcat_server.errors import ProviderUnavailable
from flowcat_server.providers import tones
from flowcat_server.tools.toolbox import Tool
from tests.callscript import VOICE, Script, call, loaded, parts
from tests.fakes.thinker import Thinker
from tests.virtual import on_virtual_time

TOPOLOGY = """
tools:
  - {name: look, description: Looks., python: "tools:look"}
  - {name: book, description: Books., python: "tools:book"}
topology:
  vad: {provider: scripted}
  stt: {provider: scripted}
  llm: {provider: scripted}
  tts: {provider: scripted, options: {ms_per_char: 30}}
"""
AGENT = (
    """
agent:
  graph_inline:
    nodes:
      - {id: start, type: startCall, data: {prompt: Help., greeting: Hello., tools: [look, book]}}
    edges: []
"""
    + TOPOLOGY
)
OFF = AGENT + "turn: {speculation: false}\n"


class Grows:
    """A transcriber that has heard one more word at each pause of a turn."""

    caps = SttCaps(formats=tones.FORMATS, chunk_ms=0)

    def __init__(self, delays_ms: Callable[[], int] = lambda: 60, *, late_word: str = "") -> None:
        self._delays_ms = delays_ms
        self._late_word = late_word
        """Comes 100 ms behind the answer to a pause, as the final of a streaming vendor may."""
        self._turn = self._word = 0

    async def start(self) -> None:
        """Nothing to load."""

    async def close(self) -> None:
        """Nothing to stop."""

    async def transcribe(self, inbox: SttInbox, audio: object) -> AsyncIterator[Transcript]:
        while items := await inbox.get():
            for item in items:
                if isinstance(item, EndOfTurn):
                    self._turn, self._word = self._turn + bool(self._word), 0
                elif isinstance(item, Pause):
                    self._word += 1
                    text = f"turn {self._turn}:" + " more" * self._word
                    await asyncio.sleep(self._delays_ms() / 1000)
                    yield Transcript(text, segment=0, final=False, pause=item.number)
                    if self._late_word:
                        await asyncio.sleep(0.1)
                        yield Transcript(f"{text} {self._late_word}", segment=0, final=True)


class Counted:
    """A tool that keeps when it was begun and takes a while."""

    def __init__(self, name: str, *, side_effect: bool, seconds: float = 0.2) -> None:
        self._seconds = seconds
        self.begun: list[float] = []
        self.finished = 0
        self.tool = Tool(ToolSpec(name, f"{name}."), self, 5_000, side_effect=side_effect)

    async def run(self, arguments: Mapping[str, Any], variables: Mapping[str, Any]) -> str:
        self.begun.append(asyncio.get_running_loop().time())
        await asyncio.sleep(self._seconds)
        self.finished += 1
        return "done"


def finals(script: Script) -> list[events.CallerText]:
    return [event for event in script.all(events.CallerText) if event.final]


def latency(script: Script) -> events.Latency:
    found = script.all(events.TurnCompleted)[-1].latency
    assert found is not None
    return found


async def one_turn(script: Script, *gaps_ms: int) -> None:
    """The caller says words with gaps between them; returns when the answer has been heard."""
    before = len(script.all(events.TurnCompleted))
    for gap_ms in gaps_ms:
        await script.passes(200, VOICE)
        await script.passes(gap_ms)
    await script.passes(200, VOICE)
    await script.until(events.TurnCompleted, count=before + 1)


@pytest.mark.parametrize(("yaml", "waited_ms"), [(AGENT, 0), (OFF, 200)], ids=["on", "off"])
@on_virtual_time
async def test_the_model_thinks_while_endpointing_waits(yaml: str, waited_ms: int):
    thinker = Thinker([0.2, "Yes."])
    async with call(yaml, extra={"llm": [thinker], "stt": [Grows()]}) as script:
        await script.until(events.AgentHeard)
        await one_turn(script)
    assert script.agent_lines == ["Hello.", "Yes."]
    assert latency(script).llm_first_token_ms == pytest.approx(waited_ms, abs=60)
    assert latency(script).total_ms == sum(latency(script).parts().values())
    assert len(thinker.requests) == 1


@on_virtual_time
async def test_an_answer_to_half_a_sentence_is_thrown_away():
    thinker = Thinker(["Too early."], ["In time."])
    async with call(AGENT, extra={"llm": [thinker], "stt": [Grows()]}) as script:
        await script.until(events.AgentHeard)
        await one_turn(script, 240)
    assert script.agent_lines == ["Hello.", "In time."]
    assert [event.text for event in script.all(events.AgentText)] == ["Hello.", "In time."]
    asked = [[message.text for message in request.messages] for request in thinker.requests]
    assert asked == [["Hello.", "turn 0: more"], ["Hello.", "turn 0: more more"]]


@on_virtual_time
async def test_a_word_that_comes_late_is_answered_too():
    thinker = Thinker([0.3, "Too early."], [0.3, "In time."])
    stt = Grows(late_word="please")
    async with call(AGENT, extra={"llm": [thinker], "stt": [stt]}) as script:
        await script.until(events.AgentHeard)
        await one_turn(script)
    assert script.agent_lines == ["Hello.", "In time."]
    assert thinker.cancelled == 1
    assert thinker.requests[-1].messages[-1].text == finals(script)[0].text


@on_virtual_time
async def test_only_what_changes_nothing_is_run_ahead():
    thinker = Thinker(
        [ToolCall("1", "look", {}), ToolCall("2", "book", {}), ToolCall("3", "look", {})],
        ["All done."],
    )
    look = Counted("look", side_effect=False)
    book = Counted("book", side_effect=True)
    async with call(
        AGENT, extra={"llm": [thinker], "stt": [Grows()]}, tools=[look.tool, book.tool]
    ) as script:
        await script.until(events.AgentHeard)
        await one_turn(script)
        loop = asyncio.get_running_loop()
        decided = loop.time() - (script.session.now_ms() - finals(script)[0].at_ms) / 1000
    assert script.agent_lines[-1] == "All done."
    ahead, later = look.begun
    assert ahead < decided - 0.1
    assert later > book.begun[0] >= decided - 0.001
    results = [message.text for message in thinker.requests[-1].messages if message.role == "tool"]
    assert results == ["done"] * 3
    first, second, third = script.all(events.ToolEnded)
    assert (first.name, second.name, third.name) == ("look", "book", "look")
    assert first.duration_ms < 100 < second.duration_ms
    assert script.all(events.ToolStarted)[0].at_ms >= finals(script)[0].at_ms


@on_virtual_time
async def test_a_tool_behind_something_remembered_waits_for_it():
    yaml = AGENT.replace(
        "tools: [look, book]}",
        "tools: [look], extraction_enabled: true, extraction_variables: [{name: day}]}",
    )
    thinker = Thinker(
        [ToolCall("1", "remember", {"day": "Friday"}), ToolCall("2", "look", {})], ["Friday it is."]
    )
    seen: list[Mapping[str, Any]] = []

    class Look:
        async def run(self, arguments: Mapping[str, Any], variables: Mapping[str, Any]) -> str:
            seen.append(dict(variables))
            return "free"

    tool = Tool(ToolSpec("look", "Looks."), Look(), 5_000, side_effect=False)
    async with call(yaml, extra={"llm": [thinker], "stt": [Grows()]}, tools=[tool]) as script:
        await script.until(events.AgentHeard)
        await one_turn(script)
    assert [variables["day"] for variables in seen] == ["Friday"]


@on_virtual_time
async def test_a_failed_guess_is_a_failed_answer():
    failing = Thinker([ProviderUnavailable("thinker", "down")])
    spare = Thinker(["Here I am."])
    async with call(AGENT, extra={"llm": [failing, spare], "stt": [Grows()]}) as script:
        await script.until(events.AgentHeard)
        await one_turn(script)
    assert script.agent_lines[-1] == "Here I am."
    assert len(failing.requests) == 2  # the guess, and one more attempt as after any failure


@on_virtual_time
async def test_what_was_typed_meanwhile_is_answered_for_itself():
    thinker = Thinker([1.0, "To the spoken words."], ["To the typed."], ["To the spoken again."])
    async with call(AGENT, extra={"llm": [thinker], "stt": [Grows()]}) as script:
        await script.until(events.AgentHeard)
        await script.passes(200, VOICE)
        await script.passes(240)
        script.session.receive_text("typed")
        await script.until(events.AgentHeard, count=3)
    assert script.agent_lines[1] != "To the spoken words."
    asked = [request.messages[-1].text for request in thinker.requests]
    assert asked[:2] == ["turn 0: more", "typed"]


@pytest.mark.parametrize(
    ("wanted", "cheap", "speculates"),
    [("auto", True, True), ("auto", False, False), ("true", False, True), ("false", True, False)],
)
@on_virtual_time
async def test_a_model_that_is_paid_for_is_asked_on_a_guess_only_where_wanted(
    wanted: str, cheap: bool, speculates: bool
):
    thinker = Thinker([0.2, "Yes."])
    file = loaded(AGENT + f"turn: {{speculation: {wanted}}}\n")
    shared = await parts(file, extra={"llm": [thinker], "stt": [Grows()]})
    shared = replace(shared, llm=[replace(shared.llm[0], cheap=cheap)])
    async with call("", shared=shared) as script:
        await script.until(events.AgentHeard)
        await one_turn(script)
    assert (latency(script).llm_first_token_ms < 150) == speculates


class Books(Thinker):
    """Looks and books after each turn of the caller's, and then says so."""

    async def reply(self, request: ModelRequest) -> AsyncGenerator[ModelEvent, None]:
        calls = [ToolCall("a", "look", {}), ToolCall("b", "book", {})]
        self._answers = (calls if request.messages[-1].role == "user" else ["Ok."],)
        async for event in super().reply(request):
            yield event


@pytest.mark.parametrize("seed", range(20))
@on_virtual_time
async def test_tools_run_once_for_each_turn_however_the_caller_pauses(seed: int):
    """What the agent did and knows is what it would have been without guesses."""
    dice = random.Random(seed)
    turns, words = 50, 0
    look = Counted("look", side_effect=False, seconds=0.05)
    book = Counted("book", side_effect=True, seconds=0.05)
    thinker = Books()
    stt = Grows(lambda: dice.choice([0, 20, 60, 100, 150]))
    async with call(
        AGENT, extra={"llm": [thinker], "stt": [stt]}, tools=[look.tool, book.tool]
    ) as script:
        await script.until(events.AgentHeard)
        for _ in range(turns):
            gaps = [dice.randrange(140, 300, 20) for _ in range(dice.randrange(4))]
            words += len(gaps) + 1
            await one_turn(script, *gaps)
    assert len(finals(script)) == turns
    assert sum(text.text.count("more") for text in finals(script)) == words
    assert len(book.begun) == book.finished == turns
    assert len(script.all(events.ToolEnded)) == 2 * turns
    assert len(look.begun) >= turns
    assert len(thinker.requests) - 2 * turns > turns / 4  # some were thrown away
    said = [m.text for m in thinker.requests[-1].messages if m.role == "user"]
    assert said == [text.text for text in finals(script)][-len(said) :]
    decided = {text.turn: text.at_ms for text in finals(script)}
    for event in script.all(events.AgentText)[1:]:
        assert event.at_ms >= decided[event.turn]
