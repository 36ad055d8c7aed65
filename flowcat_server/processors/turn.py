"""Voice activity and turn-taking: the first stage of a cascaded call."""

from __future__ import annotations

import asyncio
from functools import partial

from flowcat_server.core import events
from flowcat_server.core.audio import AudioFormat, Transcoder
from flowcat_server.core.echo import Echo
from flowcat_server.core.frames import (
    AudioIn,
    Digit,
    Frame,
    SpeechPaused,
    SpeechResumed,
    SpeechStarted,
    TextIn,
    TurnEnded,
)
from flowcat_server.core.interfaces import Transcript, Vad
from flowcat_server.core.processor import Processor
from flowcat_server.core.turn import TurnDetector
from flowcat_server.processors.call import Call
from flowcat_server.processors.judge import Judge


class TurnProcessor(Processor):
    """Feeds the VAD, drives the `TurnDetector` and emits what it decides.

    Transcripts come back from further down the chain through `transcript`.
    """

    __slots__ = (
        "_call",
        "_chunk_ms",
        "_detector",
        "_echo",
        "_judge",
        "_timer",
        "_timer_due",
        "_transcoder",
        "_vad",
    )

    sounds = (AudioIn,)

    def __init__(
        self,
        call: Call,
        detector: TurnDetector,
        vad: Vad,
        audio: AudioFormat,
        echo: Echo,
        judge: Judge | None = None,
    ) -> None:
        self._call = call
        self._judge = judge
        self._detector = detector
        self._echo = echo
        self._transcoder = Transcoder(audio, vad.format)
        self._vad = vad.open(partial(call.protect, self._on_chunk))
        self._chunk_ms = self._vad.chunk_ms
        self._timer: asyncio.Handle | None = None
        self._timer_due = 0

    def process(self, frame: Frame) -> None:
        if type(frame) is AudioIn:
            emit_in = self.emit_in
            emit_in(frame)
            payload, at_ms = frame.payload, frame.at_ms
            pcm = self._transcoder.feed(payload)
            self._echo.heard(at_ms, pcm)
            if self._judge is not None:
                self._judge.hear(payload)
            self._vad.feed(pcm, at_ms)
        elif type(frame) is Digit:
            self._call.publish(events.DigitPressed(frame.at_ms, frame.digit))
            self._send(self._detector.digit(frame.digit, self._call.now_ms()))
        elif type(frame) is TextIn:
            self._send(self._detector.typed(frame.text, self._call.now_ms()))
        else:
            self.emit(frame)

    def transcript(self, transcript: Transcript) -> None:
        """What the transcriber has heard of the open turn."""
        detector = self._detector
        now = self._call.now_ms()
        turn = detector.turn
        decided = detector.transcript(transcript.text, transcript.segment, transcript.pause, now)
        if detector.open and detector.text:
            self._call.publish(events.CallerText(now, turn, detector.text, final=False))
        self._send(decided)

    def hang_up(self) -> None:
        """The call is over; what the caller was keying in is not lost."""
        self._send(self._detector.hang_up(self._call.now_ms()))

    def close(self) -> None:
        self._vad.close()
        if self._timer is not None:
            self._timer.cancel()

    def _on_chunk(self, at_ms: int, probability: float) -> None:
        decided = self._detector.voice(at_ms, probability, self._chunk_ms, self._call.now_ms())
        if decided:
            self._send(decided)

    def _send(self, frames: list[Frame]) -> None:
        for frame in frames:
            match frame:
                case SpeechStarted(at_ms) | SpeechResumed(at_ms):
                    self._call.publish(events.CallerSpeaking(at_ms, speaking=True))
                case SpeechPaused(at_ms, pause):
                    self._call.publish(events.CallerSpeaking(at_ms, speaking=False))
                    if self._judge is not None:
                        self._judge.ask(partial(self._judged, pause))
                case TurnEnded():
                    self._call.publish(
                        events.CallerText(
                            frame.decided_ms, frame.turn, frame.text, final=True, typed=frame.typed
                        )
                    )
                case _:
                    pass
            self.emit(frame)
        self._arm()

    def _judged(self, pause: int, finished: bool) -> None:
        self._send(self._detector.judged(pause, self._call.now_ms(), finished=finished))

    def _arm(self) -> None:
        due = self._detector.deadline_ms()
        if due is None or (self._timer is not None and self._timer_due <= due):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_due = due
        self._timer = self._call.call_at(due, self._tick)

    def _tick(self) -> None:
        self._timer = None
        self._send(self._detector.tick(self._call.now_ms()))
