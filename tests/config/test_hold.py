"""``hold``: the sound a caller hears who waits, from a file or built in."""

from __future__ import annotations

import wave
from pathlib import Path

import numpy as np
import pytest

from flowcat_server.config.hold import hold_sound
from flowcat_server.core.audio import MULAW_8K, PCM_8K, PCM_16K, decode
from flowcat_server.core.hold import HoldSound, waiting_tone
from flowcat_server.errors import ConfigError


def write(path: Path, samples: list[int], *, rate: int = 16_000, channels: int = 1) -> None:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(np.array(samples, "<i2").tobytes())


def test_the_built_in_sounds():
    assert hold_sound("tone", Path())(PCM_8K) == waiting_tone(PCM_8K)
    assert hold_sound("none", Path())(PCM_8K) == b""


def test_a_file_is_heard_in_the_call_s_format(tmp_path: Path):
    wave_ = (8000 * np.sin(2 * np.pi * 440 * np.arange(16_000) / 16_000)).astype(int).tolist()
    write(tmp_path / "a.wav", wave_)
    sound = hold_sound("a.wav", tmp_path)
    assert abs(MULAW_8K.duration_ms(len(sound(MULAW_8K))) - 1000) < 5
    loud = np.abs(np.frombuffer(decode(sound(MULAW_8K), "mulaw"), "<i2").astype(int)).max()
    assert 7000 < loud < 9500
    assert sound(MULAW_8K) is sound(MULAW_8K)  # converted once for all calls


def test_both_sides_of_a_file_are_heard(tmp_path: Path):
    write(tmp_path / "a.wav", [1000, 3000] * 1600, channels=2)
    assert np.frombuffer(hold_sound("a.wav", tmp_path)(PCM_16K), "<i2").mean() == pytest.approx(
        2000, abs=20
    )


def test_a_file_that_cannot_be_used_is_named(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"hold.audio.*gone.wav"):
        hold_sound("gone.wav", tmp_path)
    (tmp_path / "text.wav").write_text("no sound")
    with pytest.raises(ConfigError, match=r"hold.audio.*text.wav"):
        hold_sound("text.wav", tmp_path)
    write(tmp_path / "empty.wav", [])
    with pytest.raises(ConfigError, match="holds no sound"):
        hold_sound("empty.wav", tmp_path)
    with wave.open(str(tmp_path / "old.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(1)
        file.setframerate(8000)
        file.writeframes(b"\x80" * 100)
    with pytest.raises(ConfigError, match="16 bits; it has 8"):
        hold_sound("old.wav", tmp_path)


def test_a_sound_is_repeated_without_a_gap_and_remembers_how_far_it_was_sent():
    hold = HoldSound(bytes(range(100)), MULAW_8K)
    assert hold.pull(0, 250) == bytes(range(100)) * 2 + bytes(range(50))
    assert hold.pull(0, 60) == bytes(range(50, 100)) + bytes(range(10))
    assert hold.lead_ms(10) == 28
    assert hold.cut(10)
    assert hold.lead_ms(10) == 0
    assert not hold.cut(10)
