"""How well the anchors of some rows find their own positives among those of all rows."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tunewright.metrics.ranking import WEIGHT, ranked_relevance, ranking_figures


def retrieval_figures(rows: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """Returns every ranking metric of each row's anchor, and the row's weight, (R,) each.

    A row has the vector `anchor` and the number `anchor_text`, the vectors `positives` and the
    numbers `positive_texts`. Texts of one number are one query or one document; a query's relevant
    documents are the positives of all its rows, and n rows of one query weigh 1 / n each, so that
    every query counts once. Vectors are compared by their cosine.
    """
    queries = {row["anchor_text"]: row["anchor"] for row in rows}
    documents: dict[int, np.ndarray] = {}
    own: dict[int, set[int]] = defaultdict(set)
    for row in rows:
        documents |= zip(row["positive_texts"], row["positives"], strict=True)
        own[row["anchor_text"]].update(row["positive_texts"])
    places = {text: place for place, text in enumerate(documents)}
    relevant_Q = [{places[text]: 1.0 for text in own[query]} for query in queries]
    relevance_QT = ranked_relevance(_unit(queries), _unit(documents), relevant_Q)
    figures = ranking_figures(relevance_QT, _filled_up(list(map(len, relevant_Q))))
    query_of = {query: place for place, query in enumerate(queries)}
    times = Counter(row["anchor_text"] for row in rows)
    query_R = np.array([query_of[row["anchor_text"]] for row in rows])
    weight_R = np.array([1 / times[row["anchor_text"]] for row in rows])
    return {name: values_Q[query_R] for name, values_Q in figures.items()} | {WEIGHT: weight_R}


def _unit(vectors: Mapping[int, np.ndarray]) -> np.ndarray:
    stacked = np.stack(list(vectors.values())).astype(np.float32)
    return stacked / np.maximum(
        np.linalg.norm(stacked, axis=1, keepdims=True), np.finfo(np.float32).tiny
    )


def _filled_up(sizes: Sequence[int]) -> np.ndarray:
    """Returns as many ones in each row as a query has relevant documents, then zeros."""
    return np.arange(max(sizes)) < np.array(sizes)[:, None]
