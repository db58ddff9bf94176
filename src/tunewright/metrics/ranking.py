"""The metrics of rankings, each equal to the reference's, from figures of single queries.

    relevance_QT = ranked_relevance(queries_QD, documents_KD, relevant_Q)
    ranking_metrics(ranking_figures(relevance_QT, ideal_QJ))["ndcg@10"]

Every metric is a mean over queries, so that a query's own values are all a bootstrap needs. nDCG
takes gains as they are (Järvelin & Kekäläinen 2002), as scikit-learn's `ndcg_score` and trec_eval
do; the others count a document as relevant where its gain is over 0, and equal
`InformationRetrievalEvaluator` of sentence-transformers. A query without a relevant document has
no figures (NaN) and counts nowhere.

Shape letters: Q queries, T places of a ranking from the best, J relevant documents of a query,
K documents, D numbers of a vector.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from tunewright.metrics.spec import Counts, MetricSpec, Statistics

Floats = npt.NDArray[np.float64]

RANKING_METRICS = (
    MetricSpec("ndcg@10", True, "gains of the first 10, each divided by log2(1 + place), as a "
               "share of the best ranking's"),
    MetricSpec("mrr@10", True, "mean of 1 / place of the first relevant one, 0 beyond place 10"),
    MetricSpec("recall@1", True, "share of the relevant documents that stand first"),
    MetricSpec("recall@5", True, "share of the relevant documents among the first 5"),
    MetricSpec("recall@10", True, "share of the relevant documents among the first 10"),
    MetricSpec("map@100", True, "mean of the precision at each relevant document's place, 0 "
               "beyond place 100"),
)  # fmt: skip

DEPTH = 100
"""The deepest place that a metric looks at."""

WEIGHT = "weight"
"""The figure that says how much a row counts; 1 / n where n rows ask the same."""

SCORES_AT_ONCE = 16_000_000
"""Similarities held at a time: 64 MB in float32."""


def ranking_figures(
    relevance_QT: npt.ArrayLike, ideal_QJ: npt.ArrayLike | None = None
) -> dict[str, Floats]:
    """Returns every metric of `RANKING_METRICS` for each query, (Q,) each.

    `relevance_QT` are the gains (0 is irrelevant) of each query's documents in ranked order, the
    best first; places that a ranking does not have are 0. `ideal_QJ` are the gains of all that is
    relevant to a query, in any order and filled up with 0; None where the ranking holds them all.
    """
    gains_QT = np.asarray(relevance_QT, np.float64)
    ideal_QJ = gains_QT if ideal_QJ is None else np.asarray(ideal_QJ, np.float64)
    num_relevant_Q = (ideal_QJ > 0).sum(1)
    figures = {
        "ndcg@10": _ratio(_dcg(gains_QT, 10), _dcg(-np.sort(-ideal_QJ, axis=1), 10)),
        "mrr@10": _reciprocal_rank(gains_QT, 10),
        **{f"recall@{k}": _recall(gains_QT, num_relevant_Q, k) for k in (1, 5, 10)},
        "map@100": _average_precision(gains_QT, num_relevant_Q, DEPTH),
    }
    return {name: np.where(num_relevant_Q, values_Q, np.nan) for name, values_Q in figures.items()}


def ranking_metrics(statistics: Statistics, counts_R: Counts | None = None) -> dict[str, float]:
    """Returns the mean of each figure over the rows that have it.

    `statistics` are those of `ranking_figures`, with `weight` where rows count unequally. A metric
    is NaN where no row that counts has it.
    """
    weight_R = statistics.get(WEIGHT, np.ones(len(next(iter(statistics.values())))))
    weight_R = weight_R if counts_R is None else weight_R * counts_R
    return {
        spec.name: _mean(statistics[spec.name], weight_R)
        for spec in RANKING_METRICS
        if spec.name in statistics
    }


def ranked_relevance(
    queries_QD: npt.NDArray[np.float32],
    documents_KD: npt.NDArray[np.float32],
    relevant_Q: Sequence[Mapping[int, float]],
    depth: int = DEPTH,
) -> Floats:
    """Returns the gains of each query's nearest documents by inner product, (Q, T), best first.

    `relevant_Q` maps the places of each query's relevant documents to their gains. T is `depth`, or
    the number of documents where there are fewer. Equally near documents stand in their order.
    """
    return gains_of(nearest_documents(queries_QD, documents_KD, depth), relevant_Q)


def nearest_documents(
    queries_QD: npt.NDArray[np.float32], documents_KD: npt.NDArray[np.float32], depth: int = DEPTH
) -> npt.NDArray[np.int32]:
    """Returns the numbers of each query's nearest documents, (Q, T), as `ranked_relevance` does."""
    depth = min(depth, len(documents_KD))
    nearest_QT = np.zeros((len(queries_QD), depth), np.int32)
    for query, nearest_T in enumerate(_nearest(queries_QD, documents_KD, depth)):
        nearest_QT[query] = nearest_T
    return nearest_QT


def gains_of(
    nearest_QT: npt.NDArray[np.int32], relevant_Q: Sequence[Mapping[int, float]]
) -> Floats:
    """Returns the gains of ranked documents, (Q, T), given those of each query's relevant ones."""
    gains_QT = np.zeros(nearest_QT.shape)
    for query, (nearest_T, gains) in enumerate(zip(nearest_QT, relevant_Q, strict=True)):
        gains_QT[query] = [gains.get(place, 0.0) for place in nearest_T.tolist()]
    return gains_QT


def _nearest(
    queries_QD: npt.NDArray[np.float32], documents_KD: npt.NDArray[np.float32], depth: int
) -> Iterator[npt.NDArray[np.intp]]:
    """Yields the places of each query's nearest documents, a few queries' similarities at once."""
    step = max(1, SCORES_AT_ONCE // max(1, len(documents_KD)))
    for start in range(0, len(queries_QD), step):
        for distance_K in -(queries_QD[start : start + step] @ documents_KD.T):
            farthest = np.partition(distance_K, depth - 1)[depth - 1]
            near = np.flatnonzero(distance_K <= farthest)
            yield near[np.argsort(distance_K[near], kind="stable")][:depth]


def _dcg(gains_QT: Floats, k: int) -> Floats:
    top_QT = gains_QT[:, :k]
    return np.asarray(top_QT @ (1 / np.log2(np.arange(top_QT.shape[1]) + 2)))


def _reciprocal_rank(gains_QT: Floats, k: int) -> Floats:
    hit_QT = gains_QT[:, :k] > 0
    return np.where(hit_QT.any(1), 1 / (hit_QT.argmax(1) + 1), 0.0)


def _recall(gains_QT: Floats, num_relevant_Q: npt.NDArray[np.intp], k: int) -> Floats:
    return _ratio((gains_QT[:, :k] > 0).sum(1), num_relevant_Q)


def _average_precision(gains_QT: Floats, num_relevant_Q: npt.NDArray[np.intp], k: int) -> Floats:
    hit_QT = gains_QT[:, :k] > 0
    precision_QT = hit_QT.cumsum(1) / (np.arange(hit_QT.shape[1]) + 1)
    return _ratio((precision_QT * hit_QT).sum(1), np.minimum(num_relevant_Q, k))


def _ratio(part_Q: npt.ArrayLike, whole_Q: npt.ArrayLike) -> Floats:
    """Divides query by query; 0 where the divisor is 0."""
    part_Q, whole_Q = np.asarray(part_Q, np.float64), np.asarray(whole_Q)
    return np.divide(part_Q, whole_Q, out=np.zeros_like(part_Q), where=whole_Q > 0)


def _mean(values_R: Floats, weight_R: Floats) -> float:
    known_R = ~np.isnan(values_R)
    total = float(weight_R[known_R].sum())
    return float(weight_R[known_R] @ values_R[known_R]) / total if total else float("nan")
