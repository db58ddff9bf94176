from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics

from tunewright.metrics.regression import REGRESSION_METRICS, RegressionReducer, regression_metrics

VALUES = st.integers(-3, 3).map(float)  # many ties
ROWS = st.lists(st.tuples(VALUES, VALUES, st.integers(0, 3)), min_size=3, max_size=30)


def reference(true, predicted):
    return {
        "spearman": stats.spearmanr(true, predicted).statistic,
        "pearson": stats.pearsonr(true, predicted).statistic,
        "mae": metrics.mean_absolute_error(true, predicted),
        "mse": metrics.mean_squared_error(true, predicted),
        "rmse": metrics.root_mean_squared_error(true, predicted),
        "r2": metrics.r2_score(true, predicted),
    }


@pytest.mark.parametrize("seed", range(5))
def test_every_metric_is_the_reference_s(seed):
    rng = np.random.default_rng(seed)
    true = rng.integers(0, 6, 80).astype(float)
    predicted = np.round(true + rng.normal(size=80), 1)
    found = regression_metrics({"true": true, "predicted": predicted})
    assert found == pytest.approx(reference(true, predicted), abs=1e-12)
    assert list(found) == [spec.name for spec in REGRESSION_METRICS]


@given(rows=ROWS)
def test_a_row_that_counts_twice_is_a_row_that_stands_there_twice(rows):
    true, predicted, counts = (np.array(column) for column in zip(*rows, strict=True))
    reduce = RegressionReducer.of({"true": true, "predicted": predicted})
    repeated = {
        "true": np.repeat(true, counts),
        "predicted": np.repeat(predicted, counts),
    }
    if counts.sum():
        assert reduce(counts) == pytest.approx(regression_metrics(repeated), nan_ok=True, abs=1e-9)


def test_constants_have_no_correlation():
    found = regression_metrics({"true": np.ones(4), "predicted": np.arange(4.0)})
    assert np.isnan([found["spearman"], found["pearson"], found["r2"]]).all()
    assert found["mae"] == 1.0


def test_no_rows_have_no_metrics():
    reduce = RegressionReducer.of({"true": np.ones(2), "predicted": np.ones(2)})
    assert np.isnan(list(reduce(np.zeros(2, int)).values())).all()
