"""One cell of the fault matrix: a call on virtual time whose provider is in trouble."""

from __future__ import annotations

import os
import threading
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, Literal, get_args

import numpy as np

from flowcat_server.core import events
from flowcat_server.core.interfaces import (
    Correct,
    Message,
    ModelEvent,
    ModelRequest,
    RealtimeEvent,
    RealtimeInbox,
    RealtimeInput,
    RealtimeSetup,
    ToolSpec,
)
from flowcat_server.errors import ProviderError, ToolError
from flowcat_server.pipeline import Parts
from flowcat_server.providers.drills import Fault, FaultOptions, FaultPlan
from flowcat_server.providers.llm.scripted import ScriptedLlm, ScriptedLlmOptions
from flowcat_server.providers.realtime.scripted import ScriptedRealtime, ScriptedRealtimeOptions
from flowcat_server.providers.vad.energy import PROVIDER as ENERGY
from flowcat_server.startup import first_texts, last_words, prepare_later
from flowcat_server.tools.toolbox import Tool
from tests import virtual
from tests.callscript import VOICE, Script, call, loaded, parts
from tests.fakes.settings import settings

Stage = Literal["stt", "llm", "tts", "tool", "realtime"]

STAGES: tuple[Stage, ...] = get_args(Stage)
FAULTS: tuple[Fault, ...] = get_args(Fault)
LONGEST_MS = 2500
"""What a caller may wait for a sound that is owed."""
SLOW_MS = 2500
LETTER_MS = 50
TURNS = 2
SAID_TWICE = 3
"""Words that two sessions may both say where one broke off: speech to speech has no word times."""
PATIENCE_MS = 45_000
"""A caller waits so long for an answer; then the cell has failed."""

GREETING = "Hello there."
ANSWERS = ("We open at nine. We close at five today.", "Yes you may bring it.")
LOOKED_UP = "I have looked."
YAML = """
agent:
  graph_inline:
    nodes: [{{id: start, type: startCall, data: {{prompt: Help., greeting: "{greeting}", tools: [look]}}}}]
    edges: []
tools: [{{name: look, description: Looks., python: "tools:look"}}]
topology:
  vad: {{provider: scripted}}
  stt: {{provider: scripted, options: {{lines: [when do you open, may I], delay_ms: 100{stt}}}{stt_spare}}}
  llm: {{provider: scripted}}
  tts: {{provider: scripted, options: {{first_audio_ms: 120, ms_per_char: {letter}{tts}}}{tts_spare}}}
"""  # noqa: E501
HEARD = ("when do you open", "may I")
REALTIME_YAML = """
agent: {{prompt: Help., greeting: "{greeting}"}}
topology:
  mode: realtime
  provider: scripted
  tts: {{provider: scripted, options: {{first_audio_ms: 120, ms_per_char: {letter}}}}}
"""
SPARES = {
    "stt": ", fallback: [{provider: scripted, options: {lines: [when do you open, may I], "
    "delay_ms: 150}}]",
    "tts": f", fallback: [{{provider: scripted, options: {{ms_per_char: {LETTER_MS}, "
    "tone_hz: 330, first_audio_ms: 150}}]",
}


@dataclass(frozen=True)
class Cell:
    """Which stage has which trouble, and whether somebody stands behind it."""

    stage: Stage
    fault: Fault
    fallback: bool
    first_token_ms: int = 150
    """Of a model that is well."""

    def __str__(self) -> str:
        return f"{self.stage} {self.fault} {'with' if self.fallback else 'without'} fallback"


CELLS = [
    Cell(stage, fault, fallback)
    for stage in STAGES
    for fault in FAULTS
    for fallback in (False, True)
    if stage != "tool" or not fallback  # behind a tool stands the model, which is told
]


@dataclass(frozen=True)
class Result:
    """What became of a cell's call."""

    silence_ms: int
    """The longest silence while a sound was owed; the end of the call ends it too."""
    answered: tuple[bool, ...]
    """By turn of the caller: whether the words that answer it were heard."""
    heard: tuple[str, ...]
    """What of each reply was heard, by the ledger."""
    ended: str
    """The reason and its detail; empty: the call went on."""
    ended_ms: int | None
    """How long after the caller's last word it ended by itself."""
    faults: tuple[str, ...]
    """What must not be: words in the context that nobody heard, something left behind."""


class _Model(ScriptedLlm):
    """Keeps what it was shown."""

    def __init__(self, options: ScriptedLlmOptions, shown: list[list[Message]]) -> None:
        super().__init__(options)
        self._shown = shown

    async def reply(self, request: ModelRequest) -> AsyncGenerator[ModelEvent, None]:
        self._shown.append(list(request.messages))
        async for event in super().reply(request):
            yield event


class _Corrected:
    """A session's inbox; what was shown before is corrected as the session is told to."""

    def __init__(self, inbox: RealtimeInbox, history: list[Message]) -> None:
        self._inbox, self._history = inbox, history

    async def get(self) -> list[RealtimeInput]:
        items = await self._inbox.get()
        for item in items:
            if isinstance(item, Correct):
                self._history[item.index] = replace(self._history[item.index], text=item.text)
        return items


class _Speaking(ScriptedRealtime):
    """Keeps what its sessions were told of the conversation."""

    def __init__(self, options: ScriptedRealtimeOptions, shown: list[list[Message]]) -> None:
        super().__init__(options)
        self._shown = shown

    async def converse(
        self, setup: RealtimeSetup, inbox: RealtimeInbox
    ) -> AsyncGenerator[RealtimeEvent, None]:
        history = list(setup.history)
        self._shown.append(history)
        async with aclosing(super().converse(setup, _Corrected(inbox, history))) as session:
            async for event in session:
                yield event


class _Look:
    """A tool in trouble: what its owner would see of a vendor's fault is a `ToolError`."""

    def __init__(self, fault: Fault) -> None:
        self._plan = FaultPlan(FaultOptions(fail=fault, slow_ms=SLOW_MS), "look")

    async def run(self, arguments: Mapping[str, Any], variables: Mapping[str, Any]) -> str:
        trouble = self._plan.take()
        try:
            await trouble.before()
            await trouble.during()
        except ProviderError as error:
            raise ToolError(str(error)) from error
        return "nine"


def run(cell: Cell) -> Result:
    """One call with one fault, on virtual time."""
    threads, files = threading.active_count(), _open_files()
    result = virtual.run(_call(cell))
    left = [
        what
        for what, now, before in (
            ("threads", threading.active_count(), threads),
            ("files", _open_files(), files),
        )
        if now != before
    ]
    return replace(result, faults=(*result.faults, *(f"{what} left behind" for what in left)))


def _open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def _yaml(cell: Cell, uses_before: int) -> str:
    """The cell's agent file; a voice has been well for so many uses."""
    if cell.stage == "realtime":
        return REALTIME_YAML.format(greeting=GREETING, letter=LETTER_MS)
    after = f", fail_after: {uses_before}" if cell.stage == "tts" else ""
    trouble = f", fail: {cell.fault}, slow_ms: {SLOW_MS}{after}"
    parts = dict.fromkeys(("stt", "tts", "stt_spare", "tts_spare"), "")
    if cell.stage in SPARES:
        parts[cell.stage] = trouble
        parts[f"{cell.stage}_spare"] = SPARES[cell.stage] if cell.fallback else ""
    return YAML.format(greeting=GREETING, letter=LETTER_MS, **parts)


def _providers(cell: Cell, shown: list[list[Message]]) -> dict[str, list[Any]]:
    """What is not made from the file, because it keeps what it was shown."""
    if cell.stage != "realtime":
        return {"llm": _models(cell, shown)}
    options: dict[str, Any] = {
        "hears": HEARD,
        "replies": ANSWERS,
        "ms_per_char": LETTER_MS,
        "first_audio_ms": cell.first_token_ms,
    }
    trouble = {"fail": cell.fault, "slow_ms": SLOW_MS, "fail_after": 1}  # the greeting goes well
    models = [_Speaking(ScriptedRealtimeOptions(**options, **trouble), shown)]
    if cell.fallback:
        models.append(_Speaking(ScriptedRealtimeOptions(**options, tone_hz=330), shown))
    return {"realtime": models, "vad": [ENERGY.create(settings(ENERGY))]}


def _models(cell: Cell, shown: list[list[Message]]) -> list[_Model]:
    replies: tuple[Any, ...] = ANSWERS
    if cell.stage == "tool":
        replies = tuple({"tool": "look", "then": f"{LOOKED_UP} {answer}"} for answer in ANSWERS)
    options = {"replies": replies, "first_token_ms": cell.first_token_ms, "token_ms": 20}
    if cell.stage != "llm":
        return [_Model(ScriptedLlmOptions(**options), shown)]
    trouble = {"fail": cell.fault, "slow_ms": SLOW_MS}
    models = [_Model(ScriptedLlmOptions(**options, **trouble), shown)]
    return [*models, *([_Model(ScriptedLlmOptions(**options), shown)] if cell.fallback else [])]


async def _process(cell: Cell, shown: list[list[Message]]) -> Parts:
    """What the server has made of the file when the first call comes."""
    fault = cell.fault if cell.stage == "tool" else "slow"
    tool = Tool(ToolSpec("look", "Looks."), _Look(fault), 10_000)

    async def made(uses_before: int) -> Parts:
        file = loaded(_yaml(cell, uses_before))
        return await parts(file, [tool], _providers(cell, shown))

    draft = await made(0)
    shared = await made(len({*first_texts(draft), *last_words(draft)}))
    await shared.prepared.add(shared.tts[0].plug, first_texts(shared))
    await prepare_later(shared)
    return shared


async def _call(cell: Cell) -> Result:
    shown: list[list[Message]] = []
    silences: list[int] = []
    answered: list[bool] = []
    spoke_ms = 0
    async with call("", shared=await _process(cell, shown)) as script:
        await _listen(script, GREETING, 0, silences)
        for turn in range(TURNS):
            if script.ended is not None:
                break
            await script.passes(600)
            await script.passes(800, VOICE)
            spoke_ms = script.session.now_ms()
            answered.append(await _listen(script, ANSWERS[turn], spoke_ms, silences))
        over = script.ended
        ended_ms = script.session.now_ms() - spoke_ms if over is not None else None
    last = script.all(events.CallEnded)[0]
    return Result(
        max(silences),
        tuple(answered),
        tuple(script.agent_lines),
        f"{last.reason} ({last.detail})" if over is not None else "",
        ended_ms,
        tuple(_untrue(cell, script, shown, cut=over is not None)),
    )


def interrupted(cell: Cell, at_ms: int) -> tuple[str, ...]:
    """What is untrue after a caller has cut in, so long after their own last word."""

    async def talk() -> tuple[str, ...]:
        shown: list[list[Message]] = []
        async with call("", shared=await _process(cell, shown)) as script:
            await _listen(script, GREETING, 0, [])
            await script.passes(800, VOICE)
            await script.passes(at_ms)
            await script.passes(600, VOICE)
            await _listen(script, ANSWERS[1], script.session.now_ms(), [])
        return tuple(_untrue(cell, script, shown, cut=True))

    return virtual.run(talk())


async def _listen(script: Script, answer: str, since_ms: int, silences: list[int]) -> bool:
    """The caller waits until they were answered, and the agent is quiet, or the call is over."""
    begun = len(script.agent_lines)
    first = len(script.transport.heard)
    limit = script.session.now_ms() + PATIENCE_MS
    said = ""
    while script.ended is None and script.session.now_ms() < limit:
        await script.passes(20)
        said = " ".join(script.agent_lines[begun:])
        if _has(said, answer) or "repeat that" in said:
            break
    sounds = [at_ms for at_ms, _ in script.transport.heard[first:]]
    ends = [since_ms, *(at_ms + 20 for at_ms in sounds)]
    over = [script.session.now_ms()] if script.ended is not None or not sounds else []
    silences += [begin - end for end, begin in zip(ends, [*sounds, *over], strict=False)]
    return _has(said, answer)


def _has(said: str, answer: str) -> bool:
    """Every word of an answer, in order; fillers may stand between its sentences."""
    words = iter(said.split())
    return all(word in words for word in answer.split())


def _untrue(cell: Cell, script: Script, shown: list[list[Message]], *, cut: bool) -> list[str]:
    """Where ledger or context differ from what the far end has played."""
    heard = " ".join(script.agent_lines).split()
    played = _played_words(b"".join(audio for _, audio in script.transport.heard))
    written = [len(word) for word in heard]
    faults = []
    seams = len(shown) - 1 if cell.stage == "realtime" else 0
    if not _same(written, played, seams, cut=cut):
        faults.append(f"the ledger has {written}, the far end played {played}")
    # A session that is over was not told of what was cut off afterwards.
    for messages in shown if cell.stage != "realtime" else shown[-1:]:
        told = " ".join(m.text for m in messages if m.role == "assistant").split()
        if told != heard[: len(told)]:
            faults.append(f"the context has {told}, heard was {heard}")
    return faults


def _same(written: list[int], played: list[int], seams: int, *, cut: bool) -> bool:
    """Whether words of these lengths are the same, but for the one in which a caller cut in."""
    more = len(played) - len(written)
    if cut:
        return -1 <= more <= SAID_TWICE * seams + 1
    left = iter(played)
    return all(length in left for length in written) and more <= SAID_TWICE * seams


def _played_words(pcm: bytes) -> list[int]:
    """Letters of each word that was hummed: a burst as long as they are, then a gap."""
    samples = np.frombuffer(pcm, "<i2")
    size = 8 * 10
    loud = np.abs(samples[: len(samples) // size * size].reshape(-1, size)).max(axis=1) > 0
    runs = [sum(1 for _ in run) for on, run in groupby(loud) if on]
    return [round(10 * run / LETTER_MS) for run in runs]
