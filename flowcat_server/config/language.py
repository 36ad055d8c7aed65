"""Reads the words of turn-taking: ``words/<language>.yaml``, one file for each language."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import yaml

from flowcat_server.config.topology import ProviderSpec
from flowcat_server.core.language import Phrase, TurnWords, phrase

_FOLDER = Path(__file__).parent / "words"
DEFAULT = "en"


@cache
def languages() -> tuple[str, ...]:
    """Languages that have words, as ISO 639-1 codes."""
    return tuple(sorted(path.stem for path in _FOLDER.glob("*.yaml")))


def turn_words(code: str) -> TurnWords | None:
    """The words of a language code such as ``en`` or ``de-DE``; empty: English; None: none."""
    name = primary(code)
    return _load(name) if name in languages() else None


def spoken(stt: ProviderSpec) -> str:
    """The language code that callers are transcribed in; empty: the default.

    Flowcat's files may have it among the provider's options.
    """
    return stt.language or str(stt.options.get("language") or "")


def primary(code: str) -> str:
    """The language of a code, without its region: ``de_AT`` is ``de``."""
    return code.replace("_", "-").split("-")[0].strip().lower() or DEFAULT


@cache
def _load(name: str) -> TurnWords:
    data = yaml.safe_load((_FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))
    digits_of = {
        **dict.fromkeys(_phrases(data["digits"]), 1),
        **dict.fromkeys(_phrases(data["pairs"]), 2),
        **dict.fromkeys(_phrases(data["tens"]), 2),
        **{phrase(word): count for word, count in data["zeros"].items()},
    }
    return TurnWords(
        language=name,
        endings=_phrases(data["endings"]),
        unmarked_endings=_phrases(data["unmarked_endings"]),
        stranded=_phrases(data["stranded"]),
        question_words=frozenset(data["question_words"]),
        backchannels=_phrases(data["backchannels"]),
        digits_of=digits_of,
        tens=_phrases(data["tens"]),
        joiners=frozenset(data["joiners"]),
        repeats=data["repeats"],
        letter_names=_phrases(data["letter_names"]),
        spelled_as=_phrases(data["spelled_as"]),
        spelling=frozenset(data["spelling"]),
        places=_phrases(data["places"]),
        mail=_phrases(data["mail"]),
        at_signs=frozenset(data["at_signs"]),
        dots=frozenset(data["dots"]),
        machines=_phrases(data["machines"]),
        people=_phrases(data["people"]),
    )


def _phrases(texts: list[Any]) -> frozenset[Phrase]:
    return frozenset(phrase(text) for text in texts)
