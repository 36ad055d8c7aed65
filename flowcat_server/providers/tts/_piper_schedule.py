"""Decides which utterance is worked on next. Runs in the synthesis process only.

Work comes in steps of some ten milliseconds: encode a sentence, or decode the next window of it.
The step whose utterance will fall silent first goes first. A new utterance is silent already,
since it arrived; one that is being heard is silent when the sound it has had is over; texts that
are prepared for later have no deadline. So many calls can speak at once, first sounds come
before later ones, and no long text holds up a short one.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from flowcat_server.providers.tts._piper_model import HOP, Encoded, PiperModel, Samples, Sentence

FIRST_WINDOW, SECOND_WINDOW, LATER_WINDOW = 24, 48, 96
"""Frames decoded at a time: 280, 560 and 1,100 ms of sound at 22,050 Hz."""
GAIN = 1.5
"""Brings the voice from about -21.5 to -18 dBFS while it speaks."""
_KNEE = 0.8
_LEAD_MS, _TAIL_MS = 15, 250
"""Silence left before the first sound of an utterance and after the last of a sentence."""
_SILENT = 0.006
"""Mean amplitude below which 5 ms are silence."""


@dataclass(slots=True)
class Utterance:
    """One request on its way."""

    number: int
    text: str
    background: bool
    run: Any
    """onnxruntime.RunOptions; ``terminate`` aborts a step in progress."""
    arrived: float = field(default_factory=time.monotonic)
    sentences: list[Sentence] | None = None
    encoded: Encoded | None = None
    next_frame: int = 0
    heard_from: float = 0.0
    """When the first sound went out; monotonic seconds."""
    samples: int = 0
    """Sent so far."""
    busy: bool = False
    cancelled: bool = False

    def deadline(self, sample_rate: int) -> float:
        """When the listener hears silence."""
        if self.background:
            return math.inf
        if not self.samples:
            return self.arrived
        return self.heard_from + self.samples / sample_rate


@dataclass(frozen=True, slots=True)
class Output:
    """Where results go; called on the worker threads."""

    words: Callable[[int, list[tuple[str, int, int]]], None]
    audio: Callable[[int, bytes], None]
    done: Callable[[int], None]
    failed: Callable[[int, str], None]


class Schedule:
    """The utterances in hand and the threads that work on them."""

    def __init__(self, model: PiperModel, output: Output, threads: int) -> None:
        self._model, self._output = model, output
        self._changed = threading.Condition()
        self._utterances: dict[int, Utterance] = {}
        for i in range(threads):
            threading.Thread(target=self._work, name=f"piper-{i}", daemon=True).start()

    def speak(self, number: int, text: str, background: bool) -> None:
        """Begin an utterance."""
        with self._changed:
            self._utterances[number] = Utterance(number, text, background, self._model.new_run())
            self._changed.notify()

    def cancel(self, number: int) -> None:
        """Stop an utterance, also in the middle of a step."""
        with self._changed:
            utterance = self._utterances.pop(number, None)
            if utterance is not None:
                utterance.cancelled = True
                utterance.run.terminate = True

    def _take(self) -> Utterance:
        rate = self._model.sample_rate
        with self._changed:
            while True:
                idle = [u for u in self._utterances.values() if not u.busy]
                if idle:
                    chosen = min(idle, key=lambda u: (u.deadline(rate), u.arrived))
                    chosen.busy = True
                    return chosen
                self._changed.wait()

    def _work(self) -> None:
        while True:
            utterance = self._take()
            problem = ""
            finished = True
            try:
                finished = self._step(utterance)
            except Exception as error:  # noqa: BLE001 - onnxruntime raises RuntimeError's kin
                problem = f"{type(error).__name__}: {error}"
            with self._changed:
                utterance.busy = False
                wanted = not utterance.cancelled
                if finished:
                    self._utterances.pop(utterance.number, None)
                else:
                    self._changed.notify()
            if wanted and problem:
                self._output.failed(utterance.number, problem)
            elif wanted and finished:
                self._output.done(utterance.number)

    def _step(self, utterance: Utterance) -> bool:
        """Do the next piece of work; True when there is none left."""
        if utterance.sentences is None:
            utterance.sentences = self._model.plan(utterance.text)
        if utterance.encoded is None:
            if not utterance.sentences:
                return True
            sentence = utterance.sentences.pop(0)
            utterance.encoded = self._model.encode(sentence, utterance.run)
            utterance.next_frame = 0
            # The first sound goes on at once; later sentences let others in between.
            if utterance.samples:
                return False
        if not self._decode(utterance, utterance.encoded):
            return False
        utterance.encoded = None
        return not utterance.sentences

    def _decode(self, utterance: Utterance, encoded: Encoded) -> bool:
        """Decode and send the next window; True when it was the sentence's last."""
        begin = utterance.next_frame
        window = FIRST_WINDOW
        if utterance.samples:
            window = SECOND_WINDOW if begin <= FIRST_WINDOW else LATER_WINDOW
        end = begin + window
        # A short rest is not worth a run of its own.
        if encoded.frames - end < FIRST_WINDOW // 2:
            end = encoded.frames
        audio = self._model.decode(encoded, begin, end, utterance.run)
        skipped = 0
        if not utterance.samples:
            skipped = _onset(audio, self._model.sample_rate)
            audio = audio[skipped:]
        if end == encoded.frames:
            audio = audio[: _rest(audio, self._model.sample_rate)]
        if utterance.cancelled:
            return True
        if audio.size and not utterance.samples:
            utterance.heard_from = time.monotonic()
            self._send_words(utterance, encoded, begin * HOP + skipped)
        elif begin == 0 and utterance.samples:
            self._send_words(utterance, encoded, 0)
        if audio.size:
            utterance.samples += audio.size
            self._output.audio(utterance.number, pcm16(audio))
        utterance.next_frame = end
        return end == encoded.frames

    def _send_words(self, utterance: Utterance, encoded: Encoded, skipped: int) -> None:
        offset = utterance.samples - skipped
        per_ms = self._model.sample_rate / 1000
        words = []
        for text, begin, end in encoded.words:
            start_ms = max(0, round((begin * HOP + offset) / per_ms))
            words.append((text, start_ms, max(start_ms, round((end * HOP + offset) / per_ms))))
        if words:
            self._output.words(utterance.number, words)


def pcm16(audio: Samples) -> bytes:
    """Amplify to telephone level, rounding peaks off instead of clipping them."""
    loud = audio * np.float32(GAIN)
    over = np.abs(loud) > _KNEE
    if over.any():
        peaks = loud[over]
        room = 1.0 - _KNEE
        bent = _KNEE + room * np.tanh((np.abs(peaks) - _KNEE) / room)
        loud[over] = np.copysign(bent, peaks)
    return bytes((loud * np.float32(32767)).astype("<i2").tobytes())


def _levels(audio: Samples, block: int) -> Samples:
    whole = audio[: audio.size // block * block].reshape(-1, block)
    levels: Samples = np.abs(whole).mean(axis=1)
    return levels


def _onset(audio: Samples, sample_rate: int) -> int:
    """Samples of silence at the beginning beyond `_LEAD_MS`."""
    block = sample_rate // 200
    sounding = np.flatnonzero(_levels(audio, block) > _SILENT)
    first = int(sounding[0]) * block if sounding.size else audio.size
    return max(0, first - _LEAD_MS * sample_rate // 1000)


def _rest(audio: Samples, sample_rate: int) -> int:
    """How much of the last window to keep: up to `_TAIL_MS` after its last sound."""
    block = sample_rate // 200
    sounding = np.flatnonzero(_levels(audio, block) > _SILENT)
    last = (int(sounding[-1]) + 1) * block if sounding.size else 0
    return min(audio.size, last + _TAIL_MS * sample_rate // 1000)
