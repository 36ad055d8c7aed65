"""The far end: the caller's telephone, in memory, sample by sample.

Every 20 ms it hands over what the caller's side sounded like in the 20 ms before, and plays the
next 20 ms of the agent. There is no network between: no delay is added on either way. What the
loudspeaker plays comes back through the room, if the item says so.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from bench.turns import noises
from bench.turns.items import Echo
from bench.turns.sound import Sound, from_pcm, samples, to_pcm
from flowcat_server.core.audio import MULAW_8K, PCM_16K, Transcoder
from flowcat_server.core.interfaces import CallSink, PlayoutSource

FRAME_MS = 20
FRAME = samples(FRAME_MS)
LEAD_MS = 400
"""How far ahead a far end that buffers is sent speech."""
_ROOM_MS = 40


@dataclass(slots=True)
class Played:
    """Sound of the agent that came out of the loudspeaker. Times are the line's, in ms."""

    start_ms: int
    end_ms: int
    payload: bytes
    audible: bool


class FarEnd:
    """A transport; `tick` is 20 ms of the line."""

    delay_ms = 0

    def __init__(self, channel: str, echo: Echo | None, seed: int) -> None:
        self.buffers = channel == "phone"
        self.input_format = self.output_format = MULAW_8K if self.buffers else PCM_16K
        self.played: list[Played] = []
        self.cleared: list[int] = []
        self.hung_up: str | None = None
        self._rng = np.random.default_rng(seed)
        self._echo = echo
        self._room = _room(self._rng)
        self._history = np.zeros(0, np.float32)
        self._ears = Transcoder(self.output_format, PCM_16K)
        self._mouth = Transcoder(PCM_16K, self.input_format)
        self._sink: CallSink | None = None
        self._source: PlayoutSource | None = None
        self._zero: int | None = None
        self._ahead: list[bytes | str] = []
        self._sound: Sound = np.zeros(0, np.float32)
        self._at = 0
        self._ticks = 0
        self.on_frame: Callable[[Played], None] = lambda _: None

    # --- transport --------------------------------------------------------------------------

    def attach(self, sink: CallSink, source: PlayoutSource) -> None:
        self._sink, self._source = sink, source

    def wake(self) -> None:
        """The next tick takes it."""

    def clear(self) -> None:
        now = self.line_ms()
        self.cleared.append(now)
        self._ahead.clear()
        if self.buffers and self.played:
            self.played[-1].end_ms = min(self.played[-1].end_ms, now)

    async def wait_connected(self) -> None:
        """It always is."""

    async def hang_up(self, reason: str) -> None:
        self.hung_up = reason

    # --- the line ---------------------------------------------------------------------------

    @property
    def zero_ms(self) -> int:
        """The call's clock when the line began."""
        return self._zero or 0

    def line_ms(self) -> int:
        """Now, on the line's clock."""
        return self._sink.now_ms() - self.zero_ms if self._sink is not None else 0

    def says(self, sound: Sound, at_ms: int) -> None:
        """The caller's side sounds like this from `at_ms` on."""
        self._sound, self._at = sound, samples(at_ms)

    def tick(self) -> None:
        """The caller's last 20 ms go in, the agent's next 20 ms begin to sound."""
        sink, source = self._sink, self._source
        if sink is None or source is None:
            return
        if self._zero is None:
            self._zero = sink.now_ms()
        if self._ticks:
            sink.receive_audio(self._mouth.feed(to_pcm(self._caller(self._ticks - 1))))
        frame = self._next(sink, source)
        heard = from_pcm(self._ears.feed(frame or self.output_format.silence(FRAME_MS)), 16_000)
        self._history = np.concatenate((self._history, heard))
        if frame:
            start = self._ticks * FRAME_MS
            audible = bool(np.sqrt(np.mean(heard**2)) > 0.003)
            self.played.append(Played(start, start + FRAME_MS, frame, audible))
            self.on_frame(self.played[-1])
        self._ticks += 1

    def _next(self, sink: CallSink, source: PlayoutSource) -> bytes:
        size = self.output_format.bytes_for(FRAME_MS)
        if not self.buffers:
            return source.pull(sink.now_ms(), size)
        while source.queued() and source.lead_ms(sink.now_ms()) < LEAD_MS:
            audio = source.pull(sink.now_ms(), 5 * size)
            self._ahead += [audio[at : at + size] for at in range(0, len(audio), size)]
        mark = source.take_mark()
        if mark is not None:
            self._ahead.append(mark)
        while self._ahead:
            item = self._ahead.pop(0)
            if isinstance(item, bytes):
                return item
            sink.receive_mark(item)
        return b""

    def _caller(self, tick: int) -> Sound:
        start = tick * FRAME
        out = noises.FLOOR_GAIN * self._rng.standard_normal(FRAME)
        begin, end = max(start, self._at), min(start + FRAME, self._at + len(self._sound))
        if begin < end:
            out[begin - start : end - start] += self._sound[begin - self._at : end - self._at]
        if self._echo is not None:
            out += self._returned(start, self._echo)
        return np.clip(out, -1, 1).astype(np.float32)

    def _returned(self, start: int, echo: Echo) -> Sound:
        room = len(self._room)
        first = start - samples(echo.delay_ms) - room + 1
        wanted = np.arange(first, first + FRAME + room - 1)
        inside = (wanted >= 0) & (wanted < len(self._history))
        source = np.zeros(len(wanted), np.float32)
        source[inside] = self._history[wanted[inside]]
        gain = np.float32(10 ** (echo.gain_db / 20))
        return np.asarray(gain * np.convolve(source, self._room, "valid"), np.float32)


def _room(rng: np.random.Generator) -> Sound:
    """A short room: direct sound and a decaying tail, of unit energy."""
    tail = (
        rng.standard_normal(samples(_ROOM_MS)) * np.exp(-np.arange(samples(_ROOM_MS)) / 160) * 0.3
    )
    tail[0] = 1.0
    return np.asarray(tail / np.sqrt(np.sum(tail**2)), np.float32)
