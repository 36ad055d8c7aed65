"""Phone numbers and e-mail addresses."""

from __future__ import annotations

import re

from flowcat_server.providers.llm._intents.slots.reading import Reading

MIN_DIGITS = 6
MAX_DIGITS = 15
"""ITU-T E.164 section 6: at most fifteen digits with the country code."""

_KEYPAD = re.compile(r"\[\s*keypad\s*:\s*([\d*#\s]*)\]", re.IGNORECASE)
_RUN = re.compile(r"(?:\+ ?|plus )?(?:\(? ?\d[\d ()/.,-]*)(?:-|\d|\))")
_EMAIL = re.compile(
    r"\b([a-z0-9][\w.+-]*)\s*@\s*([a-z0-9-]+(?:\s*\.\s*[a-z0-9-]+)+)", re.IGNORECASE
)


def keypad(text: str) -> str:
    """The keys of a ``[keypad: 4 2 #]`` message, or an empty string."""
    return "".join("".join(found.split()) for found in _KEYPAD.findall(text))


def find(text: str, *, asked: bool, before: str = "", least: int = MIN_DIGITS) -> Reading | None:
    """The longest run of digits in a normalized sentence, if it can be a phone number.

    `before` holds digits the caller gave in an earlier breath, `least` how many it takes. Asked,
    a run that is too short is a ``phone_short`` problem whose detail is what there is so far.
    """
    runs = [(found, _digits(found[0])) for found in _RUN.finditer(text)]
    if asked:
        # "0 7 7 double 0, that's 900, 123": short words between the groups belong to it.
        joined = "".join(digits.lstrip("+") for _, digits in runs)
        if joined:
            plus = "+" if (before or runs[0][1]).startswith("+") else ""
            digits = plus + before.lstrip("+") + joined
            return _reading(digits, (runs[0][0].start(), runs[-1][0].end()), least)
        single = re.search(r"\b\d\b", text)
        if single and before:
            return _reading(before + single[0], single.span(), least)
        return None
    best = max(runs, key=lambda run: len(run[1]), default=None)
    if best is None or len(best[1].lstrip("+")) < MIN_DIGITS:
        return None
    return _reading(best[1], best[0].span(), MIN_DIGITS)


def spoken(digits: str) -> str:
    """Digit by digit, in groups with a short pause: "0 7 7, 0 0 9, 0 0 1 2 3"."""
    plain = digits.lstrip("+")
    groups = [plain[at : at + 3] for at in range(0, len(plain), 3)]
    if len(groups) > 1 and len(groups[-1]) < 3:
        groups[-2:] = [groups[-2] + groups[-1]]
    text = ", ".join(" ".join(group) for group in groups)
    return f"plus {text}" if digits.startswith("+") else text


def email(text: str) -> Reading | None:
    """An e-mail address, written or said ("anna at example dot com")."""
    said = re.sub(
        r"\s+(?:at|@)\s+(?=[\w-]+(?:\s*\.\s*|\s+dot\s+)\w)", "@", text, flags=re.IGNORECASE
    )
    said = re.sub(r"\s+dot\s+", ".", said, flags=re.IGNORECASE)
    said = re.sub(r"\s+(underscore|dash|hyphen)\s+", _symbol, said, flags=re.IGNORECASE)
    found = _EMAIL.search(said)
    if not found:
        return None
    domain = "".join(found[2].split())
    address = f"{found[1]}@{domain}".lower().rstrip(".")
    return Reading(address, address.replace("@", " at ").replace(".", " dot "))


def _symbol(found: re.Match[str]) -> str:
    return "_" if found[1].lower() == "underscore" else "-"


def _digits(text: str) -> str:
    plus = "+" if text.startswith(("+", "plus")) else ""
    return plus + re.sub(r"\D", "", text)


def _reading(digits: str, span: tuple[int, int], least: int) -> Reading:
    count = len(digits.lstrip("+"))
    if count < least:
        return Reading(problem="phone_short", detail=digits, span=span)
    if count > MAX_DIGITS:
        return Reading(problem="phone_long", span=span)
    return Reading(digits, spoken(digits), span=span)
