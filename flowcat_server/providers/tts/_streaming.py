"""A voice over a pool of sockets: what the streaming vendors have in common."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager

import structlog

from flowcat_server.core.audio import AudioFormat
from flowcat_server.core.interfaces import Speech, Word
from flowcat_server.errors import ProviderError, ProviderProtocol, ProviderRefused
from flowcat_server.providers.http import Http
from flowcat_server.providers.registry import Settings
from flowcat_server.providers.sockets import Chunk, Context, Done, Endpoint, SocketPool

log = structlog.get_logger()


class SocketTts:
    """Text to speech over WebSockets. A vendor says what it offers and where it is."""

    formats: tuple[AudioFormat, ...]

    def __init__(self, http: Http) -> None:
        self.pool = SocketPool(http)

    def endpoint(self, audio: AudioFormat) -> Endpoint:
        """Where speech of this format comes from."""
        raise NotImplementedError

    async def start(self) -> None:
        """Nothing to load; keys are tried when the first call opens a voice."""

    async def prepare(self, texts: Sequence[str]) -> None:
        """The vendor keeps no cache that could be filled."""

    @asynccontextmanager
    async def open(self, audio: AudioFormat) -> AsyncIterator[SocketVoice]:
        """Connect, and give one call's voice. Raises what connecting failed with."""
        endpoint = self.endpoint(audio)
        await self.pool.warm(endpoint)
        yield SocketVoice(self.pool, endpoint, audio)

    async def close(self) -> None:
        """Close every connection."""
        await self.pool.close()


class SocketVoice:
    """One call's voice; its utterances travel over shared sockets."""

    def __init__(self, pool: SocketPool, endpoint: Endpoint, audio: AudioFormat) -> None:
        self.format = audio
        self._pool, self._endpoint = pool, endpoint

    async def synthesize(self, text: str) -> AsyncGenerator[Speech, None]:
        """Speak one sentence. Closing the generator cancels it at the vendor.

        A last `Speech` may carry word times and no audio. Speakable text that brings no audio at
        all is `ProviderRefused`: so an account out of credit looks.
        """
        if not any(character.isalnum() for character in text):
            return
        retried = False
        while True:
            context = self._pool.reserve(self._endpoint)
            utterance = _Utterance(self.format)
            try:
                await context.begin(text)
                while (speech := await utterance.next(context)) is not None:
                    if speech.audio or speech.words:
                        yield speech
                break
            except ProviderError as error:
                # A socket that was idle may have died unnoticed: one more try on a new one.
                if utterance.heard or retried or not (context.reused and context.lost):
                    raise
                log.info("tts_retried", provider=error.provider, reason=str(error))
                retried = True
            finally:
                await context.release()
        if not utterance.heard:
            raise ProviderRefused(
                self._endpoint.provider, "the synthesis ended without audio (is the quota used up?)"
            )


class _Utterance:
    """Puts the pieces of one utterance into whole samples."""

    def __init__(self, audio: AudioFormat) -> None:
        self._width = audio.sample_bytes
        self._odd = b""
        self._words: tuple[Word, ...] = ()
        self._ended = False
        self.heard = False

    async def next(self, context: Context) -> Speech | None:
        """The next piece, perhaps empty; None at the end."""
        if self._ended:
            return None
        event = await context.next()
        if isinstance(event, Done):
            self._ended = True
            return Speech(b"", self._words)
        return self._cut(event)

    def _cut(self, chunk: Chunk) -> Speech:
        audio = self._odd + chunk.audio
        end = len(audio) - len(audio) % self._width
        self._odd = audio[end:]
        words = self._words + chunk.words
        if end == 0:
            # Word times alone wait for the audio that follows them.
            self._words = words
            return Speech(b"")
        self._words = ()
        self.heard = True
        return Speech(audio[:end], words)


def decode_audio(provider: str, data: object) -> bytes:
    """Base64 audio, or `ProviderProtocol`."""
    if not isinstance(data, str):
        raise ProviderProtocol(provider, "audio is not text")
    try:
        return base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ProviderProtocol(provider, "audio is not base64") from error


def model_and_voice(
    settings: Settings, models: str, default_model: str, default_voice: str
) -> tuple[str, str]:
    """The model and the voice that are meant; `models` matches the names of the vendor's models.

    In Flowcat's files ``model`` is the voice: a model that does not look like one, with no voice
    beside it, is taken for the voice.
    """
    model, voice = settings.model, settings.voice
    if not voice and model and not re.match(models, model):
        return default_model, model
    return model or default_model, voice or default_voice
