"""What the agent said, what was sent of it, and what of that was heard: one ledger per call.

Theory of operation. A reply is a list of pieces (sentences), a piece is a text with its audio.
Audio is `push`ed as it is synthesized and `pull`ed by the transport; every pull is entered as a
span with the time at which it will begin to sound at the far end: one `delay_ms` after it was
sent, or when what was sent before it has ended, whichever is later. A mark that comes back
corrects these times: everything before it has been played *now*. So `heard_ms` and the heard
words are always known, by mark, by pacing or by estimate, and the record says which.

A reply is *settled* when its last sample has been played, or when `clear` cut it off. Only then
does its text become part of what was said.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from flowcat_server.core.audio import AudioFormat
from flowcat_server.core.interfaces import Word

MS_PER_CHAR = 65
"""Speaking rate assumed until the voice has shown its own (about 180 words a minute)."""
FULLY_HEARD_MS = 60
"""A piece counts as heard if less than this of it is missing: the tail is silence."""
CHAR_RATE_MEMORY = 0.3
MARK_WAIT_MS = 1000
"""How long after its predicted end a reply waits for the mark behind it."""


@dataclass(slots=True)
class Piece:
    """One sentence or clause of a reply."""

    text: str
    audio_ms: int = 0
    """Audio pushed so far."""
    complete: bool = False
    """All audio of the text has been pushed."""
    words: list[Word] = field(default_factory=list)


@dataclass(slots=True)
class Reply:
    """One reply of the agent."""

    turn: int
    interruptible: bool = True
    pieces: list[Piece] = field(default_factory=list)
    complete: bool = False
    """No more audio will be pushed."""
    settled: bool = False
    interrupted: bool = False
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


@dataclass(slots=True)
class _Span:
    """Audio that was sent, and when it sounds at the far end."""

    turn: int
    piece: int
    start_ms: int
    ms: int

    @property
    def end_ms(self) -> int:
        return self.start_ms + self.ms


class Playout:
    """The audio that waits to be sent, and the ledger of what became of it. Pure."""

    def __init__(
        self,
        audio: AudioFormat,
        *,
        delay_ms: int,
        marks: bool,
        tap: Callable[[int, bytes], None] | None = None,
    ) -> None:
        """Create an empty ledger.

        Args:
            audio: Format of what is pushed and pulled.
            delay_ms: From handing a sample to the transport to the caller's ear.
            marks: The transport acknowledges what was played.
            tap: Given all audio that is sent, with the time at which it will sound.
        """
        self.audio = audio
        self.delay_ms = delay_ms
        self.marks = marks
        self._tap = tap
        self.replies: list[Reply] = []
        self._open: dict[int, Reply] = {}
        self._queue: deque[tuple[int, int, bytes]] = deque()
        self._queued = 0
        self._spans: deque[_Span] = deque()
        self._sent_end_ms = 0
        self._ms_per_char = float(MS_PER_CHAR)
        self._mark_count = 0
        self._marks: deque[tuple[str, int]] = deque()
        """Marks under way: name and the predicted end of what came before them."""
        self._unmarked = False
        self._remainder = 0

    # --- the agent's side -------------------------------------------------------------------

    def begin(self, turn: int, *, interruptible: bool = True) -> Reply:
        """A reply is being made."""
        reply = Reply(turn, interruptible)
        self.replies.append(reply)
        self._open[turn] = reply
        return reply

    def reply(self, turn: int) -> Reply | None:
        """A reply by its number."""
        return next((reply for reply in reversed(self.replies) if reply.turn == turn), None)

    def add_piece(self, turn: int, text: str) -> int | None:
        """A sentence of an open reply; returns its number, None if the reply is over."""
        reply = self._open.get(turn)
        if reply is None:
            return None
        reply.pieces.append(Piece(text))
        return len(reply.pieces) - 1

    def extend_piece(self, turn: int, piece: int, text: str) -> None:
        """More text of a piece whose audio arrives beside its text (speech to speech)."""
        reply = self._open.get(turn)
        if reply is not None:
            reply.pieces[piece].text += text

    def heard_so_far_ms(self, turn: int, now_ms: int) -> int:
        """How much of an open reply has been heard."""
        reply = self._open.get(turn)
        return 0 if reply is None else self._heard(reply, now_ms)[0]

    def push(
        self, turn: int, piece: int, payload: bytes, now_ms: int, words: Sequence[Word] = ()
    ) -> None:
        """Audio of a piece. Dropped if the reply is over."""
        reply = self._open.get(turn)
        if reply is None or not payload:
            return
        entry = reply.pieces[piece]
        entry.audio_ms += self.audio.duration_ms(len(payload))
        entry.words.extend(words)
        if reply.first_pushed_ms is None:
            reply.first_pushed_ms = now_ms
        self._queue.append((turn, piece, payload))
        self._queued += len(payload)

    def piece_complete(self, turn: int, piece: int) -> None:
        """All audio of a piece was pushed."""
        reply = self._open.get(turn)
        if reply is None:
            return
        entry = reply.pieces[piece]
        entry.complete = True
        if len(entry.text) >= 8 and entry.audio_ms:
            rate = entry.audio_ms / len(entry.text)
            self._ms_per_char += CHAR_RATE_MEMORY * (rate - self._ms_per_char)

    def reply_complete(self, turn: int) -> None:
        """All audio of a reply was pushed."""
        reply = self._open.get(turn)
        if reply is not None:
            reply.complete = True

    def active(self) -> int | None:
        """The newest reply that is being made or heard, or None."""
        return max(self._open, default=None)

    def interruptible(self) -> bool:
        """Whether every reply under way may be interrupted."""
        return all(reply.interruptible for reply in self._open.values())

    def buffered_ms(self, now_ms: int) -> int:
        """Audio that the caller has yet to hear."""
        return self.audio.duration_ms(self._queued) + max(0, self._sent_end_ms - now_ms)

    # --- the transport's side ---------------------------------------------------------------

    def queued(self) -> int:
        """Bytes that `pull` could return at once."""
        return self._queued

    def pull(self, now_ms: int, size: int) -> bytes:
        """Up to `size` bytes to be sent now; they count as sent."""
        if not self._queued:
            return b""
        chunks: list[bytes] = []
        wanted = size
        while wanted and self._queue:
            turn, piece, payload = self._queue[0]
            if len(payload) <= wanted:
                self._queue.popleft()
                chunk = payload
            else:
                chunk = payload[:wanted]
                self._queue[0] = (turn, piece, payload[wanted:])
            wanted -= len(chunk)
            self._queued -= len(chunk)
            chunks.append(chunk)
            start_ms = self._enter(turn, piece, len(chunk), now_ms)
            if self._tap is not None:
                self._tap(start_ms, chunk)
        self._unmarked = True
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def lead_ms(self, now_ms: int) -> int:
        """How far what was sent reaches beyond what has been played."""
        return max(0, self._sent_end_ms - now_ms - self.delay_ms)

    def take_mark(self) -> str | None:
        """The name of a mark to send after what was just pulled, or None."""
        if not self.marks or not self._unmarked:
            return None
        self._unmarked = False
        self._mark_count += 1
        name = f"p{self._mark_count}"
        self._marks.append((name, self._sent_end_ms))
        return name

    def acknowledge(self, name: str, now_ms: int) -> None:
        """The far end has played everything before mark `name`. Unknown marks are ignored."""
        if not any(name == known for known, _ in self._marks):
            return
        predicted = 0
        while self._marks:
            known, predicted = self._marks.popleft()
            if known == name:
                break
        late = now_ms - predicted
        if late:
            # Everything before the mark has ended by now; what follows it moves along.
            for span in self._spans:
                if span.end_ms <= predicted:
                    span.start_ms = min(span.start_ms, now_ms - span.ms)
                else:
                    span.start_ms += late
            if self._sent_end_ms >= predicted:
                self._sent_end_ms += late
            self._marks = deque((other, end + late) for other, end in self._marks)
        for reply in self._open.values():
            if reply.first_sent_ms is not None:
                reply.source = "mark"

    # --- what was heard ---------------------------------------------------------------------

    def settle(self, now_ms: int) -> list[Reply]:
        """Replies whose last sample has been played; each is returned once."""
        done = [
            reply
            for reply in self._open.values()
            if reply.complete and not self._pending(reply.turn, now_ms)
        ]
        for reply in done:
            reply.heard_ms = sum(piece.audio_ms for piece in reply.pieces)
            reply.heard = [piece.text if piece.audio_ms else "" for piece in reply.pieces]
            self._settle(reply)
        return done

    def settles_at_ms(self, now_ms: int) -> int | None:
        """When `settle` is wanted next, as far as is known; None while nothing is complete."""
        if not any(reply.complete for reply in self._open.values()):
            return None
        if self._marks and not self._queued and self._sent_end_ms <= now_ms:
            return self._marks[-1][1] + MARK_WAIT_MS
        return max(self._sent_end_ms, now_ms) + self.audio.duration_ms(self._queued)

    def clear(self, now_ms: int) -> list[Reply]:
        """Barge-in: forget what was not played. Returns the replies this cut off."""
        cut = list(self._open.values())
        for reply in cut:
            reply.interrupted = True
            reply.heard_ms, reply.heard = self._heard(reply, now_ms)
            self._settle(reply)
        self._queue.clear()
        self._queued = 0
        self._spans.clear()
        self._marks.clear()
        self._unmarked = False
        self._sent_end_ms = min(self._sent_end_ms, now_ms)
        return cut

    def _settle(self, reply: Reply) -> None:
        reply.settled = True
        del self._open[reply.turn]
        while self._spans and self._spans[0].turn == reply.turn:
            self._spans.popleft()

    def _pending(self, turn: int, now_ms: int) -> bool:
        if any(queued_turn == turn for queued_turn, _, _ in self._queue):
            return True
        last = next((span for span in reversed(self._spans) if span.turn == turn), None)
        if last is None:
            return False
        return last.end_ms > now_ms or any(
            end >= last.end_ms and now_ms < end + MARK_WAIT_MS for _, end in self._marks
        )

    def _enter(self, turn: int, piece: int, size: int, now_ms: int) -> int:
        reply = self._open.get(turn)
        if reply is not None and reply.first_sent_ms is None:
            reply.first_sent_ms = now_ms
            reply.source = "estimate" if self.marks else "paced"
        # Sizes that are no whole milliseconds are carried over, so that nothing is lost.
        rate = self.audio.sample_rate * self.audio.sample_bytes
        total = size * 1000 + self._remainder
        ms, self._remainder = divmod(total, rate)
        start = max(now_ms + self.delay_ms, self._sent_end_ms)
        self._sent_end_ms = start + ms
        last = self._spans[-1] if self._spans else None
        if last and last.turn == turn and last.piece == piece and last.end_ms == start:
            last.ms += ms
        else:
            self._spans.append(_Span(turn, piece, start, ms))
        return start

    def _heard(self, reply: Reply, now_ms: int) -> tuple[int, list[str]]:
        per_piece = [0] * len(reply.pieces)
        for span in self._spans:
            if span.turn == reply.turn:
                per_piece[span.piece] += max(0, min(span.ms, now_ms - span.start_ms))
        texts = [
            self._heard_words(piece, ms) for piece, ms in zip(reply.pieces, per_piece, strict=True)
        ]
        return sum(per_piece), texts

    def _heard_words(self, piece: Piece, heard_ms: int) -> str:
        if not heard_ms:
            return ""
        if piece.complete and heard_ms >= piece.audio_ms - FULLY_HEARD_MS:
            return piece.text
        if piece.words:
            return _through_word(piece, heard_ms)
        total = piece.audio_ms
        if not piece.complete:
            total = max(total, int(len(piece.text) * self._ms_per_char))
        reached = len(piece.text) * heard_ms / total
        end = 0
        for start, stop in _words(piece.text):
            if (start + stop) / 2 > reached:
                break
            end = stop
        return piece.text[:end]


def _words(text: str) -> list[tuple[int, int]]:
    spans: list[tuple[int, int]] = []
    position = 0
    for word in text.split():
        start = text.index(word, position)
        position = start + len(word)
        spans.append((start, position))
    return spans


def _through_word(piece: Piece, heard_ms: int) -> str:
    """The text up to the last word whose middle was heard, by the voice's own word times."""
    count = sum(1 for word in piece.words if (word.start_ms + word.end_ms) // 2 <= heard_ms)
    spans = _words(piece.text)
    if not count or not spans:
        return ""
    return piece.text[: spans[min(count, len(spans)) - 1][1]]
