"""Entity-level scores, equal to seqeval's, from counts that rows add up to.

    EntityReducer.of(stacked)()["f1"]    # of what `entity_statistics` returns for each row

An entity is right when its place and its label are (Tjong Kim Sang & De Meulder 2003, CoNLL-2003).
The default mode reads whatever tags there are, the strict one only what their scheme allows.
Division by zero gives 0, as there. Shape letters: R rows, T labels of which the last stands for any
that training never saw, F figures of a row; 3 are the numbers of true, answered and right entities.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from tunewright.metrics.spec import Counts, MetricSpec, Statistics

Span = tuple[int, int, str]
Floats = npt.NDArray[np.float64]

# Which label is taken for which is counted for at most so many: every row keeps a matrix.
MAX_CONFUSED = 30

ENTITY_METRICS = (
    MetricSpec("f1", True, "F1 over all entities (seqeval's default mode, micro)"),
    MetricSpec("precision", True, "share of answered entities that are right"),
    MetricSpec("recall", True, "share of true entities that are found"),
    MetricSpec("f1_macro", True, "mean F1 of the labels, each counting alike"),
    MetricSpec("precision_macro", True, "mean precision of the labels"),
    MetricSpec("recall_macro", True, "mean recall of the labels"),
    MetricSpec("f1_weighted", True, "mean F1 of the labels, weighted by their entities"),
    MetricSpec("f1_strict", True, "F1 over the entities that the tagging scheme allows"),
    MetricSpec("precision_strict", True, "precision over the entities that the scheme allows"),
    MetricSpec("recall_strict", True, "recall over the entities that the scheme allows"),
    MetricSpec("f1_macro_strict", True, "mean F1 of the labels over what the scheme allows"),
    MetricSpec("accuracy", True, "share of tokens whose tag is right"),
)


@dataclass(frozen=True, slots=True)
class LabelScore:
    """How well one label is found; `num_entities` counts its true ones."""

    label: str
    precision: float
    recall: float
    f1: float
    f1_strict: float
    num_entities: int


@dataclass(frozen=True, slots=True)
class Confusion:
    """How many entities of one label were answered, at the very same place, as another."""

    true: str
    answered: str
    num_entities: int


def entity_statistics(
    default: tuple[Sequence[Span], Sequence[Span]],
    strict: tuple[Sequence[Span], Sequence[Span]],
    tokens: tuple[int, int],
    labels: Sequence[str],
) -> dict[str, npt.NDArray[Any]]:
    """Returns the figures of one row.

    `default` and `strict` are its true and its answered entities in each mode; `tokens` says how
    many have the right tag, and how many there are.
    """
    return {
        "default": entity_counts(*default, labels),
        "strict": entity_counts(*strict, labels),
        "tokens": np.array(tokens, np.int64),
        "confused": entity_confusions(*default, labels),
    }


def entity_counts(
    true: Iterable[Span], answered: Iterable[Span], labels: Sequence[str]
) -> npt.NDArray[np.int64]:
    """Returns how many entities of each label a row has, was answered, and both, (3, T)."""
    true, answered = set(true), set(answered)
    place = {label: index for index, label in enumerate(labels)}
    counts_3T = np.zeros((3, len(labels) + 1), np.int64)
    for row, spans in enumerate((true, answered, true & answered)):
        for _, _, label in spans:
            counts_3T[row, place.get(label, -1)] += 1
    return counts_3T


def entity_confusions(
    true: Iterable[Span], answered: Iterable[Span], labels: Sequence[str]
) -> npt.NDArray[np.uint16]:
    """Returns how often a label was answered as another at the same place, (T, T).

    (0, 0) where there are more than MAX_CONFUSED labels.
    """
    if len(labels) > MAX_CONFUSED:
        return np.zeros((0, 0), np.uint16)
    place = {label: index for index, label in enumerate(labels)}
    found = {(start, end): label for start, end, label in answered}
    counts_TT = np.zeros((len(labels) + 1, len(labels) + 1), np.uint16)
    for start, end, label in true:
        other = found.get((start, end), label)
        if other != label:
            counts_TT[place.get(label, -1), place.get(other, -1)] += 1
    return counts_TT


class EntityReducer:
    """The metrics of R rows as a function of their counts."""

    def __init__(self, figures_RF: Floats) -> None:
        self._figures_RF = figures_RF

    @classmethod
    def of(cls, statistics: Statistics) -> Self:
        """Reads the figures `default`, `strict` and `tokens`."""
        parts = [statistics[name] for name in ("default", "strict", "tokens")]
        flat = [part.reshape(len(part), -1) for part in parts]
        return cls(np.concatenate(flat, axis=1, dtype=np.float64))

    def __call__(self, counts_R: Counts | None = None) -> dict[str, float]:
        figures_RF = self._figures_RF
        sums_F = figures_RF.sum(0) if counts_R is None else np.asarray(counts_R) @ figures_RF
        default_3T, strict_3T = sums_F[:-2].reshape(2, 3, -1)
        strict = _averages(strict_3T)
        return {
            **_averages(default_3T),
            **{f"{name}_strict": strict[name] for name in ("f1", "precision", "recall")},
            "f1_macro_strict": strict["f1_macro"],
            "accuracy": float(_share(*sums_F[-2:])),
        }


def label_scores(statistics: Statistics, labels: Sequence[str]) -> list[LabelScore]:
    """Returns the scores of each label, in the order of `labels`."""
    default_3T, strict_3T = (statistics[name].sum(0) for name in ("default", "strict"))
    columns = zip(labels, *_scores(default_3T), _scores(strict_3T)[2], default_3T[0], strict=False)
    return [
        LabelScore(label, float(p), float(r), float(f1), float(strict), int(count))
        for label, p, r, f1, strict, count in columns
    ]


def label_confusions(statistics: Statistics, labels: Sequence[str]) -> list[Confusion]:
    """Returns which known labels were taken for which, the commonest first."""
    counts_TT = statistics["confused"].sum(0, dtype=np.int64)[: len(labels), : len(labels)]
    found = [
        Confusion(labels[true], labels[answered], int(counts_TT[true, answered]))
        for true, answered in np.argwhere(counts_TT).tolist()
    ]
    return sorted(found, key=lambda each: (-each.num_entities, each.true, each.answered))


def _averages(counts_3T: Floats) -> dict[str, float]:
    """Returns precision, recall and F1 over all entities (micro) and of the labels (macro).

    Means run over the labels that are true or answered somewhere.
    """
    scores_3T, micro = np.stack(_scores(counts_3T)), _scores(counts_3T.sum(1))
    present_T = counts_3T[:2].sum(0) > 0
    macro = scores_3T[:, present_T].mean(1) if present_T.any() else np.zeros(3)
    names = ("precision", "recall", "f1")
    return {
        **{name: float(value) for name, value in zip(names, micro, strict=True)},
        **{f"{name}_macro": float(value) for name, value in zip(names, macro, strict=True)},
        "f1_weighted": float(_share(scores_3T[2] @ counts_3T[0], counts_3T[0].sum())),
    }


def _scores(counts: Any) -> tuple[Floats, Floats, Floats]:
    """Returns precision, recall and F1 from the numbers of true, answered and right entities."""
    true, answered, right = counts
    return _share(right, answered), _share(right, true), _share(2 * right, true + answered)


def _share(part: Any, whole: Any) -> Floats:
    whole = np.asarray(whole, np.float64)
    return np.divide(part, whole, out=np.zeros_like(whole), where=whole != 0)
