from __future__ import annotations

import numpy as np
import pytest
import sklearn.metrics as reference

from tunewright.metrics.choices import CHOICE_METRICS, choice_metrics


def answers(num_rows, seed):
    """The probabilities of five choices, the right ones, and the figures of each row."""
    rng = np.random.default_rng(seed)
    scores_RK = rng.dirichlet(np.ones(5), num_rows)
    true_R = np.append(np.arange(5), rng.integers(5, size=num_rows))[:num_rows]
    own_R = scores_RK[np.arange(num_rows), true_R]
    rank_R = 1 + (scores_RK > own_R[:, None]).sum(1)
    return scores_RK, true_R, {"rank": rank_R, "log_probability": np.log(own_R)}


def test_accuracy_and_log_loss_are_scikit_learn_s():
    scores_RK, true_R, statistics = answers(60, 0)
    found = choice_metrics(statistics)
    assert found["accuracy"] == reference.accuracy_score(true_R, scores_RK.argmax(1))
    assert found["log_loss"] == pytest.approx(reference.log_loss(true_R, scores_RK))
    one_hot_RK = np.eye(5)[true_R]
    expected = reference.label_ranking_average_precision_score(one_hot_RK, scores_RK)
    assert found["mrr"] == pytest.approx(expected)  # one right choice: its precision is 1 / rank
    assert list(found) == [spec.name for spec in CHOICE_METRICS]


def test_a_row_that_counts_twice_is_a_row_that_stands_there_twice():
    _, _, statistics = answers(40, 1)
    counts_R = np.random.default_rng(2).integers(0, 4, 40)
    drawn = {name: np.repeat(values, counts_R) for name, values in statistics.items()}
    assert choice_metrics(statistics, counts_R) == pytest.approx(choice_metrics(drawn))


def test_no_rows_have_no_metrics():
    _, _, statistics = answers(4, 0)
    assert np.isnan(list(choice_metrics(statistics, np.zeros(4, int)).values())).all()
