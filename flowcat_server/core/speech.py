"""One reply of the agent: its pieces of text, their audio, and which words were heard."""

from __future__ import annotations

from dataclasses import dataclass, field

from flowcat_server.core.interfaces import Word

FULLY_HEARD_MS = 60
"""A piece counts as heard if less than this of it is missing: the tail is silence."""
WORD_SAID_MS = 60
"""The same for a word at which speech was cut off."""
SLOW = 1.15
"""Where a text breaks off, its voice is taken to have been so much slower than it was so far: a
word that is said twice costs less than one that is lost."""
REWIND_MS = 1000
"""Speech goes on at most this much before where it was cut off."""


@dataclass(slots=True)
class Piece:
    """One sentence or clause of a reply."""

    text: str
    audio_bytes: int = 0
    """Audio pushed so far."""
    sent_bytes: int = 0
    """Of it, what has been sent and was not taken back."""
    played_bytes: int = 0
    """How far it has certainly been played."""
    complete: bool = False
    """All audio of the text has been pushed."""
    words: list[Word] = field(default_factory=list)

    def heard(self, heard_ms: int, audio_ms: int, ms_per_char: float) -> str:
        """The text up to the last word whose middle was heard.

        Args:
            heard_ms: How much of the audio was heard.
            audio_ms: How much audio there is so far.
            ms_per_char: The voice's pace, for a piece whose audio is incomplete.
        """
        if not heard_ms:
            return ""
        if self.complete and heard_ms >= audio_ms - min(FULLY_HEARD_MS, audio_ms // 2):
            return self.text
        if self.words:
            return self._through_word(heard_ms)
        reached = len(self.text) * heard_ms / self._length_ms(audio_ms, ms_per_char)
        end = 0
        for start, stop in _words(self.text):
            if (start + stop) / 2 > reached:
                break
            end = stop
        return self.text[:end]

    def go_on_ms(self, cut_ms: int, audio_ms: int, ms_per_char: float) -> int:
        """Where to go on after it was cut off at `cut_ms`: where the word then spoken begins.

        Between words, and where a word was all but said, that is `cut_ms` itself. Without word
        times it is an estimate, and never after `cut_ms`.
        """
        if self.words:
            begun = [word for word in self.words if word.start_ms < cut_ms]
            if not begun or cut_ms >= begun[-1].end_ms - WORD_SAID_MS:
                return cut_ms
            start_ms = begun[-1].start_ms
        else:
            length_ms = self._length_ms(audio_ms, ms_per_char)
            reached = len(self.text) * cut_ms / max(1, length_ms)
            starts = [start for start, _ in _words(self.text) if start < reached]
            start_ms = starts[-1] * length_ms // len(self.text) if starts else 0
        return max(0, start_ms, cut_ms - REWIND_MS)

    def surely_said(self, audio_ms: int, ms_per_char: float) -> str:
        """The words that are whole in the first `audio_ms`, where the voice tells no times."""
        reached = audio_ms / (ms_per_char * SLOW)
        end = max((stop for _, stop in _words(self.text) if stop <= reached), default=0)
        return self.text[:end]

    def _length_ms(self, audio_ms: int, ms_per_char: float) -> int:
        """How long the whole piece takes, as far as is known."""
        return audio_ms if self.complete else max(audio_ms, int(len(self.text) * ms_per_char))

    def _through_word(self, heard_ms: int) -> str:
        """The same by the voice's own word times."""
        count = sum((word.start_ms + word.end_ms) // 2 <= heard_ms for word in self.words)
        spans = _words(self.text)
        if self.complete and len(self.words) != len(spans):
            # The voice counts words differently ("$5" is two): keep the share.
            count = round(count * len(spans) / len(self.words))
        if not count or not spans:
            return ""
        return self.text[: spans[min(count, len(spans)) - 1][1]]


def _words(text: str) -> list[tuple[int, int]]:
    spans: list[tuple[int, int]] = []
    position = 0
    for word in text.split():
        start = text.index(word, position)
        position = start + len(word)
        spans.append((start, position))
    return spans


@dataclass(slots=True)
class Reply:
    """One reply of the agent."""

    turn: int
    interruptible: bool = True
    pieces: list[Piece] = field(default_factory=list)
    complete: bool = False
    """No more audio will be pushed."""
    queued_bytes: int = 0
    """Audio pushed, but not sent yet."""
    settled: bool = False
    interrupted: bool = False
    """Cut off before all of it was heard."""
    first_pushed_ms: int | None = None
    first_sent_ms: int | None = None
    heard_ms: int = 0
    heard: list[str] = field(default_factory=list)
    """Per piece, the words that were heard; filled when settled."""
    source: str = "estimate"

    @property
    def mute(self) -> int:
        """The first piece that has no audio yet."""
        silent = (number for number, piece in enumerate(self.pieces) if not piece.audio_bytes)
        return next(silent, len(self.pieces))

    @property
    def text(self) -> str:
        """Everything that was to be said."""
        return " ".join(piece.text for piece in self.pieces)

    @property
    def heard_text(self) -> str:
        """What was heard; only of a settled reply."""
        return " ".join(text for text in self.heard if text)

    @property
    def unheard_text(self) -> str:
        """What was not heard; only of a settled reply."""
        rest = (
            piece.text[len(heard) :].strip()
            for piece, heard in zip(self.pieces, self.heard, strict=False)
        )
        return " ".join(text for text in rest if text)
