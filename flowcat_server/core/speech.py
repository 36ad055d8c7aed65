"""One reply of the agent: its pieces of text, their audio, and which words were heard."""

from __future__ import annotations

from dataclasses import dataclass, field

from flowcat_server.core.interfaces import Word

FULLY_HEARD_MS = 60
"""A piece counts as heard if less than this of it is missing: the tail is silence."""


@dataclass(slots=True)
class Piece:
    """One sentence or clause of a reply."""

    text: str
    audio_bytes: int = 0
    """Audio pushed so far."""
    played_bytes: int = 0
    """Of it, what has certainly been played."""
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
        if not self.complete:
            audio_ms = max(audio_ms, int(len(self.text) * ms_per_char))
        reached = len(self.text) * heard_ms / audio_ms
        end = 0
        for start, stop in _words(self.text):
            if (start + stop) / 2 > reached:
                break
            end = stop
        return self.text[:end]

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
