from __future__ import annotations

import numpy as np
import pytest

from tunewright.metrics.ranking import ranking_metrics
from tunewright.tasks.shared.retrieved import retrieval_figures


def row(anchor, positives, vector, vectors):
    return {
        "anchor": np.array(vector, np.float32),
        "anchor_text": anchor,
        "positives": np.array(vectors, np.float32),
        "positive_texts": positives,
    }


ROWS = [
    row(1, [10], [1, 0], [[0.9, 0.1]]),
    row(2, [20], [0, 1], [[3, 0]]),  # its positive is far: 30 and 10 are nearer
    row(3, [30], [0, 2], [[0.1, 0.9]]),
]


def test_every_positive_is_a_document_for_every_anchor():
    figures = retrieval_figures(ROWS)
    assert figures["mrr@10"] == pytest.approx([1 / 2, 1 / 3, 1])
    assert figures["recall@1"].tolist() == [0, 0, 1]
    assert figures["weight"].tolist() == [1, 1, 1]


def test_the_positives_of_equal_anchors_are_relevant_to_each_and_the_query_counts_once():
    again = row(3, [31], [0, 2], [[0.2, 0.9]])
    figures = retrieval_figures([*ROWS, again])
    assert figures["weight"].tolist() == [1, 1, 0.5, 0.5]
    assert figures["recall@1"][2:].tolist() == [0.5, 0.5]
    assert figures["ndcg@10"][2:] == pytest.approx([1, 1])
    once = retrieval_figures([*ROWS[:2], row(3, [30, 31], [0, 2], [[0.1, 0.9], [0.2, 0.9]])])
    assert ranking_metrics(figures) == pytest.approx(ranking_metrics(once))


def test_what_came_first_and_what_is_right_are_named_by_row_and_number():
    again = row(3, [31, 10], [0, 2], [[0.2, 0.9], [0.9, 0.1]])
    figures = retrieval_figures([*ROWS, again])
    assert figures["right_place"].tolist() == [2, 4, 1, 1]
    assert figures["query_row"].tolist() == [0, 1, 2, 2]
    assert figures["first_text"].tolist() == [[1, 0], [2, 0], [2, 0], [2, 0]]
    assert figures["right_text"].tolist() == [[3, 1], [1, 0], [2, 0], [2, 0]]


def test_equal_positives_are_one_document():
    figures = retrieval_figures([*ROWS, row(4, [30], [0, 1], [[0.1, 0.9]])])
    assert figures["mrr@10"] == pytest.approx([1 / 2, 1 / 3, 1, 1])


def test_a_vector_of_zeros_is_near_to_nothing():
    figures = retrieval_figures([*ROWS, row(4, [40], [1, 0], [[0, 0]])])
    assert np.isfinite(figures["mrr@10"]).all()
