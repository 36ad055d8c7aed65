"""Days: "next Tuesday", "Friday the 12th", "the 3rd of March", "in two weeks"."""

from __future__ import annotations

import calendar
import re
from collections.abc import Callable
from datetime import date, timedelta

from flowcat_server.providers.llm._intents.slots.numbers import ordinal
from flowcat_server.providers.llm._intents.slots.reading import Reading

WEEKDAYS = tuple(name.lower() for name in calendar.day_name)
_MONTHS = tuple(name.lower() for name in calendar.month_name)
_HORIZON_DAYS = 365

# Besides abbreviations, how small speech models write the words when a line is poor.
_WEEKDAY_FORMS = {
    "mon": 0, "mondays": 0, "monde": 0,
    "tue": 1, "tues": 1, "tuesdays": 1, "tuseday": 1, "choose day": 1, "chews day": 1,
    "wed": 2, "weds": 2, "wednesdays": 2, "wensday": 2, "wendsday": 2, "when's day": 2,
    "wednes day": 2,
    "thu": 3, "thur": 3, "thurs": 3, "thursdays": 3, "thirsday": 3, "thirsty": 3, "third's day": 3,
    "fri": 4, "fridays": 4, "fryday": 4, "fry day": 4,
    "sat": 5, "saturdays": 5, "satur day": 5,
    "sun": 6, "sundays": 6,
} | {name: number for number, name in enumerate(WEEKDAYS)}  # fmt: skip
_MONTH_FORMS = {name: number for number, name in enumerate(_MONTHS) if name} | {
    name[:3]: number for number, name in enumerate(_MONTHS) if name
} | {"sept": 9}  # fmt: skip

_AMBIGUOUS = {"sun", "sat", "wed", "mon", "thirsty"}
"""Short forms that are words of their own: only after "on", "this", "next", "for", "by"."""


def _alternatives(words: set[str]) -> str:
    return "|".join(sorted((re.escape(word) for word in words), key=len, reverse=True))


_PLAIN = _alternatives(set(_WEEKDAY_FORMS) - _AMBIGUOUS)
_SHORT = _alternatives(_AMBIGUOUS)
_DAY = rf"(?P<weekday>\b(?:{_PLAIN})\b|(?<=\bon )(?:{_SHORT})\b|(?<=\bnext )(?:{_SHORT})\b|" \
    rf"(?<=\bthis )(?:{_SHORT})\b|(?<=\bfor )(?:{_SHORT})\b|(?<=\bby )(?:{_SHORT})\b)"  # fmt: skip
_MONTH = rf"(?P<month>{_alternatives(set(_MONTH_FORMS))})"
_NTH = r"(?P<nth>\d{1,2})(?:st|nd|rd|th)"
_NTH_LOOSE = r"(?P<nth>\d{1,2})(?:st|nd|rd|th)?"

_ISO = re.compile(r"\b(\d{4}) ?- ?(\d{1,2}) ?- ?(\d{1,2})\b")
_SLASHED = re.compile(r"\b(?P<nth>\d{1,2})/(?P<number>\d{1,2})(?:/\d{2,4})?\b")
_DATES = tuple(
    re.compile(pattern)
    for pattern in (
        rf"(?:{_DAY},? )?(?:the )?{_NTH_LOOSE} (?:of )?{_MONTH}\b",
        rf"(?:{_DAY},? )?{_MONTH} (?:the )?{_NTH_LOOSE}\b(?!:)",
        rf"(?:next |this )?{_DAY},? (?:the )?{_NTH}\b",
        rf"\b(?:the )?{_NTH}\b(?! (?:time|one|person|visit|floor))",
    )
)
_WEEKS_ON = (re.compile(rf"\b(?:a|1) week (?:from |on ){_DAY}"), re.compile(rf"{_DAY} week\b"))
_IN = re.compile(r"\bin (?P<count>\d{1,3}|a|an) (?P<unit>day|week|month)s?\b")
_RELATIVE = re.compile(
    r"\b(?P<after>day after tomorrow)\b|\b(?P<tomorrow>tomorrow|tomorow|to morrow)\b"
    r"|\b(?P<today>today|tonight|this (?:morning|afternoon|evening))\b"
)
_WEEKDAY = re.compile(rf"(?P<which>\bnext |\bthis |\bthis coming |\bcoming )?{_DAY}")
_SOON = re.compile(
    r"\b(?:as soon as (?:possible|you can)|asap|(?:the )?(?:earliest|soonest|first available)"
    r"|next available)\b"
)
_VAGUE = re.compile(
    r"\b(?:next|this|some ?time this|later this) (?:week|month)(?:end)?\b|\bweekend\b"
)

Find = Callable[[str, date], Reading | None]


def find(text: str, today: date, opens: Callable[[date], bool] = lambda _: True) -> Reading | None:
    """The first day named in a normalized sentence, from today on, at most a year away.

    A weekday and a date that do not belong together are a problem, not a guess.
    """
    rules: tuple[Find, ...] = (_iso, _relative, _week_on, _in, _dated, _slashed, _weekday)
    for rule in rules:
        found = rule(text, today)
        if found:
            return found
    if soon := _SOON.search(text):
        day = next((d for d in _ahead(today + timedelta(days=1), 14) if opens(d)), today)
        return reading(day, today, soon.span())
    if vague := _VAGUE.search(text):
        return Reading(problem="day_vague", detail=vague[0], span=vague.span())
    return None


def reading(day: date, today: date, span: tuple[int, int] = (0, 0)) -> Reading:
    """A day as a value."""
    return Reading(day.isoformat(), spoken(day, today), span=span)


def spoken(day: date, today: date) -> str:
    """A day as one says it: "tomorrow, Friday the 27th of November"."""
    name = f"{WEEKDAYS[day.weekday()].capitalize()} the {ordinal(day.day)}"
    if (day.year, day.month) != (today.year, today.month):
        name += f" of {calendar.month_name[day.month]}"
    if day == today:
        return "today"
    return f"tomorrow, {name}" if day == today + timedelta(days=1) else name


def _ahead(start: date, days: int) -> list[date]:
    return [start + timedelta(days=offset) for offset in range(days)]


def _next(weekday: int, start: date) -> date:
    return start + timedelta(days=(weekday - start.weekday()) % 7)


def _iso(text: str, today: date) -> Reading | None:
    found = _ISO.search(text)
    if not found:
        return None
    try:
        day = date(int(found[1]), int(found[2]), int(found[3]))
    except ValueError:
        return Reading(problem="day_unknown", span=found.span())
    if not today <= day <= today + timedelta(days=_HORIZON_DAYS):
        return Reading(problem="day_far", span=found.span())
    return reading(day, today, found.span())


def _relative(text: str, today: date) -> Reading | None:
    found = _RELATIVE.search(text)
    if not found:
        return None
    days = {"after": 2, "tomorrow": 1, "today": 0}[found.lastgroup or "today"]
    return reading(today + timedelta(days=days), today, found.span())


def _week_on(text: str, today: date) -> Reading | None:
    found = _WEEKS_ON[0].search(text) or _WEEKS_ON[1].search(text)
    if not found:
        return None
    weekday = _WEEKDAY_FORMS[found["weekday"]]
    day = _next(weekday, today + timedelta(days=1)) + timedelta(days=7)
    return reading(day, today, found.span())


def _in(text: str, today: date) -> Reading | None:
    found = _IN.search(text)
    if not found:
        return None
    count = int(found["count"]) if found["count"].isdecimal() else 1
    days = count * {"day": 1, "week": 7, "month": 30}[found["unit"]]
    if days > _HORIZON_DAYS:
        return Reading(problem="day_far", span=found.span())
    return reading(today + timedelta(days=days), today, found.span())


def _dated(text: str, today: date) -> Reading | None:
    for pattern in _DATES:
        found = pattern.search(text)
        if not found:
            continue
        groups = found.groupdict()
        weekday = _WEEKDAY_FORMS.get(groups.get("weekday") or "")
        month = _MONTH_FORMS.get(groups.get("month") or "")
        return _resolve(int(found["nth"]), month, weekday, today, found.span())
    return None


def _slashed(text: str, today: date) -> Reading | None:
    found = _SLASHED.search(text)
    if not found:
        return None
    first, second = int(found["nth"]), int(found["number"])
    if second > 12 >= first:
        first, second = second, first
    return _resolve(first, second, None, today, found.span())


def _resolve(
    nth: int, month: int | None, weekday: int | None, today: date, span: tuple[int, int]
) -> Reading:
    candidates = [
        day
        for day in _ahead(today, _HORIZON_DAYS)
        if day.day == nth and (month is None or day.month == month)
    ]
    if not candidates:
        return Reading(problem="day_unknown", span=span)
    if weekday is None:
        return reading(candidates[0], today, span)
    # "Friday the 12th" without a month means one of the next two such dates, or a slip.
    fits = [day for day in candidates[:2] if day.weekday() == weekday]
    if fits:
        return reading(fits[0], today, span)
    return Reading(problem="day_mismatch", detail=spoken(candidates[0], today), span=span)


def _weekday(text: str, today: date) -> Reading | None:
    found = _WEEKDAY.search(text)
    if not found:
        return None
    weekday = _WEEKDAY_FORMS[found["weekday"]]
    day = _next(weekday, today + timedelta(days=1))
    # "Next Friday", said from Monday to Thursday, is the one of the coming week.
    if (found["which"] or "").strip() == "next" and day.isocalendar()[:2] == today.isocalendar()[
        :2
    ]:
        day += timedelta(days=7)
    return reading(day, today, found.span())
