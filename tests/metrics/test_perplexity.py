"""Perplexity and accuracy count tokens, not rows."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tunewright.metrics import bootstrap
from tunewright.metrics.perplexity import (
    FREQUENCIES,
    LANGUAGE_METRICS,
    by_frequency,
    frequency_scores,
    language_metrics,
)


def statistics(loss, hidden, right):
    return {"loss": np.array(loss), "hidden": np.array(hidden), "right": np.array(right)}


def test_perplexity_is_the_exponential_of_torchs_mean_loss():
    logits_MV = torch.randn(7, 5, generator=torch.Generator().manual_seed(0)).double()
    true_M = torch.tensor([0, 1, 2, 3, 4, 0, 1])
    loss_M = torch.nn.functional.cross_entropy(logits_MV, true_M, reduction="none").numpy()
    right_M = (logits_MV.argmax(1) == true_M).numpy()
    rows = [slice(0, 4), slice(4, 5), slice(5, 7)]
    found = language_metrics(
        statistics(
            *([figure[row].sum() for row in rows] for figure in (loss_M, right_M**0, right_M))
        ),
        None,
    )
    assert found["perplexity"] == pytest.approx(math.exp(loss_M.mean()))
    assert found["token_accuracy"] == pytest.approx(right_M.mean())


def test_a_row_without_hidden_tokens_changes_nothing():
    some = language_metrics(statistics([2.0, 4.0], [2, 1], [1, 1]), None)
    more = language_metrics(statistics([2.0, 4.0, 0.0], [2, 1, 0], [1, 1, 0]), np.array([1, 1, 5]))
    assert some == more == {"perplexity": pytest.approx(math.exp(2)), "token_accuracy": 2 / 3}


def test_without_any_hidden_token_nothing_is_known():
    found = language_metrics(statistics([0.0], [0], [0]), None)
    assert list(found) == [spec.name for spec in LANGUAGE_METRICS]
    assert all(math.isnan(value) for value in found.values())


def test_the_interval_is_over_rows():
    rows = statistics([1.0, 2.0, 3.0, 9.0], [2, 2, 2, 2], [2, 1, 1, 0])
    found = bootstrap(language_metrics, rows, LANGUAGE_METRICS, 200)
    for estimate in found.values():
        assert estimate.low < estimate.value < estimate.high
    assert not found["perplexity"].higher_is_better


def tokens(numbers, losses, guessed):
    return {"tokens": np.array(numbers), "losses": np.array(losses), "guessed": np.array(guessed)}


def test_rare_and_common_tokens_are_counted_over_all_rows():
    rows = [
        tokens([7, 8], [2.0, 4.0], [True, False]),
        tokens([], [], []),
        tokens([8, *[9] * 10], [2.0, *[1.0] * 10], [True, *[True] * 10]),
    ]
    sums = by_frequency(rows)
    assert sums.shape == (3, len(FREQUENCIES), 3)
    assert sums[0].tolist() == [[2, 1, 1], [4, 1, 0], [0, 0, 0], [0, 0, 0]]
    assert not sums[1].any()
    assert frequency_scores(sums) == [
        ("once", 1, 1.0, pytest.approx(math.exp(2))),
        ("2 to 9 times", 2, 0.5, pytest.approx(math.exp(3))),
        ("10 to 99 times", 10, 1.0, pytest.approx(math.e)),
    ]


def test_a_token_of_every_hundredth_place_is_common():
    (row,) = by_frequency([tokens([1] * 100 + [2] * 99, [0.0] * 199, [True] * 199)])
    assert row[:, 1].tolist() == [0, 0, 99, 100]
