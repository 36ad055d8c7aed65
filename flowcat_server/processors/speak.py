"""Speaking: sentences to audio, in order, never far ahead of what is heard."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from flowcat_server.core.audio import AudioFormat, Transcoder
from flowcat_server.core.frames import (
    AgentText,
    AudioOut,
    Frame,
    Interrupted,
    PieceEnded,
    ReplyEnded,
    SpeechEnded,
)
from flowcat_server.core.interfaces import TextToSpeech, Voice, Word
from flowcat_server.core.processor import Processor
from flowcat_server.errors import ProviderError, ProviderTimeout, ProviderUnavailable
from flowcat_server.processors.call import Call
from flowcat_server.processors.deadlines import Deadline, timed
from flowcat_server.processors.transcribe import choose_format

ROOM_MS = 8_000
"""Synthesis waits while more than this is waiting to be heard: an interruption wastes little."""


@dataclass(frozen=True, slots=True)
class Speaker:
    """A text-to-speech provider and how long it may be silent."""

    name: str
    provider: TextToSpeech
    deadline: Deadline


class _Utterance:
    """The sentences of one reply on their way to the voice."""

    def __init__(self, turn: int) -> None:
        self.turn = turn
        self.texts: list[str] = []
        self.ended = False
        self.news = asyncio.Event()
        self.task: asyncio.Task[None] | None = None


class _Progress:
    """Whether a piece has been heard to begin."""

    heard = False


class SpeakProcessor(Processor):
    """One task per reply; a reply begins to speak when the one before it has been synthesized."""

    def __init__(
        self,
        call: Call,
        speakers: Sequence[Speaker],
        audio: AudioFormat,
        buffered_ms: Callable[[], int],
    ) -> None:
        """Create the stage.

        Args:
            call: The owner.
            speakers: The provider and its fallbacks, in order.
            audio: What `AudioOut` carries.
            buffered_ms: How much speech has yet to be heard.
        """
        self._call = call
        self._speakers = list(speakers)
        self._audio = audio
        self._buffered_ms = buffered_ms
        self._utterances: dict[int, _Utterance] = {}
        self._open_voice()

    def process(self, frame: Frame) -> None:
        self.emit(frame)
        if type(frame) is AgentText:
            utterance = self._utterance(frame.turn)
            utterance.texts.append(frame.text)
            utterance.news.set()
        elif type(frame) is ReplyEnded:
            utterance = self._utterance(frame.turn)
            utterance.ended = True
            utterance.news.set()
        elif type(frame) is Interrupted:
            self._cancel()

    def close(self) -> None:
        self._cancel()
        self._voice.cancel()

    def _utterance(self, turn: int) -> _Utterance:
        utterance = self._utterances.get(turn)
        if utterance is None:
            earlier = [other.task for other in self._utterances.values() if other.task is not None]
            self._utterances[turn] = utterance = _Utterance(turn)
            utterance.task = self._call.spawn(f"speak-{turn}", self._speak(utterance, earlier))
        return utterance

    def _cancel(self) -> None:
        for utterance in self._utterances.values():
            if utterance.task is not None:
                utterance.task.cancel()
        self._utterances.clear()

    def _open_voice(self) -> None:
        """Connect the first of the providers left; the call rings or greets meanwhile."""
        self._voice: asyncio.Future[Voice] = asyncio.get_running_loop().create_future()
        provider = self._speakers[0].provider
        self._keeper = self._call.spawn("voice", self._keep_voice(provider, self._voice))

    async def _keep_voice(self, provider: TextToSpeech, opened: asyncio.Future[Voice]) -> None:
        """Hold the vendor's connection for as long as the voice is used."""
        try:
            async with provider.open(choose_format(self._audio, provider.formats)) as voice:
                opened.set_result(voice)
                await asyncio.get_running_loop().create_future()
        except ProviderError as error:
            if opened.done():
                raise
            opened.set_exception(error)
            opened.exception()  # seen here too: nobody may ever speak

    async def _speak(self, utterance: _Utterance, earlier: Sequence[asyncio.Task[None]]) -> None:
        if earlier:
            await asyncio.wait(earlier)
        piece = 0
        while True:
            while piece < len(utterance.texts):
                await self._room()
                await self._speak_or_fall_back(utterance.turn, piece, utterance.texts[piece])
                piece += 1
            if utterance.ended:
                break
            utterance.news.clear()
            await utterance.news.wait()
        del self._utterances[utterance.turn]
        self.emit(SpeechEnded(utterance.turn))

    async def _speak_or_fall_back(self, turn: int, piece: int, text: str) -> None:
        """Speak a piece; if the voice fails before its first sound, with the next voice."""
        while True:
            speaker = self._speakers[0]
            progress = _Progress()
            try:
                async with asyncio.timeout(speaker.deadline.first_ms / 1000):
                    voice = await asyncio.shield(self._voice)
                await self._speak_piece(speaker, voice, turn, piece, text, progress)
            except TimeoutError as error:
                failure: ProviderError = ProviderTimeout(speaker.name, "no connection in time")
                failure.__cause__ = error
            except ProviderError as error:
                failure = error
            else:
                return
            if len(self._speakers) == 1 or progress.heard:
                raise failure
            self._speakers.pop(0)
            self._call.trouble("tts", "tts_fallback", failure)
            self._keeper.cancel()
            self._open_voice()

    async def _speak_piece(
        self, speaker: Speaker, voice: Voice, turn: int, piece: int, text: str, progress: _Progress
    ) -> None:
        transcoder = Transcoder(voice.format, self._audio)
        words: tuple[Word, ...] = ()
        async with timed(voice.synthesize(text), speaker.deadline, speaker.name) as stream:
            async for speech in stream:
                payload = transcoder.feed(speech.audio)
                words += speech.words
                if payload:  # a voice that fails before its first sound leaves nothing behind
                    progress.heard = True
                    self.emit(AudioOut(turn, payload, piece, words))
                    words = ()
        rest = transcoder.flush()
        if rest:
            progress.heard = True
            self.emit(AudioOut(turn, rest, piece, words))
        if not progress.heard and any(character.isalnum() for character in text):
            raise ProviderUnavailable(speaker.name, "no audio for a text")
        self.emit(PieceEnded(turn, piece))

    async def _room(self) -> None:
        # What is buffered drains in real time, so one wait is enough while the far end plays.
        excess = self._buffered_ms() - ROOM_MS
        while excess > 0:
            await asyncio.sleep(excess / 1000)
            excess = self._buffered_ms() - ROOM_MS
