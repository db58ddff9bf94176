"""The confusion matrix as a heat map, and the pairs of classes that were confused most."""

from __future__ import annotations

from dataclasses import dataclass

from markupsafe import Markup

from tunewright.reports.charts import Figure
from tunewright.reports.content import ClassificationFigures
from tunewright.reports.svg import Attribute, element, picture, shortened, text, text_width
from tunewright.reports.wording import percent

MAX_LABELLED_CELLS = 12  # classes whose cells still hold a readable number
MAX_COMPACT_CELLS = 160  # classes whose cells are still visible


@dataclass(frozen=True, slots=True)
class ConfusedPair:
    """`count` rows of class `label`, a `share` of all its rows, were taken for `predicted`."""

    label: str
    predicted: str
    count: int
    share: float


def confused_pairs(figures: ClassificationFigures) -> list[ConfusedPair]:
    """Returns every pair of classes that was confused at least once, the most often first."""
    pairs = [
        ConfusedPair(label, predicted, count, count / sum(row))
        for label, row in zip(figures.labels, figures.confusion, strict=True)
        for predicted, count in zip(figures.labels, row, strict=True)
        if count and predicted != label
    ]
    return sorted(pairs, key=lambda pair: (-pair.count, -pair.share, pair.label, pair.predicted))


def confusion_matrix(figures: ClassificationFigures) -> Figure | None:
    """Returns the confusion matrix as a heat map, or None for more classes than can be seen."""
    num_classes = len(figures.labels)
    if not num_classes or num_classes > MAX_COMPACT_CELLS:
        return None
    right = sum(row[index] for index, row in enumerate(figures.confusion))
    total = sum(map(sum, figures.confusion))
    caption = (
        f"{right:,} of {total:,} rows lie on the diagonal: they were answered right. "
        "The stronger a cell's colour, the larger its share of the row."
    )
    if num_classes <= MAX_LABELLED_CELLS:
        svg, width = _labelled_matrix(figures, caption)
        return Figure("Confusion matrix", svg, caption, (), min(0.75 * width, 560))
    caption += " Point at a cell for its classes; columns are in the order of the rows."
    svg, width = _compact_matrix(figures, caption)
    return Figure("Confusion matrix", svg, caption, (), width)


def _labelled_matrix(figures: ClassificationFigures, caption: str) -> tuple[Markup, float]:
    labels = [shortened(label, 150) for label in figures.labels]
    count = len(labels)
    cell = 64.0 if count <= 6 else 50.0
    longest = max(text_width(label) for label in labels)
    is_turned = longest > cell - 8
    left = max(longest + 12, 84.0)  # at least the words in the corner
    top = max(longest * 0.8 if is_turned else 0.0, 22.0) + 14
    edge = count * cell
    right = longest * 0.72 if is_turned else 8.0
    parts = [
        text(left - 10, top - 20, "predicted →", "end", "name"),
        text(left - 10, top - 5, "true ↓", "end", "name"),
    ]
    for index, label in enumerate(labels):
        middle = (index + 0.5) * cell
        parts.append(text(left - 10, top + middle + 4, label, "end", "label"))
        parts.append(_column_label(left + middle, top - 9, label, is_turned))
    cells = _cells(figures, left, top, cell, 2.0, True)
    description = f"Confusion matrix of {count} classes. {caption}"
    width = left + edge + right
    return picture(width, top + edge + 4, description, *parts, *cells), width


def _column_label(x: float, y: float, label: str, is_turned: bool) -> Markup:
    if not is_turned:
        return text(x, y, label, kind="label")
    place = {"transform": f"translate({x:.1f} {y:.1f}) rotate(-45)", "class": "label"}
    return element("text", place, label)


def _compact_matrix(figures: ClassificationFigures, caption: str) -> tuple[Markup, float]:
    count = len(figures.labels)
    cell = 22.0 if count <= 30 else 9.0
    labels = [shortened(label, 150, 11 if cell > 10 else 7.5) for label in figures.labels]
    left, top = 160.0, 20.0
    edge = count * cell
    kind = "label" if cell > 10 else "label small"
    parts = [text(left + edge / 2, 12, "predicted", kind="name")]
    parts.append(
        element("rect", {"x": left, "y": top, "width": edge, "height": edge, "class": "field"})
    )
    for index, label in enumerate(labels):
        parts.append(text(left - 6, top + (index + 0.5) * cell + 3, label, "end", kind))
    cells = _cells(figures, left, top, cell, 0.5, False)
    description = f"Confusion matrix of {count} classes. {caption}"
    width = left + edge + 4
    return picture(width, top + edge + 4, description, *parts, *cells), width


def _cells(
    figures: ClassificationFigures, left: float, top: float, cell: float, gap: float, written: bool
) -> list[Markup]:
    """Draws a square for each cell; empty ones only where counts are written into them."""
    parts = []
    for i, row in enumerate(figures.confusion):
        for j, count in enumerate(row):
            if not (count or written):
                continue
            share = count / sum(row) if count else 0.0
            x, y = left + j * cell, top + i * cell
            shade = _shade(share, 0.15 if written else 0.45)
            parts.append(_cell(x, y, cell - gap, shade, i == j, _cell_words(figures, i, j)))
            if written:
                ink = "cell strong" if share > 0.5 else "cell" if count else "cell empty"
                middle = (cell - gap) / 2
                parts.append(text(x + middle, y + middle + 5, f"{count:,}", kind=ink))
    return parts


def _shade(share: float, least: float) -> float:
    # A single error in a large class has to be seen too, so shades begin well above nothing.
    return least + (1 - least) * share if share else 0.0


def _cell(x: float, y: float, size: float, shade: float, is_right: bool, words: str) -> Markup:
    kind = "none" if not shade else "heat" if is_right else "heat wrong"
    place: dict[str, Attribute] = {"x": x, "y": y, "width": size, "height": size}
    look: dict[str, Attribute] = {"rx": min(3, size / 4), "class": kind}
    if shade:
        look["fill-opacity"] = f"{shade:.2f}"
    return element("rect", place | look, title=words)


def _cell_words(figures: ClassificationFigures, i: int, j: int) -> str:
    count, total = figures.confusion[i][j], sum(figures.confusion[i])
    share = f" ({percent(count / total)} of its rows)" if total else ""
    label, predicted = (shortened(figures.labels[index], 400) for index in (i, j))
    return f"true {label}, predicted {predicted}: {count:,}{share}"
