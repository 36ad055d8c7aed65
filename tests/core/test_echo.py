"""The agent's own sound in the caller's microphone, at levels and delays of real rooms."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowcat_server.core.audio import MULAW_8K, PCM_8K, PCM_16K, AudioFormat, encode
from flowcat_server.core.echo import Echo

SAID = "Thank you for calling the harbour museum. We are open every day except Monday."
RATE = 8000


def speech(seconds: float, seed: int, level: float = 0.1) -> np.ndarray:
    """Noise with the ups and downs of syllables; its mean level, of full scale."""
    chance = np.random.default_rng(seed)
    at = np.arange(int(seconds * RATE)) / RATE
    shape = np.abs(np.sin(2 * np.pi * 2.1 * at + chance.uniform(0, 6)))
    return chance.standard_normal(len(at)) * shape * level


def pcm(samples: np.ndarray) -> bytes:
    return (np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes()


def talk(echo: Echo, agent: np.ndarray, caller: np.ndarray, *, audio: AudioFormat = PCM_8K) -> None:
    """The agent is sent 100 ms ahead of time, the caller's side comes 20 ms at a time."""
    for at_ms in range(0, len(agent) * 1000 // RATE, 20):
        frame = slice(at_ms * RATE // 1000, (at_ms + 20) * RATE // 1000)
        if at_ms % 100 == 0:
            ahead = agent[frame.start : frame.start + RATE // 10]
            if audio.sample_rate == 16_000:
                ahead = np.repeat(ahead, 2)
            echo.played(at_ms, encode(pcm(ahead), audio.encoding))
        echo.heard(at_ms + 20, pcm(caller[frame]))


def returned(agent: np.ndarray, gain_db: float, delay_ms: int) -> np.ndarray:
    delay = delay_ms * RATE // 1000
    back = np.concatenate((np.zeros(delay), agent[: len(agent) - delay])) * 10 ** (gain_db / 20)
    return back + np.random.default_rng(9).standard_normal(len(back)) * 5e-4


@pytest.mark.parametrize("audio", [PCM_8K, MULAW_8K, PCM_16K])
@pytest.mark.parametrize("gain_db", [-15, -20, -30])
@pytest.mark.parametrize("delay_ms", [80, 160, 300])
def test_what_returns_is_explained(audio: AudioFormat, gain_db: float, delay_ms: int):
    echo = Echo(audio, lambda: SAID)
    agent = speech(3, 1)
    talk(echo, agent, returned(agent, gain_db, delay_ms), audio=audio)
    for at_ms in range(400, 2900, 160):
        assert echo.explains(at_ms, at_ms + 160), at_ms


@pytest.mark.parametrize("gain_db", [None, -15, -20, -30])
def test_a_caller_over_it_is_not(gain_db: float | None):
    echo = Echo(PCM_8K, lambda: SAID)
    agent = speech(3, 1)
    side = np.zeros(len(agent)) if gain_db is None else returned(agent, gain_db, 160)
    side[2 * RATE :] += speech(1, 2)
    talk(echo, agent, side)
    assert not echo.explains(2000, 2160) or not echo.explains(2100, 2260)


def test_a_quiet_caller_is_heard_where_there_is_no_echo():
    echo = Echo(PCM_8K, lambda: SAID)
    agent = speech(3, 1)
    side = np.random.default_rng(3).standard_normal(len(agent)) * 5e-4
    side[2 * RATE :] += speech(1, 2, level=0.015)
    talk(echo, agent, side)
    assert not echo.explains(2000, 2300)


def test_nothing_is_explained_while_the_agent_is_silent():
    echo = Echo(PCM_8K, lambda: SAID)
    for at_ms in range(0, 1000, 20):
        echo.heard(at_ms + 20, pcm(speech(0.02, at_ms)))
    assert not echo.explains(500, 900)


def test_what_was_cleared_returns_no_more():
    echo = Echo(PCM_8K, lambda: SAID)
    agent = speech(2, 1)
    echo.played(0, pcm(agent))
    echo.cleared(200)
    for at_ms in range(0, 1600, 20):
        echo.heard(at_ms + 20, pcm(speech(0.02, at_ms, level=0.02)))
    assert not echo.explains(1000, 1300)


@pytest.mark.parametrize(
    ("text", "repeats"),
    [
        ("Thank you for calling the harbor museum.", True),
        ("open every day except", True),
        ("Every day?", True),
        ("I would like to book a table, please.", False),
        ("Stop.", False),
        ("", False),
    ],
)
def test_whose_words_they_are(text: str, repeats: bool):
    assert Echo(PCM_8K, lambda: SAID).repeats(text) is repeats


@given(
    st.lists(
        st.tuples(st.sampled_from(["sent", "came", "cleared"]), st.integers(0, 5000), st.binary()),
        max_size=80,
    )
)
def test_any_order_of_any_audio_is_taken(steps: list[tuple[str, int, bytes]]):
    echo = Echo(PCM_8K, lambda: SAID)
    for step, at_ms, audio in steps:
        even = audio[: len(audio) & ~1]
        if step == "sent":
            echo.played(at_ms, even)
        elif step == "came":
            echo.heard(at_ms, even)
        else:
            echo.cleared(at_ms)
        echo.explains(at_ms - 100, at_ms + 100, "hello")


@pytest.mark.parametrize(
    ("heard", "most", "rest"),
    [
        ("Calling the harbour museum, what about Monday?", 6, "what about Monday?"),
        ("The harbor museum. Wait.", 6, "Wait."),
        ("open every day except. Stop it.", 3, "open every day except. Stop it."),
        ("What about Monday?", 6, "What about Monday?"),
        ("We said Monday.", 6, "We said Monday."),
        ("We are open every day except Monday.", 9, ""),
        ("", 9, ""),
    ],
)
def test_the_agents_words_are_taken_off_the_front(heard: str, most: int, rest: str):
    assert Echo(PCM_8K, lambda: SAID).after(heard, most) == rest


@given(st.text(), st.integers(0, 50))
def test_what_is_left_is_the_end_of_what_was_heard(heard: str, most: int):
    assert heard.endswith(Echo(PCM_8K, lambda: SAID).after(heard, most))
