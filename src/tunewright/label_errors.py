"""Which labels of a data set are probably wrong.

    for suspect in find_label_errors("train.csv")[:20]:
        print(suspect.where, suspect.label, "->", suspect.suggested, suspect.text)

The encoder as it is turns each text into the mean of its token vectors; a logistic regression,
cross-fitted so that no row is judged by a model that has seen it, gives each row the probabilities
of its classes; confident learning (Northcutt, Jiang & Chuang 2021, the package `cleanlab`) says
which given labels these contradict.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from os import PathLike
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer
from torch import Tensor

from tunewright.answers import LabelValue
from tunewright.data import as_rows, check_rows, read_table
from tunewright.devices import Device, find_device, settle_allocator
from tunewright.errors import DataError, SettingsError, listed, warned
from tunewright.models.batch import PackedStream, fill, pack, padded
from tunewright.models.files.architecture import load_config
from tunewright.models.files.folder import find_model
from tunewright.models.files.loading import load_classifier
from tunewright.models.heads import choose_route, is_packed, mean_pool, packed_hidden
from tunewright.models.text.tokenizers import load_tokenizer, max_length_of
from tunewright.tasks.text_classification import TextClassification
from tunewright.types import Features, Row, Rows

Matrix = npt.NDArray[np.float64]

# Tokens of one forward pass, and texts that are sorted by length together: memory stays flat.
MAX_TOKENS, WINDOW_ROWS = 8192, 2048
# Inverse strengths of the penalty on unit vectors, from heavy to light; which of them fits best
# depends on the number of rows and classes, and the held-out log loss tells.
STRENGTHS = (0.1, 1.0, 10.0)
# How many labels are wrong is estimated by confident learning; which ones: the least believable.
# With 5 % of the labels flipped, cleanlab's default filter and this one: precision 0.88 and 0.99
# on BBC news, 0.63 and 0.94 on BANKING77, 0.42 and 0.58 on AG News, 0.22 and 0.26 on SST-2, at a
# recall of 0.92 and 0.76, 0.77 and 0.91, 0.86 and 0.84, 0.68 and 0.55.
FILTER = "low_self_confidence"
# Enough for every fit that was tried (a fit of 77 classes took under 200).
MAX_ITERATIONS = 2000


@dataclass(frozen=True, slots=True)
class SuspectLabel:
    """A row whose label is probably wrong.

    `score` is the probability, [0, 1], that a model which has not seen the row gives its label:
    the less, the likelier a mistake. `suggested` is the class which that model finds likeliest.
    """

    where: str
    text: str
    label: LabelValue
    suggested: LabelValue
    score: float

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def find_label_errors(
    source: Any,
    *,
    model: str | PathLike[str] = "starter",
    columns: Mapping[str, str] | None = None,
    folds: int = 5,
    seed: int = 42,
    say: Callable[[str], None] = warned,
) -> list[SuspectLabel]:
    """Returns the rows whose labels are probably wrong, the least believable first.

    `source` is a path, a frame, a list of dicts, a pair (texts, labels), or rows; `columns` names
    the columns of `text`, `text_pair` and `label` where their names do not tell. `model` is read
    as it is and not trained. Each of the `folds` parts of the rows, drawn with `seed`, is judged
    by a model of the others. `say` hears which columns were guessed and how many texts are blank.

    Raises SettingsError when `cleanlab` is not installed or `folds` is less than 2, DataError when
    a class has fewer rows than there are folds, and what reading data or a model raises.
    """
    find_issues = _confident_learning()
    if folds < 2:
        raise SettingsError("find_label_errors", f"folds is {folds}", "At least 2 are needed.")
    rows = _rows(source, columns or {}, say)
    names, label_R = _codes(rows, folds)
    vectors_RD = _text_vectors(rows, model)
    probabilities_RC = _cross_fitted(vectors_RD, label_R, folds, seed)
    found = find_issues(
        label_R,
        probabilities_RC,
        return_indices_ranked_by="self_confidence",
        filter_by=FILTER,
        n_jobs=1,
    )
    return [
        SuspectLabel(
            rows[place].where,
            _text_of(rows[place]),
            rows[place].values["label"],
            names[int(probabilities_RC[place].argmax())],
            float(probabilities_RC[place, label_R[place]]),
        )
        for place in map(int, found)
    ]


def _confident_learning() -> Any:
    try:
        from cleanlab.filter import find_label_issues
    except ImportError:
        raise SettingsError(
            "find_label_errors",
            "the package cleanlab is not installed",
            "",
            'Run: pip install "tunewright[audit]"',
        ) from None
    return find_label_issues


def _rows(source: Any, columns: Mapping[str, str], say: Callable[[str], None]) -> Rows:
    """Returns the labelled rows of a source; rows that are rows already stay as they are."""
    if isinstance(source, Sequence) and len(source) and isinstance(source[0], Row):
        return source
    table, roles = read_table(source), TextClassification.roles
    rows = as_rows(table, roles, columns, training=True, say=say)
    checked = check_rows(rows, roles, drop_unlabelled=None)
    for sentence in checked.notices(table.name):
        say(sentence)
    return checked.rows


def _codes(rows: Rows, folds: int) -> tuple[list[LabelValue], npt.NDArray[np.int64]]:
    """Returns the classes in order, and the place of each row's label among them, (R,).

    Raises DataError when a class is too small to be in every fold.
    """
    labels = [row.values["label"] for row in rows]
    counts = Counter(labels)
    small = {label: count for label, count in counts.items() if count < folds}
    if small:
        fewest = min(small.values())
        remedy = f"Pass folds={fewest}, or " if fewest > 1 else ""
        raise DataError(
            rows[0].source,
            f"{len(small):,} of {len(counts):,} labels have fewer than {folds} rows: "
            f"{listed(small)}",
            f"Each of the {folds} folds needs a row of every class.",
            f"{remedy}leave their rows out." if remedy else "Leave their rows out.",
        )
    names = sorted(counts, key=lambda label: (str(type(label)), label))
    place = {label: index for index, label in enumerate(names)}
    return names, np.array([place[label] for label in labels])


def _text_vectors(rows: Rows, model: str | PathLike[str]) -> Matrix:
    """Returns the mean of the token vectors of each text, (R, D)."""
    settle_allocator()
    source, device = find_model(model), find_device()
    tokenizer = load_tokenizer(source)
    task = TextClassification().learn(rows)
    task = task.within(max_length_of(load_config(source), tokenizer))
    encoder = load_classifier(source, task.labels, pad_token_id=tokenizer.pad_token_id).model
    choose_route(encoder)
    encoder.to(device.name)
    return np.concatenate(
        [
            _vectors_of([task.encode(row, tokenizer)[0] for row in window], encoder, device)
            for window in _windows(rows)
        ]
    )


def _windows(rows: Rows) -> Iterator[Sequence[Row]]:
    for start in range(0, len(rows), WINDOW_ROWS):
        yield rows[start : start + WINDOW_ROWS]


@torch.no_grad()
def _vectors_of(features: Sequence[Features], encoder: Any, device: Device) -> Matrix:
    order = sorted(range(len(features)), key=lambda place: features[place].num_tokens)
    parts = []
    for piece in fill([features[place] for place in order], max_tokens=MAX_TOKENS):
        stream = pack(piece, device.name).streams["text"]
        with device.autocast():
            vectors_BD = _mean_hidden(encoder, stream)
        parts.append(vectors_BD.double().cpu().numpy())
    vectors_RD = np.concatenate(parts)
    vectors_RD[order] = vectors_RD.copy()
    return vectors_RD


def _mean_hidden(encoder: Any, stream: PackedStream) -> Tensor:
    """Returns the mean of the last hidden states of each sequence, (B, D), in fp32."""
    if is_packed(encoder):
        return mean_pool(packed_hidden(encoder, stream).float(), stream)
    inputs = padded(stream, encoder.config.pad_token_id or 0)
    outputs = encoder.base_model(**inputs)
    weights_BT1 = inputs["attention_mask"][:, :, None].float()
    return (outputs.last_hidden_state.float() * weights_BT1).sum(1) / weights_BT1.sum(1)


def _cross_fitted(
    vectors_RD: Matrix, label_R: npt.NDArray[np.int64], folds: int, seed: int
) -> Matrix:
    """Returns the class probabilities (R, C) of each row, by models that have not seen it."""
    parts = StratifiedKFold(folds, shuffle=True, random_state=seed)
    candidates = [
        cross_val_predict(
            make_pipeline(Normalizer(), LogisticRegression(C=strength, max_iter=MAX_ITERATIONS)),
            vectors_RD,
            label_R,
            cv=parts,
            method="predict_proba",
        )
        for strength in STRENGTHS
    ]
    return min(candidates, key=lambda probabilities_RC: log_loss(label_R, probabilities_RC))


def _text_of(row: Row) -> str:
    texts = (row.values.get(role) for role in TextClassification.text_roles)
    return "\n".join(text for text in texts if isinstance(text, str))
