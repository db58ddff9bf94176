"""The texts of a query that are to be ranked: from rows, and back to a ranking's figures."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tunewright.data.cells.lists import numbers_in, texts_in
from tunewright.data.checks import is_blank, read_number
from tunewright.errors import DataError
from tunewright.metrics.ranking import DEPTH, WEIGHT, ranking_figures
from tunewright.tasks import NEGATIVES
from tunewright.tasks.shared.related_texts import number_of
from tunewright.tasks.shared.texts import text_of, texts_of
from tunewright.types import Row


@dataclass(frozen=True, slots=True)
class Candidate:
    """A text that may answer a query; its label is None where the row does not say."""

    query_number: int
    text: str
    label: float | None


def holds_list(row: Row) -> bool:
    """Says whether a row holds the texts of a query, and not one of them."""
    found = row.values.get("text")
    return texts_in(found, row.source) != [found] or bool(_others(row))


def all_hold_lists(rows: Sequence[Row]) -> bool:
    """Says whether rows hold the texts of a query, or one text each; raises DataError for both."""
    lists = holds_list(rows[0])
    for row in rows:
        if holds_list(row) != lists:
            found, other = ("a text alone", "a list") if lists else ("a list of texts", "one alone")
            raise DataError(
                row.where,
                f"it holds {found}, and {rows[0].where} {other}",
                "Either every row holds all texts of its query, or every row one of them.",
                "Make a list of the text and of its label, too."
                if lists
                else "Give each text a row of its own, with its query and its label.",
            )
    return lists


def candidates(row: Row) -> list[Candidate]:
    """Returns the texts to be ranked: `text` or its list, then the positives and the negatives.

    Raises DataError for what is no text, for a row without any, and for a label that is no number,
    is less than 0, or does not belong to a text.
    """
    query, others = number_of(text_of(row, "query")), _others(row)
    texts = _texts(row, alone=not others)
    labels = _labels(row, len(texts))
    found = [Candidate(query, *each) for each in zip(texts, labels, strict=True)]
    found += [Candidate(query, *each) for each in others]
    if found:
        return found
    raise DataError(
        row.where,
        "it has no text",
        "A query is read together with a text.",
        "Name the column with data.columns.text, or with data.columns.positive.",
    )


def query_and_texts(row: Row) -> tuple[str, list[str]]:
    return text_of(row, "query"), [candidate.text for candidate in candidates(row)]


def _others(row: Row) -> list[tuple[str, float]]:
    roles = [("positive", 1.0), *((role.name, 0.0) for role in NEGATIVES)]
    return [(text, label) for role, label in roles for text in texts_of(row, role)]


def _texts(row: Row, alone: bool) -> list[str]:
    """Returns what stands in `text`; blank texts stay, so that places are those of the row."""
    value = row.values.get("text")
    if value is None:
        return [""] if alone and "text" in row.values else []
    return [
        text_of(replace(row, values={"text": each}), "text") for each in texts_in(value, row.source)
    ]


def _labels(row: Row, num_texts: int) -> list[float | None]:
    value = row.values.get("label")
    listed = numbers_in(value, row.source)
    if all(map(is_blank, listed)):
        return [None] * num_texts
    if len(listed) == num_texts:
        return [_label(each, row.where) for each in listed]
    raise DataError(
        row.where, f"it has {num_texts} texts and {len(listed)} labels", "Each text has one label."
    )


def _label(value: Any, where: str) -> float:
    number = float(value) if isinstance(value, bool) else read_number(value, f"{where}, label")
    if number >= 0:
        return number
    raise DataError(
        where,
        f"its label is {number:g}",
        "A label is 0 for an irrelevant text and more for a relevant one.",
    )


def ranked_figures(rows: Sequence[Mapping[str, Any]], by_query: bool) -> dict[str, np.ndarray]:
    """Returns every ranking metric of each row's query, and the row's weight, (R,) each.

    A row has the number of its `query`, and the `labels` and `logits` of its texts. With `by_query`
    the texts of all rows of one query are ranked together, and n such rows weigh 1 / n each. What
    else `rankings` shows of a query stands there, too, and whether its texts are all as relevant.
    """
    groups: dict[int, list[int]] = defaultdict(list)
    for place, row in enumerate(rows):
        groups[row["query"] if by_query else place].append(place)
    figures: dict[str, np.ndarray] = {}
    for together in groups.values():
        labels_J = np.concatenate([rows[place]["labels"] for place in together])
        logits_J = np.concatenate([rows[place]["logits"] for place in together])
        source_J2 = np.array(
            [(row, n) for row in together for n in range(len(rows[row]["labels"]))]
        )
        order_J = np.argsort(-logits_J, kind="stable")
        ranked_J = labels_J[order_J]
        best = int(ranked_J.argmax())
        found = ranking_figures(ranked_J[None, :DEPTH], labels_J[None]) | {
            WEIGHT: np.array([1 / len(together)]),
            "all_alike": np.array([bool(ranked_J.min() == ranked_J.max() > 0)]),
            "right_place": np.array([best + 1.0 if ranked_J[best] else np.nan]),
            "query_row": np.array(together[:1]),
            "right_text": source_J2[order_J[[best]]],
            "first_text": source_J2[order_J[[0]]],
        }
        for name, (value,) in found.items():
            empty = np.empty((len(rows), *value.shape), value.dtype)
            figures.setdefault(name, empty)[together] = value
    return figures
