"""The texts of a row and what they are to one another, from the row to the joined vectors.

    related_texts(row)                       # anchor, positives, negatives
    Relations.of(batch).ranked(vectors_BD, scale=20)

Shape letters: B texts, P pairs of an anchor and a positive, M negatives, T triplets, D numbers of
a vector.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Literal, Self

import torch
from torch import Tensor

from tunewright.data.checks import is_blank, plain_label
from tunewright.errors import DataError, listed
from tunewright.models.batch import Batch
from tunewright.tasks import NEGATIVES
from tunewright.tasks.shared.contrastive import ranking_loss, triplet_loss
from tunewright.tasks.shared.texts import text_of, texts_of
from tunewright.types import Row

Objective = Literal["auto", "ranking", "triplet", "cosent", "cosine", "contrastive"]
SCORED = ("cosent", "cosine", "contrastive")
ANCHOR, POSITIVE, NEGATIVE = 0, 1, 2
PROMPT_NAMES = {"query": ANCHOR, "document": POSITIVE}


def number_of(text: str) -> int:
    """Returns a number of 63 bits that equal texts share, and others do not."""
    raw = text.encode("utf-8", "surrogatepass")
    return int.from_bytes(blake2b(raw, digest_size=8).digest(), "little") >> 1


@dataclass(frozen=True, slots=True)
class RelatedText:
    """A text, and what it is in its row: ANCHOR, POSITIVE or NEGATIVE."""

    part: int
    text: str

    @property
    def number(self) -> int:
        return number_of(self.text)

    @property
    def targets(self) -> dict[str, int]:
        """What `Relations` needs to know of the text in a batch."""
        return {"part": self.part, "text": self.number}


def related_texts(row: Row) -> list[RelatedText]:
    """Returns the anchor of a row, then its positives and negatives, where it has any.

    A text alone may be named a document by `prompt_name`. Raises DataError for what is no text, and
    for another name.
    """
    anchor = text_of(row, "anchor")
    others = [RelatedText(POSITIVE, text) for text in texts_of(row, "positive")]
    for role in NEGATIVES:
        others += [RelatedText(NEGATIVE, text) for text in texts_of(row, role.name)]
    return [RelatedText(_part(row, alone=not others), anchor), *others]


def anchor_and_positives(row: Row) -> tuple[str, list[str]]:
    anchor, *others = related_texts(row)
    return anchor.text, [each.text for each in others if each.part == POSITIVE]


def _part(row: Row, alone: bool) -> int:
    name: Any = row.values.get("prompt_name")
    if is_blank(name):
        return ANCHOR
    if isinstance(name, str) and name in PROMPT_NAMES and alone:
        return PROMPT_NAMES[name]
    found = (
        f"its prompt_name is {name!r:.60}" if alone else "it has several texts and a prompt_name"
    )
    raise DataError(
        row.where, found, 'A text alone is a "query" or a "document".', "Leave prompt_name out."
    )


def check_texts(row: Row, objective: Objective) -> None:
    """Raises DataError for a row that the objective cannot learn from."""
    parts = [text.part for text in related_texts(row)]
    if POSITIVE not in parts or parts[0] != ANCHOR:
        raise DataError(
            row.where,
            "it has no second text",
            "Every row needs an anchor and a positive.",
            "Name the column of the second text with data.columns.positive.",
        )
    if objective == "triplet" and NEGATIVE not in parts:
        raise DataError(
            row.where,
            "it has no negative",
            "The objective triplet needs one in every row.",
            "Add one, or choose task.objective=ranking, which finds its own.",
        )
    if objective in SCORED and len(parts) > 2:
        raise DataError(
            row.where,
            f"it has {len(parts)} texts",
            f"The objective {objective} reads pairs of texts, each with a score.",
            "Choose task.objective=ranking to learn from positives and negatives.",
        )


def scores_of(rows: Sequence[Row]) -> list[str]:
    """Returns the unlike scores of pairs of texts, as text, in order."""
    values = (row.values for row in rows if len(related_texts(row)) == 2)
    found = (each["score"] for each in values if not is_blank(each.get("score")))
    return sorted({plain_label(str(score)) for score in found})


def check_unscored(rows: Sequence[Row], objective: Objective) -> None:
    """Raises DataError for scored pairs: each would be learnt as one that belongs together."""
    scores = scores_of(rows)
    if len(scores) > 1:
        raise DataError(
            "the training data",
            f"its pairs have scores, such as {listed(scores[:3])}",
            f"The objective {objective} takes every pair for one that belongs together.",
            "Choose task.objective=cosent, cosine or contrastive, or leave the scores out.",
        )


@dataclass(frozen=True)
class Relations:
    """Which text of a batch is whose positive or negative.

    `anchor_P` and `positive_P` are the places of the two texts of each pair, `negative_M` those of
    all negatives; `row_B` and `text_B` number the row and the text at each place.
    """

    anchor_P: Tensor
    positive_P: Tensor
    negative_M: Tensor
    row_B: Tensor
    text_B: Tensor

    @classmethod
    def of(cls, batch: Batch) -> Self:
        """Reads the targets `part` and `text`; every row has one anchor, in any place."""
        part_B, text_B = batch.targets["part"], batch.targets["text"]
        row_ids_B = torch.tensor(batch.row_ids, device=part_B.device)
        _, row_B = torch.unique(row_ids_B, return_inverse=True)
        (anchors,) = torch.nonzero(part_B == ANCHOR, as_tuple=True)
        (positive_P,) = torch.nonzero(part_B == POSITIVE, as_tuple=True)
        (negative_M,) = torch.nonzero(part_B == NEGATIVE, as_tuple=True)
        anchor_of_row = torch.empty_like(anchors)
        anchor_of_row[row_B[anchors]] = anchors
        return cls(anchor_of_row[row_B[positive_P]], positive_P, negative_M, row_B, text_B)

    @property
    def num_pairs(self) -> int:
        return len(self.positive_P)

    def pairs(self, vectors_BD: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the vectors of the anchor and of the positive of each pair, (P, D) each."""
        return vectors_BD[self.anchor_P], vectors_BD[self.positive_P]

    def ranked(self, vectors_BD: Tensor, scale: float, symmetric: bool) -> Tensor:
        """Returns the summed ranking loss; every positive and negative is a candidate."""
        candidates = torch.cat([self.positive_P, self.negative_M])
        return ranking_loss(
            vectors_BD[self.anchor_P],
            vectors_BD[candidates],
            self.text_B[self.anchor_P],
            self.text_B[candidates],
            scale=scale,
            symmetric=symmetric,
        )

    @property
    def triplet_T2(self) -> Tensor:
        """The pair and the negative of each triplet: all that are of one row, int64 (T, 2)."""
        same_PM = self.row_B[self.positive_P][:, None] == self.row_B[self.negative_M]
        return torch.nonzero(same_PM)

    def triplets(self, vectors_BD: Tensor, margin: float) -> Tensor:
        """Returns the summed loss of all triplets."""
        pair_T, negative_T = self.triplet_T2.unbind(1)
        anchors_PD, positives_PD = self.pairs(vectors_BD)
        return triplet_loss(
            anchors_PD[pair_T],
            positives_PD[pair_T],
            vectors_BD[self.negative_M[negative_T]],
            margin,
        )
