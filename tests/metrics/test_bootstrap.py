from __future__ import annotations

import numpy as np
import pytest

from tests.metrics.samples import answers
from tunewright.metrics import (
    CLASSIFICATION_METRICS,
    MetricSpec,
    bootstrap,
    classification_metrics,
    prepare_classification,
)
from tunewright.metrics.bootstrap import affordable_resamples, interval, resample_counts

MEAN = (MetricSpec("mean"),)


def mean(statistics, counts_R=None):
    values_R = statistics["value"]
    return {"mean": float(np.average(values_R, weights=counts_R))}


def reduce_classes(statistics, counts_R=None):
    return classification_metrics(
        statistics["true"], statistics["predicted"], statistics["probabilities"], counts_R
    )


def test_the_interval_of_a_mean_is_two_standard_errors_wide_on_each_side():
    values_R = np.random.default_rng(0).normal(size=2000)
    found = bootstrap(mean, {"value": values_R}, MEAN)["mean"]
    assert found.value == values_R.mean()
    assert found.low == pytest.approx(values_R.mean() - 1.96 / np.sqrt(2000), abs=0.005)
    assert found.high == pytest.approx(values_R.mean() + 1.96 / np.sqrt(2000), abs=0.005)


def test_the_interval_covers_the_truth_about_95_times_in_100():
    rng = np.random.default_rng(1)
    covered = 0
    for trial in range(200):
        correct_R = (rng.random(150) < 0.8).astype(float)
        found = bootstrap(mean, {"value": correct_R}, MEAN, num_resamples=300, seed=trial)["mean"]
        covered += found.low <= 0.8 <= found.high
    assert 180 <= covered <= 199


def test_preparing_changes_nothing():
    statistics = answers(60, 3, seed=4).to_mapping()
    direct = bootstrap(reduce_classes, statistics, CLASSIFICATION_METRICS, 50)
    prepared = bootstrap(
        reduce_classes, statistics, CLASSIFICATION_METRICS, 50, prepare=prepare_classification
    )
    assert direct == prepared


def test_metrics_come_in_the_order_of_their_descriptions_with_their_directions():
    statistics = answers(60, 3, seed=4).to_mapping()
    found = bootstrap(reduce_classes, statistics, CLASSIFICATION_METRICS, 20)
    given = [spec for spec in CLASSIFICATION_METRICS if spec.name in found]
    assert list(found) == [spec.name for spec in given]
    assert [each.higher_is_better for each in found.values()] == [
        spec.higher_is_better for spec in given
    ]


def test_the_same_seed_gives_the_same_interval():
    statistics = {"value": np.arange(50.0)}
    first, second, other = (bootstrap(mean, statistics, MEAN, 50, seed) for seed in (1, 1, 2))
    assert first == second
    assert first != other


def test_undefined_resamples_are_left_out_of_the_interval():
    true_R = np.array([1, 0, 0, 0])
    scores_RC = np.array([[0.1, 0.9], [0.8, 0.2], [0.7, 0.3], [0.6, 0.4]])
    statistics = {"true": true_R, "predicted": scores_RC.argmax(1), "probabilities": scores_RC}
    found = bootstrap(reduce_classes, statistics, CLASSIFICATION_METRICS, 100)["roc_auc"]
    assert (found.value, found.low, found.high) == (1, 1, 1)


def test_a_single_row_has_no_interval():
    found = bootstrap(mean, {"value": np.array([3.0])}, MEAN)["mean"]
    assert found.value == 3
    assert np.isnan([found.low, found.high]).all()


def test_a_metric_that_is_never_defined_has_no_interval():
    assert np.isnan(interval(np.full(10, np.nan))).all()


def test_every_resample_draws_as_many_rows_as_there_are():
    drawn = np.array(list(resample_counts(7, 100, seed=0)))
    assert (drawn.sum(axis=1) == 7).all()
    assert drawn.mean(axis=0) == pytest.approx(np.ones(7), abs=0.4)


@pytest.mark.parametrize(
    ("num_rows", "expected"), [(10_000, 1000), (100_000, 519), (10_000_000, 100)]
)
def test_large_data_get_fewer_resamples(num_rows, expected):
    statistics = {"probabilities": np.broadcast_to(np.float32(0), (num_rows, 77))}
    assert affordable_resamples(statistics, 1000) == expected


def test_figures_of_different_lengths_are_a_mistake_in_the_program():
    with pytest.raises(ValueError, match=r"one common number of rows, not \[2, 3\]"):
        bootstrap(mean, {"value": np.zeros(2), "other": np.zeros(3)}, MEAN)
