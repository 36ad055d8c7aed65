"""What Deepgram's streaming answers mean for a turn: no I/O, no clock.

Two protocols, one interface (`Reader`). Positions are bytes of the call's audio, counted from its
beginning, so that they survive a reconnection, after which the vendor counts from zero again.

Theory of operation: all audio since the last fixed segment stays in a bounded ring. A pause is
answered by the first answer of the vendor that covers the audio before it. Nova is asked for one
with ``Finalize``, but need not reply when it holds little audio
(https://developers.deepgram.com/docs/finalize), so a pause may also be settled with what is known
(`Reader.settle`), provided that the vendor is alive. Flux reports about every quarter of a second
of audio how far it has listened (https://developers.deepgram.com/docs/flux/state).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import structlog

from flowcat_server.core.audio import AudioFormat
from flowcat_server.core.interfaces import Transcript
from flowcat_server.errors import ProviderProtocol
from flowcat_server.providers.websocket import parse_object, reason_error, to_json

NAME = "deepgram"
RING_MS = 10_000
COVER_MS = 120
"""A pause is declared after longer silence than this: an answer that lacks no more covers it."""
RECENT_FINAL_MS = 500
SETTLE_MS = 500
SETTLE_QUICKLY_MS = 150
ALIVE_MS = 2_000
"""A vendor that has said nothing for so long may be dead: nothing is settled on its behalf."""

log = structlog.get_logger()


class Ring:
    """The newest audio, oldest dropped first."""

    def __init__(self, audio: AudioFormat) -> None:
        self._chunks: deque[bytes] = deque()
        self._limit = audio.bytes_for(RING_MS)
        self._width = audio.sample_bytes
        self.end = 0
        self.size = 0

    @property
    def start(self) -> int:
        """Position of the first byte kept."""
        return self.end - self.size

    def append(self, payload: bytes) -> None:
        """Keep a payload."""
        self._chunks.append(payload)
        self.end += len(payload)
        self.size += len(payload)
        self.trim(self.end - self._limit)

    def trim(self, position: int) -> None:
        """Forget what lies before a position, to the whole sample."""
        surplus = min(position, self.end) - self.start
        surplus -= surplus % self._width
        while surplus > 0:
            first = self._chunks.popleft()
            if len(first) > surplus:
                self._chunks.appendleft(first[surplus:])
                self.size -= surplus
                return
            surplus -= len(first)
            self.size -= len(first)

    def chunks(self) -> list[bytes]:
        """Everything kept."""
        return list(self._chunks)


@dataclass(slots=True)
class Pending:
    """A pause that waits for its answer."""

    number: int
    position: int
    settle_at_ms: int


class Reader:
    """Common part of both protocols."""

    idle_ms: int
    """Without audio for so long, `keep_alive` is due."""

    def __init__(self, audio: AudioFormat) -> None:
        self.ring = Ring(audio)
        self.pending: Pending | None = None
        self._audio = audio
        self._byte_rate = audio.sample_rate * audio.sample_bytes
        self._base = 0
        self._turn_start = 0
        self._segment = 0
        self._shown = ""
        self._heard_at_ms = 0

    def _bytes(self, ms: int) -> int:
        return ms * self._byte_rate // 1000

    def _position(self, seconds: object) -> int:
        if not isinstance(seconds, (int, float)) or not -1e6 < seconds < 1e6:
            raise ProviderProtocol(NAME, "unreadable time")
        return self._base + int(seconds * self._byte_rate)

    def connected(self) -> Sequence[bytes | str]:
        """A new connection: what has to be sent again."""
        self._base = self.ring.start
        return self.ring.chunks()

    def pause(self, number: int, now_ms: int) -> Sequence[str]:
        """The caller paused; what to send."""
        self.pending = Pending(number, self.ring.end, now_ms + SETTLE_MS)
        return ()

    def resume(self) -> None:
        """The caller went on: the pause needs no answer any more."""
        self.pending = None

    def end_turn(self) -> Sequence[str]:
        """The next audio belongs to a new turn; what to send."""
        self.pending = None
        self._turn_start = self.ring.end
        self._segment, self._shown = 0, ""
        self.ring.trim(self.ring.end)
        return ()

    def keep_alive(self) -> bytes | str:
        """What keeps an idle stream open."""
        raise NotImplementedError

    def parse(self, message: str | bytes, now_ms: int) -> Sequence[Transcript]:
        """Understand one message."""
        parsed = parse_object(NAME, message)
        kind = parsed.get("type")
        if kind == "Error" or "err_msg" in parsed:
            named = ("code", "err_code", "variant", "description", "err_msg", "message")
            raise reason_error(NAME, " ".join(str(parsed[key]) for key in named if parsed.get(key)))
        if kind in ("Warning", "ConfigureFailure"):
            log.warning("stt_warning", provider=NAME, code=str(parsed.get("code"))[:100])
            return ()
        self._heard_at_ms = now_ms
        try:
            return self._understand(parsed)
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            raise ProviderProtocol(NAME, f"unreadable answer: {error!r:.200}") from error

    def _understand(self, parsed: Mapping[str, Any]) -> Sequence[Transcript]:
        raise NotImplementedError

    def _take_answer(self, end: int, *, surely: bool) -> int | None:
        """The number of the pause that an answer up to `end` covers."""
        pending = self.pending
        if pending is None or not (surely or end >= pending.position - self._bytes(COVER_MS)):
            return None
        self.pending = None
        return pending.number

    def settle(self, now_ms: int) -> Transcript | None:
        """Answer a pause with what is known, when the vendor is alive but has nothing to add."""
        pending = self.pending
        if pending is None or now_ms < pending.settle_at_ms:
            return None
        if now_ms - self._heard_at_ms > ALIVE_MS:
            return None
        self.pending = None
        return Transcript(self._shown, self._segment, final=False, pause=pending.number)


class NovaReader(Reader):
    """``v1/listen``: https://developers.deepgram.com/reference/speech-to-text/listen-streaming."""

    idle_ms = 4_000  # the vendor hangs up after ten seconds without audio or KeepAlive

    def __init__(self, audio: AudioFormat) -> None:
        super().__init__(audio)
        self._finalizes = 0
        self._last_final = 0

    def connected(self) -> Sequence[bytes | str]:
        self._finalizes = 0
        replay = super().connected()
        if self.pending is None:
            return replay
        self._finalizes = 1
        return (*replay, to_json({"type": "Finalize"}))

    def pause(self, number: int, now_ms: int) -> Sequence[str]:
        super().pause(number, now_ms)
        self._finalizes += 1
        near = self.ring.end - self._bytes(RECENT_FINAL_MS)
        if self.pending is not None and not self._shown and self._last_final >= near:
            # Endpointing has fixed the words already: little is buffered, a reply is uncertain.
            self.pending.settle_at_ms = now_ms + SETTLE_QUICKLY_MS
        return (to_json({"type": "Finalize"}),)

    def keep_alive(self) -> str:
        return to_json({"type": "KeepAlive"})

    def _understand(self, parsed: Mapping[str, Any]) -> Sequence[Transcript]:
        if parsed.get("type") != "Results":
            return ()
        text = parsed["channel"]["alternatives"][0]["transcript"]
        if not isinstance(text, str):
            raise ProviderProtocol(NAME, "a transcript is not text")
        end = self._position(parsed["start"] + parsed["duration"])
        final = parsed.get("is_final") is True
        asked = parsed.get("from_finalize") is True
        # Replies to Finalize come in order; one that an earlier pause asked for covers only that.
        surely = asked and self._finalizes == 1
        if asked:
            self._finalizes = max(0, self._finalizes - 1)
        if final:
            self.ring.trim(end)
            self._last_final = max(self._last_final, end)
        if end <= self._turn_start:
            return ()
        pause = self._take_answer(end, surely=surely) if final else None
        if pause is None and text == self._shown and not (final and text):
            return ()
        transcript = Transcript(text, self._segment, final=final, pause=pause)
        self._shown = "" if final else text
        self._segment += final
        return (transcript,)


class FluxReader(Reader):
    """``v2/listen``: https://developers.deepgram.com/docs/flux/quickstart."""

    idle_ms = 500  # Flux measures silence by audio: a stream that stalls never ends a turn

    def __init__(self, audio: AudioFormat) -> None:
        super().__init__(audio)
        self._first_turn = 0
        self._last_turn = 0
        self._speaking = False

    def connected(self) -> Sequence[bytes | str]:
        self._first_turn, self._last_turn = -self._segment, 0
        self._speaking = False
        return super().connected()

    def end_turn(self) -> Sequence[str]:
        super().end_turn()
        # The vendor's turn, if it is still open, ends with ours.
        self._first_turn = self._last_turn + self._speaking
        if not self._speaking:
            return ()
        self._speaking = False
        return (to_json({"type": "ForceEndTurn"}),)

    def keep_alive(self) -> bytes:
        return self._audio.silence(self.idle_ms)

    def _understand(self, parsed: Mapping[str, Any]) -> Sequence[Transcript]:
        if parsed.get("type") != "TurnInfo":
            return ()
        event, turn, text = parsed["event"], parsed["turn_index"], parsed["transcript"]
        if not (isinstance(turn, int) and isinstance(text, str) and isinstance(event, str)):
            raise ProviderProtocol(NAME, "unreadable turn")
        end = self._position(parsed["audio_window_end"])
        final = event == "EndOfTurn"
        if final:
            self.ring.trim(end)
        if turn < self._first_turn:
            return ()
        self._last_turn = turn + final
        self._speaking = not final and (event != "Update" or bool(text))
        segment = turn - self._first_turn
        if segment != self._segment:
            self._segment, self._shown = segment, ""
        pause = self._take_answer(end, surely=final or event == "EagerEndOfTurn")
        if pause is None and not final and text == self._shown:
            return ()
        self._shown = "" if final else text
        if final:
            self._segment += 1
        if final and not text and pause is None:
            return ()
        return (Transcript(text, segment, final=final, pause=pause),)
