"""What the agent said, what was sent of it, and what of that was heard: one ledger per call.

Theory of operation. A reply is a list of pieces (sentences), a piece is a text with its audio.
Audio is `push`ed as it is synthesized and `pull`ed by the transport; every pull is entered in a
`Timeline`, which knows when it sounds at the far end: by mark, by pacing or by estimate, and the
record says which. So what was heard is known at any moment, to the word.

A reply is *settled* when its last sample has been played, or when `clear` cut it off. Only then
does its text become part of what was said.

`hold` falls silent without cutting off: what was sent and not heard is taken back, from the
beginning of the word that was being said, and `resume` lets it be sent again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice

from flowcat_server.core.audio import AudioFormat
from flowcat_server.core.hold import HoldSound
from flowcat_server.core.interfaces import Word
from flowcat_server.core.speech import REWIND_MS, Piece, Reply
from flowcat_server.core.timeline import Timeline

MS_PER_CHAR = 65
"""Speaking rate assumed until the voice has shown its own (about 180 words a minute)."""
CHAR_RATE_MEMORY = 0.3
LATEST = 2
"""Replies whose words may be coming back as an echo."""
ASKED_MS = 1000
"""When so little of a question is left, it has been understood."""
KEPT_MS = REWIND_MS + 500
"""Of the audio that has been heard, so much is kept: speech that was held may go on within it."""
RUN_MS = 400
"""It is kept, and forgotten, in runs of about this length."""


Tap = Callable[[int, bytes], None]
OnClear = Callable[[int], None]


@dataclass(slots=True)
class _Sent:
    """Audio that was handed to the transport in one run: it may be taken back."""

    reply: Reply
    piece: Piece
    start: int
    """Where in the piece it begins."""
    audio: bytearray


class Playout:
    """The audio that waits to be sent, and the ledger of what became of it. Pure."""

    __slots__ = (
        "_amid",
        "_held",
        "_most_sent_bytes",
        "_most_run_bytes",
        "_ms_per_char",
        "_offset",
        "_open",
        "_queue",
        "_queued",
        "_replies",
        "_sent",
        "_sent_bytes",
        "_taps",
        "_timeline",
        "audio",
        "pieces",
        "waiting",
    )

    def __init__(
        self,
        audio: AudioFormat,
        *,
        delay_ms: int,
        marks: bool,
    ) -> None:
        """Create an empty ledger.

        Args:
            audio: Format of what is pushed and pulled.
            delay_ms: From handing a sample to the transport to the caller's ear.
            marks: The transport acknowledges what was played.
        """
        self.audio = audio
        self.waiting: HoldSound | None = None
        """What is sent while there is nothing to say; set only when all that was said was heard."""
        self._taps: list[tuple[Tap, OnClear]] = []
        self._timeline = Timeline(audio, delay_ms=delay_ms, marks=marks)
        self._replies: dict[int, Reply] = {}
        self._open: dict[int, Reply] = {}
        self._queue: list[tuple[Reply, Piece, bytes]] = []
        self._offset = 0
        """Bytes of the first queue entry that have been sent."""
        self._queued = 0
        self._sent: list[_Sent] = []
        self._most_run_bytes = audio.bytes_for(RUN_MS)
        self.pieces = 0
        """Pieces of audio that were sent."""
        self._sent_bytes = 0
        self._most_sent_bytes = 0
        """With more than this, it is looked at what may be forgotten."""
        self._held = False
        self._amid = False
        """Something was sent since speech was held last."""
        self._ms_per_char = float(MS_PER_CHAR)

    def tap(self, sent: Tap, cleared: OnClear) -> None:
        """Listen to what is sent.

        Args:
            sent: Given all audio that is sent, with the time at which it will sound.
            cleared: Given the time after which nothing sent so far will sound.
        """
        self._taps.append((sent, cleared))

    def untap(self) -> None:
        """The call is over: nobody listens any more."""
        self._taps.clear()

    # --- the agent's side -------------------------------------------------------------------

    def begin(self, turn: int, *, interruptible: bool = True) -> Reply:
        """A reply is being made."""
        reply = Reply(turn, interruptible)
        self._replies[turn] = self._open[turn] = reply
        return reply

    def protect(self, turn: int) -> None:
        """An open reply cannot be interrupted from now on."""
        if turn in self._open:
            self._open[turn].interruptible = False

    def reply(self, turn: int) -> Reply | None:
        """A reply by its number."""
        return self._replies.get(turn)

    def add_piece(self, turn: int, text: str) -> int | None:
        """A sentence of an open reply; returns its number, None if the reply is over."""
        reply = self._open.get(turn)
        if reply is None:
            return None
        reply.pieces.append(Piece(text))
        return len(reply.pieces) - 1

    def extend_piece(self, turn: int, piece: int, text: str) -> bool:
        """More text of a piece whose audio arrives beside its text (speech to speech).

        False if the reply is over.
        """
        reply = self._open.get(turn)
        if reply is None:
            return False
        reply.pieces[piece].text += text
        return True

    def heard_so_far_ms(self, turn: int, now_ms: int) -> list[int]:
        """How much of each piece of an open reply would be heard if it were cut off now."""
        reply = self._open.get(turn)
        if reply is None:
            return []
        sizes = self._timeline.heard_bytes(reply, self._last_ms(now_ms))
        return [self.audio.duration_ms(size) for size in sizes]

    def push(
        self, turn: int, piece: int, payload: bytes, now_ms: int, words: Sequence[Word] = ()
    ) -> bool:
        """Audio of a piece. Dropped if the reply is over; says whether there is more to send."""
        reply = self._open.get(turn)
        if reply is None:
            return False
        entry = reply.pieces[piece]
        if words:
            entry.words.extend(words)
        if not payload:
            return False
        if reply.first_pushed_ms is None:
            reply.first_pushed_ms = now_ms
        size = len(payload)
        entry.audio_bytes += size
        reply.queued_bytes += size
        self._queue.append((reply, entry, payload))
        self._queued += size
        return True

    def piece_complete(self, turn: int, piece: int) -> None:
        """All audio of a piece was pushed."""
        reply = self._open.get(turn)
        if reply is None:
            return
        entry = reply.pieces[piece]
        entry.complete = True
        if len(entry.text) >= 8 and entry.audio_bytes:
            rate = self.audio.duration_ms(entry.audio_bytes) / len(entry.text)
            self._ms_per_char += CHAR_RATE_MEMORY * (rate - self._ms_per_char)

    def cut_short(self, turn: int, piece: int) -> str:
        """Whoever spoke a piece has failed: what of its text is surely said stays the piece.

        Returns the words that somebody else has to say.
        """
        reply = self._open.get(turn)
        if reply is None:
            return ""
        entry = reply.pieces[piece]
        audio_ms = self.audio.duration_ms(entry.audio_bytes)
        said, entry.text = entry.text, entry.surely_said(audio_ms, self._ms_per_char)
        entry.complete = True
        return said[len(entry.text) :].strip()

    def reply_complete(self, turn: int) -> None:
        """All audio of a reply was pushed."""
        reply = self._open.get(turn)
        if reply is not None:
            reply.complete = True

    def active(self) -> int | None:
        """The newest reply that is being made or heard, or None."""
        return max(self._open, default=None)

    def sounding(self) -> int | None:
        """The oldest reply under way that has audio, or None."""
        return next((turn for turn, r in self._open.items() if r.first_pushed_ms is not None), None)

    def asks(self, now_ms: int) -> bool:
        """Whether the agent is about to finish a question."""
        turn = self.sounding()
        reply = self._open[turn] if turn is not None else None
        if reply is None or not reply.complete or not reply.text.rstrip("\"')” ").endswith("?"):
            return False
        return self.buffered_ms(now_ms) <= ASKED_MS

    def said(self) -> str:
        """The words of the latest replies, heard or under way."""
        latest = islice(reversed(self._replies.values()), LATEST)
        return " ".join(reply.text for reply in reversed(list(latest)))

    def interruptible(self) -> bool:
        """Whether every reply under way may be interrupted."""
        return all(reply.interruptible for reply in self._open.values())

    def buffered_ms(self, now_ms: int) -> int:
        """Audio that the caller has yet to hear."""
        return self.audio.duration_ms(self._queued) + max(0, self._timeline.end_ms - now_ms)

    def sound_ends_ms(self) -> int:
        """When the last sample sent so far will have sounded, or has."""
        waiting = self.waiting
        return max(self._timeline.end_ms, waiting.ends_ms) if waiting else self._timeline.end_ms

    # --- the transport's side ---------------------------------------------------------------

    def queued(self) -> int:
        """Bytes that `pull` could return at once."""
        if self._queued:
            return 0 if self._held else self._queued
        return self.waiting.queued() if self.waiting is not None else 0

    def pull(self, now_ms: int, size: int) -> bytes:
        """Up to `size` bytes to be sent now; they count as sent."""
        if not self._queued or size <= 0 or self._held:
            return self._wait(now_ms, size) if self.waiting is not None else b""
        timeline, queue, sent = self._timeline, self._queue, self._sent
        most_run_bytes = self._most_run_bytes
        start_ms: int | None = None
        audio = b""
        wanted = size
        while wanted and queue:
            reply, piece, payload = queue[0]
            offset = self._offset
            whole = len(payload) - offset <= wanted
            chunk = payload[offset:] if whole else payload[offset : offset + wanted]
            taken = len(chunk)
            if whole:
                del queue[0]
                self._offset = 0
            else:
                self._offset = offset + taken
            wanted -= taken
            audio = audio + chunk if audio else chunk
            begins = piece.sent_bytes
            sounds_ms = timeline.enter(reply, piece, begins, taken, now_ms)
            if start_ms is None:
                start_ms = sounds_ms
            last = sent[-1] if sent else None
            run = len(last.audio) if last is not None and last.piece is piece else 0
            if last is not None and 0 < run < most_run_bytes and last.start + run == begins:
                last.audio += chunk
            else:
                sent.append(_Sent(reply, piece, begins, bytearray(chunk)))
            piece.sent_bytes = begins + taken
            reply.queued_bytes -= taken
            if reply.first_sent_ms is None:
                reply.first_sent_ms = now_ms
                reply.source = "estimate" if timeline.marks else "paced"
        assert start_ms is not None  # noqa: S101 - what is queued is not empty
        self._queued -= len(audio)
        self._sent_bytes += len(audio)
        self.pieces += 1
        self._amid = True
        if self._sent_bytes > self._most_sent_bytes:
            self._forget(now_ms)
        for tap, _ in self._taps:
            tap(start_ms, audio)
        return audio

    def lead_ms(self, now_ms: int) -> int:
        """How far what was sent reaches beyond what has been played."""
        timeline = self._timeline
        lead_ms = timeline.end_ms - timeline.delay_ms - now_ms
        if self.waiting is not None:
            return max(0, lead_ms, self.waiting.lead_ms(now_ms))
        return max(0, lead_ms)

    def _wait(self, now_ms: int, size: int) -> bytes:
        """What the caller hears while there is nothing to say."""
        waiting = self.waiting
        if waiting is None or self._queued or size <= 0:
            return b""
        start_ms = max(now_ms, waiting.ends_ms) + self._timeline.delay_ms
        audio = waiting.pull(now_ms, size)
        self.pieces += 1
        for tap, _ in self._taps:
            tap(start_ms, audio)
        return audio

    def make_way(self, now_ms: int) -> bool:
        """Speech is due: `waiting` is over. Says whether the far end has to be cleared."""
        waiting, self.waiting = self.waiting, None
        if waiting is None or not waiting.cut(now_ms):
            return False
        self._tell_cleared(now_ms + self._timeline.delay_ms)
        return True

    def take_mark(self) -> str | None:
        """The name of a mark to send after what was just pulled, or None."""
        return self._timeline.take_mark()

    def acknowledge(self, name: str, now_ms: int) -> None:
        """The far end has played everything before mark `name`. Unknown marks are ignored."""
        self._timeline.acknowledge(name, now_ms)

    # --- what was heard ---------------------------------------------------------------------

    def settle(self, now_ms: int) -> list[Reply]:
        """Replies whose last sample has been played; each is returned once."""
        done = [
            reply
            for reply in self._open.values()
            if reply.complete
            and not reply.queued_bytes
            and not self._timeline.pending(reply, now_ms)
        ]
        for reply in done:
            # All its audio was heard, but a voice may have failed before it had said all.
            self._settle(reply, [piece.audio_bytes for piece in reply.pieces])
            self._timeline.remove(reply)
        if done and not self._open:  # nothing is left that could be held
            self._sent.clear()
            self._sent_bytes = self._most_sent_bytes = 0
            self._amid = False
        return done

    def settles_at_ms(self, now_ms: int) -> int | None:
        """When `settle` is wanted next, as far as is known; None while nothing is complete."""
        if not any(reply.complete for reply in self._open.values()):
            return None
        if self._held and self._queued:
            return None
        if not self._queued:
            return self._timeline.played_at_ms(now_ms)
        return max(self._timeline.end_ms, now_ms) + self.audio.duration_ms(self._queued)

    # --- the caller speaks ------------------------------------------------------------------

    @property
    def held(self) -> bool:
        """Nothing is sent until `resume` or `clear`."""
        return self._held

    def hold(self, now_ms: int) -> bool:
        """Fall silent, but keep what was not heard. Says whether the far end has to be cleared."""
        if self._held:
            return False
        self._held = True
        cut = None
        if self._timeline.marks:  # the far end forgets what it has not played
            cut = self._timeline.cut(now_ms)
            self._tell_cleared(now_ms)
        sent_ahead = cut is not None
        if cut is None and self._amid:  # all that was sent is heard; a word may still be cut in two
            piece = self._sent[-1].piece
            if piece.sent_bytes < piece.audio_bytes or not piece.complete:
                cut = piece, piece.sent_bytes
        if cut is not None:
            self._take_back(*cut)
        self._amid = False
        return sent_ahead

    def resume(self) -> None:
        """Go on where `hold` fell silent."""
        self._held = False

    def _take_back(self, piece: Piece, offset: int) -> None:
        """Put what was sent from `offset` of a piece on back to the front of the queue."""
        audio_ms = self.audio.duration_ms
        go_on_ms = piece.go_on_ms(audio_ms(offset), audio_ms(piece.audio_bytes), self._ms_per_char)
        start = min(offset, self.audio.bytes_for(go_on_ms))
        if self._queue and self._offset:
            reply, first, payload = self._queue[0]
            self._queue[0] = (reply, first, payload[self._offset :])
            self._offset = 0
        while self._sent:
            last = self._sent[-1]
            kept = min(len(last.audio), max(0, start - last.start)) if last.piece is piece else 0
            again = bytes(last.audio[kept:])
            del last.audio[kept:]
            if not kept:
                self._sent.pop()
            self._queue_again(last.reply, last.piece, again)
            if last.piece is piece and last.start <= start:
                return

    def _queue_again(self, reply: Reply, piece: Piece, audio: bytes) -> None:
        if audio:
            self._queue.insert(0, (reply, piece, audio))
            piece.sent_bytes -= len(audio)
            reply.queued_bytes += len(audio)
            self._queued += len(audio)
            self._sent_bytes -= len(audio)

    def _tell_cleared(self, last_ms: int) -> None:
        for _, cleared in self._taps:
            cleared(last_ms)

    def _forget(self, now_ms: int) -> None:
        """Drop audio that was heard so long ago that nothing goes on there."""
        unheard_ms = max(0, self._timeline.end_ms - now_ms)
        keep = self.audio.bytes_for(unheard_ms + KEPT_MS)
        while self._sent and self._sent_bytes - len(self._sent[0].audio) >= keep:
            self._sent_bytes -= len(self._sent.pop(0).audio)
        self._most_sent_bytes = max(keep, self._sent_bytes) + self._most_run_bytes

    def clear(self, now_ms: int) -> list[Reply]:
        """Barge-in: forget what was not played. Returns the replies this cut off."""
        last_ms = self._last_ms(now_ms)
        cut = list(self._open.values())
        for reply in cut:
            self._settle(reply, self._timeline.heard_bytes(reply, last_ms))
        self._queue.clear()
        self._sent.clear()
        self._queued = self._offset = self._sent_bytes = 0
        self._held = self._amid = False
        self._timeline.cut(last_ms)
        self._tell_cleared(last_ms)
        return cut

    def _last_ms(self, now_ms: int) -> int:
        """When the last sample sounds if playing is cut off now."""
        # A far end that buffers forgets at once; what was sent to any other will be heard.
        return now_ms if self._timeline.marks else max(now_ms, self._timeline.end_ms)

    def _settle(self, reply: Reply, sizes: Sequence[int]) -> None:
        """Of each of its pieces so much audio was heard."""
        duration_ms = self.audio.duration_ms
        reply.heard_ms = duration_ms(sum(sizes))
        reply.heard = [
            piece.heard(duration_ms(size), duration_ms(piece.audio_bytes), self._ms_per_char)
            for piece, size in zip(reply.pieces, sizes, strict=True)
        ]
        pieces = zip(reply.pieces, reply.heard, strict=True)
        reply.interrupted = not reply.complete or any(
            piece.audio_bytes and piece.text != heard for piece, heard in pieces
        )
        reply.settled = True
        del self._open[reply.turn]
        for piece in reply.pieces:
            piece.words.clear()  # they are many, and no longer needed
