"""Entity-level scores, equal to seqeval's, from counts that rows add up to.

    entity_metrics(stacked)["f1"]

An entity is right when its place and its label are. Tjong Kim Sang & De Meulder 2003 (CoNLL-2003).
Division by zero gives 0, as there. Shape letters: R rows, T labels, the last column for any that
training never saw.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tunewright.metrics.spec import Counts, MetricSpec, Statistics

Span = tuple[int, int, str]
Floats = npt.NDArray[np.float64]

ENTITY_METRICS = (
    MetricSpec("f1", True, "F1 over all entities (seqeval's default mode, micro)"),
    MetricSpec("precision", True, "share of answered entities that are right"),
    MetricSpec("recall", True, "share of true entities that are found"),
    MetricSpec("f1_macro", True, "mean F1 of the labels, each counting alike"),
    MetricSpec("f1_weighted", True, "mean F1 of the labels, weighted by their entities"),
    MetricSpec("f1_strict", True, "F1 over the entities that the tagging scheme allows"),
    MetricSpec("accuracy", True, "share of tokens whose tag is right"),
)


@dataclass(frozen=True, slots=True)
class LabelScore:
    """How well one label is found; `num_entities` counts its true ones."""

    label: str
    precision: float
    recall: float
    f1: float
    num_entities: int


def entity_counts(
    true: Iterable[Span], answered: Iterable[Span], labels: Sequence[str]
) -> dict[str, Any]:
    """Returns how many entities of each label a row has, was answered, and both; each (T + 1,)."""
    true, answered = set(true), set(answered)
    place = {label: index for index, label in enumerate(labels)}

    def count(spans: Iterable[Span]) -> npt.NDArray[np.int64]:
        places = [place.get(label, len(labels)) for _, _, label in spans]
        return np.bincount(np.array(places, np.int64), minlength=len(labels) + 1)

    return {"true": count(true), "answered": count(answered), "right": count(true & answered)}


def strict_counts(true: Iterable[Span], answered: Iterable[Span]) -> npt.NDArray[np.int64]:
    """Returns the numbers of true, answered and right entities of a row, (3,)."""
    true, answered = set(true), set(answered)
    return np.array([len(true), len(answered), len(true & answered)])


def entity_metrics(statistics: Statistics, counts_R: Counts | None = None) -> dict[str, float]:
    """Returns the metrics of rows with the figures of `entity_counts`, and of tokens.

    `strict` (R, 3) are those of `strict_counts`; `tokens` (R, 2) the tokens that are right, and
    all. Macro averages run over the labels that are true or answered somewhere.
    """
    true_T, answered_T, right_T = (
        _summed(statistics[name], counts_R) for name in ("true", "answered", "right")
    )
    f1_T = _f1(true_T, answered_T, right_T)
    present_T = (true_T + answered_T) > 0
    strict, tokens = (_summed(statistics[name], counts_R) for name in ("strict", "tokens"))
    total = true_T.sum()
    return {
        "f1": float(_f1(total, answered_T.sum(), right_T.sum())),
        "precision": float(_share(right_T.sum(), answered_T.sum())),
        "recall": float(_share(right_T.sum(), total)),
        "f1_macro": float(f1_T[present_T].mean()) if present_T.any() else 0.0,
        "f1_weighted": float(_share(f1_T @ true_T, total)),
        "f1_strict": float(_f1(*strict)),
        "accuracy": float(_share(*tokens)),
    }


def label_scores(statistics: Statistics, labels: Sequence[str]) -> list[LabelScore]:
    """Returns precision, recall and F1 of each label, in the order of `labels`."""
    true_T, answered_T, right_T = (
        _summed(statistics[name], None) for name in ("true", "answered", "right")
    )
    columns = zip(
        labels,
        _share(right_T, answered_T),
        _share(right_T, true_T),
        _f1(true_T, answered_T, right_T),
        true_T,
        strict=False,
    )
    return [
        LabelScore(n, float(p), float(r), float(f), int(count)) for n, p, r, f, count in columns
    ]


def _summed(values: npt.NDArray[Any], counts_R: Counts | None) -> Floats:
    """Adds up rows, each as often as it counts."""
    values = np.asarray(values, np.float64)
    return values.sum(0) if counts_R is None else np.asarray(counts_R, np.float64) @ values


def _share(part: Any, whole: Any) -> Any:
    return np.divide(part, whole, out=np.zeros_like(np.asarray(whole, float)), where=whole != 0)


def _f1(true: Any, answered: Any, right: Any) -> Any:
    return _share(2 * right, true + answered)
