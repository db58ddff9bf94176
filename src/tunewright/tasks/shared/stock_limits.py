"""Sentences of a model card on what stock libraries do not know, for settings that tasks share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate

from tunewright.metrics.calibration import ANSWERS_NOTHING
from tunewright.tasks.shared.labels import LabelKind

MAX_THRESHOLDS, MAX_CHARACTERS = 20, 400  # of labels that a sentence names


def of_temperature(temperature: float) -> Iterator[str]:
    if temperature != 1:
        yield (
            f"Logits are divided by a temperature of {temperature:.3f}, fitted on validation rows. "
            "Stock `transformers` does not know it: there the same is answered, with the "
            "uncorrected probability. It is kept in `task.json`."
        )


def of_abstention(abstain_below: float, target_accuracy: float | None) -> Iterator[str]:
    if abstain_below >= ANSWERS_NOTHING:
        wanted = "wanted accuracy" if target_accuracy is None else f"accuracy of {target_accuracy}"
        yield (
            f"Every answer is marked as abstained: no threshold reached the {wanted} on validation "
            "rows. Stock `transformers` always answers."
        )
    elif abstain_below:
        yield (
            f"Answers with a probability under {abstain_below:.3f} are marked as abstained. Stock "
            "`transformers` does not know this threshold, which is kept in `task.json`, and always "
            "answers."
        )


def of_label_kind(kind: LabelKind) -> Iterator[str]:
    words = {"integer": "whole numbers", "boolean": "true or false"}.get(kind)
    if words:
        yield f"Labels are {words}, as in the data. Stock `transformers` gives them as texts."


def of_thresholds(labels: Sequence[str], thresholds: Sequence[float]) -> Iterator[str]:
    """Yields from which score on each label is answered; those of many are not all named."""
    values = [f"{value:.3f}" for value in thresholds]
    if not values:
        return
    pairs = [f"{label} {value}" for label, value in zip(labels, values, strict=True)]
    lengths = accumulate(len(pair) + 2 for pair in pairs)
    fitting = max(1, sum(length <= MAX_CHARACTERS for length in lengths))
    shown = ", ".join(pairs[: min(MAX_THRESHOLDS, fitting)])
    hidden = len(values) - min(MAX_THRESHOLDS, fitting)
    each = values[0] if len(set(values)) == 1 else f"its own on: {shown}"
    more = f" and {hidden:,} more" if hidden > 0 and len(set(values)) > 1 else ""
    on = " on" if len(set(values)) == 1 else ""
    yield (
        "Stock `transformers` gives the score of every label and knows no thresholds. Here a label "
        f"is answered from a score of {each}{more}{on}. All are kept in `task.json`."
    )
