"""How long a silence has to last before the caller has finished, by what was said.

Pure: a transcript and what the agent asked for give a wait in milliseconds. Every wait is
bounded by one of three numbers of the agent file:

- `min_delay_ms` after what can stand alone, and as soon as an asked number is complete;
- `max_delay_ms` after a sentence that asks for more ("I'd like to, um");
- `number_delay_ms` while something is dictated: numbers, spellings and addresses come in groups,
  with pauses that would end any other sentence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flowcat_server.core.graph import Slot
from flowcat_server.core.language import TurnWords, tokens

FEW_WORDS = 4
"""What a transcriber makes of a group of digits that it mishears is short; a longer sentence
without a digit is something else that the caller has to say."""


@dataclass(frozen=True, slots=True)
class Expects:
    """What the agent has asked for, as far as it changes how people say it."""

    number: bool = False
    """A number that is dictated, such as a phone number."""
    digits: int = 0
    """How many digits a number has that is collected here; 0: not known."""
    name: bool = False
    """A name: it may be spelled."""
    spelling: bool = False
    """The caller was asked to spell."""
    address: bool = False
    """A postal address: it comes in pieces, and nobody can tell which is the last."""
    mail: bool = False
    """An e-mail address."""

    @property
    def dictated(self) -> bool:
        """Something that comes in pieces."""
        return self.number or self.spelling or self.address or self.mail


NOTHING = Expects()


@dataclass(frozen=True, slots=True)
class Endpointing:
    """The waits of one agent, and the language its callers speak."""

    min_delay_ms: int = 320
    max_delay_ms: int = 1200
    number_delay_ms: int = 1400
    """Groups of a dictated number are 700 to 1200 ms apart, and a voice is known for one only
    after some 100 ms."""
    words: TurnWords | None = None
    """None: every turn ends after `min_delay_ms`."""

    @property
    def longest_ms(self) -> int:
        """No wait is longer."""
        return max(self.min_delay_ms, self.max_delay_ms, self.number_delay_ms)

    def delay_ms(self, text: str, expects: Expects = NOTHING, goes_on: bool = False) -> int:
        """Silence that ends a turn with this transcript so far.

        `goes_on`: by the sound of it, the sentence is not over.
        """
        delay = self._by_words_ms(text, expects)
        return max(delay, self.max_delay_ms) if goes_on else delay

    def _by_words_ms(self, text: str, expects: Expects) -> int:
        words = self.words
        if words is None or not text:
            return self.min_delay_ms
        dictated = max(self.min_delay_ms, self.number_delay_ms)
        if _dictated(words, text, expects):
            return dictated
        if words.unfinished(text) and not _complete(words, text, expects):
            return max(self.max_delay_ms, dictated) if expects.dictated else self.max_delay_ms
        return self.min_delay_ms

    def expects(self, slots: Sequence[Slot], known: Mapping[str, Any]) -> Expects:
        """What a node that collects `slots` is asking for: the first that is not known yet."""
        missing = [slot for slot in slots if known.get(slot.name) in (None, "")]
        if not missing:
            return NOTHING
        first, words = missing[0], self.words
        asked = " ".join((first.name.replace("_", " "), first.prompt, *first.ask))
        text = first.kind == "string" and words is not None
        return Expects(
            number=first.kind == "phone" or (first.kind == "number" and first.digits > 0),
            digits=next((slot.digits for slot in missing if slot.digits), 0),
            name=first.kind == "name",
            spelling=words is not None and words.asks_to_spell(asked),
            address=text and words is not None and words.asks_for_place(asked),
            mail=text and words is not None and words.asks_for_mail(asked),
        )


def _complete(words: TurnWords, text: str, expects: Expects) -> bool:
    """The number that was asked for has all its digits."""
    return expects.digits > 0 and words.digits(text) >= expects.digits


def _dictated(words: TurnWords, text: str, expects: Expects) -> bool:
    """More digits or letters may come."""
    if _complete(words, text, expects):
        return False
    if words.open_number(text, 0 if expects.number else None):
        return True
    if words.open_spelling(text, expects.name or expects.spelling):
        return True
    if words.is_question(text):
        return False
    if expects.mail or expects.address:
        return not words.is_backchannel(text) and not (expects.mail and words.whole_mail(text))
    if not expects.dictated:
        return False
    if not expects.spelling and words.is_backchannel(text):
        return False  # "Yes.": an answer to something else
    # A transcriber hears groups of digits or letters as all kinds of words.
    few = len(tokens(text)) <= FEW_WORDS
    return expects.spelling or few or words.digits(text) > 0
