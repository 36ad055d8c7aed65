"""Who answered: how often, and how soon, `core.amd` tells a person from a machine.

Run with ``python -m bench.answering``. Voices are synthetic (`bench.turns.voices`), so the lengths
of words and pauses are those of careful speakers; recordings of real machines are worth more, and
none can be had here. Greetings and answers are of our own making. Everything passes through mu-law
at 8 kHz. ``--words`` gives the detector a transcript too, half a second late, as a streaming
transcriber would.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import soxr

from bench.turns.sound import RATE, Sound, at_level, silence, to_pcm
from bench.turns.voices import SPEAKERS, Speaker, Voices
from flowcat_server.config.language import turn_words
from flowcat_server.core.amd import AnswerDetector
from flowcat_server.core.audio import PCM_8K, decode, encode

STEP_MS = 20
LATE_MS = 500
"""How late words are known."""
AFTER_MS = 7_000
"""Silence at the end: nobody speaks into it."""

PEOPLE = (
    "Hello?",
    "Hello.",
    "Yes?",
    "Hi, this is Anna.",
    "Yeah, hello?",
    "Miller.",
    "Hello, Peter speaking.",
    "Good morning, Harbour Dental, this is Julia, how can I help you?",
    "Thank you for calling Brown and Sons, Tom speaking.",
    "Good afternoon, reception.",
    "Hello? Hello, who is this?",
    "Sorry, I'm driving, who's calling please?",
    "Good evening, you are speaking with Margaret from customer services, may I take your name?",
    "Hello? Can you hear me? Hello?",
    "Speaking.",
    "City Taxis, where would you like to go?",
    "One moment please. Okay, now I can hear you.",
)
MACHINES = (
    "Hi, you've reached Anna. I can't come to the phone right now, so please leave a message "
    "after the beep.",
    "The person you are calling is not available. Please leave your message after the tone.",
    "Hello, this is the voicemail of Peter Brown. Leave your name and number and I will call you "
    "back as soon as I can.",
    "Thank you for calling Harbour Dental. Our office is closed at the moment. Our hours are "
    "Monday to Friday, nine to five. Please leave a message.",
    "Hi. It's Tom. You know what to do.",
    "Leave a message.",
    "Your call has been forwarded to an automated voice messaging system. Five five five, one two "
    "three four, is not available.",
    "Hello. You have reached the Millers. We are either out or busy. Please try again later, or "
    "record your message now.",
    "Sorry I missed you. Text me instead.",
    "We are closed for the holidays and will be back on the second of January. For emergencies, "
    "please call the hospital.",
    "Hey! Hello? I can't hear you. Just kidding, I am not here. Talk after the beep.",
    "Welcome to the mailbox of four four seven, nine double one, one two three.",
)
TONES = ((440, 300), (1000, 500), (1400, 220), (850, 400))
"""Hertz and milliseconds."""
LINES = ((-20.0, 40.0), (-32.0, 25.0), (-20.0, 12.0))
"""Level of the voice in dBFS, and how far the noise lies below it."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One call's beginning."""

    text: str
    machine: bool
    pcm: bytes
    said: Sequence[tuple[int, str]]
    """When which words have been said."""
    tone_ends_ms: int | None


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it and print the table."""
    parser = argparse.ArgumentParser(description="How well machines are told from people.")
    parser.add_argument("--words", action="store_true", help="give the detector a transcript")
    parser.add_argument("--misses", action="store_true", help="name what was taken wrongly")
    options = parser.parse_args(arguments)
    outcomes: Counter[tuple[bool, str]] = Counter()
    turned = 0
    times: dict[bool, list[int]] = {True: [], False: []}
    tails: list[int] = []
    early = 0
    with Voices() as voices:
        for answer in corpus(voices):
            verdicts, at_ms, over_ms = judge(answer, words=options.words)
            verdict = verdicts[-1]
            outcomes[answer.machine, verdict] += 1
            turned += answer.machine and verdicts[0] == "human" and verdict == "machine"
            times[answer.machine].append(at_ms)
            if answer.tone_ends_ms is not None and verdict == "machine":
                if over_ms is None or over_ms < answer.tone_ends_ms:
                    early += 1
                else:
                    tails.append(over_ms - answer.tone_ends_ms)
            if options.misses and verdict != ("machine" if answer.machine else "human"):
                print(f"  {verdict:8} {answer.text}", file=sys.stderr)
    report(outcomes, times, tails, early)
    print(f"{turned} machines were taken for a person first.")
    return 0


def corpus(voices: Voices) -> Iterator[Answer]:
    """Every text, in every voice that can be had, over every line."""
    rng = np.random.default_rng(7)
    speakers = [speaker for speaker in SPEAKERS.values() if speaker.available]
    for number, speaker in enumerate(speakers):
        for machine, texts in ((False, PEOPLE), (True, MACHINES)):
            for index, text in enumerate(texts):
                level_db, snr_db = LINES[(number + index) % len(LINES)]
                tone = TONES[(number + index) % len(TONES)] if machine else None
                yield make(voices, speaker, text, tone, level_db, snr_db, rng)


def make(
    voices: Voices,
    speaker: Speaker,
    text: str,
    tone: tuple[int, int] | None,
    level_db: float,
    snr_db: float,
    rng: np.random.Generator,
) -> Answer:
    """Silence, the words, a machine's tone, silence; with noise, as the phone network gives it."""
    before_ms = int(rng.integers(200, 1_200))
    voice = at_level(voices.say(speaker, text), level_db)
    parts: list[Sound] = [silence(before_ms), voice]
    spoken_ms = len(voice) * 1000 // RATE
    ends = None
    if tone is not None:
        hertz, length_ms = tone
        gap_ms = int(rng.integers(300, 1_500))
        t = np.arange(RATE * length_ms // 1000) / RATE
        beep = np.sin(2 * np.pi * hertz * t).astype(np.float32) * 10 ** (level_db / 20)
        parts += [silence(gap_ms), beep]
        ends = before_ms + spoken_ms + gap_ms + length_ms
    sound = np.concatenate([*parts, silence(AFTER_MS)])
    sound = sound + rng.normal(0, 10 ** ((level_db - snr_db) / 20), len(sound)).astype(np.float32)
    narrow = soxr.resample(sound, RATE, PCM_8K.sample_rate)
    pcm = decode(encode(to_pcm(np.asarray(narrow, np.float32)), "mulaw"), "mulaw")
    words = text.split()
    said = [
        (before_ms + spoken_ms * (n + 1) // len(words), " ".join(words[: n + 1]))
        for n in range(len(words))
    ]
    return Answer(text, tone is not None, pcm, said, ends)


def judge(answer: Answer, *, words: bool) -> tuple[list[str], int, int | None]:
    """The verdicts, when the last was reached, and when a message would have been begun."""
    detector = AnswerDetector(turn_words("en") if words else None)
    size = PCM_8K.bytes_for(STEP_MS)
    known = list(answer.said) if words else []
    verdicts: list[str] = []
    reached_ms, over_ms = AFTER_MS, None
    for start in range(0, len(answer.pcm) - size + 1, size):
        at_ms = start * 1000 // (2 * PCM_8K.sample_rate) + STEP_MS
        if verdicts[-1:] == ["machine"] and over_ms is None and detector.greeting_over():
            over_ms = at_ms
        found = detector.hear(answer.pcm[start : start + size], at_ms)
        while known and known[0][0] + LATE_MS <= at_ms:
            found = detector.said(known.pop(0)[1]) or found
        if found is not None:
            verdicts.append(found.answerer)
            reached_ms = at_ms
    first_ms = answer.said[0][0]
    return verdicts or ["unknown"], max(0, reached_ms - first_ms), over_ms


def report(
    outcomes: Counter[tuple[bool, str]],
    times: dict[bool, list[int]],
    tails: list[int],
    early: int,
) -> None:
    """Print what came of it."""
    print("| Answered by | Calls | human | machine | unknown | Right | Median | 90% |")
    print("|---|---|---|---|---|---|---|---|")
    for machine, right in ((False, "human"), (True, "machine")):
        total = sum(count for (kind, _), count in outcomes.items() if kind is machine)
        found = {name: outcomes[machine, name] for name in ("human", "machine", "unknown")}
        share = 100 * found[right] / total
        median, high = np.percentile(times[machine], [50, 90])
        counts = " | ".join(str(found[name]) for name in found)
        name = "a machine" if machine else "a person"
        print(f"| {name} | {total} | {counts} | {share:.1f}% | {median:.0f} ms | {high:.0f} ms |")
    if tails:
        low, high = np.percentile(tails, [50, 95])
        print(
            f"\nA message would have begun {low:.0f} ms after the tone (95%: {high:.0f} ms); "
            f"{early} of {len(tails) + early} before it."
        )


if __name__ == "__main__":
    sys.exit(main())
