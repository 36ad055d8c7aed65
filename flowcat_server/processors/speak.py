"""Speaking: sentences to audio, in order, never far ahead of what is heard."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from flowcat_server.core.audio import AudioFormat
from flowcat_server.core.frames import AgentText, Frame, Interrupted, ReplyEnded, SpeechEnded
from flowcat_server.core.interfaces import TextToSpeech
from flowcat_server.core.processor import Processor
from flowcat_server.processors.call import Call
from flowcat_server.processors.dead_air import Debt
from flowcat_server.processors.lineup import Lineup
from flowcat_server.processors.rescue import Rescue
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

    def __init__(
        self,
        call: Call,
        speakers: Lineup[TextToSpeech],
        audio: AudioFormat,
        buffered_ms: Callable[[], int],
        rescue: Rescue,
        bearable_ms: Callable[[], int],
    ) -> None:
        """Create the stage.

        Args:
            call: The owner.
            speakers: The provider and its fallbacks.
            audio: What `AudioOut` carries.
            buffered_ms: How much speech has yet to be heard.
            rescue: What becomes of a call without a voice.
            bearable_ms: How long the next sound may take where another voice could speak.
        """
        self._call = call
        self._buffered_ms = buffered_ms
        self._rescue = rescue
        self._utterances: dict[int, _Utterance] = {}
        self._speaker = Speaker(call, speakers, audio, bearable_ms, self._spoken)

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
        if earlier:
            await asyncio.wait(earlier)
        while True:
            while utterance.spoken < len(utterance.texts):
                await self._room()
                text = utterance.texts[utterance.spoken]
                failure = await self._speaker.speak(utterance.turn, utterance.spoken, text)
                if failure is not None:
                    self._rescue.finish(failure)
                    return
                utterance.spoken += 1
                due = utterance.spoken < len(utterance.texts)
                utterance.since_ms = self._call.now_ms() if due else None
            if utterance.ended:
                break
            utterance.news.clear()
            await utterance.news.wait()
        del self._utterances[utterance.turn]
        self.emit(SpeechEnded(utterance.turn))

    async def _room(self) -> None:
        # What is buffered drains in real time, so one wait is enough while the far end plays; while
        # speech is held nothing drains, and it is looked at now and then.
        excess = self._buffered_ms() - ROOM_MS
        while excess > 0:
            await asyncio.sleep(max(excess, LOOK_MS) / 1000)
            excess = self._buffered_ms() - ROOM_MS
