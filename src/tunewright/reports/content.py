"""What a report and a model card say, as plain values.

Whoever runs a training fills these; the page and the card only lay them out. Nothing here knows
torch, a task, or a file.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from tunewright.figures import Figure
from tunewright.types import Estimate, ReadsLong

Severity = Literal["error", "warning", "info"]


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that the audit noticed, as a whole sentence."""

    severity: Severity
    sentence: str


@dataclass(frozen=True, slots=True)
class LengthBin:
    """How many texts have at least `low` and fewer than `high` tokens."""

    low: int
    high: int
    count: int


@dataclass(frozen=True, slots=True)
class CutText:
    """A text longer than the limit: `num_cut` of its `num_tokens` tokens were not read."""

    where: str
    num_tokens: int
    num_cut: int


@dataclass(frozen=True, slots=True)
class TruncationLedger:
    """What `max_length` cuts away, over `num_texts` texts of `num_tokens` tokens in all.

    `worst` holds the texts that lose most, the largest loss first. `reads_long` says what happens
    to texts of more than `max_length` tokens.
    """

    max_length: int
    num_texts: int
    num_tokens: int
    cut_texts: int
    cut_tokens: int
    histogram: Sequence[LengthBin] = ()
    worst: Sequence[CutText] = ()
    reads_long: ReadsLong = "truncate"


@dataclass(frozen=True, slots=True)
class Baseline:
    """What one gets without a model, by always answering the commonest `label`."""

    label: str
    metrics: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Curve:
    """A named curve through (x, y) in [0, 1], such as a ROC curve; `area` lies under it.

    `is_average` marks the curve over all classes, which is always drawn.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    area: float = math.nan
    is_average: bool = False

    def __post_init__(self) -> None:
        if len(self.x) != len(self.y):
            raise ValueError(f'curve "{self.name}": {len(self.x)} x values, {len(self.y)} y values')


@dataclass(frozen=True, slots=True)
class ClassScore:
    """How well one class is told from the others; `support` counts its true rows."""

    label: str
    precision: float
    recall: float
    f1: float
    support: int


@dataclass(frozen=True, slots=True)
class ReliabilityBin:
    """`count` answers of about the same confidence (their mean), and how many were right."""

    confidence: float
    accuracy: float
    count: int


@dataclass(frozen=True, slots=True)
class ClassificationFigures:
    """What a classifier's evaluation has beside its metrics.

    `confusion[i][j]` counts the rows of true class `labels[i]` answered with `labels[j]`.
    `temperature` divides the logits; 1 is off. Answers less sure than `abstain_threshold` are
    marked as abstained; None is off. Raises ValueError when the matrix does not fit the labels.
    """

    labels: Sequence[str]
    confusion: Sequence[Sequence[int]]
    class_scores: Sequence[ClassScore] = ()
    roc: Sequence[Curve] = ()
    precision_recall: Sequence[Curve] = ()
    reliability: Sequence[ReliabilityBin] = ()
    temperature: float | None = None
    abstain_threshold: float | None = None

    def __post_init__(self) -> None:
        expected = len(self.labels)
        if [len(row) for row in self.confusion] != [expected] * expected:
            raise ValueError(f"confusion matrix: {expected} labels need {expected} rows of as many")


@dataclass(frozen=True, slots=True)
class SliceScore:
    """The metrics over the rows where `column` is `value`; `is_small` warns of wide intervals."""

    column: str
    value: str
    num_rows: int
    metrics: Mapping[str, Estimate]
    is_small: bool = False


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture of the evaluated rows (a JPEG, in base64), its true caption and the answer.

    `score` says how good the answer is, in [0, 1].
    """

    where: str
    data: str
    label: str
    predicted: str
    score: float


@dataclass(frozen=True, slots=True)
class Mistake:
    """A wrong answer and how sure the model was of it, in [0, 1] (None: it does not say)."""

    where: str
    text: str
    label: str
    predicted: str
    score: float | None


@dataclass(frozen=True, slots=True)
class DataFile:
    """A file that the run read; `sha256` is in hexadecimal."""

    path: str
    sha256: str
    num_rows: int
    split: str


@dataclass(frozen=True, slots=True)
class ReportContent:
    """Everything a report shows; parts left empty have no section.

    The first of `metrics` is the headline and the one that picked the checkpoint of `best_step`.
    `classifications` are those of a task's parts by name; "" is the task itself. `steps` are the
    logged training steps (step, epoch, loss, learning_rate, tokens_per_second, mfu in [0, 1]);
    `evaluations` are {"step": ..., "metrics": {name: value}}; a value that was not measured may be
    absent or None. `created` is written as given. `notes` are whole sentences on what was measured,
    on which rows, and what the numbers do not say.
    """

    title: str
    task: str
    created: str
    metrics: Mapping[str, Estimate] = field(default_factory=dict)
    num_evaluated: int = 0
    baseline: Baseline | None = None
    steps: Sequence[Mapping[str, Any]] = ()
    evaluations: Sequence[Mapping[str, Any]] = ()
    best_step: int | None = None
    findings: Sequence[Finding] = ()
    truncation: TruncationLedger | None = None
    classifications: Mapping[str, ClassificationFigures] = field(default_factory=dict)
    figures: Sequence[Figure] = ()
    slices: Sequence[SliceScore] = ()
    mistakes: Sequence[Mistake] = ()
    num_mistakes: int | None = None
    best_pictures: Sequence[Picture] = ()
    worst_pictures: Sequence[Picture] = ()
    data_files: Sequence[DataFile] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class CardContent:
    """Everything a model card says.

    `base_model` and `datasets` are Hub ids, for the card's head; `started_from` is how the text
    names the weights that training began with, which may be a folder. `dataset` names the data
    that the metrics were measured on, over `num_evaluated` rows. `license` is the Hub's
    identifier. `limits` are whole sentences. `own_usage` and `stock_usage` are lines of Python that
    show the folder `path/to/this/folder` in use, here and in the stock library; where they are
    left out, those of a text classifier are written with `example`.
    """

    name: str
    task: str
    metrics: Mapping[str, Estimate]
    labels: Sequence[str] = ()
    pipeline_tag: str = "text-classification"
    library: str = "transformers"
    base_model: str | None = None
    started_from: str = ""
    datasets: Sequence[str] = ()
    dataset: str = ""
    split: str = "test"
    num_evaluated: int = 0
    language: Sequence[str] = ()
    license: str | None = None
    tags: Sequence[str] = ()
    example: str = "A fine film."
    own_usage: str = ""
    stock_usage: str = ""
    data_files: Sequence[DataFile] = ()
    truncation: TruncationLedger | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    limits: Sequence[str] = ()
