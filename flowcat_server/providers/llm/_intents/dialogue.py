"""One reply of the `intents` provider, from a request to events. Synchronous; runs in a worker.

What a request can be: the call begins, another node was entered, a tool has answered, or the
caller has said something (or pressed keys). The state lies in the request's variables.
"""

from __future__ import annotations

import re
from datetime import date

from flowcat_server.core.agent import END_CALL, TRANSFER
from flowcat_server.core.interfaces import ModelEvent, ModelRequest
from flowcat_server.providers.llm._intents.answering import Answering
from flowcat_server.providers.llm._intents.embedding import Embedder
from flowcat_server.providers.llm._intents.filling import Filling
from flowcat_server.providers.llm._intents.form import failed
from flowcat_server.providers.llm._intents.language import load
from flowcat_server.providers.llm._intents.match import Matcher, Target
from flowcat_server.providers.llm._intents.memory import Memory
from flowcat_server.providers.llm._intents.settings import IntentsOptions
from flowcat_server.providers.llm._intents.slots import phone
from flowcat_server.providers.llm._intents.turn import Turn
from flowcat_server.providers.llm._intents.ways import Ways
from flowcat_server.providers.llm._intents.wording import Wording, render


class Dialogue:
    """Answers requests; shared by all calls, keeps nothing of any."""

    def __init__(self, embedder: Embedder, options: IntentsOptions) -> None:
        language = load(options.language)
        persona = {key: texts for key, texts in options.persona.items() if key != "name"}
        self._options = options
        self._wording = Wording(language, persona)
        self.matcher = Matcher(embedder, language)
        self._ways = Ways(self.matcher, language, options)
        self._answering = Answering(self.matcher, self._ways, language, options)
        self._filling = Filling(self._answering, self._ways, options)

    def respond(self, request: ModelRequest, today: date) -> list[ModelEvent]:
        """The events of one reply."""
        memory = Memory.of(request.variables)
        turn = Turn(request, memory, today, self._wording, self._options.faq)
        last = turn.last
        if last is not None and last.role == "user":
            if memory.node != request.node.id:
                self._arrive(turn)
            memory.turn += 1
            self._hear(turn)
        elif memory.node != request.node.id or (last and self._left_by_loop(turn)):
            self._enter(turn)
        elif last is not None and last.role == "tool":
            self._after_tool(turn, last.text)
        else:
            turn.use("silence")
            self._filling.prompt_again(turn)
        return turn.events()

    def understand(self, request: ModelRequest) -> list[Target]:
        """What the caller's last sentence means in this node, slots aside."""
        turn = Turn(
            request, Memory.of(request.variables), date.min, self._wording, self._options.faq
        )
        index = self.matcher.index(request.edges, turn.facts)
        ranked = self.matcher.meaning(index, turn.utterance)
        return self._answering.meanings(turn, index, ranked)

    # --- entering a node ----------------------------------------------------------------------

    def _arrive(self, turn: Turn) -> None:
        """The caller speaks in a node whose first words were not ours (a fixed greeting)."""
        turn.memory.enter(turn.request.node.id)
        if turn.request.node.slots:
            self._filling.arrive(turn)

    def _left_by_loop(self, turn: Turn) -> bool:
        """The node was left by an edge that leads back to it."""
        message = turn.last
        return (
            message is not None
            and message.role == "tool"
            and turn.edge(turn.memory.leaving) is not None
        )

    def _enter(self, turn: Turn) -> None:
        memory, node = turn.memory, turn.request.node
        first_node = not memory.node and not memory.turn
        memory.enter(node.id)
        memory.leaving = ""
        if node.say:
            turn.say_one(node.say, f"say:{node.id}")
        elif node.greeting and not self._greeted(turn):
            turn.say(node.greeting)
        spoke = bool(turn.said)
        if node.kind == "end":
            if not spoke and not self._greeted(turn):
                turn.use("goodbye")
        elif node.transfers and not node.slots:
            self._answering.transfer(turn)
        elif node.slots:
            self._filling.enter(turn)
        elif not spoke and not self._greeted(turn):
            turn.use("hello" if first_node else "enter")

    def _greeted(self, turn: Turn) -> bool:
        greeting = render(turn.request.node.greeting, turn.variables, turn.memory.spoken)
        return bool(greeting) and turn.heard.endswith(greeting)

    def _after_tool(self, turn: Turn, result: str) -> None:
        if turn.memory.stage == "submitted":
            self._filling.after_tool(turn, result)
        elif turn.memory.leaving.startswith(TRANSFER):
            if failed(result) and turn.request.node.transfers:
                turn.use("transfer_unavailable", name=turn.request.node.transfers[0].name)
        elif turn.memory.leaving != END_CALL:
            turn.use("anything_else")

    # --- hearing ------------------------------------------------------------------------------

    def _hear(self, turn: Turn) -> None:
        keys = phone.keypad(turn.utterance)
        if keys:
            self._hear_keys(turn, keys)
        elif not re.search(r"\w", turn.utterance):
            turn.use("silence")
        else:
            self._hear_words(turn)

    def _hear_words(self, turn: Turn) -> None:
        index = self.matcher.index(turn.request.edges, turn.facts)
        ranked = self.matcher.meaning(index, turn.utterance)
        if turn.memory.offer != "human" and self._filling.hear(turn, index, ranked):
            return
        self._answering.hear(turn, index, ranked)

    def _hear_keys(self, turn: Turn, keys: str) -> None:
        if self._filling.hear_keys(turn, keys):
            return
        if keys.startswith("0"):
            self._answering.to_human(turn)
        else:
            turn.use("keypad")
