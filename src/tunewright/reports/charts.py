"""The pictures of the report, each from plain numbers to one `Figure`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from markupsafe import Markup

from tunewright.reports.content import (
    Curve,
    ReliabilityBin,
    TruncationLedger,
)
from tunewright.reports.svg import (
    Attribute,
    Plot,
    Point,
    Scale,
    element,
    picture,
    segment,
    series,
    shortened,
    text,
    value_range,
)
from tunewright.reports.wording import interval, nan_first, number, percent, readable
from tunewright.types import Estimate

MAX_POINTS = 300  # what a curve 360 pixels wide can show
MAX_CURVES = 6  # as many as there are colours


@dataclass(frozen=True, slots=True)
class Figure:
    """A picture with its title and caption.

    `legend` pairs names with series classes. A picture shrinks with its column, but not under
    `min_width` pixels: from there on it scrolls.
    """

    title: str
    svg: Markup
    caption: str = ""
    legend: tuple[tuple[str, str], ...] = ()
    min_width: float = 0.0


def swatch(kind: str) -> Markup:
    """Returns the short line that stands for a series in a legend."""
    line = element("line", {"x1": 1, "y1": 6, "x2": 23, "y2": 6, "class": f"line {kind}"})
    attributes: dict[str, Attribute] = {"viewBox": "0 0 24 12", "width": 24, "height": 12}
    return element("svg", attributes | {"aria-hidden": "true"}, line)


# --- Learning ------------------------------------------------------------------------------------


def loss_curve(
    steps: Sequence[Mapping[str, Any]], evaluations: Sequence[Mapping[str, Any]]
) -> Figure | None:
    """Returns the training loss by step, with the evaluation loss where it was measured."""
    training = _column(steps, "loss")
    if not training:
        return None
    shown, bucket = _bucketed(training)
    validation = _metric_points(evaluations, "loss")
    plot = Plot.of(_x_range(training + validation), _y_range(shown + validation, 0.0))
    marks = [plot.line(shown, "s1 faint"), plot.line(_smoothed(shown), "s1")]
    legend = [("training, smoothed", "s1")]
    if validation:
        marks += [plot.line(validation, "s2"), _step_dots(plot, validation, "s2")]
        legend.append(("validation", "s2"))
    caption = f"From {number(training[0][1])} to {number(training[-1][1])}."
    if bucket > 1:
        caption += f" Each point is the mean of {bucket} logged steps."
    svg = picture(420, 270, f"Loss by training step. {caption}", plot.axes("step"), *marks)
    return Figure("Loss", svg, caption, tuple(legend))


def metric_curve(
    evaluations: Sequence[Mapping[str, Any]], metric: str, best_step: int | None
) -> Figure | None:
    """Returns a metric on the validation rows by step, the kept checkpoint marked."""
    points = _metric_points(evaluations, metric)
    if not points:
        return None
    low, high = _y_range(points)
    if all(0 <= y <= 1 for _, y in points):
        low, high = max(low, 0.0), min(high, 1.0)  # no share is more than all
    plot = Plot.of(_x_range(points), (low, high))
    marks = [plot.line(points, "s3 alone"), _step_dots(plot, points, "s3")]
    best = [(x, y) for x, y in points if x == best_step]
    caption = f"Measured {len(points)} times." if len(points) > 1 else "Measured once."
    if best:
        x, y = best[0]
        marks.append(_best_mark(plot, x, y))
        caption = f"The kept checkpoint is from step {x:,.0f}, with {number(y)}."
    name = readable(metric)
    svg = picture(420, 270, f"{name} by training step. {caption}", plot.axes("step"), *marks)
    return Figure(f"{name} on validation", svg, caption)


def step_curve(steps: Sequence[Mapping[str, Any]], column: str, kind: str) -> Figure | None:
    """Returns any logged column by step, such as the learning rate."""
    points = _column(steps, column)
    if not points:
        return None
    shown, _ = _bucketed(points)
    plot = Plot.of(_x_range(points), _y_range(shown, 0.0))
    values = [y for _, y in points]
    spread = f"Between {min(values):.3g} and {max(values):.3g}."
    if column == "tokens_per_second":
        spread = f"{fmean(values):,.0f} on average."
        utilisation = [y for _, y in _column(steps, "mfu")]
        if utilisation:
            spread += f" Model FLOPs utilisation {percent(fmean(utilisation))}."
    name = readable(column)
    marks = (plot.axes("step"), plot.line(shown, f"{kind} alone"))
    return Figure(name, picture(420, 270, f"{name} by training step. {spread}", *marks), spread)


def _column(steps: Sequence[Mapping[str, Any]], name: str) -> list[Point]:
    pairs = [(step["step"], step.get(name)) for step in steps]
    return [(float(x), float(y)) for x, y in pairs if y is not None and math.isfinite(y)]


def _metric_points(evaluations: Sequence[Mapping[str, Any]], metric: str) -> list[Point]:
    return _column([{"step": each["step"], **each["metrics"]} for each in evaluations], metric)


def _bucketed(points: Sequence[Point]) -> tuple[list[Point], int]:
    size = math.ceil(len(points) / MAX_POINTS)
    groups = [points[start : start + size] for start in range(0, len(points), size)]
    return [(fmean(x for x, _ in group), fmean(y for _, y in group)) for group in groups], size


def _smoothed(points: Sequence[Point], reach: float = 0.05) -> list[Point]:
    """Averages each point with its neighbours within `reach` of the curve's length."""
    radius = int(len(points) * reach)
    around = ((i, points[max(0, i - radius) : i + radius + 1]) for i in range(len(points)))
    return [(points[i][0], fmean(y for _, y in near)) for i, near in around]


def _x_range(points: Sequence[Point]) -> tuple[float, float]:
    return 0.0, max(1.0, *(x for x, _ in points))


def _y_range(points: Sequence[Point], *include: float) -> tuple[float, float]:
    return value_range((y for _, y in points), include)


def _step_dots(plot: Plot, points: Sequence[Point], kind: str) -> Markup:
    if len(points) > 40:
        return Markup("")
    return plot.dots([(x, y, f"step {x:,.0f}: {number(y, 4)}") for x, y in points], kind)


def _best_mark(plot: Plot, x: float, y: float) -> Markup:
    place: dict[str, Attribute] = {"cx": plot.x(x), "cy": plot.y(y), "r": 8, "class": "ring"}
    return element("circle", place, title=f"kept: step {x:,.0f}, {number(y, 4)}")


# --- Curves of a classifier ----------------------------------------------------------------------


def roc(curves: Sequence[Curve]) -> Figure | None:
    """Returns the ROC curves, with the line of a coin's answers."""
    words = "The thin diagonal is what guessing gives."
    return _curves("ROC", curves, ("false positive rate", "true positive rate"), words)


def precision_recall(curves: Sequence[Curve]) -> Figure | None:
    """Returns the precision of each class at every recall."""
    return _curves("Precision and recall", curves, ("recall", "precision"), "")


def _curves(
    title: str, curves: Sequence[Curve], axes: tuple[str, str], words: str
) -> Figure | None:
    if not curves:
        return None
    drawn = _worst(curves)
    caption = words
    if len(drawn) < len(curves):
        caption = (
            f"{len(drawn)} of {len(curves)} curves: the averages, and the classes "
            f"with the smallest area. {words}"
        )
    plot = Plot.of((0, 1), (0, 1), 420, 380)
    parts = [plot.axes(*axes)]
    if words:
        parts.append(segment(plot.at(0, 0), plot.at(1, 1), "guess"))
    for index, curve in enumerate(drawn):
        points = list(zip(curve.x, curve.y, strict=True))
        parts.append(plot.line(points, series(index) + (" thick" if curve.is_average else "")))
    legend = tuple((_curve_name(curve), series(index)) for index, curve in enumerate(drawn))
    description = f"{title} curves. {'; '.join(name for name, _ in legend)}."
    return Figure(title, picture(420, 380, description, *parts), caption.strip(), legend)


def _worst(curves: Sequence[Curve]) -> list[Curve]:
    averages = [curve for curve in curves if curve.is_average]
    others = [curve for curve in curves if not curve.is_average]
    room = max(MAX_CURVES - len(averages), 0)
    if len(others) <= room:
        return [*averages, *others]
    return [*averages, *sorted(others, key=lambda curve: nan_first(curve.area))[:room]]


def _curve_name(curve: Curve) -> str:
    name = shortened(curve.name, 180)
    return name if math.isnan(curve.area) else f"{name} {number(curve.area)}"


# --- Calibration ---------------------------------------------------------------------------------


def reliability(bins: Sequence[ReliabilityBin]) -> Figure | None:
    """Returns accuracy by confidence, over a histogram of the confidences."""
    filled = [each for each in bins if each.count]
    if not filled:
        return None
    plot = Plot.of((0, 1), (0, 1), 420, 290)
    parts = [plot.axes("", "accuracy"), segment(plot.at(0, 0), plot.at(1, 1), "guess")]
    parts.append(plot.line([(each.confidence, each.accuracy) for each in filled], "s1"))
    dots = [(each.confidence, each.accuracy, _bin_words(each)) for each in filled]
    parts.append(plot.dots(dots, "s1"))
    total = sum(each.count for each in filled)
    caption = (
        f"Of {total:,} answers, grouped by confidence. On the diagonal an answer given with "
        "90 % confidence is right nine times in ten; below it the model is too sure."
    )
    parts.append(_confidence_histogram(filled))
    svg = picture(420, 362, f"Reliability diagram. {caption}", *parts)
    return Figure("Reliability", svg, caption)


def _confidence_histogram(bins: Sequence[ReliabilityBin]) -> Markup:
    width = 0.5 / max(len(bins), 10)
    highest = max(each.count for each in bins)
    plot = Plot(420, 362, Scale(0, 1, 50, 408), Scale(0, highest, 340, 284))
    bars = [
        plot.bar(
            (max(each.confidence - width, 0), min(each.confidence + width, 1)),
            each.count,
            "s1 soft",
            _bin_words(each),
        )
        for each in bins
    ]
    base = segment((50, 340), (408, 340), "axis")
    name = text(229, 356, "confidence (bars: number of answers)", kind="name")
    return Markup("").join([*bars, base, name])


def _bin_words(each: ReliabilityBin) -> str:
    confidence, accuracy = percent(each.confidence), percent(each.accuracy)
    return f"{each.count:,} answers: confidence {confidence}, accuracy {accuracy}"


# --- Lengths -------------------------------------------------------------------------------------


def length_histogram(ledger: TruncationLedger) -> Figure | None:
    """Returns how many texts have how many tokens, those that are cut in another colour.

    A row of several texts may have more than the limit, and none of it be cut.
    """
    bins = [each for each in ledger.histogram if each.high > each.low]
    if not bins:
        return None
    limit = ledger.max_length
    end = max(bins[-1].high, limit)
    counts = (0.0, _y_top([each.count for each in bins]))
    plot = Plot.of((min(0, bins[0].low), end), counts)
    parts = [plot.axes("tokens", "texts")]
    is_cut = ledger.reads_long == "truncate" and ledger.cut_texts > 0
    for each in bins:
        kind = "s2" if each.low >= limit and is_cut else "s1"
        words = f"{each.low:,} to {each.high - 1:,} tokens: {each.count:,} texts"
        parts.append(plot.bar((each.low, each.high), each.count, kind, words))
    parts.append(segment(plot.at(limit, 0), plot.at(limit, plot.y.high), "limit"))
    is_right = limit > end * 0.6
    x = plot.x(limit) + (-8 if is_right else 8)
    anchor = "end" if is_right else "start"
    parts.append(text(x, 24, f"max_length {limit:,}", anchor, "mark"))
    caption = _cut_words(ledger)
    svg = picture(420, 270, f"Histogram of text lengths. {caption}", *parts)
    return Figure("Length of the texts", svg, caption)


def _cut_words(ledger: TruncationLedger) -> str:
    limit = f"{ledger.max_length:,} tokens"
    share = percent(ledger.cut_texts / ledger.num_texts if ledger.num_texts else 0.0)
    if ledger.reads_long == "truncate":
        return f"{share} of the texts are longer than the {limit} that are read."
    how = {
        "window": "read in windows of that length",
        "error": "refused",
        "mixed": "cut, or read in windows of that length",
    }[ledger.reads_long]
    words = f"Texts of more than {limit} are {how}."
    return f"{words} {share} of the texts are cut." if ledger.cut_texts else words


def _y_top(counts: Sequence[int]) -> float:
    return value_range(counts, (0, 1))[1]


# --- Intervals -----------------------------------------------------------------------------------


def is_fraction(estimate: Estimate) -> bool:
    """Returns whether the value and its interval lie in [0, 1], as most metrics do."""
    ends = (estimate.value, estimate.low, estimate.high)
    return all(0 <= end <= 1 for end in ends if math.isfinite(end))


def shared_scale(estimates: Sequence[Estimate], *others: float, width: float = 200) -> Scale:
    """Returns one scale for the intervals of a table, so that its rows can be compared."""
    ends = [end for each in estimates for end in (each.value, each.low, each.high)]
    low, high = value_range(ends, others)
    inside = all(is_fraction(each) for each in estimates)
    return Scale(max(low, 0) if inside else low, min(high, 1) if inside else high, 6, width - 6)


def interval_mark(estimate: Estimate, scale: Scale, reference: float = math.nan) -> Markup:
    """Returns a dot on its interval, with a tick where the reference lies."""
    width, middle = scale.end + scale.start, 10.0
    parts = [segment((0, middle), (width, middle), "rule")]
    if scale.low <= reference <= scale.high:
        parts.append(segment((scale(reference), 1), (scale(reference), 19), "reference"))
    if math.isfinite(estimate.low) and math.isfinite(estimate.high):
        low, high = scale(estimate.low), scale(estimate.high)
        parts.append(segment((low, middle), (high, middle), "interval"))
    if math.isfinite(estimate.value):
        x = scale(estimate.value)
        parts.append(element("circle", {"cx": x, "cy": middle, "r": 4.5, "class": "estimate"}))
    words = f"{number(estimate.value)}, 95 % interval {interval(estimate)}"
    return picture(width, 20, words, *parts)


def scale_ends(scale: Scale) -> tuple[str, str]:
    """Returns both ends of a shared scale in words, to stand above its marks."""
    decimals = 2 if scale.high - scale.low >= 0.05 else 3
    return number(scale.low, decimals), number(scale.high, decimals)
