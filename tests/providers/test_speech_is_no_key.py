"""Minutes of the bundled voice, and not one key heard in them.

The voice is set to say a text always in the same way: with the chance in it that it has in calls,
some 60 minutes of speech (slower and faster ones among them) held one false key.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from flowcat_server.core.audio import MULAW_8K, PCM_8K, decode
from flowcat_server.core.dtmf import KeyListener
from flowcat_server.providers.tts.piper import Piper, PiperOptions

pytestmark = pytest.mark.models

TEXT = Path(__file__).parents[2] / "LICENSE"
LEAST_MINUTES = 3
COUNTING = "Press one, two, three, four, five, six, seven, eight, nine, zero, star, or pound."


def sentences() -> list[str]:
    plain = re.sub(r"[\[\]()-]+", " ", TEXT.read_text())
    found = re.split(r"(?<=[.!?])\s+", " ".join(plain.split()))
    return [COUNTING, *(each for each in found if 20 < len(each) < 400)]


def keys_in(sound: NDArray[np.float64]) -> str:
    pcm = np.clip(sound, -32768, 32767).astype("<i2").tobytes()
    listener = KeyListener(PCM_8K)
    return "".join(listener.feed(pcm[at : at + 320]) for at in range(0, len(pcm), 320))


async def test_no_key_is_heard_in_minutes_of_speech():
    piper = Piper(PiperOptions(expressiveness=0, rhythm=0))
    await piper.start()
    spoken = b""
    async with piper.open(MULAW_8K) as voice:
        for sentence in sentences():
            async for speech in voice.synthesize(sentence):
                spoken += speech.audio
            if len(spoken) > LEAST_MINUTES * 60 * 8000:
                break
    await piper.close()
    assert len(spoken) > LEAST_MINUTES * 60 * 8000
    sound = np.frombuffer(decode(spoken, "mulaw"), "<i2").astype(np.float64)
    assert keys_in(sound) == ""
    assert keys_in(3 * sound) == ""  # a loud line, which clips
    slower = np.interp(np.arange(0, len(sound) - 1, 0.85), np.arange(len(sound)), sound)
    assert keys_in(slower) == ""  # a deeper voice
