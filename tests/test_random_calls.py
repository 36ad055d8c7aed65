"""Callers who do anything at any moment, with providers that fail: every call ends cleanly."""

from __future__ import annotations

import asyncio
import gc
import random
import weakref
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from flowcat_server.core import ended, events
from flowcat_server.core.interfaces import Message, ModelRequest, ToolSpec
from flowcat_server.errors import ToolError
from flowcat_server.providers.drills import Fault
from flowcat_server.providers.llm.scripted import ScriptedLlm, ScriptedLlmOptions
from flowcat_server.providers.realtime.scripted import ScriptedRealtime, ScriptedRealtimeOptions
from flowcat_server.providers.vad.energy import PROVIDER as ENERGY
from flowcat_server.session import Session
from flowcat_server.tools.toolbox import Tool
from tests import virtual
from tests.callscript import VOICE, Script, call
from tests.fakes.settings import settings

YAML = """
agent:
  graph_inline:
    nodes:
      - {id: start, type: startCall, data: {prompt: Help., greeting: "Hello there. How can I help you today?", tools: [look_up]}}
      - {id: book, type: agentNode, data: {prompt: Book., greeting: "Let us see. What day?", tools: [look_up], extraction_enabled: true, extraction_variables: [{name: day, type: string, prompt: day}]}}
      - {id: rules, type: agentNode, data: {prompt: Rules., allow_interrupt: false}}
      - {id: done, type: endCall, data: {prompt: End., greeting: "Goodbye, and thank you for calling us."}}
    edges:
      - {id: a, source: start, target: book, label: book, data: {condition: book}}
      - {id: b, source: start, target: rules, label: rules, data: {condition: rules}}
      - {id: c, source: book, target: start, label: back, data: {condition: back}}
      - {id: d, source: rules, target: start, label: back, data: {condition: back}}
      - {id: e, source: book, target: done, label: bye, data: {condition: bye}}
      - {id: f, source: start, target: done, label: bye, data: {condition: bye}}
turn: {idle: {after: 3s, times: 2}, dead_air: {filler_after: 800ms, give_up_after: 3s}, deadlines: {llm: {first: 2s, gap: 2s}, tts: {first: 2s, gap: 2s}}}
tools: [{name: look_up, description: Looks up., python: "tools:look_up"}]
limits: {media_timeout: 5s, max_call: 2m}
topology:
  vad: {provider: scripted}
  stt: {provider: scripted, options: {lines: [hello, one two, yes, the third of may, and], loop: true, delay_ms: 80STT}STTSPARE}
  llm: {provider: scripted}
  tts: {provider: scripted, options: {first_audio_ms: 60, ms_per_char: 40, realtime_factor: 0.2TTS}TTSSPARE}
"""  # noqa: E501
REALTIME = (
    YAML[: YAML.index("topology:")]
    + """
topology:
  mode: realtime
  provider: scripted
  tts: {provider: scripted, options: {first_audio_ms: 60, ms_per_char: 40TTS}TTSSPARE}
"""
)
FAULTS: tuple[Fault, ...] = (
    "refuse",
    "rate_limit",
    "hang",
    "half_dead",
    "slow",
    "garbage",
    "close",
)
REPLIES = (
    "Certainly. We are open from nine to five. Anything else?",
    "Yes.",
    "",
    {"tool": "look_up", "say": "One second.", "then": "It is {result}."},
    {"tool": "look_up"},
    {"tool": "book"},
    {"tool": "rules", "say": "Now the rules.", "then": "They are long. Listen to them."},
    {"tool": "back", "then": "Where were we?"},
    {"tool": "bye"},
    {"tool": "no_such_tool", "then": "Hm."},
    {"tool": "remember", "arguments": {"day": "May", "junk": 1}, "then": "Noted."},
)  # fmt: skip


Maker = Callable[[random.Random], tuple[str, dict[str, list[Any]]]]


class LookUp:
    """A tool that takes its time, and fails now and then."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance

    async def run(self, arguments: Mapping[str, Any], variables: Mapping[str, Any]) -> str:
        await asyncio.sleep(self._chance.choice([0, 0.2, 1.5, 6]))
        if self._chance.random() < 0.3:
            raise ToolError("out of order")
        return "forty two"


class Checked(ScriptedLlm):
    """Looks at each request as the vendors do: a tool's result stands right behind its call."""

    async def reply(self, request: ModelRequest) -> Any:
        check_messages(list(request.messages))
        async for event in super().reply(request):
            yield event


def check_messages(messages: list[Message]) -> None:
    waiting: list[str] = []
    for message in messages:
        if message.role == "tool":
            assert message.tool_call_id in waiting, messages
            waiting.remove(message.tool_call_id)
        else:
            assert not waiting, messages
            waiting = [tool_call.id for tool_call in message.tool_calls]
    assert not waiting, messages


def agent_file(chance: random.Random) -> tuple[str, dict[str, list[Any]]]:
    """A file, and language models, some of which fail sooner or later."""
    yaml = YAML
    for kind in ("STT", "TTS"):
        fault, spare = "", ""
        if chance.random() < 0.3:
            fault = f", fail: {chance.choice(FAULTS)}, fail_after: {chance.randrange(4)}"
            if chance.random() < 0.6:
                spare = ", fallback: [{provider: scripted}]"
        yaml = yaml.replace(kind + "SPARE", spare).replace(kind, fault)
    options: dict[str, Any] = {
        "replies": [chance.choice(REPLIES) for _ in range(6)],
        "loop": True,
        "first_token_ms": chance.choice([0, 120, 900, 1800]),
        "token_ms": chance.choice([0, 30, 100]),
    }
    models = [Checked(ScriptedLlmOptions(**options))]
    if chance.random() < 0.4:
        broken = {"fail": chance.choice(FAULTS), "fail_after": chance.randrange(3)}
        models[0] = Checked(ScriptedLlmOptions(**options, **broken))
        if chance.random() < 0.6:
            models.append(Checked(ScriptedLlmOptions(**options)))
    return yaml, {"llm": models}


def realtime_file(chance: random.Random) -> tuple[str, dict[str, list[Any]]]:
    """The same with speech-to-speech models; some have no voice beside them."""
    yaml = REALTIME
    fault = f", fail: {chance.choice(FAULTS)}" if chance.random() < 0.2 else ""
    yaml = yaml.replace("TTSSPARE", "").replace("TTS", fault)
    if chance.random() < 0.3:
        yaml = "\n".join(line for line in yaml.splitlines() if not line.startswith("  tts:"))
    options: dict[str, Any] = {
        "hears": ["hello", "one two", "yes", "", "the third of may"],
        "replies": [chance.choice(REPLIES) for _ in range(6)],
        "first_audio_ms": chance.choice([0, 120, 900, 1800]),
        "realtime_factor": chance.choice([0, 0.2, 0.9]),
        "ms_per_char": 40,
    }
    models = []
    for _ in range(chance.randrange(1, 4)):
        broken: dict[str, Any] = {}
        if chance.random() < 0.7:
            broken = {"fail": chance.choice(FAULTS), "fail_after": chance.randrange(4)}
            broken["fail_times"] = chance.choice([0, 1, 2])
        models.append(ScriptedRealtime(ScriptedRealtimeOptions(**options, **broken)))
    return yaml, {"realtime": models, "vad": [ENERGY.create(settings(ENERGY))]}


async def act(script: Script, chance: random.Random) -> None:
    """The caller does something."""
    match chance.randrange(8):
        case 0 | 1:
            await script.passes(20 * chance.randrange(5, 60), VOICE)
        case 2 | 3 | 4:
            await script.passes(20 * chance.randrange(1, 150))
        case 5:
            script.session.receive_text(chance.choice(["hello", "  ", "what now"]))
        case 6:
            script.session.receive_digit(chance.choice("0123456789#"))
            await script.passes(20 * chance.randrange(1, 30))
        case _:
            await asyncio.sleep(chance.choice([0.01, 0.3, 1.2]))  # the line stalls


def check_events(found: list[events.CallEvent]) -> None:
    assert type(found[0]) is events.CallStarted
    assert type(found[-1]) is events.CallEnded
    assert sum(type(event) in (events.CallStarted, events.CallEnded) for event in found) == 2
    speaking: list[int] = []
    running: set[str] = set()
    settled: list[int] = []
    for event in found:
        match event:
            case events.AgentSpeaking(_, True, turn):
                assert not speaking
                speaking.append(turn)
            case events.AgentSpeaking(_, False, turn):
                assert speaking == [turn]
                speaking.clear()
            case events.AgentHeard():
                settled.append(event.turn)
                assert event.turn not in speaking
            case events.TurnCompleted(latency=latency):
                assert event.turn == settled[-1]
                if latency is not None:
                    assert latency.total_ms == sum(latency.parts().values())
                    assert min(latency.parts().values()) >= 0
            case events.ToolStarted():
                running.add(event.tool_call_id)
            case events.ToolEnded():
                running.remove(event.tool_call_id)
            case _:
                pass
    assert not speaking
    assert not running
    assert len(settled) == len(set(settled))
    ended_turns = {e.turn for e in found if isinstance(e, events.CallerText) and e.final}
    assert ended_turns <= set(settled), "each turn of the caller is completed"


async def one_call(seed: int, make: Maker) -> weakref.ref[Session]:
    chance = random.Random(seed)
    yaml, models = make(chance)
    spec = ToolSpec("look_up", "Look something up.")
    filler = ("Let me look.",) if chance.random() < 0.5 else ()
    tool = Tool(spec, LookUp(chance), 2000, filler)
    wire = chance.choice([{"buffers": True}, {"buffers": True, "marks": False}, {"buffers": False}])
    async with call(yaml, tools=[tool], extra=models, **wire) as script:
        for _ in range(chance.randrange(1, 40)):
            if script.ended is None:
                await act(script, chance)
        found, session, transport = script.events, script.session, script.transport
    check_events(found)
    assert session.reason in ended.REASONS
    assert "server" not in session.reason or session.reason == ended.SERVER_LIMIT, session.detail
    assert transport.hung_up == session.reason
    return weakref.ref(session)


@pytest.mark.parametrize("make", [agent_file, realtime_file])
@pytest.mark.parametrize("first", range(0, 200, 20))
def test_calls_of_all_kinds_end_cleanly(first: int, make: Maker):
    async def calls() -> list[weakref.ref[Session]]:
        left = [await one_call(seed, make) for seed in range(first, first + 20)]
        await asyncio.sleep(0)
        gc.collect()
        assert [seed for seed, session in enumerate(left, first) if session() is not None] == []
        return left

    virtual.run(calls())
