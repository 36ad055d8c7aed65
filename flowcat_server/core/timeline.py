"""What was sent, and when it sounds at the far end.

Theory of operation. Audio that is sent without a gap forms a *run*; it begins to sound
`delay_ms` after it was sent, or when what was sent before it has ended, whichever is later. A
*span* is a stretch of a run that belongs to one piece of a reply. A mark stands at a position in
the bytes sent; when it comes back, everything before it has been played *now*, and what follows
it moves along, up to the next gap. What has certainly been played is added up in its piece and
forgotten, so that a call may last for hours.
"""

from __future__ import annotations

from dataclasses import dataclass

from flowcat_server.core.audio import AudioFormat
from flowcat_server.core.speech import Piece, Reply

MARK_WAIT_MS = 1000
"""How long after its predicted end a reply waits for the mark behind it."""
NO_MARK_WAIT_MS = 200
"""The same, for a far end that has never answered a mark: a margin for a wrong estimate."""
MARK_LOST_MS = 10_000
"""A mark that is later than this will not come any more."""


@dataclass(slots=True)
class _Span:
    """A stretch of audio that was sent for one piece."""

    reply: Reply
    piece: Piece
    offset: int
    """Where in the piece's audio it begins, in bytes."""
    position: int
    """Bytes that were sent before it."""
    size: int
    start_ms: int


class Timeline:
    """The audio under way to the caller's ear. Pure."""

    __slots__ = (
        "_answers_marks",
        "_bytes_per_s",
        "_mark_count",
        "_mark_wait_ms",
        "_marked_bytes",
        "_marks",
        "_run_bytes",
        "_run_start_ms",
        "_sample_bytes",
        "_sent_at_ms",
        "_sent_bytes",
        "_spans",
        "delay_ms",
        "end_ms",
        "marks",
    )

    def __init__(self, audio: AudioFormat, *, delay_ms: int, marks: bool) -> None:
        """Create an empty timeline.

        Args:
            audio: Format of what is sent.
            delay_ms: From sending a sample to the caller's ear.
            marks: The far end buffers, and acknowledges what was played.
        """
        self.delay_ms = delay_ms
        self.marks = marks
        self._bytes_per_s = audio.sample_rate * audio.sample_bytes
        self._sample_bytes = audio.sample_bytes
        self._spans: list[_Span] = []
        self.end_ms = 0
        """When the last sample sent so far will have sounded."""
        self._run_start_ms = 0
        self._run_bytes = 0
        """The last stretch of audio that was sent without a gap."""
        self._sent_bytes = 0
        self._sent_at_ms = 0
        """When something was sent last."""
        self._marks: list[tuple[str, int]] = []
        """Marks under way: name and position."""
        self._mark_count = 0
        self._marked_bytes = 0
        self._mark_wait_ms = MARK_WAIT_MS
        self._answers_marks = False

    # --- sending ----------------------------------------------------------------------------

    def enter(self, reply: Reply, piece: Piece, offset: int, size: int, now_ms: int) -> int:
        """`size` bytes of a piece, from `offset` on, are sent; returns when they begin to sound."""
        self._sent_at_ms = now_ms
        start_ms, earliest_ms = self.end_ms, now_ms + self.delay_ms
        spans = self._spans
        if start_ms < earliest_ms:
            start_ms = self._run_start_ms = earliest_ms
            run_bytes = 0
        else:
            run_bytes = self._run_bytes
        last = spans[-1] if spans and run_bytes else None
        if last is not None and last.piece is piece and last.offset + last.size == offset:
            last.size += size
        else:
            self._forget(now_ms - MARK_LOST_MS if self.marks else now_ms)
            spans.append(_Span(reply, piece, offset, self._sent_bytes, size, start_ms))
        self._run_bytes = run_bytes = run_bytes + size
        self._sent_bytes += size
        self.end_ms = self._run_start_ms + run_bytes * 1000 // self._bytes_per_s
        return start_ms

    def take_mark(self) -> str | None:
        """The name of a mark to send after what was just sent, or None."""
        if not self.marks or self._marked_bytes == self._sent_bytes:
            return None
        self._marked_bytes = self._sent_bytes
        self._forget(self._sent_at_ms - MARK_LOST_MS)
        self._mark_count += 1
        name = f"p{self._mark_count}"
        self._marks.append((name, self._sent_bytes))
        return name

    # --- playing ----------------------------------------------------------------------------

    def acknowledge(self, name: str, now_ms: int) -> None:
        """The far end has played everything before mark `name`. Unknown marks are ignored."""
        self._answers_marks = True
        self._mark_wait_ms = MARK_WAIT_MS
        if not any(name == known for known, _ in self._marks):
            return
        position = 0
        while self._marks:
            known, position = self._marks.pop(0)
            if known == name:
                break
        predicted_ms = self._play_until(position)
        if predicted_ms is not None:
            self._move(predicted_ms, now_ms)

    def heard_bytes(self, reply: Reply, last_ms: int) -> list[int]:
        """How far each of a reply's pieces has sounded by `last_ms`."""
        sizes = {id(piece): piece.played_bytes for piece in reply.pieces}
        for span in self._spans:
            if span.reply is reply and (sounded := self._sounded(span, last_ms)):
                # A word that was cut off may have been said again: what counts is how far.
                key = id(span.piece)
                sizes[key] = max(sizes[key], span.offset + sounded)
        return list(sizes.values())

    def pending(self, reply: Reply, now_ms: int) -> bool:
        """Whether audio of a reply that was sent has yet to sound, or its mark to come back."""
        last = next((span for span in reversed(self._spans) if span.reply is reply), None)
        if last is None:
            return False
        end_ms = self._span_end_ms(last)
        if end_ms > now_ms:
            return True
        marked = any(position >= last.position + last.size for _, position in self._marks)
        return marked and now_ms < end_ms + self._mark_wait_ms

    def played_at_ms(self, now_ms: int) -> int:
        """When everything sent so far will have been played, marks included."""
        if self._marks and self.end_ms <= now_ms:
            return self.end_ms + self._mark_wait_ms
        return max(self.end_ms, now_ms)

    def remove(self, reply: Reply) -> None:
        """A reply has been played to its end."""
        if self._marks and not self._answers_marks and reply.first_sent_ms is not None:
            self._mark_wait_ms = NO_MARK_WAIT_MS
        if any(span.reply is reply for span in self._spans):
            self._spans = [span for span in self._spans if span.reply is not reply]

    def cut(self, last_ms: int) -> tuple[Piece, int] | None:
        """Nothing that was sent sounds after `last_ms`.

        Returns the piece and the offset in it where it was cut off; None if all had sounded.
        """
        self._forget(last_ms)
        first = (self._spans[0].piece, self._spans[0].offset) if self._spans else None
        self._spans.clear()
        self._marks.clear()
        self._marked_bytes = self._sent_bytes
        self.end_ms = self._run_start_ms = min(self.end_ms, last_ms)
        self._run_bytes = 0
        return first

    # --- inside -----------------------------------------------------------------------------

    def _span_end_ms(self, span: _Span) -> int:
        return span.start_ms + span.size * 1000 // self._bytes_per_s

    def _sounded(self, span: _Span, last_ms: int) -> int:
        """Bytes of a span that have sounded by a time."""
        size = max(0, last_ms - span.start_ms) * self._bytes_per_s // 1000
        return min(span.size, size - size % self._sample_bytes)

    def _played(self, span: _Span, size: int) -> None:
        """The first `size` bytes of the first span have certainly been played."""
        span.piece.played_bytes = max(span.piece.played_bytes, span.offset + size)
        if size == span.size:
            del self._spans[0]
        else:
            span.start_ms += size * 1000 // self._bytes_per_s
            span.offset += size
            span.position += size
            span.size -= size

    def _forget(self, before_ms: int) -> None:
        """Enter as played what sounded before a time, and lose the marks within it."""
        while self._spans and (size := self._sounded(self._spans[0], before_ms)):
            self._played(self._spans[0], size)
        played = self._spans[0].position if self._spans else self._sent_bytes
        while self._marks and self._marks[0][1] <= played:
            del self._marks[0]

    def _play_until(self, position: int) -> int | None:
        """A mark came back: returns when it was expected, None if nothing new was played."""
        predicted_ms = None
        while self._spans and self._spans[0].position < position:
            span = self._spans[0]
            size = min(span.size, position - span.position)
            predicted_ms = span.start_ms + size * 1000 // self._bytes_per_s
            span.reply.source = "mark"
            self._played(span, size)
        return predicted_ms

    def _move(self, predicted_ms: int, now_ms: int) -> None:
        """What was expected to end at `predicted_ms` ended now: move what follows, up to a gap."""
        late = now_ms - predicted_ms
        old_end_ms = predicted_ms
        for span in self._spans:
            gap = span.start_ms - old_end_ms
            if gap > 1:
                late = max(0, late - gap)
            old_end_ms = self._span_end_ms(span)
            span.start_ms += late
        self._run_start_ms += late
        self.end_ms += late
