"""Sentences to audio: order, fallbacks, and nothing left running."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest

from flowcat_server.core import ended, events
from flowcat_server.core.audio import PCM_8K, AudioFormat
from flowcat_server.core.interfaces import Speech, Word
from flowcat_server.errors import ProviderRefused, ProviderUnavailable
from tests import virtual
from tests.callscript import call
from tests.fakes.thinker import Thinker

YAML = """
agent: {prompt: Be kind., greeting: "One two three. Four five six."}
topology:
  vad: {provider: scripted}
  stt: {provider: scripted, options: {lines: [hello], delay_ms: 50}}
  llm: {provider: scripted}
  tts: {provider: scripted}
"""
WORDS = ["One", "two", "three.", "Four", "five", "six."]


class Choir:
    """A voice that can fail, and counts what it is doing."""

    formats = (PCM_8K,)

    def __init__(
        self, *, fail_after: int | None = None, slow_s: float = 0.0, timed: bool = True
    ) -> None:
        self._timed = timed
        self._fail_after = fail_after
        self._slow_s = slow_s
        self.texts: list[str] = []
        self.running = self.most = 0

    async def start(self) -> None: ...

    async def close(self) -> None: ...

    async def prepare(self, texts: Sequence[str]) -> None: ...

    @asynccontextmanager
    async def open(self, audio: AudioFormat) -> AsyncIterator[Choir]:
        self.format = audio
        yield self

    async def synthesize(self, text: str) -> AsyncGenerator[Speech, None]:
        self.texts.append(text)
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            if self._fail_after == 0:
                yield Speech(b"", (Word("lost", 0, 10),))
                raise ProviderUnavailable("choir", "hoarse")
            for number, word in enumerate(text.split()):
                if number == self._fail_after:
                    yield Speech(bytes(1600))  # a third of the word
                    raise ProviderRefused("choir", "lost its voice")
                await asyncio.sleep(self._slow_s)
                times = (Word(word, 300 * number, 300 * number + 300),) if self._timed else ()
                yield Speech(bytes(4800), times)
        finally:
            self.running -= 1


def test_a_voice_that_fails_before_its_first_sound_leaves_nothing_behind():
    async def main() -> None:
        broken, spare = Choir(fail_after=0), Choir()
        async with call(YAML, extra={"tts": [broken, spare]}) as script:
            await script.passes(800)
            await script.speaks(400, 0)
            heard = await script.until(events.AgentHeard)
        assert spare.texts[0] == broken.texts[0]
        # 300 ms a word: with words of the broken voice in between, the count would be off.
        assert heard.text.split() == WORDS[: round(heard.heard_ms / 300)]

    virtual.run(main())


def test_an_interruption_stops_the_voice_of_every_reply_under_way():
    async def main() -> None:
        choir = Choir(slow_s=0.25)
        yaml = YAML + "turn: {interruption: {min_speech: 600ms}}\n"
        async with call(
            yaml, extra={"tts": [choir], "llm": [Thinker(["Seven. Eight."])]}
        ) as script:
            await script.speaks(300, 500)  # a second reply waits for the first to be spoken
            assert len([e for e in script.all(events.CallerText) if e.final]) == 1
            texts = len(choir.texts)
            script.session.receive_text("stop")
            await script.passes(20)
            assert script.all(events.AgentHeard)
            await script.until(events.AgentHeard, count=3)
        assert choir.most == 1
        assert choir.running == 0
        assert choir.texts[texts:] == ["Seven.", "Eight."]

    virtual.run(main())


def test_the_only_voice_that_fails_ends_the_call_with_its_name():
    async def main() -> None:
        async with call(YAML, extra={"tts": [Choir(fail_after=0)]}) as script:
            over = await script.until(events.CallEnded)
        assert over.reason == ended.PROVIDER_FAILED
        assert over.detail == "tts choir: hoarse"

    virtual.run(main())


def test_a_silent_voice_is_named_by_its_place():
    async def main() -> None:
        yaml = YAML + "turn: {deadlines: {tts: {first: 2s, gap: 2s}}}\n"
        async with call(yaml, extra={"tts": [Choir(slow_s=60)]}) as script:
            over = await script.until(events.CallEnded)
        assert over.detail == "tts tts.0: silent for 2000 ms"

    virtual.run(main())


def test_synthesis_waits_while_much_is_still_to_be_heard():
    async def main() -> None:
        long = " ".join(f"Word number {n} of many." for n in range(12))  # 60 words, 18 s
        choir = Choir()
        async with call(YAML, extra={"tts": [choir], "llm": [Thinker([long])]}) as script:
            await script.until(events.AgentHeard)
            await script.speaks(400, 800)
            spoken = len(choir.texts) - 2
            assert 6 <= spoken <= 8
            await script.until(events.AgentHeard, count=2, within_ms=40_000)
        assert script.agent_lines[-1] == long

    virtual.run(main())


# --- in the middle of a sentence ------------------------------------------------------------------

NINE = "One two three four five six seven eight nine."
LONG = YAML.replace("One two three. Four five six.", NINE)


def test_a_voice_that_dies_in_a_sentence_is_replaced_from_the_word_that_was_cut():
    async def main() -> None:
        async with call(LONG, extra={"tts": [Choir(fail_after=2), spare := Choir()]}) as script:
            heard = await script.until(events.AgentHeard)
        assert spare.texts[0] == "three four five six seven eight nine."
        assert heard.text == NINE
        assert heard.heard_ms == 9 * 300 + 100

    virtual.run(main())


@pytest.mark.parametrize("timed", [True, False], ids=["word times", "no word times"])
def test_an_interruption_after_the_replacement_leaves_what_was_heard(timed: bool):
    async def interrupt(at_ms: int) -> None:
        choirs = [Choir(fail_after=2), Choir(timed=timed, slow_s=0.25)]
        async with call(LONG, extra={"tts": choirs}) as script:
            await script.passes(at_ms)
            await script.speaks(400, 0)
            heard = await script.until(events.AgentHeard)
        # 700 ms of the first voice, of which 100 belong to a word that is said again.
        before, after = min(heard.heard_ms, 600), max(0, heard.heard_ms - 700)
        count = len(heard.text.split())
        if timed:
            assert abs(count - (before + after) / 300) <= 1, (at_ms, heard)
        assert count <= (before + after) / 300 + 1, "nothing unheard"

    for at_ms in range(200, 2600, 200):
        virtual.run(interrupt(at_ms))


def test_a_voice_that_breaks_behind_its_last_word_is_not_replaced_for_it():
    async def main() -> None:
        broken, spare = Choir(fail_after=9), Choir()
        async with call(LONG, extra={"tts": [broken, spare]}) as script:
            heard = await script.until(events.AgentHeard)
        assert heard.text.endswith("nine.")
        assert spare.texts == []

    virtual.run(main())
