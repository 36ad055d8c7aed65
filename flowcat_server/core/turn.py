"""When the caller speaks, pauses, has finished, and when that interrupts the agent.

Theory of operation. The detector is fed with voice probabilities (one per VAD chunk, stamped
with the time of the audio, not of its processing), transcripts, digits and typed text; it
answers with frames. It never reads a clock: the caller passes `now_ms` and asks `deadline_ms`
when to call `tick` if nothing else happens.

    quiet --onset--> speaking --pause_ms of silence--> paused --delay--> quiet (TurnEnded)
                        ^                                 |
                        '------------- onset -------------'  (SpeechResumed)

On entering `paused` the transcriber is asked for a transcript at once (`SpeechPaused`), so that
decoding overlaps the wait that endpointing needs anyway. The turn ends when the silence has
lasted as long as `Endpointing` asks for after what was said, and the transcript for this pause
is there; a transcriber that does not answer holds the turn no longer than `transcript_wait_ms`.
Silence is measured in audio time, so a blocked loop neither ends a turn nor hides an
interruption; only when no audio comes at all does the clock stand in for it.

What becomes of speech over the agent is decided by `BargeIn`, which is told of every chunk,
transcript and pause.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from flowcat_server.core.bargein import BargeIn, BargeInRules, Floor
from flowcat_server.core.endpointing import NOTHING, Endpointing, Expects
from flowcat_server.core.frames import (
    Frame,
    Interrupted,
    SpeechPaused,
    SpeechResumed,
    SpeechStarted,
    TurnDropped,
    TurnEnded,
    TurnSupposed,
)
from flowcat_server.core.keypad import Keypad, Keys
from flowcat_server.core.language import tokens

ONSET_THRESHOLD = 0.5
OFFSET_THRESHOLD = 0.35
"""Hysteresis as the Silero authors use it: leave speech 0.15 below where it is entered."""
VERDICT_MS = 240
"""Silence after which words over the agent are taken for all that was said."""
WORD_MS = 200
"""A word of the agent's echo is no shorter, on average."""
AUDIO_STALL_MS = 500
"""Without audio for this long, the clock stands in for audio time."""


@dataclass(frozen=True, slots=True)
class TurnRules:
    """How long to wait and what interrupts. Milliseconds."""

    onset_ms: int = 64
    """Voiced audio needed to believe that the caller speaks."""
    pause_ms: int = 96
    transcript_wait_ms: int = 3000
    barge_in: BargeInRules = field(default_factory=BargeInRules)
    supposes: bool = False
    """Tell of a turn that seems to be over before it is (`TurnSupposed`)."""


class _Pauses:
    """Numbers for questions to the transcriber."""

    def __init__(self) -> None:
        self.last = 0

    def begin(self) -> int:
        """The next one."""
        self.last += 1
        return self.last


class TurnDetector:
    """One call's endpointing and barge-in.

    Every method takes the time and returns the frames it caused, in order.
    """

    __slots__ = (
        "_after_echo",
        "_answered",
        "_barge_in",
        "_delay_ms",
        "_endpointing",
        "_expects",
        "_floor",
        "_goes_on",
        "_heard_until",
        "_keypad",
        "_keys",
        "_last_voice",
        "_onset",
        "_open",
        "_pauses",
        "_paused",
        "_segments",
        "_speaking",
        "_supposed",
        "_turn",
        "_voice_run_start",
        "rules",
    )

    def __init__(
        self,
        rules: TurnRules,
        *,
        floor: Floor,
        endpointing: Endpointing,
        expects: Callable[[], Expects] = lambda: NOTHING,
        keys: Callable[[], Keys | None] = lambda: None,
        backchannel: Callable[[str], bool] = lambda text: False,
        echo: Callable[[int, int, str], bool] = lambda from_ms, to_ms, text: False,
        after_echo: Callable[[str, int], str] = lambda text, most: text,
    ) -> None:
        """Create a detector.

        Args:
            rules: Waits and thresholds.
            floor: What the agent does.
            endpointing: How long to wait after what was said.
            expects: What the agent has asked for.
            keys: What makes a number where the agent listens for keys; None: it does not.
            backchannel: Whether a text is only that of a listener.
            echo: Whether sound between two times, with this transcript, is the agent's own.
            after_echo: A transcript without the agent's words, which are so many at most, at its
                front.
        """
        self.rules = rules
        self._floor = floor
        self._pauses = _Pauses()
        self._barge_in = BargeIn(
            rules.barge_in, floor, number=self._pauses.begin, backchannel=backchannel, echo=echo
        )
        self._after_echo = after_echo
        self._endpointing = endpointing
        self._expects = expects
        self._delay_ms = endpointing.min_delay_ms
        """Silence that ends the open turn."""
        self._turn = 0
        """Number of the last caller turn; the greeting is reply 0."""
        self._heard_until = 0
        self._voice_run_start: int | None = None
        self._onset = 0
        self._last_voice = 0
        self._speaking = False
        self._open = False
        self._paused = False
        self._answered = 0
        self._segments: dict[int, str] = {}
        self._goes_on = False
        """By the sound of it, the caller has not finished."""
        self._supposed = ""
        """What of the open turn was told as its text, unless the caller has gone on since."""
        self._keys = keys
        self._keypad = Keypad()

    @property
    def open(self) -> bool:
        """The caller has begun a turn that has not ended."""
        return self._open

    @property
    def keying(self) -> bool:
        """The caller has begun a number on the keypad that has not ended."""
        return self._keypad.deadline_ms() is not None

    @property
    def turn(self) -> int:
        """Number of the caller's current or next turn."""
        return self._turn + 1

    def skip(self) -> int:
        """Take the next turn's number for something the agent says unasked."""
        self._turn += 1
        return self._turn

    @property
    def text(self) -> str:
        """The transcript of the open turn so far."""
        return " ".join(text for _, text in sorted(self._segments.items()) if text)

    def voice(self, at_ms: int, probability: float, chunk_ms: int, now_ms: int) -> list[Frame]:
        """One VAD chunk of `chunk_ms` that ends at `at_ms`."""
        self._heard_until = at_ms
        frames: list[Frame] = []
        threshold = OFFSET_THRESHOLD if self._speaking else ONSET_THRESHOLD
        if probability >= threshold:
            if self._voice_run_start is None:
                self._voice_run_start = at_ms - chunk_ms
            if not self._speaking and at_ms - self._voice_run_start >= self.rules.onset_ms:
                frames += self._begin_speech()
            if self._speaking:
                self._last_voice = at_ms
                frames += self._barge_in.voice(self._onset, at_ms, self.text, now_ms)
            return frames
        self._voice_run_start = None
        if not (self._speaking or self._open):
            return frames
        if self._speaking and at_ms - self._last_voice >= self.rules.pause_ms:
            frames += self._begin_pause()
        return frames + self._endpoint(now_ms)

    def transcript(self, text: str, segment: int, pause: int | None, now_ms: int) -> list[Frame]:
        """A transcript of the open turn; `pause` is the `SpeechPaused` it answers."""
        if not self._open:
            return []
        self._segments[segment] = text.strip()
        self._set_delay()
        if pause is not None and pause > self._answered:
            self._answered = pause
        return self._barge_in.transcript(self.text, pause, now_ms) + self._endpoint(now_ms)

    def judged(self, pause: int, now_ms: int, *, finished: bool) -> list[Frame]:
        """Somebody who heard the caller's voice at a `SpeechPaused` says whether they go on."""
        if not self._open or not self._paused or pause != self._pauses.last:
            return []
        self._goes_on = not finished
        self._set_delay()
        return self._endpoint(now_ms)

    def digit(self, digit: str, now_ms: int) -> list[Frame]:
        """A DTMF key. It interrupts where the agent listens for keys; elsewhere it is kept."""
        keys = self._keys()
        number = self._keypad.press(digit, keys or Keys(), now_ms)
        if number:
            return self._keyed(number, now_ms)
        if number is None or keys is None or self._floor.sounding() is None:
            return []
        return self._cut(now_ms)

    def typed(self, text: str, now_ms: int) -> list[Frame]:
        """A typed line is a whole turn and interrupts."""
        return [*self._cut(now_ms), self._at_once(text, now_ms)]

    def tick(self, now_ms: int) -> list[Frame]:
        """Time has passed."""
        number = self._keypad.tick(now_ms)
        if number:
            return self._keyed(number, now_ms)
        return self._barge_in.tick(now_ms, speaking=self._speaking) + self._endpoint(now_ms)

    def hang_up(self, now_ms: int) -> list[Frame]:
        """The call is over: what was being keyed in is the caller's last turn."""
        number = self._keypad.finish()
        return [self._at_once(number, now_ms)] if number else []

    def deadline_ms(self) -> int | None:
        """When `tick` is wanted next, or None. A `tick` at that time changes something."""
        due = (self._keypad.deadline_ms(), self._barge_in.deadline_ms())
        deadlines = [at_ms for at_ms in due if at_ms is not None]
        if self._open and self._paused:
            end_ms = self._last_voice + self._delay_ms + AUDIO_STALL_MS
            if self._answered < self._pauses.last:
                end_ms = max(end_ms, self._last_voice + self.rules.transcript_wait_ms)
            deadlines.append(end_ms)
        elif self._speaking:
            deadlines.append(self._heard_until + AUDIO_STALL_MS + self.rules.pause_ms)
        return min(deadlines, default=None)

    # --- inside ---------------------------------------------------------------------------

    def _begin_speech(self) -> list[Frame]:
        assert self._voice_run_start is not None  # noqa: S101 - set by the caller just before
        self._speaking = True
        self._onset = self._voice_run_start
        self._supposed = ""
        self._goes_on = False
        if self._open:
            self._paused = False
            return [SpeechResumed(self._onset)]
        self._open = True
        self._paused = False
        self._segments.clear()
        self._delay_ms = self._endpointing.min_delay_ms
        return [SpeechStarted(self._onset)]

    def _set_delay(self) -> None:
        self._delay_ms = self._endpointing.delay_ms(self.text, self._expects(), self._goes_on)

    def _begin_pause(self) -> list[Frame]:
        self._speaking = False
        self._paused = True
        return [SpeechPaused(self._last_voice, self._pauses.begin())]

    def _endpoint(self, now_ms: int) -> list[Frame]:
        if self._speaking and now_ms - self._heard_until >= AUDIO_STALL_MS + self.rules.pause_ms:
            # The caller's audio stopped in mid-word (muted at the source): that is a pause.
            return self._begin_pause()
        if not self._open or not self._paused:
            return []
        audio_now = max(self._heard_until, now_ms - AUDIO_STALL_MS)
        silence = audio_now - self._last_voice
        answered = self._answered == self._pauses.last
        if not answered and now_ms - self._last_voice < self.rules.transcript_wait_ms:
            return []
        if silence < min(VERDICT_MS, self._delay_ms):
            return [] if self._barge_in.over else self._suppose(now_ms)
        text = self.text
        forget, frames = self._barge_in.verdict(text, now_ms)
        if forget:
            self._close_turn()
            return [*frames, TurnDropped(now_ms)]
        delay = self._delay_ms
        if silence < delay:
            return frames + self._suppose(now_ms)
        if not text:
            self._close_turn()  # a noise that no transcriber could read
            return [*frames, TurnDropped(now_ms)]
        return [*frames, *self._end_turn(text, delay, now_ms)]

    def _suppose(self, now_ms: int) -> list[Frame]:
        """The turn ends soon, with what has been said so far, unless the caller goes on."""
        text = self.text
        if not self.rules.supposes or text == self._supposed or not tokens(text):
            return []
        self._supposed = text
        return [TurnSupposed(text, now_ms)]

    def _end_turn(self, text: str, delay_ms: int, now_ms: int) -> list[Frame]:
        self._turn += 1
        if self._barge_in.echo_ms:
            text = self._after_echo(text, self._barge_in.echo_ms // WORD_MS + 1) or text
        ended = TurnEnded(
            self._turn,
            text,
            speech_end_ms=self._last_voice,
            endpoint_ms=min(self._last_voice + delay_ms, now_ms),
            decided_ms=now_ms,
        )
        self._close_turn()
        return [ended]

    def _close_turn(self) -> None:
        self._open = False
        self._paused = False
        self._speaking = False
        self._voice_run_start = None
        self._segments.clear()
        self._barge_in.close()

    def _keyed(self, number: str, now_ms: int) -> list[Frame]:
        """A number is complete: a whole turn, answered after what may not be interrupted."""
        cut = self._cut(now_ms) if self._keys() is not None else []
        return [*cut, self._at_once(number, now_ms)]

    def _cut(self, now_ms: int) -> list[Frame]:
        active = self._floor.active()
        if active is None or not (self.rules.barge_in.enabled and self._floor.interruptible()):
            return []
        return [Interrupted(active, now_ms)]

    def _at_once(self, text: str, now_ms: int) -> TurnEnded:
        self._turn += 1
        return TurnEnded(self._turn, text, now_ms, now_ms, now_ms, typed=True)
