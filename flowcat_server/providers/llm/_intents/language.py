"""The data file of a language: built-in intents, wordings, rewriting of conditions."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml

LANGUAGES = ("en",)


@dataclass(frozen=True, slots=True)
class Language:
    """What the provider knows of a language before it has read any agent file."""

    intents: Mapping[str, tuple[str, ...]]
    conditions: Mapping[str, tuple[str, ...]]
    wordings: Mapping[str, tuple[str, ...]]
    third_person: tuple[tuple[re.Pattern[str], str], ...]
    proposals: tuple[tuple[re.Pattern[str], str], ...]

    def as_caller(self, condition: str) -> str:
        """A condition about the caller as the caller would say it."""
        text = condition.strip().rstrip(".")
        for pattern, replacement in self.third_person:
            text = pattern.sub(replacement, text)
        return text

    def as_proposal(self, condition: str) -> str:
        """A condition as what the caller could do ("book a visit"); empty if it says none."""
        said = self.as_caller(condition)
        for pattern, replacement in self.proposals:
            if pattern.search(said):
                return pattern.sub(replacement, said)
        return ""


@cache
def load(name: str) -> Language:
    """Read ``data/<name>.yaml``."""
    path = Path(__file__).parent / "data" / f"{name}.yaml"
    data = yaml.safe_load(path.read_text(encoding="utf-8"))
    return Language(
        intents={key: tuple(phrases) for key, phrases in data["intents"].items()},
        conditions={key: tuple(phrases) for key, phrases in data["conditions"].items()},
        wordings={key: tuple(texts) for key, texts in data["wordings"].items()},
        third_person=_rewriting(data["third_person"]),
        proposals=_rewriting(data["proposals"]),
    )


def _rewriting(pairs: list[list[str]]) -> tuple[tuple[re.Pattern[str], str], ...]:
    return tuple((re.compile(pattern, re.IGNORECASE), text) for pattern, text in pairs)
