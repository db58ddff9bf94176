"""The report: one HTML page that needs nothing but itself.

The template lays out; this module chooses what fits. Long lists are cut, and each says how many
entries it leaves out, so that the page stays small however large the run was. There is no script
in the page and its content policy allows none to run or anything to be fetched.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Generic, TypeVar

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from tunewright.errors import RunError
from tunewright.figures import Table
from tunewright.reports import charts, confusion, drawn, wording
from tunewright.reports.charts import Figure
from tunewright.reports.content import (
    ClassificationFigures,
    Picture,
    ReportContent,
    SliceScore,
)
from tunewright.reports.svg import shortened

MAX_MISTAKES = 50
MAX_TEXT = 2000  # characters of one mistake
MAX_SLICES = 100
MAX_CLASSES = 200
MAX_PAIRS = 20
MAX_PAIRS_BESIDE = 8  # the height of a small matrix
MAX_FINDINGS = 50
MAX_FILES = 100
MAX_SETTINGS = 300
MAX_WORST = 20
MAX_METRICS = 40
MAX_TABLE_ROWS = 100
MAX_TILES = 6
MAX_PICTURES = 24  # of the best and of the worst, about 4 kB each
NUM_SLICE_METRICS = 3  # beside the plotted one; more columns than fit a page

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Cut(Generic[T]):
    """The first entries of a list, and how many there are in all."""

    shown: Sequence[T]
    total: int

    @property
    def num_hidden(self) -> int:
        return self.total - len(self.shown)


@dataclass(frozen=True, slots=True)
class Slices:
    """The slices of one column."""

    column: str
    rows: Sequence[SliceScore]


def write_report(content: ReportContent, path: str | os.PathLike[str]) -> Path:
    """Writes the page to `path`, making its folder, and returns the path.

    The page appears whole or not at all. Raises RunError when it cannot be written.
    """
    target = Path(path)
    partial = target.with_name(target.name + ".partial")
    page = render_report(content)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(page, encoding="utf-8", newline="\n")
        partial.replace(target)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise RunError(
            str(target),
            f"the report cannot be written ({error.strerror})",
            "It needs a folder that can be written to and some free space.",
            "Free space or choose another folder, then run tunewright report.",
        ) from error
    return target


def render_report(content: ReportContent) -> str:
    """Returns the page as HTML; the same content gives the same text."""
    view = {
        "report": content,
        "headline": next(iter(content.metrics), None),
        **_metrics_view(content),
        **_learning_view(content),
        "classifications": [_classified(*each) for each in content.classifications.items()],
        "answer_figures": _present([drawn.draw(each) for each in content.figures]),
        "answer_tables": [each for each in content.figures if isinstance(each, Table)],
        "picture_groups": _picture_groups(content),
        **_slices_view(content),
        **_data_view(content),
    }
    return wording.printable(_template().render(view, sections=_sections(content, view)))


def _sections(content: ReportContent, view: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Returns the anchor and name of every section that has something to show."""
    classified = view["classifications"]
    present = {
        "metrics": content.metrics,
        "audit": content.findings,
        "learning": view["learning_figures"],
        "classes": any(each["figures"].labels for each in classified),
        "curves": any(each["curves"] for each in classified),
        "calibration": classified,
        "answers": content.figures,
        "pictures": content.best_pictures,
        "slices": content.slices,
        "mistakes": content.mistakes,
        "lengths": content.truncation,
        "data": content.data_files,
        "settings": content.settings,
        "versions": content.versions,
        "notes": content.notes,
    }
    return [(anchor, anchor.capitalize()) for anchor, holds in present.items() if holds]


@cache
def _template() -> Template:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for formatter in (wording.number, wording.percent, wording.readable, wording.clipped):
        environment.filters[formatter.__name__] = formatter
    environment.globals["nan"] = math.nan
    environment.globals["swatch"] = charts.swatch
    environment.globals["interval_words"] = wording.interval
    environment.globals["interval_mark"] = charts.interval_mark
    environment.globals["scale_ends"] = charts.scale_ends
    environment.filters["preview"] = _preview
    environment.filters["cell"] = drawn.cell
    environment.globals["max_table_rows"] = MAX_TABLE_ROWS
    return environment.get_template("page.html.jinja")


def _preview(text: str) -> str:
    # About three lines of a page, be they Latin or the twice as wide Chinese.
    return shortened(text, 1760, 16)


def _cut(entries: Sequence[T], limit: int) -> Cut[T]:
    return Cut(entries[:limit], len(entries))


def _metrics_view(content: ReportContent) -> dict[str, Any]:
    # Plotted together are the metrics that share a unit and a direction; the scale is as narrow
    # as their intervals allow, for on [0, 1] the intervals of a good model vanish.
    plotted = {
        name: each
        for name, each in content.metrics.items()
        if each.higher_is_better and charts.is_fraction(each)
    }
    headline = list(content.metrics.values())[:1]
    # Micro and weighted averages are close to the headline: they stand in the table alone.
    averages = ("_micro", "_weighted")
    others = [each for each in list(content.metrics.items())[1:] if not each[0].endswith(averages)]
    return {
        "metrics": _cut(list(content.metrics.items()), MAX_METRICS),
        "tiles": others[:MAX_TILES],
        "plotted": plotted,
        "baseline_metrics": content.baseline.metrics if content.baseline else {},
        "headline_estimate": headline[0] if headline else None,
        "headline_scale": charts.shared_scale(headline, width=320),
        "metrics_scale": charts.shared_scale(list(plotted.values())),
    }


def _learning_view(content: ReportContent) -> dict[str, Any]:
    headline = next(iter(content.metrics), None)
    figures = [
        charts.loss_curve(content.steps, content.evaluations),
        charts.metric_curve(content.evaluations, headline, content.best_step) if headline else None,
        charts.step_curve(content.steps, "learning_rate", "s4"),
        charts.step_curve(content.steps, "tokens_per_second", "s5"),
    ]
    return {"learning_figures": _present(figures)}


def _classified(name: str, figures: ClassificationFigures) -> dict[str, Any]:
    """Returns what is shown of a classifier, the whole model or the part of this name."""
    pairs = confusion.confused_pairs(figures)
    scores = sorted(figures.class_scores, key=lambda each: wording.nan_first(each.f1))
    is_small = len(figures.labels) <= confusion.MAX_LABELLED_CELLS
    curves = [charts.roc(figures.roc), charts.precision_recall(figures.precision_recall)]
    return {
        "name": name,
        "figures": figures,
        "matrix": confusion.confusion_matrix(figures),
        "pairs": _cut(pairs, MAX_PAIRS_BESIDE if is_small else MAX_PAIRS) if pairs else None,
        "is_small": is_small,
        "curves": _present(curves),
        "reliability": charts.reliability(figures.reliability),
        "class_scores": _cut(scores, MAX_CLASSES),
    }


def _slices_view(content: ReportContent) -> dict[str, Any]:
    slices = _cut(content.slices, MAX_SLICES)
    headline = next(iter(content.metrics), None)
    names = list(dict.fromkeys(name for each in slices.shown for name in each.metrics))
    plotted = headline if headline in names else next(iter(names), None)
    columns = dict.fromkeys(each.column for each in slices.shown)
    measured = [each.metrics.get(plotted) for each in slices.shown] if plotted else []
    estimates = [estimate for estimate in measured if estimate is not None]
    return {
        "slices": slices,
        "slice_groups": [
            Slices(column, [each for each in slices.shown if each.column == column])
            for column in columns
        ],
        "slice_metric": plotted,
        "slice_others": [name for name in names if name != plotted][:NUM_SLICE_METRICS],
        "slice_scale": charts.shared_scale(estimates) if estimates else None,
    }


def _data_view(content: ReportContent) -> dict[str, Any]:
    truncation = content.truncation
    return {
        "findings": _cut(content.findings, MAX_FINDINGS),
        "lengths": charts.length_histogram(truncation) if truncation else None,
        "worst_cut": _cut(truncation.worst if truncation else (), MAX_WORST),
        "mistakes": _cut(content.mistakes, MAX_MISTAKES),
        "num_mistakes": _num_mistakes(content),
        "max_text": MAX_TEXT,
        "files": _cut(content.data_files, MAX_FILES),
        "settings": _settings_groups(content.settings),
        "num_settings_hidden": max(len(list(wording.flat(content.settings))) - MAX_SETTINGS, 0),
    }


def _picture_groups(content: ReportContent) -> list[tuple[str, Cut[Picture]]]:
    """Returns the pictures that are shown, under a heading each: the best and the worst."""
    groups = {"The best": content.best_pictures, "The worst": content.worst_pictures}
    return [(name, _cut(each, MAX_PICTURES)) for name, each in groups.items() if each]


def _num_mistakes(content: ReportContent) -> int:
    return len(content.mistakes) if content.num_mistakes is None else content.num_mistakes


def _settings_groups(settings: Mapping[str, Any]) -> dict[str, list[tuple[str, str]]]:
    """Returns the settings by their first name; those without a group come under ``."""
    groups: dict[str, list[tuple[str, str]]] = {}
    for name, value in list(wording.flat(settings))[:MAX_SETTINGS]:
        group, _, rest = name.rpartition(".") if name.count(".") < 2 else name.partition(".")
        groups.setdefault(group, []).append((rest, value))
    return groups


def _present(figures: Sequence[Figure | None]) -> list[Figure]:
    return [figure for figure in figures if figure is not None]
