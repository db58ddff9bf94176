"""What a search finds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Hit:
    """A document that was found, by its best passage.

    `text` is that passage, [`start`, `end`) of the document in characters. `score` is a cosine
    (dense), a BM25 score, 0 to 1 (hybrid, or a reranker beside another score), or what a reranker
    says. `columns` are the document's.
    """

    id: str
    score: float
    text: str
    start: int
    end: int
    columns: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)
