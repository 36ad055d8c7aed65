"""Keys pressed at any moment: they interrupt where the agent listens, and none is lost."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowcat_server.core import events
from flowcat_server.core.interfaces import ModelEvent, ModelRequest
from flowcat_server.providers.llm.scripted import ScriptedLlm, ScriptedLlmOptions
from tests import virtual
from tests.callscript import VOICE, Script, call
from tests.virtual import on_virtual_time

GREETING = "Good morning to you. Please key in your number, or tell me what it is about."
CASCADED = """
topology:
  vad: {provider: scripted}
  stt: {provider: scripted, options: {lines: [hello there], loop: true, delay_ms: 80}}
  llm: {provider: scripted, options: {replies: [Thank you.], loop: true, first_token_ms: 120}}
  tts: {provider: scripted, options: {first_audio_ms: 100, ms_per_char: 50}}
"""
REALTIME = """
topology: {mode: realtime, provider: scripted, options: {replies: [Thank you.]}}
"""
TOPOLOGIES = {"cascaded": CASCADED, "speech to speech": REALTIME}


def agent(more: str, topology: str = CASCADED) -> str:
    return f'agent: {{prompt: Be kind., greeting: "{GREETING}"{more}}}\n{topology}'


both_wires = pytest.mark.parametrize("buffers", [True, False], ids=["carrier", "browser"])
both_kinds = pytest.mark.parametrize("kind", TOPOLOGIES)


def numbers(script: Script) -> list[str]:
    """The numbers among the caller's turns."""
    said = [event.text for event in script.all(events.CallerText) if event.final]
    return [text for text in said if text.startswith("[keypad:")]


@both_wires
@both_kinds
@on_virtual_time
async def test_the_first_key_interrupts_where_the_agent_listens(kind: str, buffers: bool):
    async with call(agent(", keypad: {}", TOPOLOGIES[kind]), buffers=buffers) as script:
        await script.passes(1000)
        script.session.receive_digit("4")
        heard = await script.until(events.AgentHeard, within_ms=40)
        await script.passes(600)
        script.session.receive_digit("2")
        await script.until(events.AgentHeard, count=2)
    assert heard.interrupted
    assert len(script.transport.cleared) == 1
    assert numbers(script) == ["[keypad: 4 2]"]
    assert script.agent_lines[1] == "Thank you."


@both_wires
@both_kinds
@on_virtual_time
async def test_elsewhere_a_number_is_answered_when_the_agent_has_finished(kind: str, buffers: bool):
    async with call(agent("", TOPOLOGIES[kind]), buffers=buffers) as script:
        await script.passes(500)
        for digit in "42#":
            script.session.receive_digit(digit)
            await script.passes(100)
        greeting = await script.until(events.AgentHeard)
        await script.until(events.AgentHeard, count=2)
    assert (greeting.text, greeting.interrupted) == (GREETING, False)
    assert not script.transport.cleared
    assert numbers(script) == ["[keypad: 4 2 #]"]
    assert script.agent_lines[1] == "Thank you."


@both_kinds
@pytest.mark.parametrize(
    ("of_agent", "of_file"),
    [(", protect_greeting: true", ""), ("", "turn: {interruption: {enabled: false}}")],
    ids=["greeting", "everything"],
)
@on_virtual_time
async def test_a_key_interrupts_nothing_that_is_protected(of_agent: str, of_file: str, kind: str):
    yaml = agent(", keypad: {}" + of_agent, TOPOLOGIES[kind]) + of_file
    async with call(yaml) as script:
        await script.passes(500)
        script.session.receive_digit("4")
        script.session.receive_digit("#")
        greeting = await script.until(events.AgentHeard)
        await script.until(events.AgentHeard, count=2)
    assert (greeting.text, greeting.interrupted) == (GREETING, False)
    assert numbers(script) == ["[keypad: 4 #]"]
    assert script.agent_lines[1] == "Thank you."


@both_kinds
@on_virtual_time
async def test_a_number_of_known_length_is_answered_at_its_last_key(kind: str):
    yaml = agent(', keypad: {length: 4, terminator: "", timeout: 5s}', TOPOLOGIES[kind])
    async with call(yaml) as script:
        await script.passes(300)
        for digit in "2#22":
            script.session.receive_digit(digit)
            await script.passes(2000)
        assert numbers(script) == ["[keypad: 2 # 2 2]"]
        await script.until(events.AgentHeard, count=2)


@on_virtual_time
async def test_a_terminator_out_of_habit_neither_speaks_nor_interrupts():
    reply = "Thank you. One moment, I am looking for it."
    yaml = agent(", keypad: {length: 2}").replace("[Thank you.]", f'["{reply}"]')
    async with call(yaml) as script:
        await script.passes(300)
        script.session.receive_digit("4")
        script.session.receive_digit("2")
        await script.passes(800)  # the answer is being heard
        script.session.receive_digit("#")
        answer = await script.until(events.AgentHeard, count=2)
        await script.passes(3000)
    assert (answer.text, answer.interrupted) == (reply, False)
    assert numbers(script) == ["[keypad: 4 2]"]
    assert len(script.all(events.DigitPressed)) == 3


@both_kinds
@on_virtual_time
async def test_who_keys_in_a_number_is_not_asked_whether_they_are_there(kind: str):
    yaml = agent(", keypad: {timeout: 8s}", TOPOLOGIES[kind])
    yaml += "turn: {idle: {after: 3s, say: [Still there?], times: 9}}\n"
    async with call(yaml) as script:
        await script.until(events.AgentHeard)
        script.session.receive_digit("4")
        await script.passes(7000)
        script.session.receive_digit("2")
        await script.passes(7000)
        assert len(script.all(events.AgentHeard)) == 1
        await script.until(events.AgentHeard, count=2)
    assert numbers(script) == ["[keypad: 4 2]"]


@both_wires
@both_kinds
@on_virtual_time
async def test_what_is_being_keyed_in_when_the_caller_hangs_up_is_the_last_turn(
    kind: str, buffers: bool
):
    async with call(agent("", TOPOLOGIES[kind]), buffers=buffers) as script:
        await script.until(events.AgentHeard)
        for digit in "123":
            script.session.receive_digit(digit)
    last = script.all(events.TurnCompleted)[-1]
    assert (last.caller, last.agent) == ("[keypad: 1 2 3]", "")
    assert type(script.events[-1]) is events.CallEnded


class Notebook(ScriptedLlm):
    """Keeps what it was asked last."""

    def __init__(self, replies: list[str], first_token_ms: int) -> None:
        super().__init__(
            ScriptedLlmOptions(replies=replies, loop=True, first_token_ms=first_token_ms)
        )
        self.asked = ""

    async def reply(self, request: ModelRequest) -> AsyncGenerator[ModelEvent, None]:
        self.asked = " ".join(m.text for m in request.messages if m.role == "user")
        async for event in super().reply(request):
            yield event


def keys_in(text: str) -> str:
    return "".join("".join(found.split()) for found in re.findall(r"\[keypad:([^]]*)\]", text))


WIRES = [{"buffers": True}, {"buffers": True, "marks": False}, {"buffers": False}]
LISTENS = ["", ", keypad: {}", ', keypad: {length: 3, terminator: "", timeout: 700ms}']
PROTECTS = ["", ", protect_greeting: true"]
REPLIES = ["Yes.", "I see. Let me think about that for a while. Anything else?"]


@both_kinds
@settings(max_examples=40)
@given(
    presses=st.lists(
        st.tuples(
            st.sampled_from("0123456789*#ABCD"),
            st.integers(0, 120).map(lambda frames: 20 * frames),
            st.booleans(),
        ),
        min_size=1,
        max_size=14,
    ),
    listens=st.sampled_from(LISTENS),
    protects=st.sampled_from(PROTECTS),
    enabled=st.booleans(),
    wire=st.sampled_from(WIRES),
    replies=st.lists(st.sampled_from(REPLIES), min_size=1, max_size=3),
    first_token_ms=st.sampled_from([0, 300, 1500]),
    hangs_up=st.booleans(),
)
def test_all_keys_arrive_in_order_whatever_the_agent_does(
    kind: str,
    presses: list[tuple[str, int, bool]],
    listens: str,
    protects: str,
    enabled: bool,
    wire: dict[str, bool],
    replies: list[str],
    first_token_ms: int,
    hangs_up: bool,
):
    model = Notebook(replies, first_token_ms)
    topology = TOPOLOGIES[kind].replace("[Thank you.]", str(replies))
    yaml = agent(listens + protects, topology)
    yaml += f"turn: {{interruption: {{enabled: {str(enabled).lower()}}}}}\n"
    extra = {"llm": [model]} if kind == "cascaded" else None

    async def one_call() -> None:
        async with call(yaml, extra=extra, **wire) as script:
            for key, pause_ms, speaks in presses:
                await script.passes(pause_ms, VOICE if speaks else b"\x00" * 320)
                script.session.receive_digit(key)
            if not hangs_up:
                await script.passes(30_000)
                assert script.ended in (None, "caller.idle")
        pressed = "".join(key for key, _, _ in presses)
        assert "".join(event.digit for event in script.all(events.DigitPressed)) == pressed
        assert keys_in(" ".join(numbers(script))) == pressed
        # A reply that another one replaced is over before those that are being heard.
        completed = sorted(script.all(events.TurnCompleted), key=lambda event: event.turn)
        assert keys_in(" ".join(event.caller for event in completed)) == pressed
        if kind == "cascaded" and not hangs_up:
            assert keys_in(model.asked) == pressed

    virtual.run(one_call())
