"""What an index asks of a model of vectors, and how one is told from another.

Anything with `encode(texts) -> float32 (B, D)` will do: ours, a SentenceTransformer, your own. One
that treats queries and documents unlike has `encode_query` and `encode_document`, too.

Shape letters: B texts, D numbers of a vector.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from tunewright.errors import ModelError
from tunewright.retrieval.passages import Places, word_places

Floats = npt.NDArray[np.float32]
Purpose = Literal["query", "document"]

# Texts whose vectors tell one model from another: short and long, of several scripts, with figures.
PROBES = (
    "A small hotel near the station.",
    "Die Rechnung vom 3. Mai 2024 über 1.250,00 € ist noch offen.",
    "这家酒店的房间很干净，服务也很好。",
    "What are the first signs of a vitamin B12 deficiency, and how is it treated? " * 8,
)
# The same model in bf16 and in fp32 is nearer to itself than this; a model trained further is not.
LEAST_COSINE = 0.999

WORDS_OF_A_PASSAGE = 200
"""Where a model does not say how much it reads: about 256 tokens of English."""


class Embedder(Protocol):
    """A model of vectors."""

    def encode(self, texts: list[str], /) -> Any: ...


def encoded(embedder: Embedder, texts: Sequence[str], purpose: Purpose) -> Floats:
    """Returns the vectors of texts, float32 (B, D), each of length 1.

    Raises ModelError when the model gives something else, or numbers that are not finite.
    """
    encode = getattr(embedder, f"encode_{purpose}", embedder.encode)
    vectors_BD = np.asarray(encode(list(texts)), np.float32)
    if vectors_BD.ndim != 2 or len(vectors_BD) != len(texts):
        raise ModelError(
            type(embedder).__name__,
            f"for {len(texts)} texts it gave an array of the shape {vectors_BD.shape}",
            "One vector a text is needed.",
        )
    if not np.isfinite(vectors_BD).all():
        raise ModelError(type(embedder).__name__, "it gave a vector that is not finite")
    return of_unit_length(vectors_BD)


def of_unit_length(vectors_BD: Floats) -> Floats:
    """Returns the vectors with length 1; one of zeros stays so."""
    length_B1 = np.linalg.norm(vectors_BD, axis=1, keepdims=True)
    return (vectors_BD / np.where(length_B1 == 0, 1, length_B1)).astype(np.float32)


def probe(embedder: Embedder) -> Floats:
    """Returns the vectors by which a model is known again: of queries, then of documents."""
    return np.concatenate(
        [encoded(embedder, PROBES, "query"), encoded(embedder, PROBES, "document")]
    )


def is_same_model(found_BD: Floats, kept_BD: Floats) -> bool:
    """Says whether two probes are those of one model, at one precision or another."""
    if found_BD.shape != kept_BD.shape:
        return False
    return bool(((found_BD * kept_BD).sum(1) >= LEAST_COSINE).all())


def places_of(embedder: Embedder, text: str) -> Places:
    """Returns where the tokens of a text stand, (N, 2); words where the model does not say."""
    if hasattr(embedder, "token_places"):
        return np.asarray(embedder.token_places(text))
    return word_places(text)


def passage_tokens_of(embedder: Embedder) -> int:
    """Returns how many tokens of a text the model reads at once, special ones left out."""
    return int(getattr(embedder, "passage_tokens", WORDS_OF_A_PASSAGE))
