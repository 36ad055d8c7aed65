"""Fixed texts in the agent's voice, synthesized before the first call.

Greetings begin at once then, and a voice that has fallen silent can still say "one moment", or
goodbye.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from flowcat_server.core.audio import AudioFormat, Transcoder
from flowcat_server.core.dtmf import KeyPresses, tones
from flowcat_server.core.interfaces import TextToSpeech, Word
from flowcat_server.processors.deadlines import Deadline, timed

MAX_MS = 120_000
"""Speech kept for each voice; what comes later is not prepared."""
INAUDIBLE_MS = 100
"""Keys that were sent in another way than by sound take this place in what was said."""
DEADLINE = Deadline(10_000, 10_000)
"""Nobody waits for it on the line."""


@dataclass(frozen=True, slots=True)
class Clip:
    """A text as it is spoken."""

    audio: bytes
    words: tuple[Word, ...]


def keys_clip(text: str, audio: AudioFormat) -> Clip | None:
    """Keys as they are sent; None: the text is speech."""
    if not isinstance(text, KeyPresses):
        return None
    sound = tones(text.keys, audio) if text.audible else audio.silence(INAUDIBLE_MS)
    return Clip(sound, ())


class Prepared:
    """The clips of one agent's voices, shared by all calls."""

    def __init__(self) -> None:
        self._spoken: dict[tuple[TextToSpeech, str], tuple[Clip, AudioFormat]] = {}
        self._converted: dict[tuple[TextToSpeech, str, AudioFormat], Clip] = {}
        self._kept_ms: dict[TextToSpeech, int] = {}

    async def add(self, voice: TextToSpeech, texts: Iterable[str]) -> None:
        """Have texts spoken by a voice; raises `ProviderError` if it fails."""
        wanted = [text for text in dict.fromkeys(texts) if (voice, text) not in self._spoken]
        if not wanted:
            return
        async with voice.open(voice.formats[0]) as opened:
            for text in wanted:
                if self._kept_ms.get(voice, 0) > MAX_MS:
                    return
                audio = bytearray()
                words: list[Word] = []
                async with timed(opened.synthesize(text), DEADLINE, "text to speech") as stream:
                    async for speech in stream:
                        audio += speech.audio
                        words += speech.words
                clip = Clip(bytes(audio), tuple(words))
                self._spoken[voice, text] = clip, opened.format
                kept_ms = opened.format.duration_ms(len(audio))
                self._kept_ms[voice] = self._kept_ms.get(voice, 0) + kept_ms

    def clip(self, voice: TextToSpeech, text: str, audio: AudioFormat) -> Clip | None:
        """A text in a voice, in a call's format; None: it was not prepared."""
        found = self._spoken.get((voice, text))
        if found is None:
            return None
        key = voice, text, audio
        if key not in self._converted:
            clip, source = found
            transcoder = Transcoder(source, audio, live=False)
            converted = transcoder.feed(clip.audio) + transcoder.flush()
            self._converted[key] = Clip(converted, clip.words)
        return self._converted[key]

    def any_clip(self, text: str, audio: AudioFormat) -> Clip | None:
        """A text in whatever voice has it."""
        voices = [voice for voice, known in self._spoken if known == text]
        return self.clip(voices[0], text, audio) if voices else None
