"""The transcriber's life: replaced when it stops, undisturbed by keys and typing."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from flowcat_server.core import events
from flowcat_server.core.audio import PCM_8K, AudioFormat
from flowcat_server.core.interfaces import Audio, EndOfTurn, Pause, SttCaps, SttInbox, Transcript
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

    def __init__(self, *, leaves_after: int = 10**9) -> None:
        self.caps = SttCaps(formats=(PCM_8K,), chunk_ms=0, speech_only=True)
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
                    voiced += audio.duration_ms(len(item.payload)) * (item.payload != SILENCE)
                elif isinstance(item, Pause):
                    if answers == self._leaves_after:
                        return
                    answers += 1
                    yield Transcript(f"{voiced} ms", 0, final=True, pause=item.number)
                elif isinstance(item, EndOfTurn):
                    voiced = 0


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
