"""The call with a colleague who is asked whether they take over a caller: speak, then listen."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial

from flowcat_server.core.agent import Agent
from flowcat_server.core.audio import AudioFormat, Transcoder
from flowcat_server.core.carrier import Answerer
from flowcat_server.core.control import Consultation
from flowcat_server.core.frames import AgentText, AudioIn, Digit, Frame, ReplyEnded
from flowcat_server.core.graph import TransferTarget
from flowcat_server.core.interfaces import Transport, Vad
from flowcat_server.core.playout import Playout
from flowcat_server.core.processor import Emit, Processor, link, unlink
from flowcat_server.core.sentences import SentenceSplitter
from flowcat_server.core.usage import UsageMeter
from flowcat_server.pipeline import Parts, members, recorded
from flowcat_server.processors.call import Call
from flowcat_server.processors.control import CallControl
from flowcat_server.processors.lineup import Lineup
from flowcat_server.processors.play import PlayProcessor
from flowcat_server.processors.record import Recorder, RecordProcessor
from flowcat_server.processors.speak import SpeakProcessor

WRITTEN_S = 8.0
"""Longest wait for an introduction that a model has yet to write."""
VOICED = 0.5
VOICED_MS = 240
"""Voice of the colleague that counts as an answer: a word, and no click."""
DECIDES_MS = 12_000
"""From the end of the introduction; who says nothing and presses nothing does not take the call."""
PATIENCE_MS = 4000
"""For the voice's first sound; nobody can fill in."""


class IntroduceProcessor(Processor):
    """Has the introduction spoken, and hears what the colleague does."""

    sounds = (AudioIn,)

    def __init__(
        self,
        call: Call,
        playout: Playout,
        consultation: Consultation,
        vad: Vad | None,
        audio: AudioFormat,
    ) -> None:
        """Create the stage.

        Args:
            call: The owner.
            playout: The ledger.
            consultation: What is said, and who wants to know the answer.
            vad: Hears the colleague's voice; None: only keys are heard.
            audio: What the colleague's audio comes in.
        """
        self._call = call
        self._playout = playout
        self._consultation = consultation
        self._transcoder = Transcoder(audio, vad.format) if vad is not None else None
        self._vad = vad.open(partial(call.protect, self._on_chunk)) if vad is not None else None
        self._voiced_ms = 0
        self._listening = False
        self._timer: asyncio.Handle | None = None

    def begin(self) -> None:
        """The colleague has answered."""
        self._playout.begin(0, interruptible=False)
        self._call.spawn("introduce", self._introduce()).add_done_callback(lambda _: None)

    async def _introduce(self) -> None:
        try:
            async with asyncio.timeout(WRITTEN_S):
                text = await self._consultation.introduction
        except TimeoutError:
            text = ""
        splitter = SentenceSplitter()
        for sentence in (*splitter.feed(text), splitter.flush()):
            if sentence:
                self.emit(AgentText(0, sentence, self._call.now_ms()))
        self.emit(ReplyEnded(0))

    def spoken(self) -> None:
        """The introduction has been heard, or cannot be: the colleague has the floor."""
        if self._listening:
            return
        self._listening = True
        at_ms = self._call.now_ms() + DECIDES_MS
        self._timer = self._call.call_at(at_ms, lambda: self._consultation.decide("not taken"))

    def process(self, frame: Frame) -> None:
        if type(frame) is AudioIn:
            if self._listening and self._vad is not None and self._transcoder is not None:
                pcm = self._transcoder.feed(frame.payload)
                if pcm:
                    self._vad.feed(pcm, frame.at_ms)
        elif type(frame) is Digit:
            self._consultation.decide("")
        else:
            self.emit(frame)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._vad is not None:
            self._vad.close()

    def _on_chunk(self, at_ms: int, probability: float) -> None:
        del at_ms
        assert self._vad is not None  # noqa: S101 - it is what calls
        self._voiced_ms = self._voiced_ms + self._vad.chunk_ms if probability >= VOICED else 0
        if self._voiced_ms >= VOICED_MS:
            self._consultation.decide("")


class IntroductionLine:
    """The pipeline of such a call."""

    agent: Agent | None = None
    control: CallControl | None = None

    def __init__(
        self,
        call: Call,
        parts: Parts,
        transport: Transport,
        consultation: Consultation,
        recorder: Recorder | None = None,
    ) -> None:
        """Build and link it.

        Args:
            call: The owner.
            parts: The agent's providers, of which the voice is used.
            transport: The way to the colleague.
            consultation: What it is for.
            recorder: Where it is recorded; None: nowhere.
        """
        self._call = call
        self._consultation = consultation
        self.playout = Playout(
            transport.output_format, delay_ms=transport.delay_ms, marks=transport.buffers
        )
        if recorder is not None:
            self.playout.tap(*recorded(recorder))
        usage = UsageMeter()
        self._introduce = IntroduceProcessor(
            call, self.playout, consultation, parts.vad, transport.input_format
        )
        self._play = PlayProcessor(
            call, self.playout, transport, None, lambda _: self._introduce.spoken()
        )
        stages: list[Processor] = []
        if recorder is not None:
            stages.append(RecordProcessor(recorder, transport.input_format))
        stages.append(self._introduce)
        if parts.tts:
            stages.append(
                SpeakProcessor(
                    call,
                    Lineup(call, "tts", members(parts.tts, parts.config.turn.deadlines.tts)),
                    transport.output_format,
                    lambda: self.playout.buffered_ms(call.now_ms()),
                    parts.prepared,
                    lambda: PATIENCE_MS,
                    lambda _: self._introduce.spoken(),
                    usage,
                )
            )
        self.processors: Sequence[Processor] = [*stages, self._play]
        self._voiceless = not parts.tts
        self.entry: Emit = link(self.processors)

    def begin(self) -> None:
        """The colleague has answered."""
        if self._voiceless:
            self._introduce.spoken()
        else:
            self._introduce.begin()

    def played(self) -> None:
        """A mark came back."""
        self._play.watch()

    def detected(self, answerer: Answerer, *, greeting_over: bool) -> None:
        """A machine at a colleague's telephone presses no key and is not spoken to for long."""

    def stop(self) -> None:
        """The call is over."""
        self._consultation.decide("hung up")
        self._play.interrupt()

    def close(self) -> None:
        """The call is over: take the line apart, as `CallLine.close` does."""
        self.playout.untap()
        for stage in self.processors:
            stage.forget()
        unlink(self.processors)
        vars(self).clear()

    def transfer_failed(self, target: TransferTarget) -> None:
        """A colleague's call is passed on to nobody."""
