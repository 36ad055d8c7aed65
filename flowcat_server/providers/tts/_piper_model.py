"""A Piper voice that gives its sound piece by piece. Runs in the synthesis process only.

A Piper model (VITS, https://arxiv.org/abs/2106.06103) is an encoder, which turns the phonemes of
a whole sentence into one latent vector per 256 samples, and a convolutional decoder, which turns
vectors into samples and costs three quarters of the time. The file is cut in two at the
decoder's input, and the decoder is run over short windows. A sample depends on `OVERLAP` vectors
to either side, so windows that overlap by as much give the very samples of one long run, the
first of them after a fraction of the time, and the sentence keeps its melody.

The encoder also says how many vectors each phoneme lasts, which gives the times of words.
"""

from __future__ import annotations

import json
import threading
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from flowcat_server.providers.tts._onnx_cut import CutError, OnnxGraph
from flowcat_server.providers.tts._word_times import Clause, Spoken, place_words

Samples = npt.NDArray[np.float32]

HOP = 256
"""Samples per latent vector."""
CHANNELS = 192
"""Length of a latent vector."""
OVERLAP = 10
"""Latent vectors on either side that a decoded sample depends on."""
MAX_PHONEMES = 240
"""A longer sentence is cut at its clauses: the encoder takes 0.7 ms per phoneme on one core, and
nothing is heard before it is done."""
_DURATIONS = "/Ceil_output_0"
"""The latent vectors per phoneme id, in the graphs that Piper's exporter writes."""
_DECODER = "/dec/"
_PAD, _BEGIN, _END = "_", "^", "$"
_STRESS = "ˈˌː"


@dataclass(frozen=True, slots=True)
class Sentence:
    """What one run of the encoder speaks."""

    ids: tuple[int, ...]
    words: tuple[Spoken, ...]
    """Positions are indexes into `ids`."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """A sentence, ready to be decoded."""

    latent: Samples
    """Shape (1, CHANNELS, frames)."""
    words: tuple[tuple[str, int, int], ...]
    """Text, first and last+1 frame of each word."""

    @property
    def frames(self) -> int:
        """How many `HOP` samples it lasts."""
        return int(self.latent.shape[2])


class PiperModel:
    """One voice. Its methods may be called from several threads at once."""

    def __init__(self, model: Path, config: Path, scales: Sequence[float]) -> None:
        """`scales`: noise, length, noise of durations. Raises `CutError` for a foreign graph."""
        import onnxruntime as ort
        from piper import espeakbridge
        from piper.phonemize_espeak import ESPEAK_DATA_DIR

        settings = json.loads(config.read_text(encoding="utf-8"))
        self.sample_rate = int(settings["audio"]["sample_rate"])
        self._ids: Mapping[str, list[int]] = settings["phoneme_id_map"]
        self._scales = np.array(scales, dtype=np.float32)
        self._espeak = espeakbridge
        self._espeak_lock = threading.Lock()
        espeakbridge.initialize(str(ESPEAK_DATA_DIR))
        espeakbridge.set_voice(settings["espeak"]["voice"])

        graph = OnnxGraph(model.read_bytes())
        taken = graph.consumers(_DECODER)
        if len(taken) != 1:
            raise CutError(f"the decoder takes {taken}")
        self._latent = taken[0]
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        providers = ["CPUExecutionProvider"]
        encoder = graph.extract({}, [self._latent, _DURATIONS])
        self._encoder = ort.InferenceSession(encoder, options, providers=providers)
        decoder = graph.extract({self._latent: (1, CHANNELS, "frames")}, ["output"])
        self._decoder = ort.InferenceSession(decoder, options, providers=providers)
        self.new_run: Any = ort.RunOptions

    def plan(self, text: str) -> list[Sentence]:
        """The sentences of `text`, phonemized."""
        with self._espeak_lock:
            said = self._espeak.get_phonemes(text)
            weights = [
                sum(_length(phonemes) for phonemes, _, _ in self._espeak.get_phonemes(word)) or 1
                for word in text.split()
            ]
        clauses = [
            Clause(_symbols(phonemes, mark, ends), ends)
            for phonemes, mark, ends in said
            if phonemes.strip()
        ]
        place_words(text.split(), weights, clauses)
        return [self._sentence(group) for group in _group(clauses)]

    def encode(self, sentence: Sentence, run: Any) -> Encoded:
        """Run the encoder; raises onnxruntime's error when `run` was terminated."""
        ids = np.array([sentence.ids], dtype=np.int64)
        latent, durations = self._encoder.run(
            [self._latent, _DURATIONS],
            {
                "input": ids,
                "input_lengths": np.array([ids.shape[1]], dtype=np.int64),
                "scales": self._scales,
            },
            run,
        )
        ends = np.concatenate(([0], np.cumsum(durations.reshape(-1)))).astype(int)
        words = tuple((w.text, int(ends[w.begin]), int(ends[w.end])) for w in sentence.words)
        return Encoded(latent, words)

    def decode(self, encoded: Encoded, begin: int, end: int, run: Any) -> Samples:
        """The samples of frames `begin` to `end`, the same as in one long run."""
        low, high = max(0, begin - OVERLAP), min(encoded.frames, end + OVERLAP)
        window = encoded.latent[:, :, low:high]
        out: Samples = self._decoder.run(["output"], {self._latent: window}, run)[0].reshape(-1)
        return out[(begin - low) * HOP : (end - low) * HOP]

    def _sentence(self, clauses: Sequence[Clause]) -> Sentence:
        ids = [*self._ids[_BEGIN], *self._ids[_PAD]]
        words: list[Spoken] = []
        for clause in clauses:
            at = []
            for symbol in clause.symbols:
                at.append(len(ids))
                if symbol in self._ids:
                    ids += [*self._ids[symbol], *self._ids[_PAD]]
            at.append(len(ids))
            words += [Spoken(w.text, at[w.begin], at[w.end]) for w in clause.words]
        ids += self._ids[_END]
        return Sentence(tuple(ids), tuple(words))


def _length(phonemes: str) -> int:
    return sum(1 for symbol in phonemes if symbol not in _STRESS and symbol != " ")


def _symbols(phonemes: str, mark: str, ends: bool) -> list[str]:
    # Voices are trained on decomposed characters: an accent is a phoneme of its own.
    spoken = _without_language_flags(phonemes) + mark + ("" if ends or not mark else " ")
    return list(unicodedata.normalize("NFD", spoken))


def _without_language_flags(phonemes: str) -> str:
    """Remove espeak's ``(fr)...(en)`` around words it takes for another language's."""
    out, depth = [], 0
    for character in phonemes:
        if character == "(":
            depth += 1
        elif character == ")":
            depth = max(0, depth - 1)
        elif not depth:
            out.append(character)
    return "".join(out)


def _group(clauses: Sequence[Clause]) -> list[list[Clause]]:
    """Clauses into sentences, none much longer than `MAX_PHONEMES` ids."""
    groups: list[list[Clause]] = []
    size, open_sentence = 0, False
    for clause in (part for whole in clauses for part in whole.split(MAX_PHONEMES // 2)):
        length = 2 * len(clause.symbols)
        if not open_sentence or size + length > MAX_PHONEMES:
            groups.append([])
            size = 0
        groups[-1].append(clause)
        size += length
        open_sentence = not clause.ends
    return groups
