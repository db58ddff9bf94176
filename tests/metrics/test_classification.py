from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import sklearn.metrics as reference
from hypothesis import given, settings

from tests.metrics.samples import answers, cases, counts
from tunewright.metrics import (
    CLASSIFICATION_METRICS,
    ClassificationStatistics,
    classification_metrics,
    prepare_classification,
)

several = settings(max_examples=60, deadline=None)


def measured(answers: ClassificationStatistics, *arguments: Any) -> dict[str, float]:
    return classification_metrics(
        answers.true_R, answers.predicted_R, answers.probabilities_RC, *arguments
    )


def expected_decisions(true_R, predicted_R, weights_R=None) -> dict[str, float]:
    """Metrics of the decisions by scikit-learn."""
    figures = {
        "accuracy": reference.accuracy_score(true_R, predicted_R, sample_weight=weights_R),
        "mcc": reference.matthews_corrcoef(true_R, predicted_R, sample_weight=weights_R),
    }
    for average in ("macro", "micro", "weighted"):
        scores = reference.precision_recall_fscore_support(
            true_R, predicted_R, average=average, sample_weight=weights_R, zero_division=0
        )
        for name, score in zip(("precision", "recall", "f1"), scores[:3], strict=True):
            figures[f"{name}_{average}"] = score
    return figures


def expected_probabilities(true_R, probabilities_RC, weights_R=None) -> dict[str, float]:
    """Metrics of the probabilities by scikit-learn, every class standing in the truth."""
    num_classes = probabilities_RC.shape[1]
    known = {"labels": range(num_classes), "sample_weight": weights_R}
    binary = num_classes == 2
    one_hot_RC = (true_R == 1) if binary else np.eye(num_classes, dtype=int)[true_R]
    scores = probabilities_RC[:, 1] if binary else probabilities_RC
    return {
        "log_loss": reference.log_loss(true_R, probabilities_RC, **known),
        "brier": reference.brier_score_loss(true_R, probabilities_RC, **known),
        "roc_auc": reference.roc_auc_score(one_hot_RC, scores, sample_weight=weights_R),
        "pr_auc": reference.average_precision_score(one_hot_RC, scores, sample_weight=weights_R),
    }


def expected_calibration_error(answers: ClassificationStatistics, counts_R) -> float:
    """The definition of Guo et al. 2017, bin by bin."""
    confidence_R = answers.probabilities_RC.max(axis=1)
    error = 0.0
    for index in range(15):
        inside_R = (confidence_R > index / 15) & (confidence_R <= (index + 1) / 15)
        weight_R = counts_R * inside_R
        if weight_R.sum():
            accuracy = np.average(answers.correct, weights=weight_R)
            gap = abs(accuracy - np.average(confidence_R, weights=weight_R))
            error += gap * weight_R.sum() / counts_R.sum()
    return error


def assert_agree(found: dict[str, float], expected: dict[str, float]) -> None:
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-9, rel=1e-9)


@several
@given(cases())
def test_decisions_are_measured_as_by_scikit_learn(case):
    made, _ = case
    assert_agree(measured(made), expected_decisions(made.true_R, made.predicted_R))


@several
@given(cases())
def test_probabilities_are_measured_as_by_scikit_learn(case):
    made, _ = case
    assert_agree(measured(made), expected_probabilities(made.true_R, made.probabilities_RC))


@several
@given(cases())
def test_counts_are_the_sample_weights_of_scikit_learn(case):
    made, seed = case
    counts_R = counts(len(made.true_R), seed, least=1)
    found = measured(made, counts_R)
    assert_agree(found, expected_decisions(made.true_R, made.predicted_R, counts_R))
    assert_agree(found, expected_probabilities(made.true_R, made.probabilities_RC, counts_R))


@several
@given(cases())
def test_a_row_that_counts_k_times_is_k_rows(case):
    made, seed = case
    counts_R = counts(len(made.true_R), seed, least=0)
    repeated_R = np.repeat(np.arange(len(counts_R)), counts_R)
    longer = classification_metrics(
        made.true_R[repeated_R], made.predicted_R[repeated_R], made.probabilities_RC[repeated_R]
    )
    assert measured(made, counts_R) == pytest.approx(longer, abs=1e-9, nan_ok=True)


@several
@given(cases())
def test_calibration_error_is_its_definition(case):
    made, seed = case
    counts_R = counts(len(made.true_R), seed, least=0)
    found = measured(made, counts_R)["expected_calibration_error"]
    assert found == pytest.approx(expected_calibration_error(made, counts_R), abs=1e-9)


@pytest.mark.parametrize("positive", [0, 1])
def test_the_positive_class_of_two_can_be_chosen(positive):
    made = answers(80, 2, seed=3)
    expected = dict(
        zip(
            ("precision", "recall", "f1"),
            reference.precision_recall_fscore_support(
                made.true_R, made.predicted_R, average="binary", pos_label=positive
            )[:3],
            strict=True,
        )
    )
    scores_R, positive_R = made.probabilities_RC[:, positive], made.true_R == positive
    expected["roc_auc"] = reference.roc_auc_score(positive_R, scores_R)
    expected["pr_auc"] = reference.average_precision_score(positive_R, scores_R)
    assert_agree(measured(made, None, positive), expected)


@pytest.mark.parametrize("num_classes", [2, 4])
def test_a_class_never_seen_in_training_is_always_wrong(num_classes):
    made = answers(100, num_classes, seed=5, unseen=True)
    wider_RC = np.column_stack([made.probabilities_RC, np.zeros(100)])
    true_R = np.where(made.true_R < 0, num_classes, made.true_R)
    found = measured(made)
    assert_agree(found, expected_decisions(made.true_R, made.predicted_R))
    labels = range(num_classes + 1)
    log_loss = reference.log_loss(true_R, wider_RC, labels=labels)
    brier = reference.brier_score_loss(true_R, wider_RC, labels=labels)
    assert found["log_loss"] == pytest.approx(log_loss, abs=1e-9)
    assert found["brier"] == pytest.approx(brier / (2 if num_classes == 2 else 1), abs=1e-9)


def test_macro_areas_leave_out_a_class_without_rows():
    made = answers(90, 4, seed=7)
    kept_R = made.true_R != 2
    true_R, scores_RC = made.true_R[kept_R], made.probabilities_RC[kept_R]
    found = classification_metrics(true_R, made.predicted_R[kept_R], scores_RC)
    roc = [reference.roc_auc_score(true_R == c, scores_RC[:, c]) for c in (0, 1, 3)]
    precision = [reference.average_precision_score(true_R == c, scores_RC[:, c]) for c in (0, 1, 3)]
    assert_agree(found, {"roc_auc": np.mean(roc), "pr_auc": np.mean(precision)})


def test_single_precision_probabilities_are_clipped_as_by_scikit_learn():
    probabilities_RC = np.array([[1.0, 0.0], [0.25, 0.75]], dtype=np.float32)
    found = classification_metrics(np.array([1, 1]), np.array([0, 1]), probabilities_RC)
    expected = reference.log_loss([1, 1], probabilities_RC, labels=[0, 1])
    assert found["log_loss"] == pytest.approx(expected, rel=1e-6)


def test_a_single_class_has_no_roc_auc_and_no_correlation():
    found = classification_metrics(
        np.array([1, 1]), np.array([1, 0]), np.array([[0.2, 0.8], [0.7, 0.3]])
    )
    assert np.isnan(found["roc_auc"])
    assert found["mcc"] == 0
    assert found["pr_auc"] == 1


def test_a_positive_class_without_rows_has_neither_area():
    found = classification_metrics(np.array([0]), np.array([0]), np.array([[0.9, 0.1]]))
    assert np.isnan([found["roc_auc"], found["pr_auc"]]).all()
    assert (found["precision"], found["recall"], found["f1"]) == (0, 0, 0)


def test_no_rows_make_every_metric_undefined_without_a_warning():
    made = ClassificationStatistics(np.zeros(0, int), np.zeros(0, int), np.zeros((0, 3)))
    found = prepare_classification(made.to_mapping())(None)
    assert np.isnan(list(found.values())).all()
    assert len(found) == 16


def test_no_counted_rows_are_no_rows():
    made = answers(10, 2, seed=1)
    found = measured(made, np.zeros(10, dtype=int))
    assert np.isnan(list(found.values())).all()


def test_abstained_rows_lower_the_coverage_only():
    true_R, predicted_R = np.array([0, 1, 1, 0]), np.array([0, 1, 0, 1])
    figures = {
        "true": true_R,
        "predicted": predicted_R,
        "probabilities": np.full((4, 2), 0.5),
        "abstained": np.array([False, False, False, True]),
    }
    found = prepare_classification(figures)(np.array([1, 2, 1, 4]))
    assert found["coverage"] == 4 / 8
    assert found["accuracy_answered"] == 3 / 4
    assert found["accuracy"] == 3 / 8


def test_every_metric_has_one_description():
    names = [spec.name for spec in CLASSIFICATION_METRICS]
    binary = prepare_classification(
        {**answers(20, 2, seed=1).to_mapping(), "abstained": np.zeros(20, bool)}
    )(None)
    assert len(names) == len(set(names)) == 21
    assert set(names) == set(binary)
    assert names[0] == "accuracy"


def test_lower_is_better_for_losses_only():
    lower = {spec.name for spec in CLASSIFICATION_METRICS if not spec.higher_is_better}
    assert lower == {"log_loss", "brier", "expected_calibration_error"}


def test_many_classes_are_measured_as_by_scikit_learn():
    made = answers(1500, 77, seed=2)
    found = measured(made)
    assert_agree(found, expected_probabilities(made.true_R, made.probabilities_RC))
    assert_agree(found, expected_decisions(made.true_R, made.predicted_R))


@pytest.mark.parametrize(
    ("true", "predicted", "message"),
    [
        ([0, 1], [0, 2], "a predicted class lies outside 0..1"),
        ([0, 2], [0, 1], "a true class lies outside -1..1"),
        ([0], [0, 1], r"\(1,\) figures for 2 rows"),
    ],
)
def test_figures_that_do_not_fit_together_are_a_mistake_in_the_program(true, predicted, message):
    with pytest.raises(ValueError, match=message):
        classification_metrics(np.array(true), np.array(predicted), np.full((2, 2), 0.5))
