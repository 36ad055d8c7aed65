"""Keys as sound: what is made is heard, and what is no key is not."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from flowcat_server.core.audio import (
    ALAW_8K,
    MULAW_8K,
    PCM_8K,
    PCM_16K,
    PCM_24K,
    PCM_48K,
    AudioFormat,
    decode,
    encode,
)
from flowcat_server.core.dtmf import (
    GAP_MS,
    HIGH_HZ,
    LAYOUT,
    LOW_HZ,
    MOST_KEYS,
    TONE_MS,
    KeyListener,
    KeyPresses,
    duration_ms,
    parse_keys,
    tones,
)

KEYS = "0123456789*#ABCD"
FULL_SCALE_DBM0 = 3.17
FORMATS = (MULAW_8K, ALAW_8K, PCM_8K, PCM_16K, PCM_24K, PCM_48K, AudioFormat("pcm16", 44_100))

Samples = NDArray[np.float64]


def pressed(
    key: str, ms: int, *, off: float = 0.0, twist_db: float = 0.0, level_dbm0: float = -10.0
) -> Samples:
    """A key at 8 kHz: its low tone at a level, the high one so much louder, both a bit off."""
    row = next(number for number, keys in enumerate(LAYOUT) if key in keys)
    seconds = np.arange(8 * ms) / 8000
    low = 32767 * 10 ** ((level_dbm0 - FULL_SCALE_DBM0) / 20)
    high = low * 10 ** (twist_db / 20)
    column = LAYOUT[row].index(key)
    return low * np.sin(2 * np.pi * LOW_HZ[row] * (1 + off) * seconds + 1) + high * np.sin(
        2 * np.pi * HIGH_HZ[column] * (1 + off) * seconds
    )


def quiet(ms: int) -> Samples:
    return np.zeros(8 * ms)


def heard(*sounds: Samples, audio: AudioFormat = PCM_8K, snr_db: float | None = None) -> str:
    """What is heard of sounds one after the other, in pieces of 20 ms, perhaps under noise."""
    sound = np.concatenate((quiet(30), *sounds, quiet(100)))
    if snr_db is not None:
        loud = np.concatenate(sounds)
        power = np.mean(loud[loud != 0] ** 2)
        noise = np.random.default_rng(7).normal(0, np.sqrt(power / 10 ** (snr_db / 10)), len(sound))
        sound = sound + noise
    payload = encode(np.clip(sound, -32768, 32767).astype("<i2").tobytes(), audio.encoding)
    return feed(payload, audio)


def feed(payload: bytes, audio: AudioFormat, size: int = 0) -> str:
    listener, size = KeyListener(audio), size or audio.bytes_for(20)
    pieces = range(0, len(payload), size)
    return "".join(listener.feed(payload[start : start + size]) for start in pieces)


# --- hearing --------------------------------------------------------------------------------------


@pytest.mark.parametrize("audio", [PCM_8K, MULAW_8K, ALAW_8K], ids=lambda audio: audio.encoding)
@pytest.mark.parametrize("key", KEYS)
def test_the_shortest_press_is_heard_once_under_noise_10_db_below_it(key: str, audio: AudioFormat):
    assert heard(pressed(key, 40), audio=audio, snr_db=10) == key


@pytest.mark.parametrize("off", [-0.015, 0.015], ids=lambda off: f"{off:+.1%}")
@pytest.mark.parametrize("key", KEYS)
def test_tones_that_are_a_little_off_are_heard_under_noise(key: str, off: float):
    assert heard(pressed(key, 60, off=off), snr_db=10) == key


@pytest.mark.parametrize("twist_db", [-8, 4])
@pytest.mark.parametrize("key", KEYS)
def test_one_tone_may_be_louder_than_the_other(key: str, twist_db: float):
    assert heard(pressed(key, 60, twist_db=twist_db)) == key


@pytest.mark.parametrize("level_dbm0", [-27, -3])
@pytest.mark.parametrize("key", KEYS)
def test_faint_and_loud_keys_are_heard(key: str, level_dbm0: float):
    assert heard(pressed(key, 50, level_dbm0=level_dbm0)) == key


@pytest.mark.parametrize("key", KEYS)
def test_a_key_pressed_twice_40_ms_apart_is_two_keys(key: str):
    assert heard(pressed(key, 45), quiet(40), pressed(key, 45), snr_db=20) == 2 * key


@pytest.mark.parametrize("key", KEYS)
def test_a_key_held_for_long_is_one_key_also_with_a_dropout(key: str):
    held = pressed(key, 900)
    held[8 * 400 : 8 * 410] = 0
    assert heard(held) == key


def test_a_number_is_heard_in_order():
    number = [sound for key in KEYS for sound in (pressed(key, 50), quiet(50))]
    assert heard(*number, snr_db=15) == KEYS


@given(st.lists(st.integers(1, 900), min_size=1, max_size=40))
def test_it_does_not_matter_how_the_sound_is_cut(sizes: list[int]):
    payload = tones("42#", MULAW_8K) + MULAW_8K.silence(100)
    listener, found = KeyListener(MULAW_8K), ""
    for size in (*sizes, len(payload)):
        found += listener.feed(payload[:size])
        payload = payload[size:]
    assert found == "42#"


# --- not hearing ----------------------------------------------------------------------------------


@pytest.mark.parametrize("key", "159D")
def test_what_is_too_short_too_far_off_or_too_faint_is_no_key(key: str):
    assert heard(pressed(key, 15)) == ""
    assert heard(pressed(key, 200, off=0.05)) == ""
    assert heard(pressed(key, 200, level_dbm0=-50)) == ""
    assert heard(pressed(key, 200, twist_db=15)) == ""
    assert heard(pressed(key, 200, twist_db=-15)) == ""


def test_one_tone_alone_two_of_a_group_or_three_are_no_key():
    seconds = np.arange(8 * 300) / 8000
    waves = {hertz: 6000 * np.sin(2 * np.pi * hertz * seconds) for hertz in (*LOW_HZ, *HIGH_HZ)}
    for sound in waves.values():
        assert heard(sound) == ""
    assert heard(waves[697] + waves[941]) == ""
    assert heard(waves[697] + waves[852] + waves[1336]) == ""


def test_tones_with_overtones_are_a_voice():
    seconds = np.arange(8 * 300) / 8000
    sound = pressed("5", 300) + sum(
        4000 * np.sin(2 * np.pi * hertz * seconds) for hertz in (3 * 770, 2 * 1336)
    )
    assert heard(sound) == ""


def test_noise_has_no_keys():
    noise = np.random.default_rng(3).normal(0, 4000, 8000 * 60)
    assert heard(noise) == ""


def test_progress_tones_are_no_keys():
    seconds = np.arange(8000 * 2) / 8000
    for first, second in (
        (350, 440),
        (440, 480),
        (480, 620),
        (425, 425),
        (1400, 2060),
        (950, 1400),
    ):
        sound = 8000 * (np.sin(2 * np.pi * first * seconds) + np.sin(2 * np.pi * second * seconds))
        assert heard(sound) == "", (first, second)


# --- sending --------------------------------------------------------------------------------------


@pytest.mark.parametrize("audio", FORMATS, ids=str)
def test_what_is_sent_is_heard(audio: AudioFormat):
    sound = tones(KEYS + "w1", audio)
    assert len(sound) == audio.bytes_for(17 * (TONE_MS + GAP_MS) + 500)
    assert audio.duration_ms(len(sound)) == duration_ms(KEYS + "w1")
    assert feed(sound, audio) == KEYS + "1"


@pytest.mark.parametrize("key", KEYS)
def test_the_tones_have_the_levels_that_the_recommendations_ask_for(key: str):
    audio = AudioFormat("pcm16", 8000)
    sound = np.frombuffer(tones(key, audio)[: audio.bytes_for(TONE_MS)], "<i2").astype(float)
    seconds = np.arange(len(sound)) / 8000
    levels = {}
    for hertz in (*LOW_HZ, *HIGH_HZ):
        amplitude = abs(np.sum(sound * np.exp(-2j * np.pi * hertz * seconds))) * 2 / len(sound)
        levels[hertz] = 20 * np.log10(max(amplitude, 1) / 32767) + FULL_SCALE_DBM0
    row = next(number for number, keys in enumerate(LAYOUT) if key in keys)
    low, high = levels.pop(LOW_HZ[row]), levels.pop(HIGH_HZ[LAYOUT[row].index(key)])
    assert low == pytest.approx(-9, abs=0.7)
    assert high == pytest.approx(-7, abs=0.7)
    assert max(levels.values()) < -25


def test_tones_do_not_clip_and_do_not_click():
    sound = np.frombuffer(decode(tones("5", MULAW_8K), "mulaw"), "<i2").astype(int)
    assert np.abs(sound).max() < 24_000
    assert abs(sound[0]) < 100


@pytest.mark.parametrize(
    ("text", "keys"),
    [("42#", "42#"), (" 4 2-# ", "42#"), ("1ww2", "1ww2"), ("1W", "1w"), ("a*d", "A*D")],
)
def test_keys_are_read_as_people_write_them(text: str, keys: str):
    assert parse_keys(text) == keys
    assert KeyPresses(keys) == f"[keys: {' '.join(keys)}]"
    assert KeyPresses(keys).keys == keys


@pytest.mark.parametrize("text", ["", "  ", "E", "4;2", "call +44", "٣", "1" * (MOST_KEYS + 1)])
def test_what_no_telephone_has_is_refused(text: str):
    with pytest.raises(ValueError, match="keys are 1 to 32"):
        parse_keys(text)
