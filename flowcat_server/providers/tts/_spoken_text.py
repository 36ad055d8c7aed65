"""Turns text that was written to be read into text that can be said (English).

Language models and templates write markdown, addresses, prices and telephone numbers; a speech
synthesizer spells out asterisks, reads ``$25`` as "dollar twenty-five", a telephone number as
hundreds, and takes the point of ``Dr.`` for the end of the sentence.
"""

from __future__ import annotations

import re
from functools import partial

_CHARACTERS = str.maketrans(
    {
        "\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"', "\u2026": "...",
        "\u00a0": " ", "\u202f": " ", "\u2011": "-", "\u2010": "-", "\u2212": "-",
        "<": " ", ">": " ", "[": " ", "]": " ", "{": " ", "}": " ", "|": ", ",
        "\\": " ", "^": " ", "~": " ", "\u2022": ", ",
    }
)  # fmt: skip

_ABBREVIATIONS = {
    "dr": "doctor", "mr": "mister", "mrs": "missis", "ms": "miss", "prof": "professor",
    "st": "saint", "no": "number", "vs": "versus", "approx": "approximately",
    "appt": "appointment", "dept": "department", "min": "minutes", "hrs": "hours",
    "mon": "Monday", "tue": "Tuesday", "tues": "Tuesday", "wed": "Wednesday",
    "thu": "Thursday", "thur": "Thursday", "thurs": "Thursday", "fri": "Friday",
    "sat": "Saturday", "sun": "Sunday",
}  # fmt: skip
_DAYS = r"(?:Mon|Tues?|Wed|Thur?s?|Fri|Sat|Sun)(?:[a-z]*day)?"

_LINK = re.compile(r"!?\[([^\]\n]*)\]\((?:[^()\s]|\([^()\s]*\))*\)")
_URL = re.compile(r"\b(?:https?://|www\.)[^\s<>\"')\]]+", re.IGNORECASE)
_TAG = re.compile(r"</?[a-zA-Z][^<>]{0,200}>")
_BULLET = re.compile(r"^[ \t]*(?:[-*+\u2022]|#{1,6}|>)[ \t]+", re.MULTILINE)
_MARKS = re.compile(r"[*`#_]+(?=\w)|(?<=\w)[*`_]+|[*`_]{1,}|(?<![\w])#(?!\d)")
_TABLE = re.compile(r"^[|\s:-]{3,}$", re.MULTILINE)
_DASH = re.compile(r"\s*(?:\u2014|\u2013(?!\d)|(?<!-)--(?!-))\s*|\s+[-\u2013]\s+")
_RANGE = re.compile(
    r"(?<![\d/-])(\d[\d:.,]*(?:\s?[ap]\.?m\.?)?)\s?[-\u2013]\s?([$]?\d[\d:,]*)(?![\d/-])",
    re.IGNORECASE,
)
_DAY_RANGE = re.compile(rf"\b({_DAYS})\.?\s?[-\u2013]\s?({_DAYS})\b\.?")
_PHONE = re.compile(
    r"(?<![\w.-])(?:\+?\d{1,3}[ .-])?(?:\(\d{3}\)[ ]?|\d{3}[ .-])\d{3}[ .-]\d{4}(?![\w-])"
    r"|(?<![\w.-])\d{3}-\d{4}(?![\w-])"
    r"|\+\d{7,15}\b"
)
_MONEY = re.compile(
    r"([$\u00a3\u20ac])\s?(\d{1,3}(?:,\d{3})+|\d+)(?:\.(\d\d))?(?!\d)(\s?(?:k|thousand|million|billion)\b)?"
)
_MONEY_NAMES = {
    "$": ("dollar", "cent"), "\u00a3": ("pound", "penny"), "\u20ac": ("euro", "cent"),
}  # fmt: skip
_TITLE = re.compile(r"\b(dr|mrs?|ms|prof|st)\.\s+(?=[A-Z])", re.IGNORECASE)
_SHORT = re.compile(r"\b(no|vs|approx|appt|dept|hrs)\.(?=\s+[\da-z])", re.IGNORECASE)
_O_CLOCK = re.compile(r"\b(\d{1,2}):00(?!\d|:)(\s?[ap]\.?m\b\.?)?", re.IGNORECASE)
_NUMBER_SIGN = re.compile(r"#(?=\d)")
_SPACE = re.compile(r"\s+")
_LINES = re.compile(r"(?<=[\w)\"'])[ \t]*\n\s*")
_PUNCTUATION_RUN = re.compile(r"\s*([,;:])(?:\s*[,;:])*")
_BEFORE_END = re.compile(r"[,;:\s]+([.!?])")


def speakable(text: str) -> str:
    """What is to be said for `text`; empty when nothing in it can be said."""
    text = _TABLE.sub(" ", text)
    text = _LINK.sub(r"\1", text)
    text = _TAG.sub(" ", text)
    text = _URL.sub(_say_url, text)
    text = _BULLET.sub("", text)
    text = _LINES.sub(". ", text)
    text = text.translate(_CHARACTERS)
    text = _PHONE.sub(_say_phone, text)
    text = _DAY_RANGE.sub(_say_days, text)
    text = _RANGE.sub(r"\1 to \2", text)
    text = _MONEY.sub(_say_money, text)
    text = _O_CLOCK.sub(_say_o_clock, text)
    text = _NUMBER_SIGN.sub("number ", text)
    text = _TITLE.sub(partial(_expand, suffix=" "), text)
    text = _SHORT.sub(_expand, text)
    text = _MARKS.sub(" ", text)
    text = text.replace("&", " and ")
    text = _DASH.sub(", ", text)
    text = "".join(c for c in text if _sayable(c))
    text = _SPACE.sub(" ", text).strip()
    text = _PUNCTUATION_RUN.sub(r"\1", text)
    text = _BEFORE_END.sub(r"\1", text).lstrip(" ,;:.!?")
    return text if any(c.isalnum() for c in text) else ""


def _sayable(character: str) -> bool:
    # Letters, digits and marks of every script; ASCII; currency and degree signs. What is left
    # out are emoji, arrows, box drawing, private use and control characters.
    if character in "\n\t":
        return True
    if character < "\x7f":
        return character >= " "
    return character.isalnum() or character in "\u00a3\u20ac\u00b0%\u2014\u2013"


def _say_url(match: re.Match[str]) -> str:
    address = match.group()
    tail = address[len(address.rstrip(".,;:!?")) :]
    bare = re.sub(r"^(?:https?://)?(?:www\.)?", "", address.rstrip(".,;:!?"), flags=re.IGNORECASE)
    return re.split(r"[?#]", bare)[0].rstrip("/") + tail


def _say_phone(match: re.Match[str]) -> str:
    groups = re.findall(r"\d+", match.group())
    if len(groups) == 1:
        digits = groups[0]
        groups = [digits[i : i + 3] for i in range(0, len(digits) - 4, 3)] + [digits[-4:]]
        if sum(map(len, groups)) != len(digits):
            groups = [digits[i : i + 3] for i in range(0, len(digits), 3)]
    spoken = ", ".join(" ".join(group) for group in groups)
    return f"plus {spoken}" if match.group().startswith("+") else spoken


def _say_days(match: re.Match[str]) -> str:
    first, last = (_ABBREVIATIONS.get(day.lower(), day) for day in match.groups())
    return f"{first} to {last}"


def _say_money(match: re.Match[str]) -> str:
    sign, whole, cents, scale = match.groups()
    unit, small = _MONEY_NAMES[sign]
    if scale:
        scale = " thousand" if scale.strip().lower() == "k" else f" {scale.strip()}"
        amount = f"{whole}.{cents}" if cents else whole
        return f"{amount}{scale} {unit}s"
    spoken = f"{whole} {unit}" + ("" if whole == "1" else "s")
    if cents and cents != "00":
        plural = "pence" if small == "penny" else f"{small}s"
        spoken += f" and {int(cents)} {small if int(cents) == 1 else plural}"
    return spoken


def _say_o_clock(match: re.Match[str]) -> str:
    hour, half = match.groups()
    return f"{int(hour)}{half}" if half else f"{int(hour)} o'clock"


def _expand(match: re.Match[str], suffix: str = "") -> str:
    return _ABBREVIATIONS[match.group(1).lower()] + suffix
