"""Random classifiers' answers, made by Hypothesis."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st

from tunewright.metrics import ClassificationStatistics


def answers(
    num_rows: int, num_classes: int, seed: int, *, coarse: bool = False, unseen: bool = False
) -> ClassificationStatistics:
    """Returns answers that are somewhat better than chance; `coarse` ones have many equal scores.

    Every class stands at least once in the truth when there are rows enough.
    """
    rng = np.random.default_rng(seed)
    true_R = np.append(np.arange(num_classes), rng.integers(num_classes, size=num_rows))[:num_rows]
    logits_RC = rng.normal(size=(num_rows, num_classes)) + 1.5 * np.eye(num_classes)[true_R]
    if coarse:
        logits_RC = np.round(logits_RC)
    probabilities_RC = np.exp(logits_RC)
    probabilities_RC /= probabilities_RC.sum(axis=1, keepdims=True)
    if unseen:
        true_R = np.where(rng.random(num_rows) < 0.2, -1, true_R)
    return ClassificationStatistics(true_R, probabilities_RC.argmax(axis=1), probabilities_RC)


def counts(num_rows: int, seed: int, least: int) -> np.ndarray:
    """Returns how often each row counts, from `least` to 3; at least one row counts."""
    counts_R = np.random.default_rng(seed + 1).integers(least, 4, size=num_rows)
    counts_R[0] = 1
    return counts_R


@st.composite
def cases(draw: Any) -> tuple[ClassificationStatistics, int]:
    """Draws answers of 2 to 5 classes in 6 to 60 rows, and the seed that they were made from."""
    seed = draw(st.integers(0, 10_000))
    made = answers(
        draw(st.integers(6, 60)), draw(st.integers(2, 5)), seed, coarse=draw(st.booleans())
    )
    return made, seed
