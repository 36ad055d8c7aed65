"""Spectrogram, token reading and the repairs of short windows, without the model."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowcat_server.core.audio import MULAW_8K, PCM_16K, encode
from flowcat_server.providers.mel import filterbank, log_mel
from flowcat_server.providers.stt._bpe import Piece, Vocabulary, byte_alphabet
from flowcat_server.providers.stt._repeats import cut_repeats
from flowcat_server.providers.stt._turn_audio import LIMIT_MS, TurnAudio
from flowcat_server.providers.stt._whisper_model import clean, until_end, voiced_ms

# --- spectrogram ------------------------------------------------------------------------------


def test_filters_are_those_that_whisper_ships() -> None:
    """Values of mel_filters.npz in the reference implementation."""
    weights = filterbank()
    assert weights.shape == (201, 80)
    assert weights[:4, 0] == pytest.approx([0, 0.02486259, 0, 0], abs=1e-7)
    assert weights[:5, 1] == pytest.approx([0, 0.00199082, 0.02287177, 0, 0], abs=1e-7)


def slow_log_mel(samples: list[float], frames: int) -> list[list[float]]:
    """The definition, one number at a time: no FFT, no numpy, silence computed like sound."""
    padded = samples[200:0:-1] + samples + [0.0] * (frames * 160 + 400)
    weights = filterbank().tolist()
    columns = []
    for frame in range(frames):
        window = [
            padded[frame * 160 + n] * (0.5 - 0.5 * math.cos(2 * math.pi * n / 400))
            for n in range(400)
        ]
        power = []
        for k in range(201):
            re = sum(w * math.cos(2 * math.pi * k * n / 400) for n, w in enumerate(window) if w)
            im = sum(w * math.sin(2 * math.pi * k * n / 400) for n, w in enumerate(window) if w)
            power.append(re * re + im * im)
        columns.append(
            [
                math.log10(max(1e-10, sum(power[k] * weights[k][band] for k in range(201))))
                for band in range(80)
            ]
        )
    floor = max(max(column) for column in columns) - 8
    return [[(max(value, floor) + 4) / 4 for value in column] for column in columns]


def test_spectrogram_is_the_definition() -> None:
    samples = [
        0.3 * math.sin(2 * math.pi * 440 * n / 16000)
        + 0.1 * math.sin(2 * math.pi * 3000 * n / 16000)
        for n in range(900)
    ]
    expected = np.array(slow_log_mel(samples, 9)).T
    found = log_mel(np.array(samples, np.float32), 9)
    assert found.shape == (80, 9)
    # Beyond the sound stands the floor, computed or not.
    assert found == pytest.approx(expected, abs=2e-4)


def test_silence_after_the_sound_is_the_same_whether_it_is_given_or_not() -> None:
    sound = np.random.default_rng(0).normal(0, 0.1, 8000).astype(np.float32)
    given_ = np.concatenate((sound, np.zeros(16000, np.float32)))
    assert log_mel(sound, 150) == pytest.approx(log_mel(given_, 150), abs=1e-6)


@pytest.mark.parametrize("length", [0, 1, 399, 400, 401, 1600, 99999])
def test_any_length_fits_the_window(length: int) -> None:
    spectrogram = log_mel(np.ones(length, np.float32), 100)
    assert spectrogram.shape == (80, 100)
    assert np.isfinite(spectrogram).all()


# --- tokens -----------------------------------------------------------------------------------


def vocabulary() -> Vocabulary:
    names = {byte: character for character, byte in byte_alphabet().items()}
    words = [" Hello", ",", " world", "é"]
    tokens = ["".join(names[byte] for byte in word.encode()) for word in words]
    # A letter whose two bytes are tokens of their own.
    tokens += [names[byte] for byte in "ü".encode()]
    special = ["<|startofprev|>", "<|endoftext|>", "<|startoftranscript|>", "<|notimestamps|>"]
    document = {
        "model": {"vocab": {token: i for i, token in enumerate(tokens)}},
        "added_tokens": [{"content": name, "id": 9 + i} for i, name in enumerate(special)],
    }
    return Vocabulary(json.dumps(document).encode())


def at(ms: int) -> int:
    return 13 + ms // 20


def test_tokens_are_bytes_of_text() -> None:
    assert vocabulary().text([0, 1, 2, 3, 4, 5]) == " Hello, worldéü"


def test_half_a_letter_and_special_tokens_do_no_harm() -> None:
    assert vocabulary().text([11, at(40), 4, 10]) == "\ufffd"


def test_earlier_text_is_given_in_the_longest_tokens() -> None:
    assert vocabulary().opening("") == [11]
    assert vocabulary().opening("Hello, world") == [9, 0, 1, 2, 11]


def test_the_byte_alphabet_has_every_byte_once() -> None:
    alphabet = byte_alphabet()
    assert sorted(alphabet.values()) == list(range(256))
    assert alphabet["Ġ"] == ord(" ")
    assert alphabet["Ċ"] == ord("\n")


def test_an_answer_is_split_at_its_timestamps() -> None:
    tokens = [at(0), 0, 1, at(1200), at(1400), 2, at(2000), 10]
    assert vocabulary().pieces(tokens) == [Piece((0, 1), 0, 1200), Piece((2,), 1400, 2000)]


def test_an_answer_that_was_cut_short_keeps_its_text() -> None:
    assert vocabulary().pieces([at(0), 0, at(500), at(500), 2]) == [
        Piece((0,), 0, 500),
        Piece((2,), 500, None),
    ]
    assert vocabulary().pieces([0, 2]) == [Piece((0, 2), None, None)]


@given(st.lists(st.integers(0, 2000), max_size=60))
def test_no_text_token_is_lost_or_doubled(tokens: list[int]) -> None:
    pieces = vocabulary().pieces(tokens)
    assert [t for piece in pieces for t in piece.tokens] == [
        t for t in tokens if t < 13 and t != 10
    ]


# --- repairs ----------------------------------------------------------------------------------


def piece(start: int | None, end: int | None) -> Piece:
    return Piece((0,), start, end)


@pytest.mark.parametrize(
    ("pieces", "kept"),
    [
        ([piece(0, 2000), piece(2000, 4000)], 1),
        ([piece(0, 1000), piece(1000, 2000), piece(2200, 4000)], 2),
        ([piece(0, 1900), piece(1950, 3000)], 1),
        ([piece(0, 1000), piece(1000, 1500)], 2),
        ([piece(0, None)], 1),
        ([piece(2400, 5000)], 1),
        ([], 0),
    ],
    ids=[
        "what follows the end is invented",
        "several pieces reach the end",
        "nearly the end is the end",
        "all of it lies before the end",
        "no timestamp",
        "a first piece is kept wherever it is",
        "nothing",
    ],
)
def test_the_answer_ends_where_the_sound_ends(pieces: list[Piece], kept: int) -> None:
    assert until_end(pieces, 2000) == pieces[:kept]


@pytest.mark.parametrize(
    ("text", "voiced", "kept"),
    [
        ("What are your hours? What are your hours? What are your hours?", 1200,
         "What are your hours?"),
        ("Can I book on Monday, on Monday, on Monday", 1000, "Can I book on Monday,"),
        ("Okay. Okay. Okay. Okay", 250, "Okay."),
        ("no no no", 700, "no no no"),
        ("My number is five five five one two three four", 2000,
         "My number is five five five one two three four"),
        ("It is very very good", 1500, "It is very very good"),
        ("bye bye bye bye bye bye bye bye bye", 2000, "bye"),
        ("thank you. Thank you.", 900, "thank you. Thank you."),
        ("the the the the the the the", 1500, "the"),
        ("", 0, ""),
    ],
)  # fmt: skip
def test_what_nobody_says_twice_is_cut(text: str, voiced: int, kept: str) -> None:
    assert cut_repeats(text, voiced) == kept


@given(st.lists(st.sampled_from("abcdef"), max_size=40), st.integers(0, 20000))
def test_cutting_keeps_the_order_and_ends(words: list[str], voiced: int) -> None:
    kept = cut_repeats(" ".join(words), voiced).split()
    rest = iter(words)
    assert all(word in rest for word in kept)
    assert set(kept) == set(words)


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        (" .", ""),
        ("[BLANK_AUDIO]", ""),
        ("(wind blowing)", ""),
        ("*coughs* Yes. ", "Yes."),
        ("\u266a la la \u266a", "la la"),
        (" It\u2019s  5\ufffd. ", "It\u2019s 5."),
    ],
)
def test_what_is_not_speech_is_cleaned_away(text: str, kept: str) -> None:
    assert clean(text) == kept


def test_voiced_time_is_the_loud_part() -> None:
    sound = np.zeros(16000, np.float32)
    sound[3200:8000] = np.sin(np.arange(4800) / 5)
    sound[8000:] = 0.05
    assert voiced_ms(sound) == 300
    assert voiced_ms(np.zeros(1600, np.float32)) == 0
    assert voiced_ms(np.zeros(0, np.float32)) == 0


# --- the sound of a turn ----------------------------------------------------------------------


def test_sound_is_kept_at_16_khz_whatever_the_call_has() -> None:
    turn = TurnAudio(MULAW_8K)
    tone = (8000 * np.sin(np.arange(8000) / 4)).astype("<i2").tobytes()
    for begin in range(0, 16000, 320):
        turn.add(encode(tone[begin : begin + 320], "mulaw"))
    assert turn.duration_ms == pytest.approx(1000, abs=40)  # the resampler holds some back
    turn.clear()
    assert turn.duration_ms == 0


def test_a_long_turn_is_cut_where_it_is_quietest() -> None:
    turn = TurnAudio(PCM_16K)
    sound = np.random.default_rng(1).normal(0, 3000, 26 * 16000)
    sound[int(21.0 * 16000) : int(21.3 * 16000)] /= 100
    turn.add(sound.astype("<i2").tobytes())
    assert PCM_16K.duration_ms(turn.cut()) == pytest.approx(21150, abs=80)


def test_sound_that_nobody_decodes_does_not_grow_for_ever() -> None:
    turn = TurnAudio(PCM_16K)
    for _ in range(LIMIT_MS // 1000 + 20):
        turn.add(bytes(32000))
    assert turn.duration_ms == LIMIT_MS
