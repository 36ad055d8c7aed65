"""A node's slots as a form: what is missing, how it is asked for and said back."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from flowcat_server.core.graph import Slot
from flowcat_server.core.interfaces import ToolSpec
from flowcat_server.providers.llm._intents.slots.reading import Reading
from flowcat_server.providers.llm._intents.turn import Turn
from flowcat_server.providers.llm._intents.wording import listed, lower_first

_SAID_BACK = frozenset({"day", "time", "number", "choice"})


def ask(turn: Turn, slot: Slot) -> None:
    """Ask for a slot."""
    turn.memory.asked = slot.name
    turn.say(question(turn, slot))


def question(turn: Turn, slot: Slot) -> str:
    """The next wording of a slot's question; from now on it counts as asked."""
    turn.memory.asked = slot.name
    if slot.ask:
        return turn.wording.choose(slot.ask, f"ask:{slot.name}", turn.memory.counts)
    group = f"ask_{slot.kind}" if f"ask_{slot.kind}" in turn.wording else "ask_free"
    label = label_of(turn, slot)
    choices = listed(slot.choices, "or")
    return turn.wording.pick(group, turn.memory.counts, label=label, choices=choices)


def hint(turn: Turn, slot: Slot) -> None:
    """Say by example how to answer."""
    turn.memory.asked = slot.name
    if hints := turn.node.hints.get(slot.name):
        turn.say_one(hints, f"hint:{slot.name}")
        return
    group = f"hint_{slot.kind}" if f"hint_{slot.kind}" in turn.wording else "hint_free"
    turn.use(group, choices=listed(slot.choices, "or"))


def acknowledge(turn: Turn, good: Mapping[str, Reading]) -> None:
    """Say back what was just understood, so that a mistake is noticed at once."""
    slots = [slot for slot in turn.request.node.slots if slot.name in good]
    named = next((slot for slot in slots if slot.kind == "name"), None)
    said_back = [slot for slot in slots if slot.kind in _SAID_BACK]
    if said_back:
        turn.use("took", values=phrase(turn, said_back))
    elif named:
        turn.use("took_name", first_name=str(good[named.name].value).split()[0])
    elif slots:
        turn.use("took_phone")


def says_back(turn: Turn, good: Mapping[str, Reading]) -> bool:
    """Whether `acknowledge` repeats one of these values."""
    return any(kind_of(turn, name) in _SAID_BACK for name in good)


def phrase(turn: Turn, slots: Sequence[Slot], *, labels: bool = False) -> str:
    """Values in a row: "Friday the 27th at 3 PM, Anna Becker, number: 0 7 7"."""
    spoken = turn.memory.spoken
    parts: list[str] = []
    for slot in slots:
        text = spoken.get(slot.name) or str(turn.variables.get(slot.name, ""))
        if slot.kind == "time" and parts:
            parts[-1] += f" at {text}"
        elif labels and slot.kind not in ("day", "time", "name", "choice"):
            parts.append(f"{label_of(turn, slot)}: {text}")
        else:
            parts.append(text)
    return ", ".join(parts)


def label_of(turn: Turn, slot: Slot) -> str:
    """What a slot is called in speech."""
    plain = slot.kind if slot.kind in ("day", "time", "name") else slot.name
    default = "phone number" if slot.kind == "phone" else re.sub(r"[_-]+", " ", plain)
    return turn.node.labels.get(slot.name, default)


def missing(turn: Turn) -> Slot | None:
    """The first slot that is still to be asked for."""
    skipped = turn.memory.skipped
    return next(
        (
            slot
            for slot in turn.request.node.slots
            if slot.name not in skipped and not filled(turn, slot)
        ),
        None,
    )


def filled(turn: Turn, slot: Slot) -> bool:
    """Whether a slot has a value."""
    return turn.variables.get(slot.name) not in (None, "")


def slot_named(turn: Turn, name: str) -> Slot | None:
    """The node's slot of that name."""
    return next((slot for slot in turn.request.node.slots if slot.name == name), None)


def kind_of(turn: Turn, name: str) -> str:
    """The kind of the slot of that name."""
    slot = slot_named(turn, name)
    return slot.kind if slot else ""


def mentioned(turn: Turn) -> Slot | None:
    """The slot whose name the caller says ("the time is wrong")."""
    said = turn.utterance.lower()
    for slot in turn.request.node.slots:
        words = {label_of(turn, slot).lower(), slot.kind}
        words |= {"date"} if slot.kind == "day" else {"number"} if slot.kind == "phone" else set()
        if any(re.search(rf"\b{re.escape(word)}\b", said) for word in words):
            return slot
    return None


def submit_tool(turn: Turn) -> ToolSpec | None:
    """The tool that takes the values: the named one, else the one that needs most of them."""
    offered = [tool for tool in turn.request.tools if tool.name in turn.request.node.tools]
    if turn.node.submit:
        return next((tool for tool in offered if tool.name == turn.node.submit), None)
    values = {n for n, v in turn.variables.items() if v not in (None, "")}
    fitting = [tool for tool in offered if _required(tool) <= values]
    return max(fitting, key=lambda tool: len(_required(tool)), default=None)


def unjoined(question: str) -> str:
    """A question without its "And", to be put behind other words."""
    return lower_first(re.sub(r"^And\s+", "", question))


def _required(tool: ToolSpec) -> set[str]:
    return set(tool.parameters.get("required") or tool.parameters.get("properties") or ())


def failed(result: str) -> bool:
    """Whether a tool's answer reads like a failure."""
    try:
        value: Any = json.loads(result)
    except (ValueError, RecursionError):
        return bool(
            re.match(
                r"\W*(?:the tool failed|error|failed|failure|timeout|timed out)\b",
                result,
                re.IGNORECASE,
            )
        )
    return isinstance(value, Mapping) and (
        bool(value.get("error")) or value.get("ok") is False or value.get("success") is False
    )
