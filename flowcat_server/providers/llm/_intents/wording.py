"""Choosing and filling what is said."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from flowcat_server.core import templates
from flowcat_server.providers.llm._intents.language import Language

_FIELD = re.compile(r"\{(\w+)\}")
_LEAD_WORDS = 2
_SENTENCE = re.compile(r"(?<=[.!?])\s+")


class Wording:
    """Picks from a group in turn, so that the same thing is not said twice in a row.

    `counts` is the call's memory of how often each group was used.
    """

    def __init__(self, language: Language, persona: Mapping[str, Sequence[str]]) -> None:
        self._groups: dict[str, Sequence[str]] = {**language.wordings, **persona}

    def pick(self, group: str, counts: dict[str, int], **fields: str) -> str:
        """The group's next wording, filled."""
        return fill(self.choose(self._groups[group], group, counts), fields)

    @staticmethod
    def choose(texts: Sequence[str], name: str, counts: dict[str, int]) -> str:
        """The next of `texts`, counted under `name`."""
        number = counts.get(name, 0)
        counts[name] = number + 1
        return texts[number % len(texts)]

    def __contains__(self, group: str) -> bool:
        return group in self._groups


def fill(text: str, fields: Mapping[str, str]) -> str:
    """Replace ``{field}``; an unknown one becomes nothing."""
    return _FIELD.sub(lambda found: fields.get(found[1], ""), text)


def render(text: str, variables: Mapping[str, Any], spoken: Mapping[str, str]) -> str:
    """Fill in ``{{variables}}``; a slot's value as it is said, not as it is stored."""
    return " ".join(templates.render(text, {**variables, **spoken}).split())


def without_lead(text: str) -> str:
    """A text without a lead-in such as "Sure.", to be put behind another one."""
    parts = sentences(text)
    if len(parts) > 1 and len(parts[0].split()) <= _LEAD_WORDS and not parts[0].endswith("?"):
        parts = parts[1:]
    return re.sub(r"^(?:Yes|Sure|Well|Okay|So), (\w)", _upper, " ".join(parts))


def _upper(found: re.Match[str]) -> str:
    return found[1].upper()


def sentences(text: str) -> list[str]:
    """The sentences of a text that is to be spoken."""
    return [part for part in _SENTENCE.split(text.strip()) if part]


def listed(items: Sequence[str], last: str = "and") -> str:
    """Items in a row: a, b and c."""
    if len(items) < 2:
        return "".join(items)
    return f"{', '.join(items[:-1])} {last} {items[-1]}"


def lower_first(text: str) -> str:
    """A sentence to be put behind other words; "I" and names in capitals keep theirs."""
    first = text.split(" ", 1)[0]
    if first in ("I", "I'm", "I'd", "I'll") or first[1:2].isupper():
        return text
    return text[:1].lower() + text[1:]
