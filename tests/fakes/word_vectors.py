"""An embedder without a model: sentences that share words are alike."""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence

import numpy as np

from flowcat_server.providers.llm._intents.embedding import Vectors

SIZE = 4096
COMMON = frozenset(
    {"a", "an", "the", "to", "i", "i'd", "you", "is", "are", "do", "can", "my", "it"}
)


class WordVectors:
    """One dimension per word; very common words count little."""

    def __init__(self) -> None:
        self.embedded: list[str] = []

    def embed(self, texts: Sequence[str]) -> Vectors:
        self.embedded += texts
        return np.stack([self._one(text) for text in texts])

    @staticmethod
    def _one(text: str) -> Vectors:
        vector = np.zeros(SIZE, dtype=np.float32)
        for word in re.findall(r"[a-z']+", text.lower()):
            vector[zlib.crc32(word.encode()) % SIZE] += 0.1 if word in COMMON else 1.0
        return vector / max(float(np.linalg.norm(vector)), 1e-9)
