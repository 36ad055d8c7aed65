"""Times of day: "half past three", "3 30 pm", "ten in the morning", "noon"."""

from __future__ import annotations

import re
from dataclasses import dataclass

from flowcat_server.providers.llm._intents.slots.reading import Reading


@dataclass(frozen=True, slots=True)
class Window:
    """Minutes of the day between which a time is taken; the end is excluded."""

    start: int = 0
    end: int = 24 * 60


ANY_TIME = Window()

_PERIODS = {
    "morning": Window(5 * 60, 12 * 60),
    "afternoon": Window(12 * 60, 18 * 60),
    "evening": Window(17 * 60, 23 * 60),
    "night": Window(18 * 60, 24 * 60),
    "tonight": Window(17 * 60, 24 * 60),
}
_PERIOD = re.compile(
    r"\b(?:(?:in|at|by|for|around|during) )?(?:(?:the|this|that) )?(?:early |late |mid )?"
    r"(?P<period>morning|afternoon|evening|night|tonight)s?\b"
)
_GREETING = re.compile(r"\bgood (?:morning|afternoon|evening|night)\b")
_HALF = r"(?P<ampm>am|pm)"
_HOUR = r"(?P<hour>\d{1,2})"
_NOT_COUNT = (
    r"(?! (?:people|persons?|guests?|of us|nights?|minutes?|mins?|days?|weeks?|months?|hours?|"
    r"years?)\b)"
)
_CUE = r"\b(?:at|around|about|by|after|before|from|for|say|like|to|till|until|make it|be)"

_SPECIAL = {"noon": 720, "midday": 720, "mid day": 720, "lunchtime": 720, "lunch time": 720,
            "midnight": 0}  # fmt: skip
_NAMED = re.compile(r"\b(?:at |around )?(?P<word>" + "|".join(_SPECIAL) + r")\b")
_PAST = re.compile(
    rf"\b(?<!from )(?P<part>half|(?:a )?quarter|5|10|15|20|25)(?: minutes?)? "
    rf"(?P<side>past|passed|after|to|two|2|till|of|before) {_HOUR}\b(?!:)(?: ?{_HALF}\b)?"
)
_HALF_HOUR = re.compile(rf"\b(?P<part>half) {_HOUR}\b(?: ?{_HALF}\b)?")
_COLON = re.compile(rf"\b{_HOUR}:(?P<minute>\d{{2}})\b(?: ?{_HALF}\b)?")
_SPACED = re.compile(rf"\b{_HOUR} (?P<minute>[0-5]\d|0 \d)\b(?! ?\d)(?: ?{_HALF}\b)?")
_RUN = re.compile(rf"(?<![\d/:] )(?<![\d/:])\b(?P<run>\d{{3,4}})\b(?! ?\d)(?: ?{_HALF}\b)?")
_PLAIN = re.compile(rf"\b{_HOUR}(?: ?(?:{_HALF}\b|(?P<clock>o'clock)))")
_CUED = re.compile(rf"{_CUE} {_HOUR}\b(?![:/]| \d|st|nd|rd|th){_NOT_COUNT}")
_BARE = re.compile(rf"(?<![\d:/])\b{_HOUR}\b(?![:/]\d| \d){_NOT_COUNT}")
_ANY = re.compile(
    r"\b(?:any ?time|when ?ever|don't mind|do not mind|doesn't matter|does not matter|up to you|"
    r"you (?:choose|pick|decide)|no preference|don't care|not bothered|(?:either|any) is fine)\b"
)

_HEARD_AS = {
    "in": 10, "an": 10, "then": 10, "tan": 10, "tin": 10, "won": 1, "to": 2, "too": 2, "two": 2,
    "free": 3, "tree": 3, "for": 4, "four": 4, "fore": 4, "ate": 8, "night": 9,
}  # fmt: skip
"""What small recognizers make of an hour after "half past"."""
_MISHEARD = re.compile(
    rf"\b(?:half|have|hall|after|of|off|f) (?:past|passed|pass|path|pasta) "
    rf"(?P<hour>\d{{1,2}}|{'|'.join(_HEARD_AS)})\b"
)


def _heard(text: str) -> str:
    """The sentence with a misheard "half past ..." put right."""

    def right(found: re.Match[str]) -> str:
        hour = _HEARD_AS.get(found["hour"], found["hour"])
        return f"half past {hour}".ljust(len(found[0]))

    return _MISHEARD.sub(right, text)


def find(text: str, *, asked: bool, window: Window = ANY_TIME, period: str = "") -> Reading | None:
    """The time of day named in a normalized sentence.

    `asked`: the caller was just asked for a time, so that a bare number is one. `window` is what
    can be chosen; it decides between morning and afternoon where the caller did not. `period` is
    a time of day that was named before ("Tuesday morning").
    """
    if asked:
        text = _heard(text)
    text = _GREETING.sub(lambda found: "-" * len(found[0]), text)
    named = _PERIOD.search(text)
    said = named["period"] if named else period
    for pattern in _patterns(text, asked=asked, period=bool(named)):
        for found in pattern.finditer(text):
            minutes = _minutes(found)
            if minutes is None:
                continue
            half = found.groupdict().get("ampm") or ""
            minutes = _half_day(minutes, half, said, window)
            return reading(minutes, _union(found.span(), named))
    if word := _NAMED.search(text):
        return reading(_SPECIAL[word["word"]], word.span())
    if named:
        return Reading(problem="time_period", detail=named["period"], span=named.span())
    if asked and (free := _ANY.search(text)):
        return Reading(problem="time_any", span=free.span())
    return None


def reading(minutes: int, span: tuple[int, int] = (0, 0)) -> Reading:
    """Minutes since midnight as a value."""
    return Reading(f"{minutes // 60:02}:{minutes % 60:02}", spoken(minutes), span=span)


def spoken(minutes: int) -> str:
    """A time as one says it: "half past 3 in the afternoon"."""
    hour, minute = divmod(minutes, 60)
    if (hour, minute) == (12, 0):
        return "noon"
    short = hour % 12 or 12
    half = "AM" if hour < 12 else "PM"
    return f"{short} {half}" if minute == 0 else f"{short}:{minute:02} {half}"


def parse(text: str) -> int:
    """Minutes since midnight of ``HH:MM`` as written in a file; raises `ValueError`."""
    hour, _, minute = text.strip().partition(":")
    value = int(hour) * 60 + int(minute or 0)
    if not 0 <= value <= 24 * 60:
        raise ValueError(f"{text!r} is not a time of day")
    return value


def _patterns(text: str, *, asked: bool, period: bool) -> list[re.Pattern[str]]:
    patterns = [_PAST, _COLON, _PLAIN]
    loose = asked or period or re.search(rf"{_CUE} \d|\d ?[ap]m\b", text)
    if loose:
        patterns.extend([_HALF_HOUR, _SPACED, _RUN])
        # "330 pm" and "3 30 pm" hold an hour that the plain pattern would take out of the middle.
        patterns.sort(key=lambda pattern: pattern is _PLAIN)
    patterns.append(_CUED)
    if asked or period:
        patterns.append(_BARE)
    return patterns


def _minutes(found: re.Match[str]) -> int | None:
    groups = found.groupdict()
    if groups.get("run"):
        hour, minute = int(groups["run"][:-2]), int(groups["run"][-2:])
    else:
        hour, minute = int(groups["hour"]), int((groups.get("minute") or "0").replace(" ", ""))
    if part := groups.get("part"):
        quantity = 30 if part == "half" else 15 if part.endswith("quarter") else int(part)
        before = (groups.get("side") or "") in ("to", "two", "2", "till", "of", "before")
        if hour > 12 or quantity > 59:
            return None
        return (hour * 60 - quantity if before else hour * 60 + quantity) % (24 * 60)
    if hour > 23 or minute > 59:
        return None
    return hour * 60 + minute


def _half_day(minutes: int, half: str, period: str, window: Window) -> int:
    """Morning or afternoon, in the order: said, named before, what is open, what is usual."""
    if minutes >= 13 * 60 or minutes < 60:
        return minutes
    noonless = minutes % (12 * 60)
    choices = (noonless, noonless + 12 * 60)
    if half:
        return choices[half == "pm"]
    for wanted in (_PERIODS.get(period), window):
        fits = [m for m in choices if wanted and wanted.start <= m < wanted.end]
        if len(fits) == 1:
            return fits[0]
    return choices[noonless < 7 * 60]


def _union(span: tuple[int, int], named: re.Match[str] | None) -> tuple[int, int]:
    if named is None or named.start() > span[1] + 1 or named.end() < span[0] - 1:
        return span
    return min(span[0], named.start()), max(span[1], named.end())
