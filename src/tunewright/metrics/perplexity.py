"""How well a language model guesses tokens: perplexity and accuracy.

    statistics = {"loss": [3.1, 0.7], "hidden": [2, 1], "right": [1, 1]}     # of two texts
    language_metrics(statistics, None)     # {"perplexity": 3.55, "token_accuracy": 0.667}

Shape letters: R rows, F bands of frequency; 3 are a sum of losses and two counts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tunewright.metrics.spec import Counts, MetricSpec, Statistics

LANGUAGE_METRICS = (
    MetricSpec("perplexity", False, "exp of the mean loss of a hidden token"),
    MetricSpec("token_accuracy", True, "share of the hidden tokens that are guessed"),
)

FREQUENCIES = {"once": 2, "2 to 9 times": 10, "10 to 99 times": 100, "100 times or more": math.inf}
"""Bands of rare and common tokens, and how often a token is hidden that is too common for each."""


def language_metrics(statistics: Statistics, counts_R: Counts | None) -> dict[str, float]:
    """Returns the metrics of tokens, whatever rows they are of; NaN where no token was hidden.

    `statistics` hold of each row the summed `loss` in nats, and how many tokens were `hidden` and
    `right`. Masked one at a time, the perplexity is the pseudo-perplexity of Salazar et al. (2020);
    with many hidden at once it is higher. Only models of one vocabulary can be compared by it.
    """
    counts_R = np.ones(len(statistics["loss"])) if counts_R is None else counts_R
    loss, hidden, right = (float(counts_R @ statistics[n]) for n in ("loss", "hidden", "right"))
    if not hidden:
        return {"perplexity": math.nan, "token_accuracy": math.nan}
    return {"perplexity": float(np.exp(loss / hidden)), "token_accuracy": right / hidden}


def by_frequency(rows: Sequence[Mapping[str, Any]]) -> npt.NDArray[np.float64]:
    """Returns the loss, the number and the right guesses of each row's tokens by band, (R, F, 3).

    Rows have for each hidden token its number in `tokens`, its loss in `losses`, and in `guessed`
    whether it was guessed. Bands are those of `FREQUENCIES`, counted over all rows.
    """
    token_N, loss_N, guessed_N = (
        np.concatenate([row[name] for row in rows]) for name in ("tokens", "losses", "guessed")
    )
    _, place_N, times_T = np.unique(token_N, return_inverse=True, return_counts=True)
    band_N = np.searchsorted(list(FREQUENCIES.values()), times_T[place_N], side="right")
    row_N = np.repeat(np.arange(len(rows)), [len(row["tokens"]) for row in rows])
    sums_RF3 = np.zeros((len(rows), len(FREQUENCIES), 3))
    figures_N3 = np.stack([loss_N, np.ones(len(loss_N)), guessed_N], axis=1)
    np.add.at(sums_RF3, (row_N, band_N), figures_N3)
    return sums_RF3


def frequency_scores(sums_RF3: npt.NDArray[np.float64]) -> list[tuple[str, int, float, float]]:
    """Returns name, tokens, share guessed and perplexity of each band of `by_frequency`."""
    sums_F3 = zip(FREQUENCIES, sums_RF3.sum(0).tolist(), strict=True)
    return [
        (name, int(number), right / number, float(np.exp(loss / number)))
        for name, (loss, number, right) in sums_F3
        if number
    ]
