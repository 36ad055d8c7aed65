"""What the runner puts around the real providers, and the one it replaces: the agent's voice."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from bench.turns.clock import Owed
from bench.turns.sound import Sound, to_pcm
from flowcat_server.core.audio import (
    MULAW_8K,
    PCM_8K,
    PCM_16K,
    AudioFormat,
    Transcoder,
)
from flowcat_server.core.interfaces import Speech, Vad, VadStream, Word
from flowcat_server.errors import ProviderRefused


class TappedVad:
    """The real detector; notes every probability and what the detector still owes."""

    def __init__(self, vad: Vad, owed: Owed | None) -> None:
        self._vad = vad
        self._owed = owed
        self.format = vad.format
        self.notes: list[tuple[int, float]] = []
        """Time of the chunk's end on the call's clock, and its probability, of the last call."""

    def open(self, on_chunk: Callable[[int, float], None]) -> VadStream:
        self.notes = []
        return _TappedStream(self._vad, self.notes, on_chunk, self._owed, self.format)

    async def start(self) -> None:
        await self._vad.start()

    async def close(self) -> None:
        await self._vad.close()


class _TappedStream:
    def __init__(
        self,
        vad: Vad,
        notes: list[tuple[int, float]],
        on_chunk: Callable[[int, float], None],
        owed: Owed | None,
        audio: AudioFormat,
    ) -> None:
        self._notes, self._on_chunk, self._owed = notes, on_chunk, owed
        self._stream = vad.open(self._noted)
        self.chunk_ms = self._stream.chunk_ms
        self._chunk_bytes = audio.bytes_for(self.chunk_ms)
        self._bytes = 0
        self._pending = 0

    def feed(self, pcm: bytes, at_ms: int) -> None:
        # No chunk is missing and they come in order: what was not answered is being worked on.
        self._bytes += len(pcm)
        due, self._bytes = divmod(self._bytes, self._chunk_bytes)
        self._owe(due)
        self._stream.feed(pcm, at_ms)

    def close(self) -> None:
        self._stream.close()
        self._owe(-self._pending)

    def _noted(self, at_ms: int, probability: float) -> None:
        self._owe(-1)
        self._notes.append((at_ms, probability))
        self._on_chunk(at_ms, probability)

    def _owe(self, change: int) -> None:
        self._pending += change
        if self._owed is not None and change:
            self._owed.add(change)


@dataclass(frozen=True, slots=True)
class Line:
    """One sentence of the agent as it sounds."""

    sound: Sound
    words: tuple[Word, ...]


class FixedVoice:
    """Text to speech that knows a few sentences by heart and says them at once."""

    formats: tuple[AudioFormat, ...] = (MULAW_8K, PCM_8K, PCM_16K)

    def __init__(self, lines: Mapping[str, Line]) -> None:
        self._lines = lines

    async def start(self) -> None:
        """Nothing to load."""

    async def prepare(self, texts: Sequence[str]) -> None:
        """Nothing to prepare."""

    @asynccontextmanager
    async def open(self, audio: AudioFormat) -> AsyncIterator[_FixedSpeech]:
        yield _FixedSpeech(self._lines, audio)

    async def close(self) -> None:
        """Nothing to stop."""


class _FixedSpeech:
    def __init__(self, lines: Mapping[str, Line], audio: AudioFormat) -> None:
        self._lines = lines
        self.format = audio

    async def synthesize(self, text: str) -> AsyncGenerator[Speech, None]:
        line = self._lines.get(text)
        if line is None:
            raise ProviderRefused("fixed", f"no sound is known for {text!r}")
        yield Speech(spoken(line, self.format), line.words)


def spoken(line: Line, audio: AudioFormat) -> bytes:
    """A sentence in a wire format, as `FixedVoice` says it."""
    transcoder = Transcoder(PCM_16K, audio)
    return transcoder.feed(to_pcm(line.sound)) + transcoder.flush()
