"""`scripted`: a listener that hears the lines of a script, whatever is said to it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from pydantic import Field

from flowcat_server.core import audio as sound
from flowcat_server.core.audio import AudioFormat
from flowcat_server.core.interfaces import (
    Audio,
    EndOfTurn,
    Pause,
    Resume,
    SttCaps,
    SttInbox,
    SttInput,
    Transcript,
)
from flowcat_server.providers import tones
from flowcat_server.providers.drills import FaultOptions, FaultPlan
from flowcat_server.providers.registry import Provider, Settings

PARTIAL_CHUNK_MS = 100
PARTIAL_WORD_MS = 300
"""A caller says about three words a second: so much voice brings the next word."""
VOICED_RMS = 300


class ScriptedSttOptions(FaultOptions):
    """What is heard, and how late."""

    lines: tuple[str, ...] = ()
    """One per turn of the caller; empty texts once they are used up."""
    delay_ms: int = Field(default=0, ge=0)
    """From a pause to its transcript."""
    loop: bool = False
    """Begin again after the last line."""
    partials: bool = False
    """Also tell the words of a line one by one while the caller is audibly speaking."""


class ScriptedStt:
    """Answers each pause with the script's line for this turn. Every call begins at the top."""

    def __init__(self, options: ScriptedSttOptions) -> None:
        self._options = options
        self._faults = FaultPlan(options)
        self.caps = SttCaps(
            formats=tones.FORMATS,
            chunk_ms=PARTIAL_CHUNK_MS if options.partials else 0,
            keeps_partials=options.partials,
        )

    async def start(self) -> None:
        """Nothing to load."""

    async def transcribe(
        self, inbox: SttInbox, audio: AudioFormat
    ) -> AsyncGenerator[Transcript, None]:
        """One call's stream."""
        await self._faults.connect()
        script = _Script(self._options, audio)
        loop = asyncio.get_running_loop()
        reading: asyncio.Task[list[SttInput]] | None = None
        due = 0.0
        try:
            while True:
                if script.asked is None and reading is None:
                    items = await inbox.get()
                else:
                    reading = reading or loop.create_task(_read(inbox))
                    left = None if script.asked is None else max(0.0, due - loop.time())
                    await asyncio.wait((reading,), timeout=left)
                    items = None
                    if reading.done():
                        items, reading = reading.result(), None
                if items is not None:
                    if not items:
                        return
                    for item in items:
                        partial = script.feed(item)
                        if partial is not None:
                            yield partial
                        if isinstance(item, Pause):
                            due = loop.time() + self._options.delay_ms / 1000
                if script.asked is not None and loop.time() >= due:
                    trouble = self._faults.take()
                    await trouble.before()
                    await trouble.during()
                    yield script.answer()
        finally:
            if reading is not None:
                reading.cancel()

    async def close(self) -> None:
        """Nothing to stop."""


async def _read(inbox: SttInbox) -> list[SttInput]:
    return list(await inbox.get())


class _Script:
    """Where one call stands in the script."""

    def __init__(self, options: ScriptedSttOptions, audio: AudioFormat) -> None:
        self._options, self._audio = options, audio
        self._turn = 0
        self._answered = False
        self._voiced_ms = 0
        self._told = 0
        self.asked: int | None = None
        """The pause that waits for its transcript."""

    @property
    def _line(self) -> str:
        lines = self._options.lines
        if not lines or (self._turn >= len(lines) and not self._options.loop):
            return ""
        return lines[self._turn % len(lines)]

    def feed(self, item: SttInput) -> Transcript | None:
        if isinstance(item, Audio):
            return self._partial(item) if self._options.partials else None
        if isinstance(item, Pause):
            self.asked = item.number
        elif isinstance(item, Resume):
            self.asked = None
        elif isinstance(item, EndOfTurn):
            # A turn that was typed has asked for nothing and costs no line.
            self._turn += self._answered or self.asked is not None
            self.asked, self._answered, self._voiced_ms, self._told = None, False, 0, 0
        return None

    def _partial(self, item: Audio) -> Transcript | None:
        pcm = sound.decode(item.payload, self._audio.encoding)
        if sound.rms(pcm) < VOICED_RMS:
            return None
        self._voiced_ms += self._audio.duration_ms(len(item.payload))
        words = self._line.split()[: self._voiced_ms // PARTIAL_WORD_MS]
        if len(words) <= self._told:
            return None
        self._told = len(words)
        return Transcript(" ".join(words), segment=0, final=False)

    def answer(self) -> Transcript:
        pause, self.asked = self.asked, None
        self._answered = True
        return Transcript(self._line, segment=0, final=True, pause=pause)


def create(settings: Settings) -> ScriptedStt:
    """Create the provider."""
    return ScriptedStt(settings.options)


PROVIDER = Provider(
    create=create,
    options=ScriptedSttOptions,
    local=True,
    status="built-in",
    title="Hears the lines of a script; for tests, demos, load and fault drills.",
)
