"""How well the anchors of some rows find their own positives among those of all rows."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tunewright.metrics.ranking import WEIGHT, gains_of, nearest_documents, ranking_figures
from tunewright.tasks.shared.rankings import first_places


def retrieval_figures(rows: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """Returns every ranking metric of each row's anchor, and the row's weight, (R,) each.

    A row has the vector `anchor` and the number `anchor_text`, the vectors `positives` and the
    numbers `positive_texts`. Texts of one number are one query or one document; a query's relevant
    documents are the positives of all its rows, and n rows of one query weigh 1 / n each, so that
    every query counts once. Vectors are compared by their cosine. What else `rankings` shows of a
    query stands there, too.
    """
    queries = {row["anchor_text"]: row["anchor"] for row in rows}
    documents: dict[int, np.ndarray] = {}
    sources: dict[int, tuple[int, int]] = {}  # of each document, a row that has it and where
    own: dict[int, set[int]] = defaultdict(set)
    for place, row in enumerate(rows):
        documents |= zip(row["positive_texts"], row["positives"], strict=True)
        sources |= {text: (place, number) for number, text in enumerate(row["positive_texts"])}
        own[row["anchor_text"]].update(row["positive_texts"])
    places = {text: place for place, text in enumerate(documents)}
    relevant_Q = [{places[text]: 1.0 for text in own[query]} for query in queries]
    nearest_QT = nearest_documents(_unit(queries), _unit(documents))
    relevance_QT = gains_of(nearest_QT, relevant_Q)
    figures = ranking_figures(relevance_QT, _filled_up(list(map(len, relevant_Q))))
    source_K2 = np.array([sources[text] for text in documents])
    figures["right_place"] = first_places(relevance_QT)
    figures["right_text"] = source_K2[_nearest_right(nearest_QT, relevance_QT, relevant_Q)]
    figures["first_text"] = source_K2[nearest_QT[:, 0]]
    query_of = {query: place for place, query in enumerate(queries)}
    times = Counter(row["anchor_text"] for row in rows)
    query_R = np.array([query_of[row["anchor_text"]] for row in rows])
    weight_R = np.array([1 / times[row["anchor_text"]] for row in rows])
    _, first_Q = np.unique(query_R, return_index=True)
    return {
        **{name: values_Q[query_R] for name, values_Q in figures.items()},
        WEIGHT: weight_R,
        "query_row": first_Q[query_R],
    }


def _nearest_right(
    nearest_QT: np.ndarray, relevance_QT: np.ndarray, relevant_Q: Sequence[Mapping[int, float]]
) -> list[int]:
    """Returns the nearest relevant document of each query, or any where all are too far."""
    best_Q = relevance_QT.argmax(1)
    return [
        int(nearest_T[best]) if gains_T[best] else min(relevant)
        for nearest_T, gains_T, best, relevant in zip(
            nearest_QT, relevance_QT, best_Q, relevant_Q, strict=True
        )
    ]


def _unit(vectors: Mapping[int, np.ndarray]) -> np.ndarray:
    stacked = np.stack(list(vectors.values())).astype(np.float32)
    return stacked / np.maximum(
        np.linalg.norm(stacked, axis=1, keepdims=True), np.finfo(np.float32).tiny
    )


def _filled_up(sizes: Sequence[int]) -> np.ndarray:
    """Returns as many ones in each row as a query has relevant documents, then zeros."""
    return np.arange(max(sizes)) < np.array(sizes)[:, None]
