"""Whatever the caller interrupts, transcript and context hold what reached their ear."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest

from flowcat_server.core import events
from flowcat_server.core.audio import PCM_8K
from flowcat_server.core.interfaces import Message, ModelEvent, ModelRequest, TextDelta
from flowcat_server.providers import tones
from tests import virtual
from tests.callscript import VOICE, Script, call

GREETING = "Good morning and welcome. Our office is open today until five. How may I help you?"
MS_PER_CHAR = 50
YAML = f"""
agent: {{prompt: Be kind., greeting: "{GREETING}"}}
topology:
  vad: {{provider: scripted}}
  llm: {{provider: scripted}}
  stt: {{provider: scripted, options: {{lines: [wait], delay_ms: 50}}}}
  tts: {{provider: scripted, options: {{ms_per_char: {MS_PER_CHAR}, realtime_factor: FACTOR}}}}
"""
WIRES = {
    "carrier": {"buffers": True, "marks": True},
    "carrier without marks": {"buffers": True, "marks": False},
    "browser": {"buffers": False},
}
SPOKEN_MS = sum(
    PCM_8K.duration_ms(len(speech.audio))
    for speech in tones.speak(GREETING, PCM_8K, ms_per_char=MS_PER_CHAR, tone_hz=440)
)


class Notebook:
    """A language model that keeps what it was shown."""

    def __init__(self) -> None:
        self.shown: list[list[Message]] = []

    async def start(self) -> None: ...

    async def close(self) -> None: ...

    async def reply(self, request: ModelRequest) -> AsyncGenerator[ModelEvent, None]:
        self.shown.append(list(request.messages))
        yield TextDelta("Yes.")


def oracle(script: Script, until: int) -> list[str]:
    """The words whose middle is in the audio that the far end played, by the audio itself."""
    played = b"".join(audio for _, audio in script.transport.heard[:until])
    words: list[str] = []
    position = 0
    for speech in tones.speak(GREETING, PCM_8K, ms_per_char=MS_PER_CHAR, tone_hz=440):
        share = played[position : position + len(speech.audio)]
        assert speech.audio.startswith(share), "the far end heard something else"
        if len(share) * 2 >= len(speech.audio):
            words.append(speech.words[0].text)
        position += len(speech.audio)
    return words


@pytest.mark.parametrize("factor", [0.0, 0.8], ids=["synthesis at once", "synthesis as it goes"])
@pytest.mark.parametrize("wire", WIRES)
def test_an_interruption_at_any_moment_leaves_what_was_heard(wire: str, factor: float):
    async def interrupt(at_ms: int) -> None:
        notebook = Notebook()
        yaml = YAML.replace("FACTOR", str(factor))
        async with call(yaml, extra={"llm": [notebook]}, **WIRES[wire]) as script:
            await script.passes(at_ms)
            await script.passes(20, VOICE)
            for _ in range(20):
                if not script.all(events.AgentHeard):
                    await script.passes(20, VOICE)
            heard_frames = len(script.transport.heard)
            await script.passes(120, VOICE)
            await script.passes(700)
            await script.until(events.AgentHeard, count=2, within_ms=8000)
        heard = script.all(events.AgentHeard)[0]
        words = heard.text.split()
        expected = oracle(script, heard_frames)
        assert words == GREETING.split()[: len(words)]
        assert abs(len(words) - len(expected)) <= 1, (at_ms, words, expected)
        assert heard.interrupted is (words != GREETING.split())
        completed = script.all(events.TurnCompleted)[0]
        assert completed.agent == heard.text
        first, *rest = notebook.shown[0]
        if heard.text:
            assert first == Message("assistant", heard.text, interrupted=heard.interrupted)
            (first,) = rest
        assert first == Message("user", "wait")

    for at_ms in range(0, SPOKEN_MS + 200, 100):
        virtual.run(interrupt(at_ms))
