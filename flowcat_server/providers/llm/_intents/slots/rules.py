"""All the values of one sentence, slot by slot."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any

from flowcat_server.core.graph import Node, Slot
from flowcat_server.providers.llm._intents.slots import clock, day, numbers, person, phone
from flowcat_server.providers.llm._intents.slots.reading import Reading

_YES = re.compile(
    r"^\W*(?:(?:um+|uh+|oh|well|ah|er)\b\W*)*(?:yes|yeah|yea|yep|yup|ya|yah|sure|correct|right|"
    r"exactly|absolutely|definitely|of course|certainly|perfect|that's (?:right|correct|it|fine|"
    r"perfect|good|great)|that is (?:right|correct|fine)|it is|i do|i am|i have|okay|ok|fine|"
    r"sounds (?:good|great|right)|please do|go ahead|great|lovely|all good|all right|alright|"
    r"uh huh|mhm|mm hmm|indeed|affirmative|you got it|spot on)\b"
)
_NO = re.compile(
    r"^\W*(?:(?:um+|uh+|oh|well|ah|er|sorry|wait|hang on|hold on)\b\W*)*(?:no|nope|nah|not|wrong|"
    r"incorrect|that's (?:not|wrong|incorrect)|that is (?:not|wrong)|i don't|i do not|i'm not|"
    r"i haven't|isn't|negative|never|none)\b"
)
_POSITIVE_NO = re.compile(
    r"^\W*(?:no problem|not a problem|no worries|not bad|"
    r"no (?:that's|it's) (?:right|fine|correct|it|perfect))\b"
)
_WEEK = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_NOT_BUT = re.compile(r"\bnot (?:(?:on|at|the) )?[\w: ']{1,25}?(?:,|\bbut\b)\s*")


@dataclass(frozen=True, slots=True)
class Opening:
    """When a visit can be: weekday (0 Monday) to window. Empty: any time."""

    windows: Mapping[int, clock.Window] = field(default_factory=dict)

    @classmethod
    def from_node(cls, node: Node) -> Opening:
        """Read ``open: {mon-fri: "8:00-18:00", sat: "9:00-12:30"}``; raises `ValueError`."""
        data = node.data.get("open")
        windows: dict[int, clock.Window] = {}
        for days, hours in (data if isinstance(data, Mapping) else {}).items():
            start, _, end = str(hours).partition("-")
            window = clock.Window(clock.parse(start), clock.parse(end))
            for weekday in _weekdays(str(days)):
                windows[weekday] = window
        return cls(windows)

    def opens(self, on: date) -> bool:
        """Whether it is open at all that day."""
        return not self.windows or on.weekday() in self.windows

    def window(self, on: date | None) -> clock.Window:
        """What can be chosen that day; the widest window when the day is not known yet."""
        if not self.windows:
            return clock.ANY_TIME
        if on is not None and on.weekday() in self.windows:
            return self.windows[on.weekday()]
        return clock.Window(
            min(window.start for window in self.windows.values()),
            max(window.end for window in self.windows.values()),
        )


@dataclass(frozen=True, slots=True)
class Context:
    """What is known while a sentence is read."""

    today: date
    asked: str = ""
    """The slot that was asked for, if any."""
    opening: Opening = field(default_factory=Opening)
    period: str = ""
    """Time of day named earlier."""
    digits: str = ""
    """Part of a phone number given earlier."""
    least_digits: Mapping[str, int] = field(default_factory=dict)
    """Fewest digits of a phone number, by slot."""
    values: Mapping[str, Any] = field(default_factory=dict)
    """Slots already filled."""


def yes_or_no(text: str) -> bool | None:
    """How a sentence begins: True for yes, False for no, None for neither."""
    lowered = text.lower().replace("\u2019", "'").replace(",", "")
    if _POSITIVE_NO.search(lowered) or (_YES.search(lowered) and not _contrary(lowered)):
        return True
    return False if _NO.search(lowered) or _contrary(lowered) else None


def _contrary(lowered: str) -> bool:
    return bool(re.search(r"\b(?:isn't|not|that's not) (?:right|correct|quite right)\b", lowered))


def read(slots: Sequence[Slot], text: str, context: Context) -> dict[str, Reading]:
    """What `text` says about each of `slots`. Words used for one slot are not used for another."""
    kinds = {slot.name: slot.kind for slot in slots}
    # "not three, four": what is denied is not what is meant.
    said = numbers.normalize(_NOT_BUT.sub("", text))
    found: dict[str, Reading] = {}
    order = {"email": 0, "phone": 1, "day": 2, "time": 3, "name": 4, "number": 5, "choice": 6}
    for slot in sorted(
        slots, key=lambda slot: (order.get(slot.kind, 7), slot.name != context.asked)
    ):
        reading = _one(slot, said, text, context, found, kinds)
        if reading is None:
            continue
        found[slot.name] = reading
        if slot.kind in ("phone", "day", "time", "number"):
            start, end = reading.span
            said = f"{said[:start]}{'-' * (end - start)}{said[end:]}"
    return found


def _one(
    slot: Slot,
    said: str,
    text: str,
    context: Context,
    found: Mapping[str, Reading],
    kinds: Mapping[str, str],
) -> Reading | None:
    asked = slot.name == context.asked
    match slot.kind:
        case "email":
            return phone.email(text)
        case "phone":
            least = context.least_digits.get(slot.name, phone.MIN_DIGITS)
            before = context.digits if asked else ""
            return phone.find(said, asked=asked, before=before, least=least)
        case "day":
            return _day(said, context)
        case "time":
            return _time(said, context, found, kinds, asked=asked)
        case "name":
            if not asked and slot.name in context.values and not person.introduced(text):
                return None
            return person.find(_without(text, found), asked=asked and not _answered(found))
        case "number":
            return _number(said, asked=asked, alone=list(kinds.values()).count("number") == 1)
        case "choice":
            return _choice(slot, said, asked=asked)
        case "boolean":
            answer = yes_or_no(text) if asked else None
            return None if answer is None else Reading(answer, "yes" if answer else "no")
        case _:
            return _free(text) if asked else None


def _day(said: str, context: Context) -> Reading | None:
    reading = day.find(said, context.today, context.opening.opens)
    if reading is None or reading.problem:
        return reading
    on = date.fromisoformat(str(reading.value))
    if context.opening.opens(on):
        return reading
    name = day.WEEKDAYS[on.weekday()].capitalize()
    return Reading(problem="day_closed", detail=name, span=reading.span)


def _time(
    said: str,
    context: Context,
    found: Mapping[str, Reading],
    kinds: Mapping[str, str],
    *,
    asked: bool,
) -> Reading | None:
    on = known_day(context, found, kinds)
    window = context.opening.window(on)
    reading = clock.find(said, asked=asked, window=window, period=context.period)
    if reading is None or reading.problem:
        return reading
    minutes = clock.parse(str(reading.value))
    if window.start <= minutes < window.end:
        return reading
    hours = f"{clock.spoken(window.start)} to {clock.spoken(window.end)}"
    return Reading(problem="time_closed", detail=hours, span=reading.span)


def known_day(
    context: Context, found: Mapping[str, Reading], kinds: Mapping[str, str]
) -> date | None:
    """The day among what was just read or is filled already."""
    for name, kind in kinds.items():
        if kind == "day":
            reading = found.get(name)
            value = reading.value if reading else context.values.get(name)
            try:
                return date.fromisoformat(str(value))
            except ValueError:
                continue
    return None


def _answered(found: Mapping[str, Reading]) -> bool:
    """The sentence already gave something else: then a bare rest of it is no name."""
    return any(not reading.problem for reading in found.values())


def _without(text: str, found: Mapping[str, Reading]) -> str:
    return text if not found else re.sub(r"\d[\d\s:./-]*", " ", text)


def _number(said: str, *, asked: bool, alone: bool) -> Reading | None:
    value = numbers.cardinal(said)
    # Unasked, "one" is mostly a pronoun, and a number could belong to either of two slots.
    if value is None or (not asked and (value < 2 or not alone)):
        return None
    where = re.search(rf"\b{value}\b", said)
    return Reading(value, str(value), span=where.span() if where else (0, 0))


def _choice(slot: Slot, said: str, *, asked: bool) -> Reading | None:
    names = [numbers.normalize(choice) for choice in slot.choices]
    hits = [at for at, name in enumerate(names) if re.search(rf"\b{re.escape(name)}\b", said)]
    if not hits:
        words = [
            at
            for at, name in enumerate(names)
            if any(
                re.search(rf"\b{re.escape(word)}\b", said) for word in name.split() if len(word) > 3
            )
        ]
        hits = words if len(words) == 1 else []
    if not hits and asked:
        nth = re.search(r"\b(?:the )?(\d)(?:st|nd|rd|th)\b|\b(?:number|option) (\d)\b|^(\d)$", said)
        if nth and 1 <= int(nth[nth.lastindex or 1]) <= len(names):
            hits = [int(nth[nth.lastindex or 1]) - 1]
        elif re.search(r"\bthe last( one)?\b", said) and names:
            hits = [len(names) - 1]
    if not hits:
        return None
    best = max(hits, key=lambda at: len(names[at]))
    return Reading(slot.choices[best], slot.choices[best])


def _free(text: str) -> Reading | None:
    said = re.sub(
        r"^(?:(?:um+|uh+|er+|well|so|okay|ok)\b[\s,.]*)+", "", text.strip(), flags=re.IGNORECASE
    )
    said = said.strip(" .,!?")
    return Reading(said, said) if said else None


def _weekdays(text: str) -> list[int]:
    days: list[int] = []
    for part in text.lower().replace(" ", "").split(","):
        first, _, last = part.partition("-")
        try:
            start, end = _WEEK.index(first[:3]), _WEEK.index((last or first)[:3])
        except ValueError:
            raise ValueError(f"{part!r} is not a day or a range of days (mon-fri)") from None
        days.extend((start + step) % 7 for step in range((end - start) % 7 + 1))
    return days
