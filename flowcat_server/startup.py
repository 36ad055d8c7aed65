"""From a loaded file to running parts: every provider created and warm, or a clear error."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass, field
from typing import Any, TextIO

from flowcat_server.config.load import Loaded
from flowcat_server.config.models import Tool as ToolConfig
from flowcat_server.config.topology import ProviderSpec
from flowcat_server.core.agent import Profile
from flowcat_server.core.breaker import Breaker, BreakerRules
from flowcat_server.core.interfaces import KnowsAgent, ToolSpec
from flowcat_server.core.sentences import SentenceSplitter
from flowcat_server.core.templates import names, render
from flowcat_server.errors import ConfigError, FlowcatError, MissingExtra, Problem
from flowcat_server.pipeline import Candidate, Parts
from flowcat_server.providers.http import Http
from flowcat_server.providers.registry import Kind
from flowcat_server.providers.resolve import examine, settings_for
from flowcat_server.tools.http_request import HttpRunner
from flowcat_server.tools.python_function import PythonRunner, describe, load
from flowcat_server.tools.toolbox import Tool, Toolbox

START_TIMEOUT_S = 60.0


@dataclass(slots=True)
class Used:
    """A provider in use, for the start screen."""

    kind: str
    name: str
    key_source: str
    local: bool
    spare: bool
    ready_ms: int = 0


@dataclass(slots=True)
class Built:
    """Providers of an agent and what was said about them."""

    parts: Parts
    used: list[Used] = field(default_factory=list)
    off: list[str] = field(default_factory=list)
    """What does not run, and why."""
    closers: list[Callable[[], Coroutine[Any, Any, None]]] = field(default_factory=list)

    async def close(self) -> None:
        """Stop every provider."""
        for closer in reversed(self.closers):
            await closer()


class Progress:
    """Says on the terminal what is being loaded, a line for each thing."""

    def __init__(self, stream: TextIO = sys.stderr) -> None:
        self._stream = stream
        self._start = time.monotonic()

    def say(self, text: str) -> None:
        """One line, with the seconds since the start."""
        self._stream.write(f"  {time.monotonic() - self._start:5.1f} s  {text}\n")
        self._stream.flush()


async def build(loaded: Loaded, http: Http, progress: Progress) -> Built:
    """Create and start everything that the file asks for, in parallel.

    Raises:
        ConfigError: A provider, tool or option is wrong.
        FlowcatError: A provider could not be started.
    """
    config = loaded.config
    toolbox = Toolbox([_tool(tool, loaded, http) for tool in config.tools])
    profile = Profile(
        name=config.agent.name,
        graph=loaded.graph,
        seed_variables=config.agent.seed_vars,
        tools=toolbox.specs,
        facts="\n".join(_fact_line(fact.questions, fact.answer) for fact in loaded.knowledge),
        knowledge=loaded.knowledge,
    )
    plugs: dict[str, list[Candidate[Any]]] = {}
    built = Built(Parts(config, profile, toolbox))
    starts: list[Coroutine[Any, Any, None]] = []
    rules = BreakerRules(config.turn.breaker.failures, config.turn.breaker.open_for)
    for kind, path, spec in config.topology.used():
        spare = "fallback" in path
        created = _create(kind, spec, path, spare, loaded, http, built)
        if created is None:
            continue
        plug, used = created
        plugs.setdefault(kind, []).append(
            Candidate(_title(spec), plug, spec.timeout, Breaker(rules))
        )
        built.used.append(used)
        built.closers.append(plug.close)
        starts.append(_start(plug, used, progress))
    try:
        async with asyncio.timeout(START_TIMEOUT_S), asyncio.TaskGroup() as tasks:
            for start in starts:
                tasks.create_task(start)
    except* FlowcatError as group:
        first: BaseException = group
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        raise first from None
    if config.topology.mode == "realtime":
        # The vendor takes turns; this one only measures when the caller's voice had ended.
        meter, settings = settings_for(
            "vad", ProviderSpec(provider="energy"), http=http, base_dir=loaded.base_dir
        )
        plugs["vad"] = [Candidate("energy", meter.create(settings))]
    built.parts = Parts(
        config,
        profile,
        toolbox,
        vad=plugs["vad"][0].plug if "vad" in plugs else None,
        stt=plugs.get("stt", ()),
        llm=plugs.get("llm", ()),
        tts=plugs.get("tts", ()),
        realtime=plugs.get("realtime", ()),
    )
    for candidate in built.parts.llm:
        if isinstance(candidate.plug, KnowsAgent):
            await candidate.plug.prepare(loaded.graph, loaded.knowledge)
    if built.parts.tts:
        await built.parts.tts[0].plug.prepare(first_texts(built.parts))
        progress.say("the first words are prepared")
    return built


def _create(
    kind: Kind,
    spec: ProviderSpec,
    path: str,
    spare: bool,
    loaded: Loaded,
    http: Http,
    built: Built,
) -> tuple[Any, Used] | None:
    """The provider object, or None for a fallback that cannot be used here."""
    try:
        provider, settings = settings_for(
            kind, spec, http=http, base_dir=loaded.base_dir, path=path
        )
        provider.check_installed(spec.provider)
    except MissingExtra as error:
        if kind == "vad" and spec.provider == "silero":
            built.off.append(f"silero voice detection: {error}; the energy detector is used")
            return _create(kind, ProviderSpec(provider="energy"), path, spare, loaded, http, built)
        if spare:
            built.off.append(f"{path}: {error}")
            return None
        raise ConfigError(Problem(str(error), path=path)) from error
    except ConfigError as error:
        if spare:
            built.off.append(f"{path}: {error}")
            return None
        raise
    leg = examine(kind, spec)
    used = Used(kind, _title(spec, settings.model), leg.key.source, provider.local, spare)
    return provider.create(settings), used


async def _start(plug: Any, used: Used, progress: Progress) -> None:
    begun = time.monotonic()
    if used.local:
        progress.say(f"loading {used.kind} {used.name}")
    await plug.start()
    used.ready_ms = int((time.monotonic() - begun) * 1000)
    progress.say(f"{used.kind} {used.name} is ready ({used.ready_ms} ms)")


def first_texts(parts: Parts) -> list[str]:
    """Texts that must be ready when the first call comes: the greeting and what fills a gap."""
    turn, graph = parts.config.turn, parts.profile.graph
    if parts.realtime:
        return _rendered(parts, turn.dead_air.filler)
    greeting = graph.nodes[graph.start].greeting
    return _rendered(parts, [greeting, *turn.dead_air.filler, *turn.idle.say])


def later_texts(parts: Parts) -> list[str]:
    """Other texts that will be spoken word for word, the likely ones first."""
    texts: list[str] = []
    if not parts.realtime:  # else the model speaks for itself
        nodes = parts.profile.graph.nodes.values()
        texts += [fact.answer for fact in parts.profile.knowledge]
        texts += [text for node in nodes for text in (node.greeting, *node.say)]
        texts += [target.say for node in nodes for target in node.transfers]
    dead_air = parts.config.turn.dead_air
    texts += [*dead_air.say, *dead_air.goodbye]
    texts += [dead_air.transfer.say] if dead_air.transfer else []
    return _rendered(parts, texts)


async def prepare_later(parts: Parts) -> None:
    """Have the fixed texts spoken ahead of time, one by one beside the calls."""
    for text in later_texts(parts):
        await parts.tts[0].plug.prepare([text])
    # Where a voice has to be replaced, the silence before it has been long enough.
    for candidate in parts.tts[1:]:
        await candidate.plug.prepare(_rendered(parts, parts.config.turn.dead_air.filler))


def _rendered(parts: Parts, texts: Iterable[str]) -> list[str]:
    """The texts that do not depend on the call, as they will be spoken: piece by piece."""
    variables = parts.profile.seed_variables
    pieces: list[str] = []
    for text in texts:
        if names(text) <= variables.keys():
            splitter = SentenceSplitter()
            pieces += [*splitter.feed(render(text, variables)), splitter.flush()]
    return [piece for piece in dict.fromkeys(pieces) if piece]


def _title(spec: ProviderSpec, model: str = "") -> str:
    chosen = spec.model or model
    return f"{spec.provider}/{chosen}" if chosen else spec.provider


def _fact_line(questions: tuple[str, ...], answer: str) -> str:
    return f"- {questions[0]} {answer}" if questions else f"- {answer}"


def _tool(tool: ToolConfig, loaded: Loaded, http: Http) -> Tool:
    if tool.http is not None:
        spec = ToolSpec(tool.name, tool.description or tool.name, _parameters(tool.parameters))
        request = tool.http
        return Tool(
            spec,
            HttpRunner(
                lambda: http.session,
                request.method,
                request.url,
                request.headers,
                request.query,
                request.body,
            ),
            tool.timeout,
            tuple(tool.say),
        )
    function = load(tool.python, loaded.base_dir)
    found = describe(tool.name, function)
    spec = ToolSpec(
        tool.name,
        tool.description or found.description,
        _parameters(tool.parameters) if tool.parameters else found.parameters,
    )
    return Tool(spec, PythonRunner(function), tool.timeout, tuple(tool.say))


def _parameters(parameters: dict[str, Any]) -> dict[str, Any]:
    """A whole JSON Schema, or the short form: argument name to its schema."""
    if parameters.get("type") == "object" and "properties" in parameters:
        return parameters
    return {"type": "object", "properties": parameters, "required": list(parameters)}
