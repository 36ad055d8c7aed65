"""Reads one node or edge of a graph; every mistake is noted with its place."""

from __future__ import annotations

import unicodedata
from difflib import get_close_matches
from typing import Any, Literal

from flowcat_server.config.document import Document, Path
from flowcat_server.config.explain import show_value
from flowcat_server.config.suggest import did_you_mean, listed
from flowcat_server.config.types import parse_duration
from flowcat_server.core.graph import (
    TRANSFER_FAILED,
    Edge,
    Node,
    NodeKind,
    Slot,
    TransferTarget,
)
from flowcat_server.core.keypad import KEYS, MOST, WAIT_MS, Keys
from flowcat_server.errors import Problem

KINDS: dict[str, NodeKind] = {
    "start": "start",
    "startCall": "start",
    "agent": "agent",
    "agentNode": "agent",
    "end": "end",
    "endCall": "end",
    "global": "global",
    "globalNode": "global",
    "trigger": "other",
    "webhook": "other",
    "qa": "other",
    "tuner": "other",
    "other": "other",
}
"""Node types of Flowcat and of Dograh's editor. The last five are carried, never entered."""

SLOT_KINDS = ("string", "number", "boolean", "day", "time", "name", "phone", "choice")

NODE_KEYS = (
    "prompt", "greeting", "protect_greeting", "allow_interrupt", "allowInterrupt", "keypad",
    "tools", "tool_uuids", "extraction_enabled", "extraction_variables", "extraction_prompt",
    "transfer_targets", "say", "name", "label", "title", "add_global_prompt",
    "inherit_global_directive",
)  # fmt: skip
TRANSFER_KEYS = (
    "name", "target_phone", "mode", "say", "introduce", "failed", "then", "ring", "label",
    "description",
)  # fmt: skip
RING_MS = 30_000
KEYPAD_KEYS = ("length", "terminator", "timeout")
EDGE_KEYS = ("label", "condition", "transition_criteria", "transition_speech", "examples", "speech")


def slug(text: str) -> str:
    """A name that every model vendor takes for a function: ``Wrap up`` becomes ``wrap_up``."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    name = "".join(c if c.isalnum() else "_" for c in plain)[:56]
    return name if name.strip("_") else ""


class Reader:
    """Typed access to the values under a path; what is wrong becomes a problem and a default."""

    def __init__(self, document: Document, problems: list[Problem]) -> None:
        self.document = document
        self.problems = problems

    def error(self, path: Path, message: str, *, key: bool = False) -> None:
        self.problems.append(self.document.problem(path, message, key=key))

    def warn(self, path: Path, message: str, *, key: bool = False) -> None:
        self.problems.append(self.document.problem(path, message, key=key, warning=True))

    def identity(self, path: Path, default: str = "") -> str:
        """An id: text, or a whole number as editors sometimes write it."""
        value = self.document.get(path)
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        return self.text(path) or default

    def text(self, *paths: Path) -> str:
        """The first non-empty text among paths."""
        for path in paths:
            value = self.document.get(path)
            if value is None:
                continue
            if not isinstance(value, str):
                self.error(path, f"must be text; found {show_value(path, value)}")
            elif value.strip():
                return value
        return ""

    def choice(self, path: Path, allowed: tuple[str, ...]) -> str:
        """One of some words; empty if absent."""
        value = self.text(path)
        if value and value not in allowed:
            self.error(path, f"must be one of {listed(allowed)}; found {show_value(path, value)}")
            return ""
        return value

    def texts(self, path: Path) -> tuple[str, ...]:
        """One text or a list of texts."""
        value = self.document.get(path)
        if value is None:
            return ()
        found = [value] if isinstance(value, str) else value
        if not isinstance(found, list) or not all(isinstance(item, str) for item in found):
            self.error(path, f"must be text or a list of texts; found {show_value(path, value)}")
            return ()
        return tuple(item for item in found if item.strip())

    def flag(self, default: bool, *paths: Path) -> bool:
        """The first true or false among paths."""
        for path in paths:
            value = self.document.get(path)
            if isinstance(value, bool):
                return value
            if value is not None:
                self.error(path, f"must be true or false; found {show_value(path, value)}")
        return default

    def duration(self, path: Path, default: int) -> int:
        """Milliseconds."""
        value = self.document.get(path)
        if value is None:
            return default
        try:
            return parse_duration(value)
        except ValueError as error:
            self.error(path, f"{error}; found {show_value(path, value)}")
            return default

    def items(self, path: Path) -> list[Path]:
        """The paths of the blocks in a list."""
        value = self.document.get(path)
        if value is None:
            return []
        if not isinstance(value, list):
            self.error(path, f"must be a list; found {show_value(path, value)}")
            return []
        found: list[Path] = []
        for number, item in enumerate(value):
            if isinstance(item, dict):
                found.append((*path, number))
            else:
                here = (*path, number)
                self.error(here, f"must be a block of keys; found {show_value(here, item)}")
        return found

    def block(self, path: Path) -> dict[str, Any]:
        """A block of keys, empty if absent."""
        value = self.document.get(path)
        if value is not None and not isinstance(value, dict):
            self.error(path, f"must be a block of keys; found {show_value(path, value)}")
        return value if isinstance(value, dict) else {}

    def misspelt(self, path: Path, known: tuple[str, ...]) -> None:
        """Warn of keys that look like a known one: editors add others, which mean nothing here."""
        for name in self.block(path):
            if name not in known:
                close = get_close_matches(name[:80], known, n=1, cutoff=0.8)
                if close:
                    self.warn(
                        (*path, name), f"unknown key {name!r}; did you mean {close[0]!r}?", key=True
                    )


def read_node(read: Reader, path: Path, known_tools: frozenset[str]) -> Node:
    """One node. Its id may be empty: the caller reports that."""
    data = (*path, "data")
    kind = _kind(read, (*path, "type"), path)
    identity = read.identity((*path, "id"))
    if kind != "other":
        read.misspelt(data, NODE_KEYS)
    return Node(
        id=identity,
        kind=kind,
        name=read.text((*data, "name"), (*data, "label"), (*data, "title")) or identity,
        prompt=read.text((*data, "prompt")),
        greeting=read.text((*data, "greeting")),
        allow_interrupt=read.flag(True, (*data, "allow_interrupt"), (*data, "allowInterrupt")),
        protect_greeting=read.flag(False, (*data, "protect_greeting")),
        keypad=_keypad(read, (*data, "keypad")),
        tools=_tools(read, data, known_tools),
        slots=_slots(read, data),
        transfers=_transfers(read, data),
        say=read.texts((*data, "say")),
        data=read.block(data),
    )


def _kind(read: Reader, path: Path, node: Path) -> NodeKind:
    name = read.text(path)
    if name in KINDS:
        return KINDS[name]
    if name:
        said = f"the type {name!r} is unknown, so the node is never entered"
        read.warn(path, f"{said}{did_you_mean(name, KINDS)} (known: {listed(KINDS)})")
    else:
        read.warn(node, "the node has no type, so it is never entered")
    return "other"


def _keypad(read: Reader, path: Path) -> Keys | None:
    """``true``, or what makes a number."""
    value = read.document.get(path)
    if value is None or isinstance(value, bool):
        return Keys() if value else None
    if not isinstance(value, dict):
        read.error(path, f"must be true, false or a block; found {show_value(path, value)}")
        return None
    for name in value:
        if name not in KEYPAD_KEYS:
            hint = f"{did_you_mean(name, KEYPAD_KEYS)} (known: {listed(KEYPAD_KEYS)})"
            read.error((*path, name), f"unknown key {name!r}{hint}", key=True)
    length = value.get("length", 0)
    if not isinstance(length, int) or isinstance(length, bool) or not 0 <= length <= MOST:
        here = (*path, "length")
        read.error(here, f"must be a number from 0 to {MOST}; found {show_value(here, length)}")
        length = 0
    terminator = value.get("terminator", Keys().terminator)
    key = str(terminator) if isinstance(terminator, int) else terminator
    if not isinstance(key, str) or len(key) > 1 or key not in KEYS:
        here = (*path, "terminator")
        read.error(here, f'must be one of the keys {KEYS}, or "" for none; '
                         f"found {show_value(here, terminator)}")  # fmt: skip
        key = ""
    return Keys(length, key, read.duration((*path, "timeout"), WAIT_MS))


def _tools(read: Reader, data: Path, known: frozenset[str]) -> tuple[str, ...]:
    names: list[str] = []
    for key in ("tools", "tool_uuids"):
        path = (*data, key)
        for name in read.texts(path):
            if name in known:
                names.append(name)
            elif key == "tools":
                read.error(path, f"the tool {name!r} is not defined in tools:"
                                 f"{did_you_mean(name, known)}")  # fmt: skip
            else:
                read.warn(path, f"the tool {name!r} is not defined in tools: and is left out")
    return tuple(dict.fromkeys(names))


def _slots(read: Reader, data: Path) -> tuple[Slot, ...]:
    path = (*data, "extraction_variables")
    enabled = read.flag(False, (*data, "extraction_enabled"))
    found: dict[str, Slot] = {}
    for item in read.items(path):
        name = read.text((*item, "name"))
        if not name:
            read.error(item, "the variable has no name")
            continue
        if name in found:
            read.error((*item, "name"), f"the variable {name!r} is given twice in this node")
        kind = read.text((*item, "type")) or "string"
        if kind not in SLOT_KINDS:
            read.warn(
                (*item, "type"),
                f"unknown type {kind!r}, taken as string{did_you_mean(kind, SLOT_KINDS)} "
                f"(known: {listed(SLOT_KINDS)})",
            )
            kind = "string"
        choices = read.texts((*item, "choices"))
        if kind == "choice" and not choices:
            read.error(item, f"the variable {name!r} is a choice, but has no choices")
        digits = read.document.get((*item, "digits"))
        found[name] = Slot(
            name,
            kind,
            read.text((*item, "prompt")),
            read.texts((*item, "ask")),
            choices,
            digits if isinstance(digits, int) and digits > 0 else 0,
        )
    if found and not enabled:
        read.warn(path, "nothing is collected unless extraction_enabled is true", key=True)
        return ()
    return tuple(found.values())


def _transfers(read: Reader, data: Path) -> tuple[TransferTarget, ...]:
    targets: list[TransferTarget] = []
    for number, item in enumerate(read.items((*data, "transfer_targets"))):
        phone = read.text((*item, "target_phone")).strip()
        if not phone:
            read.warn(item, "the transfer target has no target_phone and is left out")
            continue
        fallback = "transfer_call" if number == 0 else f"transfer_call_{number}"
        name = slug(read.text((*item, "name"))) or fallback
        if name in {target.name for target in targets}:
            read.error((*item, "name"), f"the transfer target {name!r} is given twice in this node")
        read.misspelt(item, TRANSFER_KEYS)
        mode: Literal["cold", "warm"] = "warm" if read.text((*item, "mode")) == "warm" else "cold"
        targets.append(
            TransferTarget(
                name,
                phone,
                mode,
                say=read.text((*item, "say")),
                introduce=read.text((*item, "introduce")),
                failed=read.text((*item, "failed")) or TRANSFER_FAILED,
                then="end" if read.choice((*item, "then"), ("go_on", "end")) == "end" else "go_on",
                ring_ms=read.duration((*item, "ring"), RING_MS),
            )
        )
    return tuple(targets)


def read_edge(read: Reader, path: Path, number: int) -> Edge:
    """One edge, still without its tool name."""
    data = (*path, "data")
    read.misspelt(data, EDGE_KEYS)

    def text(*names: str) -> str:
        return read.text(*((*place, name) for name in names for place in (path, data)))

    examples = read.texts((*path, "examples")) or read.texts((*data, "examples"))
    label = text("label")
    return Edge(
        id=read.identity((*path, "id"), f"edge-{number}"),
        source=read.identity((*path, "source")),
        target=read.identity((*path, "target")),
        label=label,
        condition=text("transition_criteria", "condition") or label,
        speech=text("transition_speech", "speech"),
        examples=examples,
    )
