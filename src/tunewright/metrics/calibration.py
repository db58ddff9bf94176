"""Makes a classifier's probabilities honest: temperature, and when to say nothing.

Shape letters: R rows, C classes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

MIN_TEMPERATURE, MAX_TEMPERATURE = 0.05, 20.0
"""Bounds of the fit: beyond them a few validation rows would make answers all sure or all equal."""

ANSWERS_NOTHING = 2.0
"""A threshold above every score, which is at most 1."""


def softmax(logits_RC: npt.NDArray[Any], temperature: float = 1.0) -> Floats:
    """Returns probabilities, float64 (R, C) with rows that add up to 1, of logits / temperature."""
    scaled_RC = logits_RC.astype(np.float64) / temperature
    exponential_RC = np.exp(scaled_RC - scaled_RC.max(axis=-1, keepdims=True))
    return np.asarray(exponential_RC / exponential_RC.sum(axis=-1, keepdims=True))


def fit_temperature(logits_RC: npt.NDArray[Any], true_R: npt.NDArray[Any]) -> float:
    """Returns the temperature in [0.05, 20] under which the true classes are likeliest.

    Source: Guo et al. 2017, "On calibration of modern neural networks". The negative
    log-likelihood is convex in 1 / temperature, so the root of its slope is found by halving
    instead of by gradient steps. Rows of a class that the model does not know (-1) are left out;
    without any others the temperature is 1.
    """
    known_R = true_R >= 0
    logits_RC, true_R = logits_RC[known_R].astype(np.float64), true_R[known_R]
    if not len(true_R):
        return 1.0
    right_R = logits_RC[np.arange(len(true_R)), true_R]
    low, high = 1 / MAX_TEMPERATURE, 1 / MIN_TEMPERATURE
    for _ in range(50):  # halves an interval of 20 to below float64's step
        middle = (low + high) / 2
        if _slope(logits_RC, right_R, middle) > 0:
            high = middle
        else:
            low = middle
    return 2 / (low + high)


def _slope(logits_RC: Floats, right_R: Floats, inverse: float) -> float:
    """Returns the slope of the mean negative log-likelihood in the inverse temperature."""
    expected_R = (softmax(logits_RC, 1 / inverse) * logits_RC).sum(axis=1)
    return float((expected_R - right_R).mean())


def fit_abstention(
    scores_R: npt.NDArray[Any],
    correct_R: npt.NDArray[Any],
    target_accuracy: float,
    min_answered: int = 10,
) -> float:
    """Returns the lowest score from which on answers are right often enough.

    Rows whose score is at least the threshold are answered; of these, a share of at least
    `target_accuracy` is right, and no lower threshold does as well. It lies half-way between two
    scores, so that rounding does not move a row across. 0 when every row may be answered;
    `ANSWERS_NOTHING` when no threshold that answers at least `min_answered` rows reaches the
    target: fewer rows cannot show that it is met.
    """
    order_R = np.argsort(-scores_R, kind="stable")
    scores_R, correct_R = scores_R[order_R].astype(np.float64), correct_R[order_R]
    num_answered_R = np.arange(1, len(scores_R) + 1)
    accuracy_R = np.cumsum(correct_R) / num_answered_R
    is_last_R = np.append(scores_R[:-1] != scores_R[1:], True)[: len(scores_R)]
    reached = np.flatnonzero(
        is_last_R & (accuracy_R >= target_accuracy) & (num_answered_R >= min_answered)
    )
    if not len(reached):
        return ANSWERS_NOTHING
    last = int(reached[-1])
    if last == len(scores_R) - 1:
        return 0.0
    return float((scores_R[last] + scores_R[last + 1]) / 2)
