"""Who answered: scripts of voice, silence and tones, and what is made of them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowcat_server.config.language import languages, turn_words
from flowcat_server.core.amd import LISTEN_MS, AnswerDetector
from flowcat_server.core.audio import decode, encode

RATE = 8000
Script = list[tuple[str, int]]


def sound(script: Script, level_db: float = -20.0, noise_db: float = -65.0) -> bytes:
    """``voice``, ``quiet``, or a tone by its Hertz; through mu-law, as a phone line gives it."""
    rng = np.random.default_rng(3)
    loud = 10 ** (level_db / 20)
    parts = []
    for kind, ms in script:
        t = np.arange(RATE * ms // 1000) / RATE
        if kind == "voice":
            # A buzz whose pitch moves and whose syllables come four times a second.
            phase = 2 * np.pi * np.cumsum(120 + 30 * np.sin(2 * np.pi * 1.3 * t)) / RATE
            buzz = sum(np.sin(n * phase + n) / n for n in range(1, 12))
            part = buzz * (0.75 + 0.25 * np.sin(2 * np.pi * 4 * t))
            part = part / max(1e-9, np.sqrt(np.mean(part**2))) * loud
        elif kind == "quiet":
            part = np.zeros(len(t))
        else:
            part = np.sin(2 * np.pi * float(kind) * t) * loud * 1.4
        parts.append(part)
    whole = np.concatenate(parts)
    whole = whole + rng.normal(0, 10 ** (noise_db / 20), len(whole))
    pcm = np.clip(whole * 32767, -32768, 32767).astype("<i2").tobytes()
    return decode(encode(pcm, "mulaw"), "mulaw")


def heard(
    script: Script, detector: AnswerDetector | None = None, size: int = 320, **line: float
) -> list[tuple[str, str, int]]:
    """Verdicts: who, why, when."""
    detector = detector or AnswerDetector()
    pcm, found = sound(script, **line), []
    for start in range(0, len(pcm), size):
        at_ms = min(start + size, len(pcm)) * 1000 // (2 * RATE)
        verdict = detector.hear(pcm[start : start + size], at_ms)
        if verdict is not None:
            found.append((verdict.answerer, verdict.why, at_ms))
    return found


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ([("quiet", 400), ("voice", 500), ("quiet", 3000)], [("human", "short answer")]),
        ([("voice", 300), ("quiet", 3000)], [("human", "short answer")]),
        ([("quiet", 900), ("voice", 1700), ("quiet", 3000)], [("human", "short answer")]),
        ([("quiet", 400), ("voice", 3200), ("quiet", 3000)], [("human", "short answer")]),
        ([("quiet", 400), ("voice", 6000), ("quiet", 500)], [("machine", "long greeting")]),
        (
            [("voice", 1500), ("quiet", 400), ("voice", 1500), ("quiet", 300), ("voice", 1500),
             ("quiet", 800)],
            [("machine", "long greeting")],
        ),
        (
            [("voice", 300), ("quiet", 700), ("voice", 300), ("quiet", 700), ("voice", 300),
             ("quiet", 700), ("voice", 300), ("quiet", 700), ("voice", 300), ("quiet", 1500)],
            [("human", "short answer")],
        ),
        ([("quiet", 5000)], [("unknown", "silence")]),
        (
            [("quiet", 4000), ("voice", 500), ("quiet", 1500)],
            [("unknown", "silence"), ("human", "short answer")],
        ),
        ([("voice", 900), ("quiet", 400), ("1000", 400), ("quiet", 500)], [("machine", "tone")]),
        (
            [("voice", 900), ("quiet", 1500), ("440", 250), ("quiet", 500)],
            [("human", "short answer"), ("machine", "tone")],
        ),
        ([("quiet", 300), ("2100", 2500), ("quiet", 500)], [("fax", "tone")]),
        ([("quiet", 700), ("1000", 60), ("quiet", 3500)], [("unknown", "silence")]),
    ],
    ids=["a word", "at once", "a sentence", "a long sentence", "a long greeting",
         "a greeting with pauses", "hello again and again", "nobody", "somebody, late",
         "a tone at once", "a short greeting and its tone", "a fax machine", "a click"],
)  # fmt: skip
def test_what_is_made_of_an_answer(script: Script, expected: list[tuple[str, str]]):
    assert [found[:2] for found in heard(script)] == expected


@pytest.mark.parametrize(("level_db", "noise_db"), [(-12, -60), (-30, -55), (-20, -36), (-26, -38)])
def test_the_same_on_loud_quiet_and_noisy_lines(level_db: float, noise_db: float):
    line = {"level_db": level_db, "noise_db": noise_db}
    person = [("quiet", 500), ("voice", 700), ("quiet", 3000)]
    machine = [("quiet", 500), ("voice", 5500), ("quiet", 500)]
    assert [found[0] for found in heard(person, **line)] == ["human"]
    assert [found[0] for found in heard(machine, **line)] == ["machine"]


def test_a_person_is_known_within_a_second_of_the_answer():
    ((_, _, at_ms),) = heard([("quiet", 400), ("voice", 600), ("quiet", 3000)])
    assert 400 + 600 + 700 <= at_ms <= 400 + 600 + 1000


@pytest.mark.parametrize("size", [34, 320, 640, 3200])
def test_the_length_of_the_pieces_makes_no_difference(size: int):
    script = [("voice", 900), ("quiet", 1200), ("1400", 300), ("quiet", 900)]
    assert [found[:2] for found in heard(script, size=size)] == [
        ("human", "short answer"),
        ("machine", "tone"),
    ]


@pytest.mark.parametrize("hertz", ["400", "440", "620", "853", "1000", "1400", "2000"])
def test_a_message_may_begin_right_after_the_tone(hertz: str):
    detector = AnswerDetector()
    heard([("voice", 4500), ("quiet", 600)], detector)
    assert not detector.greeting_over()
    detector = AnswerDetector()
    heard([("voice", 4500), ("quiet", 600), (hertz, 400), ("quiet", 120)], detector)
    assert not detector.greeting_over()
    detector = AnswerDetector()
    heard([("voice", 4500), ("quiet", 600), (hertz, 400), ("quiet", 400)], detector)
    assert detector.greeting_over()


def test_without_a_tone_a_long_silence_ends_the_greeting():
    detector = AnswerDetector()
    heard([("voice", 4500), ("quiet", 1500)], detector)
    assert not detector.greeting_over()
    detector = AnswerDetector()
    heard([("voice", 4500), ("quiet", 2200)], detector)
    assert detector.greeting_over()


def test_a_tone_in_the_middle_of_a_greeting_does_not_end_it():
    detector = AnswerDetector()
    heard([("1000", 300), ("quiet", 100), ("voice", 3000), ("quiet", 600)], detector)
    assert detector.verdict is not None
    assert detector.verdict.answerer == "machine"
    assert not detector.greeting_over()


SAID = {
    "en": ("please leave your message after the tone", "hello how can I help you"),
    "de": ("bitte sprechen Sie nach dem Signalton", "guten Tag was kann ich für Sie tun"),
    "fr": ("laissez un message après le bip", "bonjour que puis-je faire pour vous"),
    "es": ("deje su mensaje después de la señal", "buenos días en qué puedo ayudarle"),
}
HARMLESS = {
    "en": ["hello", "he is not available", "I'll call you back", "you've reached reception"],
    "de": ["hallo", "leider nicht", "er ist nicht erreichbar", "wer ist da"],
    "fr": ["allô", "il n'est pas disponible", "je vous rappelle"],
    "es": ["hola", "no está disponible", "le llamo luego"],
}


def test_every_language_knows_machines():
    assert set(SAID) == set(languages())


@pytest.mark.parametrize("code", SAID)
def test_words_tell_a_machine_before_its_length_does(code: str):
    detector = AnswerDetector(turn_words(code))
    heard([("voice", 1500)], detector)
    machine, person = SAID[code]
    for text in HARMLESS[code]:
        found = detector.said(text)
        assert found is None or found.answerer == "human"
    verdict = detector.said(machine)
    assert verdict is not None
    assert (verdict.answerer, verdict.why) == ("machine", "words")
    assert detector.said(person) is None

    detector = AnswerDetector(turn_words(code))
    heard([("voice", 1500)], detector)
    verdict = detector.said(person)
    assert verdict is not None
    assert (verdict.answerer, verdict.why) == ("human", "words")
    # Somebody answers for a company: the length of it says nothing.
    assert heard([("voice", 5000), ("quiet", 1500)], detector) == []


def test_words_late_in_a_call_are_the_conversations():
    detector = AnswerDetector(turn_words("en"))
    heard([("voice", 500), ("quiet", LISTEN_MS)], detector)
    assert detector.done
    assert detector.said("shall I leave a message") is None


def test_without_words_of_the_language_only_sound_counts():
    detector = AnswerDetector(None)
    assert detector.said("please leave a message after the tone") is None


@given(st.lists(st.binary(max_size=700), max_size=60))
@settings(max_examples=60, deadline=None)
def test_any_bytes_are_heard(pieces: list[bytes]):
    detector, at_ms = AnswerDetector(turn_words("en")), 0
    for piece in pieces:
        at_ms += len(piece) // 16
        detector.hear(piece, at_ms)
        detector.greeting_over()
