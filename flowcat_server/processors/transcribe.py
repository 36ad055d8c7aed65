"""Speech to text: hands the caller's audio to the provider and its transcripts to turn-taking."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

from flowcat_server.core.audio import AudioFormat, Transcoder, decode
from flowcat_server.core.frames import (
    AudioIn,
    Frame,
    SpeechPaused,
    SpeechProbed,
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
from flowcat_server.core.usage import UsageMeter
from flowcat_server.errors import ProviderError, ProviderTimeout, ProviderUnavailable
from flowcat_server.processors.call import Call
from flowcat_server.processors.dead_air import Debt
from flowcat_server.processors.deadlines import closing
from flowcat_server.processors.inbox import Inbox
from flowcat_server.processors.lineup import Lineup, Member

PREROLL_MS = 500
"""Audio before the VAD's onset that a speech-only transcriber is given: onsets are recognised
late, and the first consonant counts."""
RING_MS = 15_000
"""Of an open turn, so much is kept for whoever replaces a transcriber that failed."""
INBOX_MS = 30_000
PORTION_MS = 100
"""The caller's audio is handed on in pieces of this length, unless the provider wants it sooner,
and at once before whatever else it is told."""
SPEECH_MS = 250
"""Sound of the caller that is owed an answer; what is shorter may be a cough."""
LOST = 1_000_000
"""Segment of the empty text that stands for a turn which nobody could transcribe."""
NOTHING: frozenset[int] = frozenset()
"""No segments. An empty set of its own would be 200 bytes of each call."""


def choose_format(source: AudioFormat, accepted: tuple[AudioFormat, ...]) -> AudioFormat:
    """The accepted format that costs least: untouched, else the same rate, else the best."""
    if source in accepted:
        return source
    same_rate = [audio for audio in accepted if audio.sample_rate == source.sample_rate]
    return (same_rate or list(accepted))[0]


class TranscribeProcessor(Processor):
    """Feeds one speech-to-text stream for the whole call.

    Every pause is answered in bounded time: by the transcriber, by its replacement, which is
    given the turn's audio again, or with nothing, when `on_lost` has been told why.
    """

    __slots__ = (
        "_audio",
        "_base",
        "_call",
        "_format",
        "_fresh",
        "_fresh_bytes",
        "_heard_ms",
        "_inbox",
        "_keeper",
        "_kept",
        "_limit",
        "_listening",
        "_on_lost",
        "_on_transcript",
        "_onset_ms",
        "_owed_ms",
        "_pause",
        "_portion",
        "_ring",
        "_ring_bytes",
        "_ring_limit",
        "_segments",
        "_speech_only",
        "_stale",
        "_task",
        "_transcoder",
        "_transcribers",
        "_turn_open",
        "_usage",
    )

    sounds = (AudioIn,)

    def __init__(
        self,
        call: Call,
        transcribers: Lineup[SpeechToText],
        audio: AudioFormat,
        on_transcript: Callable[[Transcript], None],
        on_lost: Callable[[ProviderError, bool], bool],
        usage: UsageMeter,
    ) -> None:
        """Create the stage.

        Args:
            call: The owner.
            transcribers: The provider and its fallbacks.
            audio: The call's input format.
            on_transcript: Told what was heard.
            on_lost: Told that nobody can transcribe, and whether the caller waits for an answer;
                says whether the call goes on.
            usage: Told how much audio the providers were given.
        """
        self._call = call
        self._transcribers = transcribers
        self._audio = audio
        self._on_transcript = on_transcript
        self._on_lost = on_lost
        self._usage = usage
        self._fresh: list[bytes] = []
        self._fresh_bytes = 0
        """What came since audio was handed on last."""
        self._heard_ms = 0
        """Its end."""
        self._ring: list[bytes] = []
        self._ring_bytes = 0
        """What came before it, as far as it may be wanted again."""
        self._kept = AudioFormat("mulaw", audio.sample_rate) if audio.encoding == "pcm16" else audio
        """How that is kept. Of a browser's long turn it is half a megabyte; for who is given it a
        second time, 8 bits a sample are enough."""
        self._keeper = Transcoder(audio, self._kept)
        self._ring_limit = self._kept.bytes_for(PREROLL_MS)
        self._pause: int | None = None
        """The pause that waits for its transcript."""
        self._owed_ms: int | None = None
        """Since when that transcript is owed."""
        self._turn_open = False
        self._onset_ms = 0
        self._listening = False
        self._limit: asyncio.Timeout | None = None
        self._segments = NOTHING
        """Segments of the open turn that this stream has told of."""
        self._stale = NOTHING
        """Those of a stream before it, which are told again."""
        self._base = 0
        """Added to this stream's segments: what was told before it stays."""
        self._use(transcribers.current)
        self._task = call.spawn("transcribe", self._run())

    def process(self, frame: Frame) -> None:
        if type(frame) is AudioIn:  # goes no further: nobody else listens
            payload = frame.payload
            self._heard_ms = frame.at_ms
            self._fresh.append(payload)
            self._fresh_bytes = size = self._fresh_bytes + len(payload)
            if size >= self._portion:
                self._hand_on()
            return
        if type(frame) is SpeechStarted:
            self._turn_open = True
            self._onset_ms = frame.at_ms
            self._ring_limit = self._kept.bytes_for(RING_MS)
            if self._speech_only:
                self._hand_on()
                self._listening = True
                self._replay()
        elif type(frame) is SpeechPaused:
            self._pause = frame.pause
            if frame.at_ms - self._onset_ms >= SPEECH_MS:
                self._owed_ms = frame.at_ms
            self._signal(Pause(frame.pause))
            self._expect()
        elif type(frame) is SpeechProbed:
            if not self._transcribers.current.plug.caps.keeps_partials:
                self._signal(Pause(frame.pause))
        elif type(frame) is SpeechResumed:
            self._pause = self._owed_ms = None
            self._signal(Resume())
            self._expect()
        elif type(frame) is TurnDropped or (type(frame) is TurnEnded and not frame.typed):
            # A typed turn does not end a spoken one that is under way.
            self._turn_open = False
            self._pause = self._owed_ms = None
            self._ring_limit = self._kept.bytes_for(PREROLL_MS)
            self._segments = self._stale = NOTHING
            self._base = 0
            self._signal(EndOfTurn())
            self._listening = not self._speech_only
            self._expect()
        self.emit(frame)

    def close(self) -> None:
        self._inbox.close()

    def owes(self) -> Debt | None:
        """The transcript of what the caller has said."""
        return None if self._owed_ms is None else Debt("stt", self._owed_ms)

    def count(self) -> None:
        """Tell how much audio the provider in use was given since this was asked last."""
        amount = self._usage.of("stt", self._transcribers.current.name)
        amount.audio_ms += self._format.duration_ms(self._inbox.taken_bytes)
        self._inbox.taken_bytes = 0

    def _signal(self, item: SttInput) -> None:
        """Tell the provider something, behind the audio before it."""
        self._hand_on()
        self._inbox.signal(item)

    def _hand_on(self) -> None:
        """Give the provider what has gathered, and keep it for a while."""
        if not self._fresh:
            return
        portion = b"".join(self._fresh)
        self._fresh.clear()
        self._fresh_bytes = 0
        if self._listening:
            self._inbox.audio(self._transcoder.feed(portion), self._heard_ms)
        ring, kept = self._ring, self._keeper.feed(portion)
        ring.append(kept)
        self._ring_bytes += len(kept)
        while self._ring_bytes - len(ring[0]) >= self._ring_limit:
            self._ring_bytes -= len(ring.pop(0))

    def _replay(self) -> None:
        """Give the provider once more what was kept; all of it has been handed on."""
        if not self._ring:
            return
        audio = b"".join(self._ring)
        if self._kept != self._audio:
            audio = decode(audio, self._kept.encoding)
        self._inbox.audio(self._transcoder.feed(audio), self._heard_ms)

    def _use(self, transcriber: Member[SpeechToText]) -> None:
        """Feed this provider from now on, with the open turn and its pause once more."""
        self._hand_on()  # to nobody: the provider before has failed
        caps = transcriber.plug.caps
        self._format = choose_format(self._audio, caps.formats)
        self._transcoder = Transcoder(self._audio, self._format)
        self._speech_only = caps.speech_only
        self._listening = self._turn_open or not caps.speech_only
        self._inbox: Inbox[SttInput] = Inbox(
            chunk_ms=caps.chunk_ms,
            bytes_per_ms=self._format.bytes_for(1000) / 1000,
            limit_ms=INBOX_MS,
        )
        same_rate = self._audio.sample_rate == self._format.sample_rate
        # A converter may hold samples back: then the inbox is to judge when enough has come.
        self._portion = self._audio.bytes_for(caps.chunk_ms or PORTION_MS) if same_rate else 0
        begun_ms = self._heard_ms - self._kept.duration_ms(self._ring_bytes)
        if self._ring and begun_ms >= self._onset_ms and self._segments:
            # The turn is longer than the ring: better a few words twice than its beginning lost.
            self._base = max(self._segments) + 1
        else:
            self._stale = (self._stale | self._segments) or NOTHING
        self._segments = NOTHING
        if self._turn_open:
            self._replay()
        if self._pause is not None:
            self._inbox.signal(Pause(self._pause))

    def _expect(self) -> None:
        """Set when the stream has to say something: it was sent something just now.

        Of who only makes noise nothing is to be told; who was understood and goes on speaking
        will be understood again.
        """
        limit = self._limit
        if limit is None or limit.expired():
            return
        within_ms = None
        if self._pause is not None:
            within_ms = self._transcribers.deadline.first_ms
        elif self._segments and self._transcribers.current.plug.caps.keeps_partials:
            within_ms = self._transcribers.deadline.gap_ms
        now = asyncio.get_running_loop().time()
        limit.reschedule(None if within_ms is None else now + within_ms / 1000)

    async def _run(self) -> None:
        while True:
            failure = await self._listen(self._transcribers.current)
            if self._inbox.closed or not await self._recover(failure):
                return
            self._use(self._transcribers.current)

    async def _listen(self, transcriber: Member[SpeechToText]) -> ProviderError:
        """One stream until it ends, and what it ended with."""
        try:
            stream = transcriber.plug.transcribe(self._inbox, self._format)
            async with asyncio.timeout(None) as self._limit, closing(stream):
                self._expect()
                async for transcript in stream:
                    self._take(transcript)
        except ProviderError as error:
            return error
        except TimeoutError:
            deadline = self._transcribers.deadline
            limit_ms = deadline.gap_ms if self._pause is None else deadline.first_ms
            return ProviderTimeout(transcriber.name, f"silent for {limit_ms} ms")
        finally:
            self._limit = None
        return ProviderUnavailable(transcriber.name, "the stream ended before the call")

    def _take(self, transcript: Transcript) -> None:
        if self._base:
            transcript = replace(transcript, segment=self._base + transcript.segment)
        stale, self._stale = self._stale - {transcript.segment}, NOTHING
        for segment in stale:
            self._on_transcript(Transcript("", segment, final=True))
        if self._turn_open and transcript.text:
            self._segments |= {transcript.segment}
        answered = transcript.pause is not None and transcript.pause == self._pause
        if answered:
            self._pause = self._owed_ms = None
            self._transcribers.succeeded()
        self._expect()
        self._on_transcript(transcript)

    async def _recover(self, error: ProviderError) -> bool:
        """After a failure: False when nobody will transcribe this call any more."""
        self.count()
        if self._transcribers.failed(error, hurry=self._pause is not None):
            await asyncio.sleep(self._transcribers.delay_ms / 1000)
            return True
        pause = self._pause
        if pause is None and isinstance(error, ProviderTimeout):
            self._transcribers.begin()  # the caller waits for nothing, and may be a radio
            return True
        if not self._on_lost(error, pause is not None):
            return False
        self._pause = self._owed_ms = None
        self._transcribers.begin()
        if pause is not None:
            self._on_transcript(Transcript("", LOST, final=True, pause=pause))
        return True
