"""A language model's seat without a language model: offline, keyless, some 10 ms a reply.

What the caller said is compared, as a sentence embedding, with the ways out of the current node
(their label, condition and ``examples``), the facts of the file (``knowledge``, ``faq``) and a
small set of built-in intents; values (days, times, names, phone numbers ...) are read by rules.
Every sentence it says stands in the agent file or in the provider's list of wordings, so it never
makes anything up. It works with any graph; `IntentsOptions` and `NodeOptions` say what a file can
add to help it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from datetime import date, datetime
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from flowcat_server.core.graph import Fact, Graph
from flowcat_server.core.interfaces import ModelEvent, ModelRequest
from flowcat_server.errors import ProviderUnavailable
from flowcat_server.providers.assets import verify
from flowcat_server.providers.llm._intents.dialogue import Dialogue
from flowcat_server.providers.llm._intents.embedding import MODEL, Embedder, MiniLm
from flowcat_server.providers.llm._intents.settings import FaqItem, IntentsOptions, NodeOptions
from flowcat_server.providers.registry import Provider, Settings
from flowcat_server.providers.workers import Workers


def today(variables: Mapping[str, Any]) -> date:
    """The caller's date: the variable ``_today`` (ISO), else now in the variable ``timezone``."""
    try:
        return date.fromisoformat(str(variables.get("_today", "")))
    except ValueError:
        pass
    try:
        zone = ZoneInfo(str(variables.get("timezone") or "")) if variables.get("timezone") else None
    except (ZoneInfoNotFoundError, ValueError, OSError):
        zone = None
    return datetime.now(zone).date() if zone else datetime.now().astimezone().date()


class Intents:
    """The `LanguageModel`."""

    def __init__(
        self,
        options: IntentsOptions,
        load: Callable[[], Embedder],
        clock: Callable[[Mapping[str, Any]], date] = today,
    ) -> None:
        self._options, self._load, self._clock = options, load, clock
        self._dialogue: Dialogue | None = None
        self._workers = Workers("intents", options.threads)

    async def start(self) -> None:
        """Load the model and embed everything that is known before the first call (some 1 s)."""
        self._dialogue = await self._workers.run(lambda _: self._begin(), owner=self)

    async def prepare(self, graph: Graph, knowledge: Sequence[Fact] = ()) -> None:
        """Embed a graph's phrases ahead of its first call; raises on unusable node data."""
        facts = tuple(knowledge)
        await self._workers.run(lambda _: self._embed(graph, facts), owner=self)

    async def reply(self, request: ModelRequest) -> AsyncIterator[ModelEvent]:
        """One reply."""
        dialogue = self._ready()
        today = self._clock(request.variables)
        events = await self._workers.run(
            lambda _: dialogue.respond(request, today), owner=request.call_id
        )
        for event in events:
            yield event

    async def close(self) -> None:
        """Let the workers go."""
        self._workers.close()

    def _ready(self) -> Dialogue:
        if self._dialogue is None:
            raise ProviderUnavailable("intents", "not started")
        return self._dialogue

    def _begin(self) -> Dialogue:
        dialogue = Dialogue(self._load(), self._options)
        dialogue.matcher.warm()
        dialogue.matcher.index((), facts_of(self._options.faq))
        return dialogue

    def _embed(self, graph: Graph, knowledge: tuple[Fact, ...]) -> None:
        matcher = self._ready().matcher
        for node in graph.nodes.values():
            if node.kind in ("start", "agent"):
                extra = facts_of((*NodeOptions.of(node).faq, *self._options.faq))
                matcher.index(graph.outgoing(node.id), (*extra, *knowledge))


def facts_of(faq: Sequence[FaqItem]) -> tuple[Fact, ...]:
    """Questions of the options or of a node as facts."""
    return tuple(Fact(item.id or item.q[0], item.q, item.a[0]) for item in faq)


def create(settings: Settings) -> Intents:
    """Build the provider."""
    return Intents(settings.options, lambda: MiniLm(verify(MODEL)))


PROVIDER = Provider(
    create=create,
    options=IntentsOptions,
    key_required=False,
    requires=("onnxruntime", MODEL.package),
    extra="intents",
    assets=(MODEL,),
    local=True,
    status="local",
    title="Offline intents, facts and slots from the agent file; no language model",
)
