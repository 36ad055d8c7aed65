"""Fixed words beside a speech-to-speech model: fillers, apologies and last words.

Theory of operation. The model speaks for itself; its pieces have no text when they are announced
(`AgentText`). A piece that has one is spoken here, by the voice under `topology.tts`. Both share
one reply and one line, so what the model says while fixed words are being spoken waits behind
them; but words that have no sound yet are left out when the model is quicker.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from flowcat_server.core.audio import AudioFormat
from flowcat_server.core.dtmf import KeyPresses
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
from flowcat_server.core.playout import Playout
from flowcat_server.core.processor import Processor
from flowcat_server.core.usage import UsageMeter
from flowcat_server.errors import ProviderError
from flowcat_server.processors.call import Call
from flowcat_server.processors.dead_air import Debt
from flowcat_server.processors.lineup import Lineup
from flowcat_server.processors.prepared import Clip
from flowcat_server.processors.speaker import Speaker

Words = tuple[int, int, str]
"""Reply, piece and text."""


class AnnounceProcessor(Processor):
    """The voice for fixed words, where there is one, and the end of every reply."""

    sounds = (AudioOut,)

    def __init__(
        self,
        call: Call,
        speakers: Lineup[TextToSpeech] | None,
        audio: AudioFormat,
        playout: Playout,
        clip: Callable[[str], Clip | None],
        bearable_ms: Callable[[], int],
        lost: Callable[[ProviderError], None],
        usage: UsageMeter,
    ) -> None:
        """Create the stage.

        Args:
            call: The owner.
            speakers: The provider and its fallbacks; None: there is no such voice.
            audio: What `AudioOut` carries.
            playout: The ledger, which numbers the pieces.
            clip: A text that was spoken ahead of time, in the call's format.
            bearable_ms: How long the next sound may take where another voice could speak.
            lost: Told when no voice is left.
            usage: Told what the voices were given and what they made of it.
        """
        self._call = call
        self._playout = playout
        self._clip = clip
        self._lost = lost
        self._speaker = (
            Speaker(call, speakers, audio, bearable_ms, usage, self._spoken) if speakers else None
        )
        self._words: deque[Words] = deque()
        """The first of them is being spoken."""
        self._since_ms = 0
        """Since when it is owed."""
        self._sounds = False
        """Some of it can be heard."""
        self._behind: deque[Frame] = deque()
        """What the model said meanwhile."""
        self._failed = False
        self._task: asyncio.Task[None] | None = None

    def can_say(self, text: str) -> bool:
        """Whether a text can be heard, as far as is known."""
        spoken = self._clip(text) is not None
        return spoken or (self._speaker is not None and not self._failed)

    def owes(self) -> Debt | None:
        """The sound of words that the voice has been given."""
        return Debt("tts", self._since_ms) if self._words and not self._sounds else None

    def process(self, frame: Frame) -> None:
        if type(frame) is AgentText:
            reply = self._playout.reply(frame.turn)
            piece = len(reply.pieces) if reply is not None else 0
            self.emit(frame)
            if frame.text:
                self._say(frame.turn, piece, frame.text)
        elif type(frame) is AudioOut and self._words:
            if frame.payload and not self._sounds:
                self._leave_out()
            self._follow(frame)
        elif type(frame) is AudioOut or type(frame) is PieceEnded or type(frame) is ReplyEnded:
            self._follow(frame)
        elif type(frame) is Interrupted:
            self._stop()
            self.emit(frame)
        else:
            self.emit(frame)

    def close(self) -> None:
        self._stop()
        if self._speaker is not None:
            self._speaker.close()

    def _say(self, turn: int, piece: int, text: str) -> None:
        clip = self._clip(text)
        if clip is not None and not self._words:
            self.emit(AudioOut(turn, clip.audio, piece, clip.words))
            self.emit(PieceEnded(turn, piece))
            return
        if self._speaker is None:
            self.emit(PieceEnded(turn, piece))
            return
        self._words.append((turn, piece, text))
        if self._task is None:
            self._since_ms = self._call.now_ms()
            self._task = self._call.spawn("announce", self._speak(self._speaker))

    async def _speak(self, speaker: Speaker) -> None:
        while self._words:
            turn, piece, text = self._words[0]
            self._sounds = False
            self._since_ms = self._call.now_ms()
            clip = self._clip(text) if isinstance(text, KeyPresses) else None
            if clip is not None:  # nobody could speak these
                self._spoken(AudioOut(turn, clip.audio, piece, clip.words))
                self._spoken(PieceEnded(turn, piece))
                self._words.popleft()
                continue
            failure = await speaker.speak(turn, piece, text)
            if failure is not None:
                self._failed = True
                self._end_words()
                self._release()
                self._lost(failure)
                return
            self._words.popleft()
        self._task = None
        self._release()

    def _spoken(self, frame: Frame) -> None:
        """A frame of the fixed words."""
        self._sounds = True
        self.emit(frame)

    def _leave_out(self) -> None:
        """The model speaks before the words have begun."""
        if self._task is not None:
            self._task.cancel()
        self._end_words()
        self._release()

    def _end_words(self) -> None:
        self._task = None
        while self._words:
            turn, piece, _ = self._words.popleft()
            self.emit(PieceEnded(turn, piece))

    def _follow(self, frame: Frame) -> None:
        """Pass a frame of the model on, behind the words under way."""
        if self._words:
            self._behind.append(frame)
        elif type(frame) is ReplyEnded:
            self.emit(SpeechEnded(frame.turn))
        else:
            self.emit(frame)

    def _release(self) -> None:
        while self._behind and not self._words:
            self._follow(self._behind.popleft())

    def _stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            self._task = None
        self._words.clear()
        self._behind.clear()
