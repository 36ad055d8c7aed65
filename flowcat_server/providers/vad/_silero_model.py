"""The Silero VAD model at 8 kHz, many streams in one run.

Input of a run: 256 samples of each stream, preceded by the 32 samples before them, and each
stream's recurrent state. Source: https://github.com/snakers4/silero-vad (utils_vad.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

CONTEXT = 64
"""Bytes of PCM16 before a chunk that belong to the model's input."""
_STATE = (2, 128)

Floats = npt.NDArray[np.float32]


class State:
    """A stream's memory in the model; only the thread that runs the model touches it."""

    __slots__ = ("values",)

    def __init__(self) -> None:
        self.values: Floats = np.zeros(_STATE, np.float32)


@dataclass(slots=True)
class Row:
    """One stream's part in a run."""

    state: State
    pcm: bytes
    """`CONTEXT` and chunk."""
    fresh: bool
    """Begin with an empty memory."""


class SileroModel:
    """The model; not for several threads at once."""

    def __init__(self, path: Path) -> None:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session: Any = ort.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
        self._rate = np.array(8000, dtype=np.int64)

    def run(self, rows: Sequence[Row]) -> list[float]:
        """The probability of voice for each row; updates the states."""
        for row in rows:
            if row.fresh:
                row.state.values = np.zeros(_STATE, np.float32)
        pcm = np.frombuffer(b"".join([row.pcm for row in rows]), dtype="<i2")
        samples = pcm.astype(np.float32).reshape(len(rows), -1)
        samples *= np.float32(1 / 32768)
        states = np.stack([row.state.values for row in rows], axis=1)
        out, after = self._session.run(None, {"input": samples, "state": states, "sr": self._rate})
        for i, row in enumerate(rows):
            row.state.values = after[:, i]
        probabilities: list[float] = out[:, 0].tolist()
        return probabilities
