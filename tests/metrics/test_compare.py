from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from tests.metrics.samples import answers
from tests.metrics.test_bootstrap import MEAN, mean, reduce_classes
from tunewright.metrics import (
    CLASSIFICATION_METRICS,
    mcnemar,
    paired_bootstrap,
    prepare_classification,
)


def disagreeing(only_a: int, only_b: int, both: int = 50) -> tuple[np.ndarray, np.ndarray]:
    """Returns two models' right answers with the given numbers of discordant rows."""
    a_R = np.repeat([True, False, True], [only_a, only_b, both])
    b_R = np.repeat([False, True, True], [only_a, only_b, both])
    return a_R, b_R


def test_a_model_does_not_differ_from_itself():
    statistics = answers(80, 3, seed=1).to_mapping()
    found = paired_bootstrap(reduce_classes, statistics, statistics, CLASSIFICATION_METRICS, 50)
    assert {(each.difference.value, each.p_value) for each in found.values()} == {(0.0, 1.0)}
    assert len(found) == 16


def test_the_difference_is_b_minus_a_with_the_paired_interval():
    rng = np.random.default_rng(0)
    a_R = rng.normal(size=1000)
    b_R = a_R + 0.1 + 0.5 * rng.normal(size=1000)
    found = paired_bootstrap(mean, {"value": a_R}, {"value": b_R}, MEAN)["mean"]
    gain_R = b_R - a_R
    assert found.difference.value == pytest.approx(gain_R.mean())
    error = 1.96 * gain_R.std() / np.sqrt(1000)
    assert found.difference.low == pytest.approx(gain_R.mean() - error, abs=0.004)
    assert found.difference.high == pytest.approx(gain_R.mean() + error, abs=0.004)
    assert found.p_value == pytest.approx(2 / 1001)


def test_the_p_value_is_near_that_of_the_paired_t_test():
    rng = np.random.default_rng(5)
    a_R = rng.normal(size=400)
    b_R = a_R + 0.05 + 0.5 * rng.normal(size=400)
    found = paired_bootstrap(mean, {"value": a_R}, {"value": b_R}, MEAN, 4000)["mean"]
    assert found.p_value == pytest.approx(stats.ttest_rel(a_R, b_R).pvalue, abs=0.02)


def test_swapping_the_models_turns_the_difference_round():
    a, b = ({"value": np.random.default_rng(seed).normal(size=90)} for seed in (1, 2))
    there = paired_bootstrap(mean, a, b, MEAN, 200)["mean"]
    back = paired_bootstrap(mean, b, a, MEAN, 200)["mean"]
    assert back.difference.low == pytest.approx(-there.difference.high)
    assert back.p_value == there.p_value


def test_models_of_different_classes_can_be_compared():
    a, b = answers(60, 2, seed=1).to_mapping(), answers(60, 4, seed=1).to_mapping()
    found = paired_bootstrap(
        reduce_classes, a, b, CLASSIFICATION_METRICS, 20, prepare=prepare_classification
    )
    assert "accuracy" in found
    assert "f1" not in found


def test_different_numbers_of_rows_cannot_be_paired():
    with pytest.raises(ValueError, match="3 rows cannot be paired with 4"):
        paired_bootstrap(mean, {"value": np.zeros(3)}, {"value": np.zeros(4)}, MEAN)


@pytest.mark.parametrize(("only_a", "only_b"), [(3, 12), (0, 5), (1, 1), (40, 61), (480, 520)])
def test_mcnemar_is_the_exact_binomial_test(only_a, only_b):
    found = mcnemar(*disagreeing(only_a, only_b))
    expected = stats.binomtest(only_a, only_a + only_b).pvalue
    assert found.p_value == pytest.approx(expected, rel=1e-9)
    assert (found.only_a, found.only_b, found.exact) == (only_a, only_b, True)


def test_mcnemar_of_many_discordant_rows_is_chi_square_with_continuity_correction():
    found = mcnemar(*disagreeing(700, 620))
    assert found.statistic == pytest.approx(79**2 / 1320)  # by hand: (|700 - 620| - 1)^2 / 1320
    assert found.p_value == pytest.approx(stats.chi2.sf(79**2 / 1320, 1), rel=1e-9)
    assert not found.exact


def test_mcnemar_of_equal_answers_finds_nothing():
    found = mcnemar(*disagreeing(0, 0))
    assert (found.statistic, found.p_value) == (0, 1)
