"""Files of speech that a command lets a caller say."""

from __future__ import annotations

import wave
from pathlib import Path

from flowcat_server.errors import FlowcatError


def read_speech(file: Path) -> bytes:
    """PCM16 of 8 kHz, mono. Raises `FlowcatError`."""
    try:
        with wave.open(str(file)) as sound:
            shape = sound.getframerate(), sound.getsampwidth(), sound.getnchannels()
            if shape != (8000, 2, 1):
                raise FlowcatError(
                    f"{file}: found {shape[0]} Hz, {shape[1] * 8} bits, {shape[2]} channels; "
                    "allowed: 8000 Hz, 16 bits, 1 channel"
                )
            pcm: bytes = sound.readframes(sound.getnframes())
            return pcm
    except (OSError, EOFError, wave.Error) as error:
        raise FlowcatError(f"{file}: {str(error) or 'not a WAV file'}") from error
