"""Speaking: sentences to audio, in order, never far ahead of what is heard."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

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
from flowcat_server.core.interfaces import TextToSpeech, Voice
from flowcat_server.core.processor import Processor
from flowcat_server.errors import ProviderError, ProviderTimeout, ProviderUnavailable
from flowcat_server.processors.call import Call
from flowcat_server.processors.deadlines import Deadline, closing, timed
from flowcat_server.processors.transcribe import choose_format

ROOM_MS = 8_000
"""Synthesis waits while more than this is waiting to be heard: an interruption wastes little."""


class _Utterance:
    """The sentences of one reply on their way to the voice."""

    def __init__(self, turn: int) -> None:
        self.turn = turn
        self.texts: list[str] = []
        self.ended = False
        self.news = asyncio.Event()


class _Progress:
    """Whether a piece has been heard to begin."""

    heard = False


class SpeakProcessor(Processor):
    """One task per reply; a reply begins to speak when the one before it has been synthesized."""

    def __init__(
        self,
        call: Call,
        providers: Sequence[TextToSpeech],
        audio: AudioFormat,
        deadline: Deadline,
        buffered_ms: Callable[[], int],
    ) -> None:
        """Create the stage.

        Args:
            call: The owner.
            providers: The voice and its fallbacks, in order.
            audio: What `AudioOut` carries.
            deadline: How long the voice may be silent.
            buffered_ms: How much speech has yet to be heard.
        """
        self._call = call
        self._providers = list(providers)
        self._audio = audio
        self._deadline = deadline
        self._buffered_ms = buffered_ms
        self._utterance: _Utterance | None = None
        self._task: asyncio.Task[None] | None = None
        self._open_voice()

    def process(self, frame: Frame) -> None:
        kind = type(frame)
        if kind is AgentText:
            self.emit(frame)
            utterance = self._open(frame.turn)  # type: ignore[union-attr]
            utterance.texts.append(frame.text)  # type: ignore[union-attr]
            utterance.news.set()
            return
        if kind is ReplyEnded:
            utterance = self._open(frame.turn)  # type: ignore[union-attr]
            utterance.ended = True
            utterance.news.set()
        elif kind is Interrupted and self._task is not None:
            self._task.cancel()
            self._task = self._utterance = None
        self.emit(frame)

    def close(self) -> None:
        self._voice.cancel()

    def _open(self, turn: int) -> _Utterance:
        if self._utterance is None or self._utterance.turn != turn:
            self._utterance = _Utterance(turn)
            self._task = self._call.spawn(f"speak-{turn}", self._speak(self._utterance, self._task))
        return self._utterance

    def _open_voice(self) -> None:
        """Connect the first of the providers left; the call rings or greets meanwhile."""
        self._voice: asyncio.Future[Voice] = asyncio.get_running_loop().create_future()
        self._keeper = self._call.spawn("voice", self._keep_voice(self._providers[0], self._voice))

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

    async def _speak(self, utterance: _Utterance, previous: asyncio.Task[None] | None) -> None:
        if previous is not None:
            await asyncio.wait([previous])
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
        self.emit(SpeechEnded(utterance.turn))

    async def _speak_or_fall_back(self, turn: int, piece: int, text: str) -> None:
        """Speak a piece; if the voice fails before its first sound, with the next voice."""
        while True:
            progress = _Progress()
            try:
                async with asyncio.timeout(self._deadline.first_ms / 1000):
                    voice = await asyncio.shield(self._voice)
                await self._speak_piece(voice, turn, piece, text, progress)
            except TimeoutError as error:
                failure: ProviderError = ProviderTimeout("tts", "no connection in time")
                failure.__cause__ = error
            except ProviderError as error:
                failure = error
            else:
                return
            if len(self._providers) == 1 or progress.heard:
                raise failure
            self._providers.pop(0)
            self._call.trouble("tts", "tts_fallback", failure)
            self._keeper.cancel()
            self._open_voice()

    async def _speak_piece(
        self, voice: Voice, turn: int, piece: int, text: str, progress: _Progress
    ) -> None:
        transcoder = Transcoder(voice.format, self._audio)
        async with closing(voice.synthesize(text)) as stream:
            async for speech in timed(stream, self._deadline, "tts"):
                payload = transcoder.feed(speech.audio)
                if payload or speech.words:
                    progress.heard = progress.heard or bool(payload)
                    self.emit(AudioOut(turn, payload, piece, speech.words))
        rest = transcoder.flush()
        if rest:
            progress.heard = True
            self.emit(AudioOut(turn, rest, piece))
        if not progress.heard and any(character.isalnum() for character in text):
            raise ProviderUnavailable("tts", "no audio for a text")
        self.emit(PieceEnded(turn, piece))

    async def _room(self) -> None:
        excess = self._buffered_ms() - ROOM_MS
        if excess > 0:  # what is buffered drains in real time, so this wait is exact
            await asyncio.sleep(excess / 1000)
