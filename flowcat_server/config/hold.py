"""``hold``: what a caller hears who waits."""

from __future__ import annotations

import wave
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
from pydantic import Field

from flowcat_server.config.blocks import Block
from flowcat_server.config.types import Duration
from flowcat_server.core.audio import AudioFormat
from flowcat_server.core.hold import MOST_MS, sound_of, waiting_tone
from flowcat_server.errors import ConfigError


class Hold(Block):
    """What a caller hears who waits: during a long tool, or while somebody else is called."""

    audio: str = Field(
        default="tone",
        description="tone: two soft notes every six seconds; none: silence; anything else: a WAV "
        "file (16 bit PCM), relative to this file, the first minute of which is repeated.",
    )
    tools_after: Duration = Field(
        default=0, description="A tool that runs for longer than this is waited for so; 0: never."
    )


def hold_sound(audio: str, base_dir: Path) -> Callable[[AudioFormat], bytes]:
    """What ``hold.audio`` names, for any format; empty: nothing.

    Raises:
        ConfigError: It is a file that cannot be read.
    """
    if audio == "tone":
        return waiting_tone
    if audio == "none":
        return lambda _: b""
    path = base_dir / audio
    try:
        with wave.open(str(path)) as file:
            width, channels = file.getsampwidth(), file.getnchannels()
            source = AudioFormat("pcm16", file.getframerate())
            pcm = file.readframes(source.sample_rate * MOST_MS // 1000)
    except (OSError, EOFError, wave.Error) as error:
        raise ConfigError(f"hold.audio: {path} is no WAV file that can be read: {error}") from error
    if width != 2:
        raise ConfigError(f"hold.audio: {path} must have samples of 16 bits; it has {8 * width}")
    samples = np.frombuffer(pcm, "<i2")
    samples = samples[: len(samples) - len(samples) % channels].reshape(-1, channels)
    if not len(samples):
        raise ConfigError(f"hold.audio: {path} holds no sound")
    mono = samples.mean(axis=1).astype("<i2").tobytes()
    return lru_cache(maxsize=8)(partial(sound_of, mono, source))
