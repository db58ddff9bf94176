from __future__ import annotations

import numpy as np
import pytest
import sklearn.metrics as reference
from hypothesis import given, settings
from hypothesis import strategies as st

from tunewright.metrics.multilabel import (
    MULTI_LABEL_METRICS,
    MultiLabelReducer,
    fit_thresholds,
)

several = settings(max_examples=60, deadline=None)


def answers(num_rows, num_labels, seed, decimals=1):
    """Scores with many ties that are better than chance, the truth, and what is answered."""
    rng = np.random.default_rng(seed)
    true_RC = rng.random((num_rows, num_labels)) < rng.random(num_labels)
    scores_RC = np.round(np.clip(rng.normal(0.35 + 0.3 * true_RC, 0.25), 0, 1), decimals)
    return true_RC, scores_RC >= 0.5, scores_RC


def expected(true_RC, predicted_RC, scores_RC):
    """Every metric by scikit-learn, over the labels that our conventions count."""
    stands = np.flatnonzero((true_RC | predicted_RC).any(0))
    there = np.flatnonzero(true_RC.any(0))
    figures = {
        "subset_accuracy": reference.accuracy_score(true_RC, predicted_RC),
        "hamming_loss": reference.hamming_loss(true_RC, predicted_RC),
        "average_precision": np.nan,
        "average_precision_micro": np.nan,
    }
    for average in ("micro", "macro", "weighted"):
        scores = reference.precision_recall_fscore_support(
            true_RC[:, stands], predicted_RC[:, stands], average=average, zero_division=0
        )
        for name, score in zip(("precision", "recall", "f1"), scores[:3], strict=True):
            if average != "weighted" or name == "f1":
                figures[f"{name}_{average}"] = score
    if len(there):
        figures["average_precision"] = reference.average_precision_score(
            true_RC[:, there], scores_RC[:, there], average="macro"
        )
        figures["average_precision_micro"] = reference.average_precision_score(
            true_RC, scores_RC, average="micro"
        )
    return figures


CASES = st.tuples(st.integers(2, 40), st.integers(2, 6), st.integers(0, 10_000))


@several
@given(CASES)
def test_every_metric_is_scikit_learn_s(case):
    made = answers(*case)
    if (made[0] | made[1]).any(0).sum() < 2:  # scikit-learn reads one column as single labels
        return
    found = MultiLabelReducer(*made)()
    assert list(expected(*made).keys() - found.keys()) == []
    assert found == pytest.approx(expected(*made), abs=1e-9, nan_ok=True)


@several
@given(CASES)
def test_a_row_that_counts_twice_is_a_row_that_stands_there_twice(case):
    made = answers(*case)
    counts_R = np.random.default_rng(case[2] + 1).integers(0, 4, case[0])
    counts_R[0] = 1
    drawn = [np.repeat(each, counts_R, axis=0) for each in made]
    assert MultiLabelReducer(*made)(counts_R) == pytest.approx(
        MultiLabelReducer(*drawn)(), abs=1e-9, nan_ok=True
    )


def test_the_metrics_are_those_declared():
    found = MultiLabelReducer(*answers(20, 3, 0))()
    assert sorted(found) == sorted(spec.name for spec in MULTI_LABEL_METRICS)


def test_no_rows_have_no_metrics():
    found = MultiLabelReducer(*answers(4, 3, 0))(np.zeros(4, int))
    assert np.isnan(list(found.values())).all()


def test_labels_never_seen_are_one_more_label_that_is_never_answered():
    true_RC, predicted_RC, scores_RC = answers(30, 3, 1)
    unseen_R = np.arange(30) < 6
    never_R1 = np.zeros((30, 1), bool)
    found = MultiLabelReducer(true_RC, predicted_RC, scores_RC, unseen_R)
    as_label = MultiLabelReducer(
        np.hstack([true_RC, unseen_R[:, None]]),
        np.hstack([predicted_RC, never_R1]),
        np.hstack([scores_RC, never_R1]),
    )
    assert found() == as_label()
    assert [each.index for each in found.labels()] == [0, 1, 2, -1]
    assert MultiLabelReducer(true_RC, predicted_RC, scores_RC, unseen_R & False).num_labels == 3


def test_the_table_of_labels_is_scikit_learn_s():
    true_RC, predicted_RC, scores_RC = answers(50, 4, 2)
    rows = MultiLabelReducer(true_RC, predicted_RC, scores_RC).labels()
    columns = reference.precision_recall_fscore_support(true_RC, predicted_RC, zero_division=0)
    for c, row in enumerate(rows):
        area = reference.average_precision_score(true_RC[:, c], scores_RC[:, c])
        found = (row.precision, row.recall, row.f1, row.num_rows, row.average_precision)
        assert found == pytest.approx([*(column[c] for column in columns), area])
        assert row.num_answered == predicted_RC[:, c].sum()


@several
@given(st.integers(6, 60), st.integers(0, 10_000))
def test_no_other_threshold_of_a_label_gives_a_higher_f1(num_rows, seed):
    true_RC, _, scores_RC = answers(num_rows, 3, seed, decimals=2)
    thresholds = fit_thresholds(scores_RC, true_RC, 0.5, min_positives=1)
    for c, threshold in enumerate(thresholds):
        if not true_RC[:, c].any():
            assert threshold == 0.5
            continue

        def f1(at, c=c):
            return reference.f1_score(true_RC[:, c], scores_RC[:, c] >= at, zero_division=0)

        assert 0 <= threshold <= 1
        assert f1(threshold) == pytest.approx(max(map(f1, scores_RC[:, c])))


def test_a_label_with_few_rows_keeps_its_threshold():
    true_RC = np.zeros((40, 2), bool)
    true_RC[:4, 0] = true_RC[:5, 1] = True
    scores_RC = np.where(true_RC, 0.3, 0.1)
    assert fit_thresholds(scores_RC, true_RC, 0.5) == pytest.approx((0.5, 0.2))
