"""Speech to text: hands the caller's audio to the provider and its transcripts to turn-taking."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import structlog

from flowcat_server.core.audio import AudioFormat, Transcoder
from flowcat_server.core.frames import (
    AudioIn,
    Frame,
    SpeechPaused,
    SpeechResumed,
    SpeechStarted,
    TurnDropped,
    TurnEnded,
)
from flowcat_server.core.interfaces import (
    EndOfTurn,
    Pause,
    Resume,
    SpeechToText,
    SttInput,
    Transcript,
)
from flowcat_server.core.processor import Processor
from flowcat_server.errors import ProviderError, ProviderUnavailable
from flowcat_server.processors.call import Call
from flowcat_server.processors.deadlines import closing
from flowcat_server.processors.inbox import Inbox

log = structlog.get_logger()

PREROLL_MS = 500
"""Audio before the VAD's onset that a speech-only transcriber is given: onsets are recognised
late, and the first consonant counts."""
INBOX_MS = 30_000
RESTARTS = 3
RESTART_DELAY_MS = 300


def choose_format(source: AudioFormat, accepted: tuple[AudioFormat, ...]) -> AudioFormat:
    """The accepted format that costs least: untouched, else the same rate, else the best."""
    if source in accepted:
        return source
    same_rate = [audio for audio in accepted if audio.sample_rate == source.sample_rate]
    return (same_rate or list(accepted))[0]


@dataclass(frozen=True, slots=True)
class Transcriber:
    """A speech-to-text provider."""

    name: str
    provider: SpeechToText


class TranscribeProcessor(Processor):
    """Feeds one speech-to-text stream for the whole call."""

    def __init__(
        self,
        call: Call,
        transcribers: Sequence[Transcriber],
        audio: AudioFormat,
        on_transcript: Callable[[Transcript], None],
    ) -> None:
        """Create the stage.

        Args:
            call: The owner.
            transcribers: The provider and its fallbacks, in order.
            audio: The call's input format.
            on_transcript: Told what was heard.
        """
        self._call = call
        self._transcribers = list(transcribers)
        self._audio = audio
        self._on_transcript = on_transcript
        self._preroll: deque[AudioIn] = deque()
        self._preroll_bytes = 0
        self._preroll_limit = audio.bytes_for(PREROLL_MS)
        self._pause: int | None = None
        self._turn_open = False
        self._listening = False
        self._use(self._transcribers[0])
        self._task = call.spawn("transcribe", self._run())

    def process(self, frame: Frame) -> None:
        if type(frame) is AudioIn:  # goes no further: nobody else listens
            if self._listening:
                self._inbox.audio(self._transcoder.feed(frame.payload), frame.at_ms)
            else:
                self._keep(frame)
            return
        if type(frame) is SpeechStarted:
            self._turn_open = True
            if self._speech_only:
                self._listening = True
                for kept in self._preroll:
                    self._inbox.audio(self._transcoder.feed(kept.payload), kept.at_ms)
                self._preroll.clear()
                self._preroll_bytes = 0
        elif type(frame) is SpeechPaused:
            self._pause = frame.pause
            self._inbox.signal(Pause(frame.pause))
        elif type(frame) is SpeechResumed:
            self._pause = None
            self._inbox.signal(Resume())
        elif type(frame) is TurnDropped or (type(frame) is TurnEnded and not frame.typed):
            # A typed turn does not end a spoken one that is under way.
            self._turn_open = False
            self._pause = None
            self._inbox.signal(EndOfTurn())
            self._listening = not self._speech_only
        self.emit(frame)

    def close(self) -> None:
        self._inbox.close()

    def _keep(self, frame: AudioIn) -> None:
        self._preroll.append(frame)
        self._preroll_bytes += len(frame.payload)
        while self._preroll_bytes > self._preroll_limit:
            self._preroll_bytes -= len(self._preroll.popleft().payload)

    def _use(self, transcriber: Transcriber) -> None:
        """Feed this provider from now on; a pause that waits for an answer is asked again."""
        caps = transcriber.provider.caps
        self._format = choose_format(self._audio, caps.formats)
        self._transcoder = Transcoder(self._audio, self._format)
        self._speech_only = caps.speech_only
        self._listening = self._turn_open or not caps.speech_only
        self._inbox: Inbox[SttInput] = Inbox(
            chunk_ms=caps.chunk_ms,
            bytes_per_ms=self._format.bytes_for(1000) / 1000,
            limit_ms=INBOX_MS,
        )
        if self._pause is not None:
            self._inbox.signal(Pause(self._pause))

    async def _run(self) -> None:
        attempts = 0
        while True:
            transcriber, inbox = self._transcribers[0], self._inbox
            try:
                stream = transcriber.provider.transcribe(inbox, self._format)
                async with closing(stream):
                    async for transcript in stream:
                        attempts = 0
                        self._on_transcript(transcript)
                if inbox.closed:
                    return
                raise ProviderUnavailable(transcriber.name, "the stream ended before the call")
            except ProviderError as error:
                attempts += 1
                await self._recover(error, attempts)

    async def _recover(self, error: ProviderError, attempts: int) -> None:
        """Go on with a fallback, else try again; raises when neither can help."""
        spare = len(self._transcribers) > 1
        if not spare and (not error.retryable or attempts > RESTARTS):
            raise error
        code = "stt_fallback" if spare else "stt_restarted"
        self._call.trouble("stt", code, error)
        if spare:
            self._transcribers.pop(0)
        else:
            await asyncio.sleep(RESTART_DELAY_MS * attempts / 1000)
        self._use(self._transcribers[0])
