"""Collecting a node's slots: ask, read, acknowledge, correct, confirm, hand over.

A node with slots goes through the stages ``filling`` -> ``confirming`` -> ``submitted`` (only
with a tool) -> ``done``. ``correcting`` is confirming after a "no": the next thing read replaces
a value. ``idle`` is a node whose caller did not want to go on; any value read resumes it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from flowcat_server.core.graph import Slot
from flowcat_server.providers.llm._intents import form
from flowcat_server.providers.llm._intents.answering import Answering
from flowcat_server.providers.llm._intents.match import Index, Match
from flowcat_server.providers.llm._intents.settings import IntentsOptions
from flowcat_server.providers.llm._intents.slots import phone, rules
from flowcat_server.providers.llm._intents.slots.reading import Reading
from flowcat_server.providers.llm._intents.turn import Turn
from flowcat_server.providers.llm._intents.ways import Ways
from flowcat_server.providers.llm._intents.wording import listed

_KEPT = frozenset({"name", "phone", "email"})
"""Kinds that stay true when the same node is gone through again."""

_AT_ONCE = frozenset(
    {"human", "goodbye", "repeat", "wait", "cancel", "refuse", "unsure", "complain"}
)
_MISSES_BEFORE_HUMAN = 3
_WRONG = re.compile(
    r"\b(?:wrong|change|different|another|not right|incorrect|mistake|correct)\b", re.IGNORECASE
)


class Filling:
    """The provider's conversation in a node that collects slots."""

    def __init__(self, answering: Answering, ways: Ways, options: IntentsOptions) -> None:
        self._answering, self._ways, self._options = answering, ways, options

    # --- entering -----------------------------------------------------------------------------

    def enter(self, turn: Turn) -> None:
        """Begin: take what the caller's last sentence already holds, ask for the rest."""
        memory, node = turn.memory, turn.request.node
        memory.stage = "filling"
        if node.id in memory.finished:
            stale = [slot.name for slot in node.slots if slot.kind not in _KEPT]
            turn.values.update(dict.fromkeys(stale))
            for name in stale:
                memory.spoken.pop(name, None)
        found = rules.read(node.slots, turn.utterance, self._context(turn, asked=""))
        for slot in node.slots:
            if slot.kind == "name" and slot.name not in found and memory.name:
                found[slot.name] = Reading(memory.name, memory.name)
        self._take(turn, found)
        self._go_on(turn, found)

    def arrive(self, turn: Turn) -> None:
        """The caller speaks after a greeting that asked for the first value."""
        turn.memory.stage = "filling"
        slot = form.missing(turn)
        turn.memory.asked = slot.name if slot else ""

    # --- hearing ------------------------------------------------------------------------------

    def hear(self, turn: Turn, index: Index, ranked: Sequence[Match]) -> bool:
        """Handle the caller's sentence if it concerns the slots."""
        stage = turn.memory.stage
        if stage in ("confirming", "correcting"):
            return self._hear_confirming(turn, index, ranked)
        return stage in ("filling", "idle") and self._hear_filling(turn, index, ranked)

    def hear_keys(self, turn: Turn, keys: str) -> bool:
        """Take pressed keys as the value that was asked for."""
        slot = form.slot_named(turn, turn.memory.asked)
        digits = keys.replace("#", "").replace("*", "")
        if slot is None or turn.memory.stage != "filling" or not digits:
            return False
        context = self._context(turn, slot.name)
        found = rules.read([slot], " ".join(digits) if slot.kind == "phone" else digits, context)
        if not found:
            self._miss(turn)
            return True
        turn.memory.slot_misses = 0
        self._take(turn, found)
        self._go_on(turn, found)
        return True

    def prompt_again(self, turn: Turn) -> None:
        """After something else was answered: come back to what is open."""
        turn.drop_questions()
        if turn.memory.stage == "confirming":
            self._confirm(turn)
        elif turn.memory.stage == "filling" and (slot := form.missing(turn)):
            turn.use("back_to_slot", ask=form.unjoined(form.question(turn, slot)))

    def _hear_filling(self, turn: Turn, index: Index, ranked: Sequence[Match]) -> bool:
        memory = turn.memory
        asked = memory.asked if memory.stage == "filling" else ""
        found = self._read(turn, asked)
        if self._is_about_else(turn, ranked, found):
            found = {}
        if not found and self._gave_all(turn, ranked):
            found = {asked: Reading(memory.digits, phone.spoken(memory.digits))}
        if not found and (slot := form.mentioned(turn)) and _WRONG.search(turn.utterance):
            self._ask_anew(turn, slot)
            return True
        if found:
            memory.stage, memory.misses, memory.slot_misses = "filling", 0, 0
            before = dict(turn.variables)
            self._take(turn, found)
            self._answer_besides(turn, index)
            changed = any(before.get(name) not in (None, "") for name in turn.values)
            self._go_on(turn, found, changed=changed)
            return True
        if memory.stage == "idle":
            return False
        best = ranked[0] if ranked and self._answering.accepts(ranked[0]) else None
        if best and best.target.kind == "intent":
            return self._hear_intent(turn, best.target.key)
        if best:
            for target in self._answering.meanings(turn, index, ranked):
                self._answering.act(turn, target)
            memory.misses = 0
            if turn.call is None:
                self.prompt_again(turn)
            return True
        self._miss(turn)
        return True

    def _hear_confirming(self, turn: Turn, index: Index, ranked: Sequence[Match]) -> bool:
        memory = turn.memory
        answer = rules.yes_or_no(turn.utterance)
        found = self._read(turn, memory.asked)
        values = turn.variables
        news = {n: r for n, r in found.items() if r.problem or r.value != values.get(n)}
        if news and not self._is_about_else(turn, ranked, news):
            memory.stage, memory.slot_misses = "filling", 0
            self._take(turn, news)
            if not any(reading.problem for reading in news.values()):
                turn.use("changed")
            self._go_on(turn, {n: r for n, r in news.items() if r.problem})
            return True
        if self._clearly(ranked, "intent") in _AT_ONCE - {"repeat", "refuse"}:
            return self._hear_intent(turn, ranked[0].target.key)
        if answer is None and ranked and self._answering.accepts(ranked[0]):
            key = ranked[0].target.key
            answer = {"affirm": True, "thanks": True, "deny": False}.get(key)
        if answer:
            self._answer_besides(turn, index)
            self._submit(turn)
            return True
        if slot := form.mentioned(turn):
            self._ask_anew(turn, slot)
            return True
        if answer is False:
            memory.stage, memory.asked = "correcting", ""
            labels = [form.label_of(turn, slot) for slot in turn.request.node.slots]
            turn.use("what_change", labels=listed(labels, "or"))
            return True
        return self._hear_aside(turn, index, ranked)

    @staticmethod
    def _ask_anew(turn: Turn, slot: Slot) -> None:
        turn.values[slot.name] = None
        turn.memory.spoken.pop(slot.name, None)
        turn.memory.stage = "filling"
        turn.use("changed")
        form.ask(turn, slot)

    def _hear_aside(self, turn: Turn, index: Index, ranked: Sequence[Match]) -> bool:
        """While a confirmation is awaited, something that is neither yes nor no."""
        memory = turn.memory
        targets = self._answering.meanings(turn, index, ranked)
        for target in targets:
            if target.kind == "intent":
                return self._hear_intent(turn, target.key)
            self._answering.act(turn, target)
        if not targets:
            memory.slot_misses += 1
            turn.use("sorry_slot")
        if turn.call is None:
            memory.stage = "confirming"
            self._confirm(turn)
        return True

    def _hear_intent(self, turn: Turn, name: str) -> bool:
        """A built-in intent while slots are open."""
        memory = turn.memory
        slot = form.slot_named(turn, memory.asked)
        match name:
            case "human" | "goodbye" | "repeat":
                self._answering.intent(turn, name)
            case "cancel" | "nothing_else":
                self._cancel(turn)
            case "wait" | "unsure":
                turn.use(name)
                if name == "unsure" and slot:
                    form.hint(turn, slot)
            case "refuse" | "deny" if slot and slot.name in turn.node.optional:
                memory.skipped.append(slot.name)
                self._go_on(turn, {})
            case "refuse":
                memory.slot_misses += 1
                if memory.slot_misses > 1 and self._offer_human(turn):
                    return True
                turn.use("needed")
                self.prompt_again(turn)
            case "affirm" | "greeting" | "thanks" | "deny" | "help":
                if memory.stage == "confirming":
                    self._confirm(turn)
                elif slot := form.missing(turn):
                    form.ask(turn, slot)
            case _:
                self._answering.intent(turn, name)
                self.prompt_again(turn)
        return True

    # --- reading ------------------------------------------------------------------------------

    def _context(self, turn: Turn, asked: str) -> rules.Context:
        return rules.Context(
            today=turn.today,
            asked=asked,
            opening=turn.node.opening,
            period=turn.memory.period,
            digits=turn.memory.digits,
            least_digits=turn.node.digits,
            values={n: v for n, v in turn.variables.items() if v not in (None, "")},
        )

    def _read(self, turn: Turn, asked: str) -> dict[str, Reading]:
        slots = turn.request.node.slots
        found = rules.read(slots, turn.utterance, self._context(turn, asked))
        if not found and turn.memory.stage in ("confirming", "correcting"):
            # "No, four": without a word that says which, the value that a bare number fits.
            rest = re.sub(
                r"^\W*(?:no|nope|actually|sorry)\b[\s,.]*", "", turn.utterance, flags=re.IGNORECASE
            )
            for kind in ("time", "phone", "choice", "name"):
                slot = next((slot for slot in slots if slot.kind == kind), None)
                if slot and rest != turn.utterance:
                    found = rules.read([slot], rest, self._context(turn, slot.name))
                    found = {n: r for n, r in found.items() if not r.problem}
                if found:
                    break
        return found

    def _is_about_else(
        self, turn: Turn, ranked: Sequence[Match], found: Mapping[str, Reading]
    ) -> bool:
        """Whether the sentence, though it holds something like a value, means something else."""
        best = ranked[0] if ranked else None
        if best is None:
            return False
        clear = self._options.thresholds.clear
        kinds = {slot.name: slot.kind for slot in turn.request.node.slots}
        loose = all(kinds[name] in ("name", "string", "boolean", "number") for name in found)
        if best.target.kind == "intent":
            if best.target.key in ("affirm", "deny") and "boolean" in {kinds[n] for n in found}:
                return False
            return loose and best.score >= clear
        if best.target.kind == "fact":
            return best.score >= clear and (turn.is_question or loose)
        return best.score >= clear and loose

    def _gave_all(self, turn: Turn, ranked: Sequence[Match]) -> bool:
        """Whether a number with fewer digits than expected is complete ("that's all")."""
        if len(turn.memory.digits) < phone.MIN_DIGITS or not ranked:
            return False
        said = ranked[0].target.key if self._answering.accepts(ranked[0]) else ""
        return said in ("nothing_else", "affirm", "deny", "goodbye", "thanks")

    def _clearly(self, ranked: Sequence[Match], kind: str) -> str:
        best = ranked[0] if ranked else None
        if best and best.target.kind == kind and best.score >= self._options.thresholds.clear:
            return best.target.key
        return ""

    def _take(self, turn: Turn, found: Mapping[str, Reading]) -> None:
        memory = turn.memory
        for name, reading in found.items():
            if reading.problem == "time_period":
                memory.period = reading.detail
            elif reading.problem == "phone_short":
                memory.digits = reading.detail
            elif not reading.problem:
                turn.values[name] = reading.value
                memory.spoken[name] = reading.spoken
                if form.kind_of(turn, name) == "phone":
                    memory.digits = ""

    def _answer_besides(self, turn: Turn, index: Index) -> None:
        """The question beside the values: "Friday at three. And where can I park?"."""
        for target in self._answering.besides(turn, index):
            self._answering.act(turn, target)

    # --- going on -----------------------------------------------------------------------------

    def _go_on(self, turn: Turn, found: Mapping[str, Reading], *, changed: bool = False) -> None:
        memory = turn.memory
        slot = form.missing(turn)
        good = {name: r for name, r in found.items() if not r.problem}
        bad = [
            (name, r)
            for name, r in found.items()
            if r.problem and (slot is None or r.problem != "time_period" or name == slot.name)
        ]
        if changed and not form.says_back(turn, good):
            turn.use("changed")
        if slot is None and not bad:
            self._complete(turn)
            return
        form.acknowledge(turn, good)
        if bad:
            memory.asked, reading = bad[0]
            group = "ask_period" if reading.problem == "time_period" else reading.problem
            turn.use(group, detail=reading.detail, period=reading.detail)
        elif slot and slot.kind == "time" and memory.period:
            memory.asked = slot.name
            turn.use("ask_period", period=memory.period)
        elif slot:
            form.ask(turn, slot)

    def _complete(self, turn: Turn) -> None:
        if turn.node.confirm is False:
            self._submit(turn)
            return
        turn.memory.stage, turn.memory.asked = "confirming", ""
        self._confirm(turn)

    def _confirm(self, turn: Turn) -> None:
        if turn.node.confirm:
            turn.say_one(turn.node.confirm, f"confirm:{turn.request.node.id}")
        else:
            slots = [s for s in turn.request.node.slots if form.filled(turn, s)]
            turn.use("confirm", values=form.phrase(turn, slots, labels=True))

    def _submit(self, turn: Turn) -> None:
        turn.memory.stage = "submitted"
        tool = form.submit_tool(turn)
        if tool is None:
            self.finish(turn)
            return
        names = tool.parameters.get("properties") or {s.name for s in turn.request.node.slots}
        values = turn.variables
        turn.run(tool.name, {n: values[n] for n in names if values.get(n) not in (None, "")})

    def after_tool(self, turn: Turn, result: str) -> None:
        """The tool that took the values has answered."""
        if form.failed(result):
            turn.memory.stage = "confirming"
            turn.use("tool_failed")
            self._offer_human(turn)
            return
        self.finish(turn)

    def finish(self, turn: Turn) -> None:
        """All is done: say so, and leave by the edge that is for it."""
        memory, node = turn.memory, turn.request.node
        memory.stage, memory.asked = "done", ""
        memory.finished = [*(n for n in memory.finished if n != node.id), node.id]
        edge = self._ways.when_done(turn)
        if turn.node.done:
            turn.say_one(turn.node.done, f"done:{node.id}")
        elif edge is None:
            turn.use("done")
        if edge:
            turn.run(edge.tool_name)
        else:
            turn.use("anything_else")
            memory.offer = "anything"

    def _cancel(self, turn: Turn) -> None:
        memory = turn.memory
        for slot in turn.request.node.slots:
            if form.filled(turn, slot):
                turn.values[slot.name] = None
            memory.spoken.pop(slot.name, None)
        if edge := self._ways.when_cancelled(turn):
            turn.run(edge.tool_name)
            return
        memory.stage, memory.asked, memory.offer = "idle", "", "anything"
        turn.use("start_over")

    def _miss(self, turn: Turn) -> None:
        memory = turn.memory
        memory.slot_misses += 1
        slot = form.slot_named(turn, memory.asked) or form.missing(turn)
        if memory.slot_misses >= _MISSES_BEFORE_HUMAN and self._offer_human(turn):
            memory.slot_misses = 0
            return
        turn.use("sorry_slot")
        if slot is None:
            self.prompt_again(turn)
        elif memory.slot_misses > 1:
            form.hint(turn, slot)
        else:
            form.ask(turn, slot)

    def _offer_human(self, turn: Turn) -> bool:
        if not self._ways.to_human(turn) and not turn.request.node.transfers:
            return False
        turn.use("offer_human")
        turn.memory.offer = "human"
        return True
