"""From a loaded file to running parts: every provider created and warm, or a clear error."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TextIO

import structlog

from flowcat_server.agents import Agents
from flowcat_server.config.document import walk_strings
from flowcat_server.config.files import shown
from flowcat_server.config.hold import hold_sound
from flowcat_server.config.load import Loaded
from flowcat_server.config.models import Tool as ToolConfig
from flowcat_server.config.topology import ProviderSpec
from flowcat_server.core.agent import Profile
from flowcat_server.core.breaker import Breaker, BreakerRules
from flowcat_server.core.interfaces import KnowsAgent, ToolSpec
from flowcat_server.core.sentences import SentenceSplitter
from flowcat_server.core.templates import names, render
from flowcat_server.errors import ConfigError, FlowcatError, MissingExtra, Problem, ProviderError
from flowcat_server.pipeline import Candidate, Parts
from flowcat_server.providers.http import Http
from flowcat_server.providers.registry import Kind, find
from flowcat_server.providers.resolve import examine, settings_for
from flowcat_server.tools.http_request import HttpRunner
from flowcat_server.tools.python_function import PythonRunner, describe, load
from flowcat_server.tools.toolbox import Tool, Toolbox

log = structlog.get_logger()

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
    """The agents of a server, their providers, and what was said about them."""

    agents: Agents
    used: list[Used] = field(default_factory=list)
    off: list[str] = field(default_factory=list)
    """What does not run, and why."""
    closers: list[Callable[[], Coroutine[Any, Any, None]]] = field(default_factory=list)

    @property
    def parts(self) -> Parts:
        """The main file's agent."""
        return self.agents.default

    async def close(self) -> None:
        """Stop every provider."""
        for closer in reversed(self.closers):
            await closer()


class Progress:
    """Says on the terminal what is being loaded, a line for each thing."""

    def __init__(self, stream: TextIO = sys.stderr, *, quiet: bool = False) -> None:
        self._stream = stream
        self._quiet = quiet
        self._start = time.monotonic()

    def say(self, text: str) -> None:
        """One line, with the seconds since the start."""
        if self._quiet:
            return
        self._stream.write(f"  {time.monotonic() - self._start:5.1f} s  {text}\n")
        self._stream.flush()


async def build(loaded: Loaded, http: Http, progress: Progress) -> Built:
    """Create and start everything that the file and its agents' files ask for, in parallel.

    Raises:
        ConfigError: A provider, tool or option is wrong.
        FlowcatError: A provider could not be started.
    """
    making = _Making(http)
    main = making.parts(loaded, loaded.config.agent.name)
    others = {name: making.other(file, name) for name, file in loaded.agents.items()}
    await making.start(progress)
    built = Built(Agents(main, others), making.used, making.off, making.closers)
    for parts in built.agents:
        for candidate in parts.llm:
            if isinstance(candidate.plug, KnowsAgent):
                await candidate.plug.prepare(parts.profile.graph, parts.profile.knowledge)
        if parts.tts:
            await _prepare_first(parts, progress)
    return built


Plugs = Mapping[str, Sequence[Candidate[Any]]]


class _Making:
    """Makes agents' providers. Those that are asked for in the same words are one and the same."""

    def __init__(self, http: Http) -> None:
        self.used: list[Used] = []
        self.off: list[str] = []
        self.closers: list[Callable[[], Coroutine[Any, Any, None]]] = []
        self._http = http
        self._made: dict[str, tuple[Any, Breaker, BreakerRules]] = {}
        self._starts: list[tuple[Any, Used]] = []

    def parts(self, loaded: Loaded, name: str) -> Parts:
        """An agent, its providers not yet started."""
        config = loaded.config
        toolbox = Toolbox([_tool(tool, loaded, self._http) for tool in config.tools])
        profile = Profile(
            name=name,
            graph=loaded.graph,
            seed_variables=config.agent.seed_vars,
            tools=toolbox.specs,
            facts="\n".join(_fact_line(fact.questions, fact.answer) for fact in loaded.knowledge),
            knowledge=loaded.knowledge,
        )
        plugs = self._plugs(loaded)
        return Parts(
            config,
            profile,
            toolbox,
            vad=plugs["vad"][0].plug if "vad" in plugs else None,
            turn=plugs["turn"][0] if "turn" in plugs else None,
            stt=plugs.get("stt", ()),
            llm=plugs.get("llm", ()),
            tts=plugs.get("tts", ()),
            realtime=plugs.get("realtime", ()),
            hold_sound=hold_sound(config.hold.audio, loaded.base_dir),
        )

    def other(self, loaded: Loaded, name: str) -> Parts:
        """A further agent; what is wrong with it is said with its file's name."""
        try:
            return self.parts(loaded, name)
        except ConfigError as error:
            file = shown(loaded.path)
            raise ConfigError([replace(p, file=p.file or file) for p in error.problems]) from error

    async def start(self, progress: Progress) -> None:
        """Start what was made; raises the first `FlowcatError`."""
        try:
            async with asyncio.timeout(START_TIMEOUT_S), asyncio.TaskGroup() as tasks:
                for plug, used in self._starts:
                    tasks.create_task(_start(plug, used, progress))
        except* FlowcatError as group:
            first: BaseException = group
            while isinstance(first, BaseExceptionGroup):
                first = first.exceptions[0]
            raise first from None

    def _plugs(self, loaded: Loaded) -> Plugs:
        config = loaded.config
        rules = BreakerRules(config.turn.breaker.failures, config.turn.breaker.open_for)
        plugs: dict[str, list[Candidate[Any]]] = {}
        asked: Counter[str] = Counter()
        for kind, path, spec in config.topology.used():
            same = _same(kind, spec, loaded.base_dir)
            asked[same] += 1  # within one agent, a spare in the same words is another one
            made = self._provider(kind, spec, path, loaded, rules, f"{asked[same]} {same}")
            if made is not None:
                plug, breaker = made
                plugs.setdefault(kind, []).append(
                    Candidate(_title(spec), plug, spec.timeout, breaker, _cheap(kind, spec))
                )
        if config.topology.mode == "realtime":
            # The vendor takes turns; this one only measures when the caller's voice had ended.
            spec = ProviderSpec(provider="energy")
            meter, settings = settings_for("vad", spec, http=self._http, base_dir=loaded.base_dir)
            plugs["vad"] = [Candidate("energy", meter.create(settings))]
        return plugs

    def _provider(
        self,
        kind: Kind,
        spec: ProviderSpec,
        path: str,
        loaded: Loaded,
        rules: BreakerRules,
        same: str,
    ) -> tuple[Any, Breaker] | None:
        """The provider and its health, or None for a fallback that cannot be used here."""
        spare = "fallback" in path
        if same in self._made:
            plug, breaker, others_rules = self._made[same]
            return plug, breaker if rules == others_rules else Breaker(rules)
        try:
            provider, settings = settings_for(
                kind, spec, http=self._http, base_dir=loaded.base_dir, path=path
            )
            provider.check_installed(spec.provider)
        except MissingExtra as error:
            if kind == "vad" and spec.provider == "silero":
                said = f"silero voice detection: {error}; the energy detector is used"
                self.off += [said] if said not in self.off else []
                energy = ProviderSpec(provider="energy")
                return self._provider(kind, energy, path, loaded, rules, same)
            if spare:
                self.off.append(f"{path}: {error}")
                return None
            raise ConfigError(Problem(str(error), path=path)) from error
        except ConfigError as error:
            if spare:
                self.off.append(f"{path}: {error}")
                return None
            raise
        leg = examine(kind, spec)
        used = Used(kind, _title(spec, settings.model), leg.key.source, provider.local, spare)
        plug, breaker = provider.create(settings), Breaker(rules)
        self._made[same] = plug, breaker, rules
        self.used.append(used)
        self.closers.append(plug.close)
        self._starts.append((plug, used))
        return plug, breaker


def _same(kind: Kind, spec: ProviderSpec, base_dir: Path) -> str:
    """What is the same for specs that ask for the same provider in the same way.

    Files that a spec may name beside its agent's file make it that agent's own.
    """
    asked = spec.model_dump(exclude={"fallback", "timeout"})
    asked["api_key"] = spec.api_key.get_secret_value()
    texts = (text for _, text in walk_strings(asked))
    near = any(len(text) < 256 and text and Path(base_dir, text).exists() for text in texts)
    return json.dumps([kind, asked, str(base_dir) if near else ""], sort_keys=True, default=str)


def _cheap(kind: Kind, spec: ProviderSpec) -> bool:
    """Whether nobody pays for a request that is thrown away."""
    provider = find(kind, spec.provider)
    return provider is not None and (provider.local or provider.unmetered)


async def _start(plug: Any, used: Used, progress: Progress) -> None:
    begun = time.monotonic()
    if used.local:
        progress.say(f"loading {used.kind} {used.name}")
    await plug.start()
    used.ready_ms = int((time.monotonic() - begun) * 1000)
    progress.say(f"{used.kind} {used.name} is ready ({used.ready_ms} ms)")


async def _prepare_first(parts: Parts, progress: Progress) -> None:
    """Have spoken what must be ready when the first call comes."""
    voice, name = parts.tts[0].plug, parts.profile.name
    texts = first_texts(parts)
    await voice.prepare(texts)
    try:
        await parts.prepared.add(voice, texts)
    except ProviderError as error:  # calls have deadlines and fallbacks for this
        log.warning("greeting_not_prepared", provider=error.provider, error=error.detail)
        progress.say(f"the greeting of {name} could not be prepared: {error}")
    else:
        progress.say(f"the greeting of {name} is prepared")


def first_texts(parts: Parts) -> list[str]:
    """Texts that must be ready when the first call comes: the greeting and what fills a gap."""
    turn, graph = parts.config.turn, parts.profile.graph
    if parts.realtime:
        return _fixed(parts, turn.dead_air.filler)
    greeting = graph.nodes[graph.start].greeting
    return [
        *_pieces(_fixed(parts, [greeting])),
        *_fixed(parts, turn.dead_air.filler + turn.idle.say),
    ]


def later_texts(parts: Parts) -> list[str]:
    """Other texts that will be spoken word for word, the likely ones first."""
    texts: list[str] = []
    if not parts.realtime:  # else the model speaks for itself
        nodes = parts.profile.graph.nodes.values()
        texts += [fact.answer for fact in parts.profile.knowledge]
        texts += [text for node in nodes for text in (node.greeting, *node.say)]
        texts += [target.say for node in nodes for target in node.transfers]
    message = parts.config.outbound.machine.message
    own = [*parts.config.turn.dead_air.say, message]  # said in one piece
    return [*_pieces(_fixed(parts, texts)), *_fixed(parts, own)]


def last_words(parts: Parts) -> list[str]:
    """What has to be heard when there is no voice any more."""
    dead_air = parts.config.turn.dead_air
    transfer = [dead_air.transfer.say] if dead_air.transfer else []
    return _fixed(parts, [*dead_air.filler, *dead_air.goodbye[:1], *transfer])


async def prepare_all_later(agents: Agents) -> None:
    """`prepare_later` for every agent that has a voice, one after another."""
    for parts in agents:
        if parts.tts:
            await prepare_later(parts)


async def prepare_later(parts: Parts) -> None:
    """Have the fixed texts spoken ahead of time, one by one beside the calls."""
    for candidate in parts.tts:
        try:
            await parts.prepared.add(candidate.plug, last_words(parts))
        except ProviderError as error:
            log.warning("words_not_prepared", provider=error.provider, error=error.detail)
    for text in later_texts(parts):
        await parts.tts[0].plug.prepare([text])


def _fixed(parts: Parts, texts: Iterable[str]) -> list[str]:
    """The texts that do not depend on the call."""
    variables = parts.profile.seed_variables
    known = (render(text, variables) for text in texts if names(text) <= variables.keys())
    return [text for text in dict.fromkeys(known) if text]


def _pieces(texts: Iterable[str]) -> list[str]:
    """Texts as the model's words are spoken: piece by piece."""
    pieces: list[str] = []
    for text in texts:
        splitter = SentenceSplitter()
        pieces += [*splitter.feed(text), splitter.flush()]
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
            request.method != "GET" if tool.side_effect is None else tool.side_effect,
        )
    function = load(tool.python, loaded.base_dir)
    found = describe(tool.name, function)
    spec = ToolSpec(
        tool.name,
        tool.description or found.description,
        _parameters(tool.parameters) if tool.parameters else found.parameters,
    )
    side_effect = tool.side_effect is not False
    return Tool(spec, PythonRunner(function), tool.timeout, tuple(tool.say), side_effect)


def _parameters(parameters: dict[str, Any]) -> dict[str, Any]:
    """A whole JSON Schema, or the short form: argument name to its schema."""
    if parameters.get("type") == "object" and "properties" in parameters:
        return parameters
    return {"type": "object", "properties": parameters, "required": list(parameters)}
