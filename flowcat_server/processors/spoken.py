"""How far a sentence has been spoken, by however many voices: what the ledger may believe."""

from __future__ import annotations

from collections.abc import Sequence

from flowcat_server.core.interfaces import Word

SURELY_MS_PER_CHAR = 90
"""A slow speaker's pace. Of a voice that tells no word times, so much is certainly said; a word
that is said twice costs less than one that is lost."""


class Spoken:
    """One sentence.

    A voice that fails in the middle of it is replaced from the first word that was not said
    whole, and the word times of all voices form one sequence.
    """

    def __init__(self, text: str) -> None:
        self.rest = text
        """What the voice in use is to say."""
        self._before_ms = 0
        """Audio of the voices before."""
        self._audio_ms = 0
        """Audio of the voice in use."""
        self._waiting: list[Word] = []
        """Times of words whose audio has not come yet."""
        self._told: list[Word] = []
        """Words of the voice in use that the ledger knows."""
        self._untimed = True

    @property
    def begun(self) -> bool:
        """Something of it can be heard."""
        return self._before_ms + self._audio_ms > 0

    def take(self, audio_ms: int, words: Sequence[Word]) -> tuple[Word, ...]:
        """The voice in use has given `audio_ms` in all; returns the words that are said by it."""
        self._audio_ms = audio_ms
        self._waiting += words
        self._untimed = self._untimed and not words
        said = [word for word in self._waiting if word.end_ms <= audio_ms]
        self._waiting = [word for word in self._waiting if word.end_ms > audio_ms]
        return self._tell(said)

    def finish(self, audio_ms: int) -> tuple[Word, ...]:
        """The voice has said the rest; returns the words not told so far."""
        self._audio_ms = audio_ms
        if self._untimed and self._before_ms:
            # The ledger has times for the beginning, so it needs them for the end.
            self._waiting = _spread(self.rest.split(), audio_ms)
        said, self._waiting = self._waiting, []
        return self._tell(said)

    def cut(self) -> tuple[Word, ...]:
        """The voice has failed; `rest` is what the next one is to say.

        Returns the words not told so far which can be heard.
        """
        words = self.rest.split()
        if self._untimed:
            sure, chars = 0, self._audio_ms // SURELY_MS_PER_CHAR
            while sure < len(words) and len(" ".join(words[: sure + 1])) <= chars:
                sure += 1
            told = self._tell(_spread(words[:sure], self._audio_ms))
        else:
            sure, told = _said(words, self._told), ()
        self.rest = " ".join(words[sure:])
        self._before_ms += self._audio_ms
        self._audio_ms = 0
        self._waiting, self._told, self._untimed = [], [], True
        return told

    def _tell(self, words: Sequence[Word]) -> tuple[Word, ...]:
        self._told += words
        before = self._before_ms
        if not before:
            return tuple(words)
        return tuple(Word(w.text, w.start_ms + before, w.end_ms + before) for w in words)


def _spread(words: Sequence[str], audio_ms: int) -> list[Word]:
    """Times for words of which only the length of their audio is known."""
    total = sum(len(word) + 1 for word in words)
    at, found = 0, []
    for word in words:
        end = at + len(word) + 1
        found.append(Word(word, audio_ms * at // total, audio_ms * end // total))
        at = end
    return found


def _said(words: Sequence[str], told: Sequence[Word]) -> int:
    """How many of a text's words a voice has told of, which may cut and write them its own way."""
    heard = "".join(_letters(word.text) for word in told)
    count, position = 0, 0
    for word in words:
        letters = _letters(word)
        if not heard.startswith(letters, position) or position + len(letters) > len(heard):
            break
        position += len(letters)
        count += 1
    return count


def _letters(text: str) -> str:
    return "".join(character for character in text.lower() if character.isalnum())
