"""The transcriber's life: replaced when it stops, undisturbed by keys and typing."""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import AsyncGenerator
from dataclasses import replace

from flowcat_server.core import events
from flowcat_server.core.audio import PCM_8K, AudioFormat
from flowcat_server.core.interfaces import Audio, EndOfTurn, Pause, SttCaps, SttInbox, Transcript
from flowcat_server.errors import ProviderRefused
from flowcat_server.processors.transcribe import RING_MS
from tests import virtual
from tests.callscript import SILENCE, VOICE, call

YAML = """
agent: {prompt: Be kind., greeting: Hello.}
topology:
  vad: {provider: scripted}
  stt: {provider: scripted}
  llm: {provider: scripted, options: {echo: true}}
  tts: {provider: scripted, options: {ms_per_char: 20}}
"""


class Stenographer:
    """Writes down how many milliseconds of voice it was given in a turn."""

    def __init__(
        self, *, leaves_after: int = 10**9, deaf: bool = False, partials: bool = False
    ) -> None:
        self.caps = SttCaps(
            formats=(PCM_8K,),
            chunk_ms=100 if partials else 0,
            speech_only=not partials,
            keeps_partials=partials,
        )
        self._deaf, self._partials = deaf, partials
        self._leaves_after = leaves_after
        self.streams = 0

    async def start(self) -> None: ...

    async def close(self) -> None: ...

    async def transcribe(
        self, inbox: SttInbox, audio: AudioFormat
    ) -> AsyncGenerator[Transcript, None]:
        self.streams += 1
        voiced = answers = 0
        while items := await inbox.get():
            for item in items:
                if isinstance(item, Audio):
                    heard = voice_ms(item.payload)
                    if self._partials and voiced < 300 <= voiced + heard:
                        yield Transcript("well", 0, final=False)
                    voiced += heard
                elif isinstance(item, Pause):
                    if self._deaf:
                        continue
                    if answers == self._leaves_after:
                        return
                    answers += 1
                    yield Transcript(f"{voiced} ms", 0, final=True, pause=item.number)
                elif isinstance(item, EndOfTurn):
                    voiced = 0


def voice_ms(payload: bytes) -> int:
    """Of frames of 20 ms, those that are not silent."""
    size = len(SILENCE)
    return 20 * sum(payload[at : at + size] != SILENCE for at in range(0, len(payload), size))


def finals(found: list[events.CallerText]) -> list[str]:
    return [event.text for event in found if event.final]


def test_a_transcriber_that_ends_its_stream_is_started_again():
    async def main() -> None:
        pen = Stenographer(leaves_after=1)
        async with call(YAML, extra={"stt": [pen]}) as script:
            await script.until(events.AgentHeard)
            for _ in range(3):
                await script.speaks(600, 1500)
                await script.passes(3000)
            assert script.ended is None
        assert pen.streams >= 2
        assert "stt_retried" in [notice.code for notice in script.all(events.Notice)]
        assert len(finals(script.all(events.CallerText))) >= 2

    virtual.run(main())


def test_a_typed_line_does_not_cost_the_words_being_spoken():
    async def main() -> None:
        async with call(YAML, extra={"stt": [Stenographer()]}) as script:
            await script.until(events.AgentHeard)
            await script.passes(400, VOICE)
            script.session.receive_text("typed")
            await script.passes(400, VOICE)
            await script.passes(800)
        assert finals(script.all(events.CallerText)) == ["typed", "800 ms"]

    virtual.run(main())


def test_a_key_does_not_cost_the_words_being_spoken():
    async def main() -> None:
        async with call(YAML, extra={"stt": [Stenographer()]}) as script:
            await script.until(events.AgentHeard)
            await script.passes(400, VOICE)
            script.session.receive_digit("#")
            await script.passes(400, VOICE)
            await script.passes(800)
        assert finals(script.all(events.CallerText)) == ["[keypad: #]", "800 ms"]

    virtual.run(main())


# --- replacement ----------------------------------------------------------------------------------


def test_a_replacement_is_given_the_turn_that_was_missed():
    async def main() -> None:
        deaf, spare = Stenographer(deaf=True), Stenographer()
        async with call(YAML, extra={"stt": [deaf, spare]}) as script:
            await script.until(events.AgentHeard)
            await script.speaks(800, 3000)
            await script.speaks(600, 1000)
        assert finals(script.all(events.CallerText)) == ["800 ms", "600 ms"]
        assert spare.streams == 1
        assert [notice.code for notice in script.all(events.Notice)] == ["stt_fallback"]

    virtual.run(main())


def test_a_caller_who_goes_on_meanwhile_is_heard_as_a_whole():
    async def main() -> None:
        async with call(YAML, extra={"stt": [Stenographer(deaf=True), Stenographer()]}) as script:
            await script.until(events.AgentHeard)
            await script.speaks(800, 1000)
            await script.speaks(600, 3000)
        assert finals(script.all(events.CallerText)) == ["1400 ms"]

    virtual.run(main())


def test_what_a_replacement_is_given_is_bounded():
    async def main() -> None:
        deaf, spare = Stenographer(deaf=True), Stenographer()
        async with call(YAML, extra={"stt": [deaf, spare]}) as script:
            await script.until(events.AgentHeard)
            await script.speaks(20_000, 3000)
        (text,) = finals(script.all(events.CallerText))
        assert 12_000 < int(text.split()[0]) < RING_MS

    virtual.run(main())


class Listener(Stenographer):
    """Keeps what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.heard = b""

    async def transcribe(
        self, inbox: SttInbox, audio: AudioFormat
    ) -> AsyncGenerator[Transcript, None]:
        while items := await inbox.get():
            for item in items:
                if isinstance(item, Audio):
                    self.heard += item.payload
                elif isinstance(item, Pause):
                    yield Transcript("heard", 0, final=True, pause=item.number)


def test_a_replacement_hears_the_turn_as_well_as_a_telephone_carries_it():
    wave = array("h", range(-32_000, 32_000, 200)).tobytes()

    async def main() -> None:
        spare = Listener()
        async with call(YAML, extra={"stt": [Stenographer(deaf=True), spare]}) as script:
            await script.until(events.AgentHeard)
            await script.passes(640, wave)
            await script.passes(3000)
        begin = next(
            at for at in range(0, len(spare.heard), 320) if any(spare.heard[at : at + 320])
        )
        heard = array("h", spare.heard[begin : begin + len(wave)])
        furthest = max(abs(one - other) for one, other in zip(heard, array("h", wave), strict=True))
        assert len(heard) == 320
        assert furthest <= 512, "G.711 at its coarsest"

    virtual.run(main())


class Chatty(Stenographer):
    """Tells of two segments while the caller speaks, then breaks."""

    async def transcribe(
        self, inbox: SttInbox, audio: AudioFormat
    ) -> AsyncGenerator[Transcript, None]:
        while items := await inbox.get():
            if any(isinstance(item, Pause) for item in items):
                yield Transcript("lost words", 0, final=True)
                yield Transcript("more of them", 1, final=False)
                raise ProviderRefused("chatty", "no")


def test_what_was_heard_twice_stands_there_once():
    async def main() -> None:
        async with call(YAML, extra={"stt": [Chatty(), Stenographer()]}) as script:
            await script.until(events.AgentHeard)
            await script.speaks(800, 1000)
        assert finals(script.all(events.CallerText)) == ["800 ms"]

    virtual.run(main())


def test_a_stream_that_falls_deaf_in_a_long_speech_is_replaced_before_its_end():
    async def main() -> None:
        deaf, spare = Stenographer(deaf=True, partials=True), Stenographer()
        yaml = YAML + "turn: {deadlines: {stt: {first: 2s, gap: 3s}}}\n"
        async with call(yaml, extra={"stt": [deaf, spare]}) as script:
            await script.until(events.AgentHeard)
            await script.passes(4000, VOICE)
            assert [notice.code for notice in script.all(events.Notice)] == ["stt_fallback"]
            await script.passes(700)
        assert finals(script.all(events.CallerText)) == ["4000 ms"]

    virtual.run(main())


def test_a_noise_is_owed_nothing_though_nobody_transcribes_it():
    async def main() -> None:
        async with call(YAML, extra={"stt": [Stenographer(deaf=True)]}) as script:
            await script.until(events.AgentHeard)
            await script.speaks(160, 2500)
            assert script.agent_lines == ["Hello."]

    virtual.run(main())


def test_a_long_noise_breaks_nothing():
    async def main() -> None:
        pens = [Stenographer(deaf=True), Stenographer()]
        pens[0].caps = replace(pens[0].caps, keeps_partials=True)
        yaml = YAML + "turn: {deadlines: {stt: {first: 2s, gap: 3s}}}\n"
        async with call(yaml, extra={"stt": pens}) as script:
            await script.until(events.AgentHeard)
            await script.passes(20_000, VOICE)
            assert script.all(events.Notice) == []

    virtual.run(main())


class Sleepy(Stenographer):
    """Hangs up on a caller who says nothing for a while, once."""

    async def transcribe(
        self, inbox: SttInbox, audio: AudioFormat
    ) -> AsyncGenerator[Transcript, None]:
        if not self.streams:
            self.streams += 1
            await asyncio.sleep(4)
            return
        async for transcript in super().transcribe(inbox, audio):
            yield transcript


def test_a_stream_that_ends_while_nobody_waits_is_opened_again_before_a_fallback():
    async def main() -> None:
        sleepy, spare = Sleepy(), Stenographer()
        async with call(YAML, extra={"stt": [sleepy, spare]}) as script:
            await script.passes(5000)
            await script.speaks(800, 1000)
        assert finals(script.all(events.CallerText)) == ["800 ms"]
        assert (sleepy.streams, spare.streams) == (2, 0)

    virtual.run(main())
