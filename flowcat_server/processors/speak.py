"""Speaking: sentences to audio, in order, never far ahead of what is heard."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from flowcat_server.core.audio import AudioFormat
from flowcat_server.core.frames import (
    AgentText,
    AudioOut,
    Frame,
    Interrupted,
    PieceEnded,
    ReplyEnded,
    SpeechEnded,
)
from flowcat_server.core.interfaces import TextToSpeech
from flowcat_server.core.processor import Processor
from flowcat_server.core.usage import UsageMeter
from flowcat_server.errors import ProviderError
from flowcat_server.processors.call import Call
from flowcat_server.processors.dead_air import Debt
from flowcat_server.processors.lineup import Lineup
from flowcat_server.processors.prepared import Clip, Prepared, keys_clip
from flowcat_server.processors.speaker import Speaker

ROOM_MS = 8_000
"""Synthesis waits while more than this is waiting to be heard: an interruption wastes little."""
LOOK_MS = 50
"""How often it is looked for room, at most."""


class _Utterance:
    """The sentences of one reply on their way to the voice."""

    def __init__(self, turn: int) -> None:
        self.turn = turn
        self.texts: list[str] = []
        self.ended = False
        self.spoken = 0
        """How many of them have been."""
        self.since_ms: int | None = None
        """Since when the next of them is owed."""
        self.news = asyncio.Event()
        self.task: asyncio.Task[None] | None = None


class SpeakProcessor(Processor):
    """One task per reply; a reply begins to speak when the one before it has been synthesized."""

    sounds = ()

    def __init__(
        self,
        call: Call,
        speakers: Lineup[TextToSpeech],
        audio: AudioFormat,
        buffered_ms: Callable[[], int],
        prepared: Prepared,
        bearable_ms: Callable[[], int],
        on_lost: Callable[[ProviderError], None],
        usage: UsageMeter,
    ) -> None:
        """Create the stage.

        Args:
            call: The owner.
            speakers: The provider and its fallbacks.
            audio: What `AudioOut` carries.
            buffered_ms: How much speech has yet to be heard.
            prepared: Texts that need no voice any more.
            bearable_ms: How long the next sound may take where another voice could speak.
            on_lost: Told that there is no voice left.
            usage: Told what the voices were given and what they made of it.
        """
        self._call = call
        self._buffered_ms = buffered_ms
        self._speakers = speakers
        self._audio = audio
        self._prepared = prepared
        self._on_lost = on_lost
        self._overtaking: int | None = None
        """The reply that waits for no other."""
        self._utterances: dict[int, _Utterance] = {}
        self._speaker = Speaker(call, speakers, audio, bearable_ms, usage, self._spoken)

    def process(self, frame: Frame) -> None:
        self.emit(frame)
        if type(frame) is AgentText:
            utterance = self._utterance(frame.turn)
            utterance.texts.append(frame.text)
            if utterance.since_ms is None:
                utterance.since_ms = self._call.now_ms()
            utterance.news.set()
        elif type(frame) is ReplyEnded:
            utterance = self._utterance(frame.turn)
            utterance.ended = True
            utterance.news.set()
        elif type(frame) is Interrupted:
            self._cancel()

    def close(self) -> None:
        self._cancel()
        self._speaker.close()

    def owes(self) -> Debt | None:
        """The sound of words that the voice has been given."""
        since = next(
            (u.since_ms for u in self._utterances.values() if u.since_ms is not None), None
        )
        return None if since is None else Debt("tts", since)

    def _spoken(self, frame: Frame) -> None:
        self.emit(frame)

    def can_say(self, text: str) -> bool:
        """Whether a text can be heard though the voice is silent."""
        return self._last_clip(text) is not None

    def overtake(self, turn: int) -> int | None:
        """Speak this reply, which is about to begin, before the one that waits for the voice.

        Returns which one that is.
        """
        self._overtaking = turn
        return next(iter(self._utterances), None)

    def give_up(self) -> None:
        """End all replies but the one that overtakes the others: they have no voice."""
        for turn, utterance in list(self._utterances.items()):
            if turn == self._overtaking:
                continue
            del self._utterances[turn]
            if utterance.task is not None and utterance.task is not asyncio.current_task():
                utterance.task.cancel()
            self.emit(SpeechEnded(turn))

    def _clip(self, text: str) -> Clip | None:
        """A text in the voice in use, or keys."""
        keys = keys_clip(text, self._audio)
        return keys or self._prepared.clip(self._speakers.current.plug, text, self._audio)

    def _last_clip(self, text: str) -> Clip | None:
        """A text in any voice: it may be another, but it is one."""
        return self._prepared.any_clip(text, self._audio)

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

    async def _speak(self, utterance: _Utterance, earlier: Sequence[asyncio.Task[None]]) -> None:
        if earlier and utterance.turn != self._overtaking:
            await asyncio.wait(earlier)
        while True:
            while utterance.spoken < len(utterance.texts):
                await self._room()
                text = utterance.texts[utterance.spoken]
                if not await self._speak_piece(utterance.turn, utterance.spoken, text):
                    return
                utterance.spoken += 1
                due = utterance.spoken < len(utterance.texts)
                utterance.since_ms = self._call.now_ms() if due else None
            if utterance.ended:
                break
            utterance.news.clear()
            await utterance.news.wait()
        self._utterances.pop(utterance.turn, None)
        self.emit(SpeechEnded(utterance.turn))

    async def _speak_piece(self, turn: int, piece: int, text: str) -> bool:
        """Speak a piece; False: there is no voice left."""
        clip = self._clip(text) or (self._last_clip(text) if turn == self._overtaking else None)
        if clip is not None:
            self.emit(AudioOut(turn, clip.audio, piece, clip.words))
            self.emit(PieceEnded(turn, piece))
            return True
        failure = await self._speaker.speak(turn, piece, text)
        if failure is not None:
            self._on_lost(failure)
        return failure is None

    async def _room(self) -> None:
        # What is buffered drains in real time, so one wait is enough while the far end plays; while
        # speech is held nothing drains, and it is looked at now and then.
        excess = self._buffered_ms() - ROOM_MS
        while excess > 0:
            await asyncio.sleep(max(excess, LOOK_MS) / 1000)
            excess = self._buffered_ms() - ROOM_MS
