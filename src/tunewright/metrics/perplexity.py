"""How well a language model guesses tokens: perplexity and accuracy.

    statistics = {"loss": [3.1, 0.7], "hidden": [2, 1], "right": [1, 1]}     # of two texts
    language_metrics(statistics, None)     # {"perplexity": 3.55, "token_accuracy": 0.667}

Shape letters: R rows.
"""

from __future__ import annotations

import math

import numpy as np

from tunewright.metrics.spec import Counts, MetricSpec, Statistics

LANGUAGE_METRICS = (
    MetricSpec("perplexity", False, "exp of the mean loss of a hidden token"),
    MetricSpec("token_accuracy", True, "share of the hidden tokens that are guessed"),
)


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
