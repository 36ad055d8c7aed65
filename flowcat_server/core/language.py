"""What of turn-taking depends on a language: words, and questions about a transcript.

The words are data (``config/words/<language>.yaml``), read by `flowcat_server.config.language`;
here are the rules that hold for all of them. A transcript may spell numbers out ("five five
five") or not ("555"), and may be punctuated or not: transcribers differ.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

Phrase = tuple[str, ...]

DICTATED = 3
"""So many digits said one by one, or in one piece, are dictated: shorter numbers are amounts,
hours, houses, and nobody goes on after them."""

_TOKEN = re.compile(r"\d+(?:[.,:]\d+)*|[^\W\d_]+(?:['\u2019][^\W\d_]+)*|[$€£¥%°@]")
_STRETCHED = re.compile(r"(.)\1{2,}")
_TRAILING = re.compile(r"(?:\.\.+|[…,;:\-\u2013\u2014])[\s\"')\u2019\u201d]*$")
"""A transcriber that writes this at the end heard a voice that stays up."""
_QUESTION = re.compile(r"[?\uff1f\u061f][\s\"')\u2019\u201d]*$")
_FULL_STOP = re.compile(r"[.!\u3002][\s\"')\u2019\u201d]*$")
_SENTENCE_END = re.compile(r"[.!?\u2026\u3002]+")
_SEPARATED = re.compile(r"^\d+[.,]\d+$")
"""A price, a clock time, thousands: no digits said one by one."""
_AMOUNT = re.compile(r"[$€£¥%°@]")


class Number(NamedTuple):
    """A stretch of a transcript that is one number, however it was said."""

    digits: int
    """How many digits were said."""
    run: int
    """The most digits said one by one or written in one piece."""
    last: bool
    """Nothing was said after it."""


@dataclass(frozen=True, slots=True)
class TurnWords:
    """The words of one language, as phrases of lower-case tokens (`tokens`)."""

    language: str
    endings: frozenset[Phrase]
    """Endings that no sentence ends with: conjunctions, articles, fillers."""
    unmarked_endings: frozenset[Phrase]
    """Endings that a sentence may have ("turn it on."): unfinished without a full stop."""
    stranded: frozenset[Phrase]
    """Prepositions that end a question only together with a question word."""
    question_words: frozenset[str]
    backchannels: frozenset[Phrase]
    """What listeners say without wanting the floor."""
    digits_of: Mapping[Phrase, int]
    """Number words, and how many digits each stands for."""
    tens: frozenset[Phrase]
    """Number words that the next digit belongs to: "twenty" in "twenty one"."""
    joiners: frozenset[str]
    """Words between tens and that digit: Spanish "y"."""
    repeats: Mapping[str, int]
    """Words that say the next digit more than once: "double"."""
    letter_names: frozenset[Phrase]
    """Names of letters that are not written as one letter: "double u"."""
    spelled_as: frozenset[Phrase]
    """What stands between a letter and a word that begins with it: "as in"."""
    spelling: frozenset[str]
    """Words that announce a spelling."""
    places: frozenset[Phrase]
    """Words by which a postal address is asked for."""
    mail: frozenset[Phrase]
    """Words by which an e-mail address is asked for."""
    at_signs: frozenset[str]
    """What "@" is called."""
    dots: frozenset[str]
    """What the dot in an e-mail address is called."""
    machines: frozenset[Phrase]
    """What only an answering machine says: "after the tone"."""
    people: frozenset[Phrase]
    """What only a person says who answers the phone: "how can I help"."""
    longest: int = field(init=False)
    """Tokens of the longest phrase."""

    def __post_init__(self) -> None:
        phrases: list[Collection[Phrase]] = [
            self.endings, self.unmarked_endings, self.stranded, self.backchannels,
            self.digits_of, self.tens, self.letter_names, self.spelled_as, self.places, self.mail,
            self.machines, self.people,
        ]  # fmt: skip
        longest = max((len(phrase) for group in phrases for phrase in group), default=1)
        object.__setattr__(self, "longest", longest)

    def is_backchannel(self, text: str) -> bool:
        """The whole of it is what listeners say: "Yeah, yeah. Right."."""
        said = tokens(text)
        at = 0
        while at < len(said):
            used = self._match(self.backchannels, said, at)
            if not used:
                return False
            at += used
        return at > 0

    def is_question(self, text: str) -> bool:
        """The transcriber heard a question."""
        return bool(_QUESTION.search(text))

    def unfinished(self, text: str) -> bool:
        """It ends as nobody ends a sentence."""
        said = tokens(text)
        if self.is_question(text):  # transcribers also put the mark where the voice stays up
            asked = any(token in self.question_words for token in said)
            return not asked and self._ends_in(self.stranded, said)
        if self.is_backchannel(text):
            return False
        if _TRAILING.search(text):
            return True
        if self._ends_in(self.endings, said):
            return True
        if not _FULL_STOP.search(text):
            return self._ends_in(self.unmarked_endings, said)
        # "I'm calling because. Well." stops nowhere: such a word is no sentence of its own.
        last = tuple(tokens(_SENTENCE_END.split(text.rstrip(" .!\u2026"))[-1]))
        return last in self.unmarked_endings

    def digits(self, text: str) -> int:
        """How many digits have been said in all."""
        return sum(number.digits for number in self._numbers(text))

    def open_number(self, text: str, expected: int | None = None) -> bool:
        """It ends in a number that may go on.

        `expected`: digits of the number that was asked for; 0: a number was asked for, its
        length is not known; None: none was, so only a dictated one counts.
        """
        numbers = list(self._numbers(text))
        if not numbers or not numbers[-1].last:
            return False
        if expected:
            return sum(number.digits for number in numbers) < expected
        return expected is not None or numbers[-1].run >= DICTATED

    def is_machine(self, text: str) -> bool:
        """Only an answering machine says this."""
        return self._has(self.machines, text)

    def is_person(self, text: str) -> bool:
        """Only a person says this who answers the phone."""
        return self._has(self.people, text)

    def asks_to_spell(self, text: str) -> bool:
        """It speaks of spelling."""
        return any(token in self.spelling for token in tokens(text))

    def asks_for_place(self, text: str) -> bool:
        """It speaks of a postal address."""
        return self._has(self.places, text) and not self.asks_for_mail(text)

    def asks_for_mail(self, text: str) -> bool:
        """It speaks of an e-mail address."""
        return self._has(self.mail, text)

    def whole_mail(self, text: str) -> bool:
        """It ends in a whole e-mail address: a name, a server, and what stands behind its dot."""
        said = tokens(text)
        signs = [at for at, token in enumerate(said) if token in self.at_signs]
        server = said[signs[-1] + 1 :] if signs and signs[-1] else []
        names = [token for token in server if token not in self.dots]
        return len(names) >= 2 and server[-1] not in self.dots

    def open_spelling(self, text: str, expected: bool = False) -> bool:
        """It ends in letters said one by one.

        `expected`: a name was asked for, so that "MA" is two letters and no word.
        """
        if self.is_backchannel(text):
            return False
        said = tokens(text)
        expected = expected or self.asks_to_spell(text)
        written = [token.replace("\u2019", "'") for token in _TOKEN.findall(text)]
        letters, at = 0, 0
        while at < len(said):
            used = self._match(self.letter_names, said, at)
            if used or _is_letter(said[at]):
                letters += 1
                letter, at = said[at], at + (used or 1)
                link = self._match(self.spelled_as, said, at)
                if link and at + link < len(said) and said[at + link].startswith(letter):
                    letters += 1  # "M as in Mike" is one letter, but spelling, even alone
                    at += link + 1
                continue
            if expected and len(written[at]) <= 4 and written[at].isupper():
                letters += len(written[at])
            else:
                letters = 0
            at += 1
        return letters >= (1 if expected else 2)

    # --- inside -------------------------------------------------------------------------------

    def _has(self, phrases: Collection[Phrase], text: str) -> bool:
        said = tokens(text)
        return any(self._match(phrases, said, at) for at in range(len(said)))

    def _match(self, phrases: Collection[Phrase], said: Sequence[str], at: int) -> int:
        """Tokens of the longest phrase that stands at `at`; 0: none."""
        for length in range(min(self.longest, len(said) - at), 0, -1):
            if tuple(said[at : at + length]) in phrases:
                return length
        return 0

    def _ends_in(self, phrases: Collection[Phrase], said: Sequence[str]) -> bool:
        lengths = range(1, min(self.longest, len(said)) + 1)
        return any(tuple(said[-length:]) in phrases for length in lengths)

    def _numbers(self, text: str) -> Iterator[Number]:
        """Every stretch of number words and numerals, in order."""
        said = tokens(text)
        digits = run = longest_run = times = 0
        at = 0
        while at < len(said):
            token = said[at]
            before = said[at - 1] if at else ""
            if token[0].isdecimal() and ":" not in token and not _AMOUNT.match(before):
                count, used = sum(char.isdecimal() for char in token), 1
                one_by_one = _SEPARATED.search(token) is None
            else:
                used = self._match(self.digits_of, said, at)
                count = self.digits_of[tuple(said[at : at + used])] if used else 0
                one_by_one = count == 1
                if used and tuple(said[at : at + used]) in self.tens:
                    used += self._unit_after(said, at + used)
            if used:
                count *= times or 1
                digits, times = digits + count, 0
                run = run + count if one_by_one else 0
                longest_run = max(longest_run, run)
                at += used
                continue
            if token in self.repeats:
                times = self.repeats[token]
                at += 1
                continue
            if digits:
                yield Number(digits, longest_run, last=False)
            digits = run = longest_run = times = 0
            at += 1
        if digits or times:
            yield Number(digits, max(longest_run, DICTATED if times else 0), last=True)

    def _unit_after(self, said: Sequence[str], at: int) -> int:
        """Tokens of a digit that belongs to the tens before it."""
        joined = at + 1 if at < len(said) and said[at] in self.joiners else at
        used = self._match(self.digits_of, said, joined)
        if used and self.digits_of[tuple(said[joined : joined + used])] == 1:
            return joined + used - at
        return 0


def tokens(text: str) -> list[str]:
    """Words, numerals and a few signs in lower case; "Mm-hmmmm." is ``mm``, ``hmm``."""
    plain = text.lower().replace("\u2019", "'")
    return [_STRETCHED.sub(r"\1\1", t) if t[0].isalpha() else t for t in _TOKEN.findall(plain)]


def phrase(text: str) -> Phrase:
    """A phrase as `TurnWords` holds it."""
    return tuple(tokens(text))


def _is_letter(token: str) -> bool:
    return len(token) == 1 and token.isalpha()
