"""Small embedders whose vectors depend on a text's words alone, the same on every machine."""

from __future__ import annotations

import hashlib

import numpy as np

from tunewright.retrieval.embedder import PROBES

DIMENSIONS = 32


def place_of(word):
    return int.from_bytes(hashlib.blake2b(word.encode(), digest_size=4).digest(), "little")


class WordCounts:
    """Counts words in 32 boxes; it remembers which texts it was given."""

    def __init__(self):
        self.texts = []

    def encode(self, texts):
        self.texts += texts
        return np.stack([self._vector(text) for text in texts])

    def _vector(self, text):
        vector = np.full(DIMENSIONS, 1e-3, np.float32)
        for word in text.lower().split():
            vector[place_of(word.strip(".,!?")) % DIMENSIONS] += 1
        return vector

    @property
    def embedded(self):
        """The texts it was given, without those by which a model is known again."""
        return [text for text in self.texts if text not in PROBES]


class Reversed(WordCounts):
    """Another model."""

    def _vector(self, text):
        return super()._vector(text)[::-1].copy()
