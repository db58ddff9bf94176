from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import ndcg_score

from tunewright.metrics.bootstrap import bootstrap
from tunewright.metrics.ranking import (
    RANKING_METRICS,
    ranked_relevance,
    ranking_figures,
    ranking_metrics,
)

seeds = st.integers(0, 10_000)


def vectors(num: int, seed: int) -> np.ndarray:
    made = np.random.default_rng(seed).normal(size=(num, 8)).astype(np.float32)
    return made / np.linalg.norm(made, axis=1, keepdims=True)


def judgements(num_queries: int, num_documents: int, seed: int) -> list[dict[int, float]]:
    """One to four relevant documents for each query, of gains 1 to 3."""
    rng = np.random.default_rng(seed)
    return [
        {int(place): float(rng.integers(1, 4)) for place in rng.choice(num_documents, size)}
        for size in rng.integers(1, 5, num_queries)
    ]


def ideal(relevant_Q: list[dict[int, float]]) -> np.ndarray:
    gains = [list(relevant.values()) for relevant in relevant_Q]
    return np.array([each + [0.0] * (max(map(len, gains)) - len(each)) for each in gains])


@given(st.integers(11, 150), seeds)
def test_ndcg_is_that_of_scikit_learn(num_documents, seed):
    queries, documents = vectors(5, seed), vectors(num_documents, seed + 1)
    relevant = judgements(5, num_documents, seed)
    true = np.array([[each.get(k, 0.0) for k in range(num_documents)] for each in relevant])
    figures = ranking_figures(ranked_relevance(queries, documents, relevant), ideal(relevant))
    expected = [
        ndcg_score(true[q : q + 1], (queries[q] @ documents.T)[None], k=10) for q in range(5)
    ]
    assert figures["ndcg@10"] == pytest.approx(expected)


@pytest.mark.parametrize("num_documents", [7, 60, 300])
def test_the_others_are_those_of_sentence_transformers(num_documents):
    evaluation = pytest.importorskip("sentence_transformers.sentence_transformer.evaluation")
    queries, documents = vectors(40, 1), vectors(num_documents, 2)
    relevant = [dict.fromkeys(each, 1.0) for each in judgements(40, num_documents, 3)]

    class Table:
        """Stands in for a model: a text is the place of its vector."""

        similarity_fn_name = "cosine"
        model_card_data = type("Card", (), {"set_evaluation_metrics": lambda *_: None})()

        def similarity(self, left, right):
            return left @ right.T

        def encode_query(self, texts, **_):
            return self._at(queries, texts)

        def encode_document(self, texts, **_):
            return self._at(documents, texts)

        def _at(self, table, texts):
            import torch

            return torch.from_numpy(table[[int(text) for text in texts]])

    evaluator = evaluation.InformationRetrievalEvaluator(
        {str(q): str(q) for q in range(40)},
        {f"{k:04}": str(k) for k in range(num_documents)},
        {str(q): {f"{k:04}" for k in each} for q, each in enumerate(relevant)},
        write_csv=False,
    )
    expected = {name.removeprefix("cosine_"): value for name, value in evaluator(Table()).items()}
    figures = ranking_figures(ranked_relevance(queries, documents, relevant), ideal(relevant))
    found = ranking_metrics(figures)
    assert found == pytest.approx({name: expected[name] for name in found})
    assert len(found) == len(RANKING_METRICS)


def test_a_ranking_that_holds_all_that_is_relevant_needs_no_ideal():
    figures = ranking_figures([[0, 2, 0, 1]])
    assert figures["mrr@10"] == [0.5]
    assert figures["recall@1"] == [0]
    assert figures["map@100"] == [(1 / 2 + 2 / 4) / 2]
    best = 2 + 1 / np.log2(3)
    assert figures["ndcg@10"] == pytest.approx([(2 / np.log2(3) + 1 / np.log2(5)) / best])


def test_what_is_beyond_a_metric_s_depth_counts_as_not_found():
    relevance = np.zeros((1, 100))
    relevance[0, 10] = 1
    figures = ranking_figures(relevance)
    assert [figures[name][0] for name in ("mrr@10", "recall@10", "ndcg@10")] == [0, 0, 0]
    assert figures["map@100"] == [1 / 11]


def test_a_query_without_a_relevant_document_counts_nowhere():
    figures = ranking_figures([[1, 0], [0, 0]])
    assert np.isnan(figures["mrr@10"]).tolist() == [False, True]
    assert ranking_metrics(figures)["mrr@10"] == 1
    assert np.isnan(ranking_metrics(figures, np.array([0, 3]))["mrr@10"])


def test_equally_near_documents_stand_in_their_order():
    queries, documents = np.ones((1, 2), np.float32), np.ones((5, 2), np.float32)
    assert ranked_relevance(queries, documents, [{1: 1.0}], depth=3).tolist() == [[0, 1, 0]]


@given(st.integers(2, 30), seeds)
def test_a_weight_of_a_half_counts_half_a_row(num_rows, seed):
    rng = np.random.default_rng(seed)
    figures = ranking_figures(rng.integers(0, 2, (num_rows, 12)))
    twice = {name: np.repeat(values, 2) for name, values in figures.items()}
    twice["weight"] = np.full(2 * num_rows, 0.5)
    assert ranking_metrics(twice) == pytest.approx(ranking_metrics(figures), nan_ok=True)


def test_the_bootstrap_draws_queries():
    rng = np.random.default_rng(0)
    figures = ranking_figures(rng.integers(0, 2, (200, 12)))
    found = bootstrap(ranking_metrics, figures, RANKING_METRICS)["mrr@10"]
    values = figures["mrr@10"]
    spread = float(np.nanstd(values)) / 200**0.5
    assert found.value == pytest.approx(float(np.nanmean(values)))
    assert found.high - found.low == pytest.approx(2 * 1.96 * spread, rel=0.15)
