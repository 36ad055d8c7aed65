"""Whisper tiny.en on CTranslate2, with a window as long as the utterance needs.

Whisper was trained on windows of 30 seconds, and padding to that costs five times the work of a
telephone utterance. The encoder takes shorter windows, but then the decoder goes on after the
end and says things twice. Four repairs give the accuracy of the long window back:

- timestamp tokens are left in, and the answer ends with the first one at the end of the sound;
- the answer has at most as many tokens as fit into the time;
- phrases repeated in a row are cut (`_repeats`);
- the window is five seconds longer than the sound, and at least six.
"""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from flowcat_server.errors import ProviderUnavailable
from flowcat_server.providers.mel import HOP, SAMPLE_RATE, Floats, log_mel
from flowcat_server.providers.stt._bpe import Piece, Vocabulary
from flowcat_server.providers.stt._repeats import cut_repeats

MARGIN_S, SHORTEST_S, LONGEST_S = 5.0, 6.0, 30.0
TOKENS, TOKENS_PER_S = 28, 13.0
"""Longest answer by length of the sound, as CTranslate2 counts: it generates half of this."""
_VOICED_DB = 15
"""What is this much below the loudest 20 ms, or more, is not voice."""
_END_SLACK_MS = 100
"""A timestamp this little before the end of the sound is its end."""
NO_SPEECH, NO_SPEECH_SCORE = 0.6, -0.8
"""More probably not speech than this, and a mean log probability below that: nothing was said."""
_FRAMES_PER_S = SAMPLE_RATE // HOP
_ANNOTATION = re.compile(r"\[[^\]]*\]|\([^)]*\)|\*[^*]*\*|[\u2669-\u266f]")
_SPACE = re.compile(r"\s+")


class Cancelled(Exception):
    """The answer is not wanted any more."""


@dataclass(frozen=True, slots=True)
class Heard:
    """One decoded utterance."""

    text: str
    no_speech: float
    """Probability that nothing was said."""
    score: float
    """Mean log probability of the tokens."""


class WhisperModel:
    """The model; `decode` may run on several threads at once."""

    def __init__(self, directory: Path, threads: int, beam: int, said_before: str = "") -> None:
        """Load it.

        `threads`: how many `decode` run side by side, one core each. `said_before`: text in whose
        words and spelling the answer is likely to be.
        """
        import ctranslate2

        self._storage: Any = ctranslate2.StorageView.from_array
        self._model: Any = ctranslate2.models.Whisper(
            str(directory),
            device="cpu",
            compute_type="int8",
            inter_threads=threads,
            intra_threads=1,
        )
        self._beam = beam
        self._vocabulary = Vocabulary((directory / "tokenizer.json").read_bytes())
        self._opening = self._vocabulary.opening(said_before)

    def decode(self, samples: Floats, cancelled: threading.Event) -> Heard:
        """What is said in `samples` (16 kHz, -1 to 1, at most 30 s). Raises `Cancelled`."""
        seconds = len(samples) / SAMPLE_RATE
        window = min(LONGEST_S, max(SHORTEST_S, seconds + MARGIN_S))
        features = log_mel(samples, 2 * round(window * _FRAMES_PER_S / 2))
        if cancelled.is_set():
            raise Cancelled
        try:
            encoded = self._model.encode(self._storage(features[None]))
            if cancelled.is_set():
                raise Cancelled
            answer = self._model.generate(
                encoded,
                [self._opening],
                beam_size=self._beam,
                max_length=TOKENS + int(TOKENS_PER_S * seconds) + 2 * (len(self._opening) - 1),
                return_scores=True,
                return_no_speech_prob=True,
            )[0]
        except RuntimeError as error:
            raise ProviderUnavailable("whisper", str(error)) from error
        heard = Heard("", answer.no_speech_prob, answer.scores[0])
        if heard.no_speech > NO_SPEECH and heard.score < NO_SPEECH_SCORE:
            return heard
        kept = until_end(self._vocabulary.pieces(answer.sequences_ids[0]), round(seconds * 1000))
        text = clean("".join(self._vocabulary.text(piece.tokens) for piece in kept))
        return Heard(cut_repeats(text, voiced_ms(samples)), heard.no_speech, heard.score)


def until_end(pieces: list[Piece], duration_ms: int) -> list[Piece]:
    """The pieces up to the one that reaches the end of the sound."""
    end = duration_ms - _END_SLACK_MS
    kept: list[Piece] = []
    for piece in pieces:
        if kept and piece.start_ms is not None and piece.start_ms >= end:
            break
        kept.append(piece)
        if piece.end_ms is not None and piece.end_ms >= end:
            break
    return kept


def voiced_ms(samples: Floats) -> int:
    """How much of the sound is nearly as loud as its loudest place."""
    block = SAMPLE_RATE // 50
    power = (samples[: len(samples) // block * block].reshape(-1, block) ** 2).mean(axis=1)
    loud = power > power.max(initial=0.0) * 10 ** (-_VOICED_DB / 10)
    return int(loud.sum()) * 20


def clean(text: str) -> str:
    """Without descriptions of sounds; empty when no letter or digit is left."""
    text = _SPACE.sub(" ", _ANNOTATION.sub(" ", text).replace("\ufffd", "")).strip()
    return text if any(character.isalnum() for character in text) else ""


def to_samples(pcm: bytes | bytearray) -> Floats:
    """PCM16 to -1 to 1."""
    samples: Floats = np.frombuffer(pcm, dtype="<i2").astype(np.float32)
    samples *= np.float32(1 / 32768)
    return samples
