from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, special

from tunewright.metrics import fit_abstention, fit_temperature, softmax
from tunewright.metrics.calibration import ANSWERS_NOTHING


def overconfident(factor: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Returns logits whose honest temperature is `factor`, and truths drawn from them."""
    rng = np.random.default_rng(seed)
    logits_RC = rng.normal(size=(4000, 4)) * 2
    gumbel_RC = rng.gumbel(size=logits_RC.shape)
    return logits_RC * factor, (logits_RC + gumbel_RC).argmax(axis=1)


@pytest.mark.parametrize("factor", [0.3, 1.0, 3.0])
def test_the_temperature_that_was_put_in_is_found(factor):
    assert fit_temperature(*overconfident(factor)) == pytest.approx(factor, rel=0.06)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000))
def test_the_temperature_is_the_minimum_that_scipy_finds(seed):
    logits_RC, true_R = (part[:40] for part in overconfident(2.0, seed))

    def loss(temperature):
        return -special.log_softmax(logits_RC / temperature, axis=1)[np.arange(40), true_R].mean()

    found = optimize.minimize_scalar(
        loss, bounds=(0.05, 20), method="bounded", options={"xatol": 1e-9}
    )
    assert loss(fit_temperature(logits_RC, true_R)) <= found.fun + 1e-9


def test_answers_that_are_all_right_or_all_wrong_stay_within_the_bounds():
    logits_RC = np.array([[3.0, 0.0], [0.0, 2.0]])
    assert fit_temperature(logits_RC, np.array([0, 1])) == pytest.approx(0.05)
    assert fit_temperature(logits_RC, np.array([1, 0])) == pytest.approx(20)


def test_rows_of_unknown_classes_do_not_count():
    logits_RC, true_R = overconfident(2.0)
    kept_R = np.arange(4000) % 3 > 0
    without = fit_temperature(logits_RC[kept_R], true_R[kept_R])
    assert fit_temperature(logits_RC, np.where(kept_R, true_R, -1)) == without


def test_nothing_to_fit_leaves_the_temperature_at_one():
    assert fit_temperature(np.zeros((2, 3)), np.array([-1, -1])) == 1
    assert fit_temperature(np.zeros((0, 3)), np.zeros(0, int)) == 1


def test_softmax_is_that_of_scipy_even_for_large_logits():
    logits_RC = np.array([[1000.0, 999.0, -1000.0], [0.0, 0.0, 0.0]])
    assert softmax(logits_RC, 2.0) == pytest.approx(special.softmax(logits_RC / 2, axis=1))


scores = st.lists(st.tuples(st.sampled_from(range(30)), st.booleans()), min_size=1, max_size=80)


@settings(max_examples=100, deadline=None)
@given(scores, st.floats(0.5, 1))
def test_the_threshold_answers_as_many_rows_as_the_target_allows(rows, target):
    scores_R = np.array([score for score, _ in rows]) / 30
    correct_R = np.array([correct for _, correct in rows])
    threshold = fit_abstention(scores_R, correct_R, target, min_answered=1)
    allowed = [0]
    for lowest in set(scores_R):
        if correct_R[scores_R >= lowest].mean() >= target:
            allowed.append(int((scores_R >= lowest).sum()))
    assert (scores_R >= threshold).sum() == max(allowed)


def test_the_threshold_lies_between_two_scores():
    scores_R, correct_R = np.array([0.9, 0.5, 0.8, 0.6]), np.array([True, False, True, True])
    assert fit_abstention(scores_R, correct_R, 1.0, min_answered=2) == pytest.approx(0.55)


def test_a_model_that_is_good_enough_always_answers():
    assert fit_abstention(np.full(20, 0.4), np.ones(20, bool), 0.99) == 0


@pytest.mark.parametrize("num_rows", [0, 9, 50])
def test_a_target_out_of_reach_answers_nothing(num_rows):
    correct_R = np.zeros(num_rows, bool) if num_rows == 50 else np.ones(num_rows, bool)
    assert fit_abstention(np.linspace(0, 1, num_rows), correct_R, 0.9) == ANSWERS_NOTHING
