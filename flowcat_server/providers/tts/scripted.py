"""`scripted`: a voice that hums, one tone burst per word."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager

from pydantic import Field

from flowcat_server.core.audio import AudioFormat
from flowcat_server.core.interfaces import Speech
from flowcat_server.providers import tones
from flowcat_server.providers.drills import FaultOptions, FaultPlan
from flowcat_server.providers.registry import Provider, Settings


class ScriptedTtsOptions(FaultOptions):
    """How it sounds, and how late."""

    first_audio_ms: int = Field(default=0, ge=0)
    realtime_factor: float = Field(default=0.0, ge=0.0)
    """Time taken per time of audio: 0 is at once, 1 is just in time, 2 is too slow."""
    ms_per_char: int = Field(default=60, ge=1, le=500)
    tone_hz: int = Field(default=440, ge=50, le=3500)


class ScriptedTts:
    """Hums."""

    formats = tones.FORMATS

    def __init__(self, options: ScriptedTtsOptions) -> None:
        self._options = options
        self._faults = FaultPlan(options)

    async def start(self) -> None:
        """Nothing to load."""

    async def prepare(self, texts: Sequence[str]) -> None:
        """Bursts are kept by length; there is nothing to prepare."""

    @asynccontextmanager
    async def open(self, audio: AudioFormat) -> AsyncIterator[ScriptedVoice]:
        """One call's voice."""
        yield ScriptedVoice(self._options, self._faults, audio)

    async def close(self) -> None:
        """Nothing to stop."""


class ScriptedVoice:
    """One call's voice."""

    def __init__(self, options: ScriptedTtsOptions, faults: FaultPlan, audio: AudioFormat) -> None:
        self.format = audio
        self._options, self._faults = options, faults

    async def synthesize(self, text: str) -> AsyncGenerator[Speech, None]:
        """Hum one sentence, word by word."""
        options = self._options
        trouble = self._faults.take()
        await trouble.before()
        await asyncio.sleep(options.first_audio_ms / 1000)
        pieces = tones.speak(
            text, self.format, ms_per_char=options.ms_per_char, tone_hz=options.tone_hz
        )
        for number, speech in enumerate(pieces):
            if options.realtime_factor:
                ms = self.format.duration_ms(len(speech.audio))
                await asyncio.sleep(options.realtime_factor * ms / 1000)
            yield speech
            if number == 0:
                await trouble.during()


def create(settings: Settings) -> ScriptedTts:
    """Create the provider."""
    return ScriptedTts(settings.options)


PROVIDER = Provider(
    create=create,
    options=ScriptedTtsOptions,
    local=True,
    status="built-in",
    title="Hums one tone burst per word; for tests, demos, load and fault drills.",
)
