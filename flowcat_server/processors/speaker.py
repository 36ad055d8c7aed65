"""One call's voice: speaks piece by piece, with the next provider from where one fails."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from flowcat_server.core.audio import AudioFormat, Transcoder
from flowcat_server.core.frames import AudioOut, PieceEnded
from flowcat_server.core.interfaces import TextToSpeech, Voice
from flowcat_server.core.processor import Emit
from flowcat_server.core.usage import UsageMeter
from flowcat_server.errors import ProviderError, ProviderTimeout, ProviderUnavailable
from flowcat_server.processors.call import Call
from flowcat_server.processors.deadlines import Deadline, timed
from flowcat_server.processors.lineup import Lineup
from flowcat_server.processors.spoken import Spoken
from flowcat_server.processors.transcribe import choose_format


class Speaker:
    """Speaks for whoever has the words; one piece at a time."""

    def __init__(
        self,
        call: Call,
        speakers: Lineup[TextToSpeech],
        audio: AudioFormat,
        bearable_ms: Callable[[], int],
        usage: UsageMeter,
        emit: Emit,
    ) -> None:
        """Connect, so that the voice is there when it is needed.

        Args:
            call: The owner.
            speakers: The provider and its fallbacks.
            audio: What `AudioOut` carries.
            bearable_ms: How long the next sound may take where another voice could speak.
            usage: Told what the voices were given and what they made of it.
            emit: Takes the `AudioOut` of a piece, and its `PieceEnded`.
        """
        self._call = call
        self._speakers = speakers
        self._audio = audio
        self._bearable_ms = bearable_ms
        self._usage = usage
        self._emit = emit
        self._open()

    def close(self) -> None:
        """The call is over."""
        self._voice.cancel()

    async def speak(self, turn: int, piece: int, text: str) -> ProviderError | None:
        """Speak a piece, with the next voice from where one fails.

        Returns what the last of them failed with, if there is none left.
        """
        spoken = Spoken(text)
        self._speakers.begin()
        while True:
            try:
                await self._voice_piece(turn, piece, spoken)
            except ProviderError as error:
                failure = error
            else:
                self._speakers.succeeded()
                break
            words = spoken.cut()
            if words:
                self._emit(AudioOut(turn, b"", piece, words))
            if not self._speakers.failed(failure):
                if spoken.begun and not spoken.rest:
                    break
                return failure
            self._keeper.cancel()
            self._open()
            if spoken.begun and not spoken.rest:
                break  # it failed behind its last word
            await asyncio.sleep(self._speakers.delay_ms / 1000)
        self._emit(PieceEnded(turn, piece))
        return None

    def _open(self) -> None:
        """Connect the provider in use; the call rings or greets meanwhile."""
        self._voice: asyncio.Future[Voice] = asyncio.get_running_loop().create_future()
        provider = self._speakers.current.plug
        self._keeper = self._call.spawn("voice", self._keep_voice(provider, self._voice))

    async def _keep_voice(self, provider: TextToSpeech, opened: asyncio.Future[Voice]) -> None:
        """Hold the vendor's connection for as long as the voice is used."""
        try:
            async with provider.open(choose_format(self._audio, provider.formats)) as voice:
                opened.set_result(voice)
                await asyncio.get_running_loop().create_future()
        except ProviderError as error:
            if opened.done():  # whoever speaks next learns of it
                self._voice = opened = asyncio.get_running_loop().create_future()
            opened.set_exception(error)
            opened.exception()  # seen here too: nobody may ever speak

    async def _voice_piece(self, turn: int, piece: int, spoken: Spoken) -> None:
        """Speak the rest of a piece with the voice in use."""
        speaker, deadline = self._speakers.current, self._speakers.deadline
        begun, first_ms = self._call.now_ms(), deadline.first_ms
        if self._speakers.replaceable:
            # What the others have taken of the caller's patience is gone.
            first_ms = min(first_ms, self._bearable_ms())
        try:
            async with asyncio.timeout(first_ms / 1000):
                voice = await asyncio.shield(self._voice)
        except TimeoutError as error:
            raise ProviderTimeout(speaker.name, "no connection in time") from error
        # Connecting and the first sound have one deadline: the caller waits for both.
        left = max(1, first_ms - (self._call.now_ms() - begun))
        transcoder = Transcoder(voice.format, self._audio)
        text, size = spoken.rest, 0
        deadline = Deadline(left, deadline.gap_ms)
        amount = self._usage.of("tts", speaker.name)
        amount.characters += len(text)
        async with timed(voice.synthesize(text), deadline, speaker.name) as stream:
            async for speech in stream:
                payload = transcoder.feed(speech.audio)
                before_ms = self._audio.duration_ms(size)
                size += len(payload)
                amount.audio_ms += self._audio.duration_ms(size) - before_ms
                words = spoken.take(self._audio.duration_ms(size), speech.words)
                if payload or words:
                    self._emit(AudioOut(turn, payload, piece, words))
        rest = transcoder.flush()
        size += len(rest)
        if not size and any(character.isalnum() for character in text):
            raise ProviderUnavailable(speaker.name, "no audio for a text")
        words = spoken.finish(self._audio.duration_ms(size))
        if rest or words:
            self._emit(AudioOut(turn, rest, piece, words))
