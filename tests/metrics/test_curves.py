from __future__ import annotations

import numpy as np
import pytest
import sklearn.metrics as reference
from hypothesis import given, settings

from tests.metrics.samples import answers, cases
from tunewright.metrics import classification_metrics
from tunewright.metrics.curves import (
    class_figures,
    confusion_matrix,
    pr_curve,
    reliability_bins,
    roc_curve,
    thinned,
)

several = settings(max_examples=40, deadline=None)


@several
@given(cases())
def test_the_confusion_matrix_is_that_of_scikit_learn(case):
    made, _ = case
    labels = range(made.num_classes)
    expected = reference.confusion_matrix(made.true_R, made.predicted_R, labels=labels)
    assert confusion_matrix(made).tolist() == expected.tolist()


def test_rows_of_unseen_classes_are_the_last_row_of_the_confusion_matrix():
    made = answers(50, 3, seed=2, unseen=True)
    matrix = confusion_matrix(made)
    assert matrix.shape == (4, 3)
    assert matrix[3].sum() == (made.true_R == -1).sum()


@several
@given(cases())
def test_the_roc_curve_is_that_of_scikit_learn(case):
    made, _ = case
    positive_R, scores_R = made.true_R == 1, made.probabilities_RC[:, 1]
    found = roc_curve(positive_R, scores_R)
    x_P, y_P, threshold_P = reference.roc_curve(positive_R, scores_R, drop_intermediate=False)
    assert found.x_P == pytest.approx(x_P)
    assert found.y_P == pytest.approx(y_P)
    assert found.threshold_P == pytest.approx(threshold_P)


@several
@given(cases())
def test_the_precision_recall_curve_is_that_of_scikit_learn(case):
    made, _ = case
    positive_R, scores_R = made.true_R == 1, made.probabilities_RC[:, 1]
    found = pr_curve(positive_R, scores_R)
    precision_P, recall_P, _ = reference.precision_recall_curve(positive_R, scores_R)
    assert found.x_P == pytest.approx(recall_P[::-1])
    assert found.y_P == pytest.approx(precision_P[::-1])


def test_a_curve_without_positive_rows_has_no_rates():
    found = roc_curve(np.array([False, False]), np.array([0.2, 0.4]))
    assert np.isnan(found.y_P).all()
    assert found.x_P.tolist() == [0, 0.5, 1]


def test_a_thinned_curve_keeps_its_ends_and_its_area():
    rng = np.random.default_rng(0)
    positive_R = rng.random(20_000) < 0.1
    whole = roc_curve(positive_R, rng.normal(size=20_000) + 2 * positive_R)
    found = thinned(whole)
    assert len(found.x_P) <= 202
    assert (found.x_P[0], found.y_P[-1]) == (0, 1)
    area = np.trapezoid(whole.y_P, whole.x_P)
    assert np.trapezoid(found.y_P, found.x_P) == pytest.approx(area, abs=1e-3)


def test_reliability_bins_add_up_to_the_calibration_error():
    made = answers(300, 3, seed=9)
    bins = [each for each in reliability_bins(made) if each.num_rows]
    error = sum(each.num_rows * abs(each.accuracy - each.confidence) for each in bins) / 300
    found = classification_metrics(made.true_R, made.predicted_R, made.probabilities_RC)
    assert error == pytest.approx(found["expected_calibration_error"])
    assert sum(each.num_rows for each in bins) == 300


def test_an_empty_bin_has_no_accuracy():
    empty = reliability_bins(answers(10, 2, seed=1), num_bins=20)[0]
    assert (empty.low, empty.high, empty.num_rows) == (0, 0.05, 0)
    assert np.isnan([empty.confidence, empty.accuracy]).all()


def test_the_table_of_classes_is_that_of_scikit_learn():
    made = answers(200, 4, seed=3)
    precision, recall, f1, rows = reference.precision_recall_fscore_support(
        made.true_R, made.predicted_R
    )
    for index, found in enumerate(class_figures(made)):
        positive_R, scores_R = made.true_R == index, made.probabilities_RC[:, index]
        assert (found.index, found.num_rows) == (index, rows[index])
        assert found.num_predicted == (made.predicted_R == index).sum()
        assert (found.precision, found.recall, found.f1) == pytest.approx(
            (precision[index], recall[index], f1[index])
        )
        assert found.roc_auc == pytest.approx(reference.roc_auc_score(positive_R, scores_R))
        expected = reference.average_precision_score(positive_R, scores_R)
        assert found.pr_auc == pytest.approx(expected)


def test_unseen_classes_are_the_last_line_of_the_table():
    made = answers(50, 3, seed=2, unseen=True)
    last = class_figures(made)[-1]
    assert (last.index, last.num_rows, last.recall) == (-1, (made.true_R == -1).sum(), 0)


def test_a_class_without_rows_has_no_areas():
    made = answers(2, 3, seed=2)
    last = class_figures(made)[-1]
    assert (last.index, last.num_rows) == (2, 0)
    assert np.isnan([last.roc_auc, last.pr_auc]).all()
