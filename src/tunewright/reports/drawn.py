"""Draws what a task shows of its answers: bars, scatters and lines; tables stay tables."""

from __future__ import annotations

from collections.abc import Sequence

from tunewright import figures
from tunewright.reports.charts import Figure
from tunewright.reports.svg import (
    Plot,
    picture,
    segment,
    series,
    shortened,
    text,
    value_range,
)
from tunewright.reports.wording import UNDEFINED, number

MAX_BARS = 30
MAX_DOTS = 1500  # what a square of 400 pixels can show
MAX_CURVES = 6  # as many as there are colours


def draw(figure: figures.Figure) -> Figure | None:
    """Returns the picture of a figure; None for a table, and where there is nothing to draw."""
    match figure:
        case figures.Bars() if figure.values:
            return _bars(figure)
        case figures.Scatter() if len(figure.x):
            return _scatter(figure)
        case figures.Lines() if any(figure.curves.values()):
            return _lines(figure)
    return None


def cell(value: str | int | float) -> str:
    """Returns how a cell of a table is written."""
    if isinstance(value, str):
        return value or UNDEFINED
    return f"{value:,}" if isinstance(value, int) else number(value)


def _bars(figure: figures.Bars) -> Figure:
    """Lies the bars down, so that long names can be read."""
    shown = list(figure.values.items())[:MAX_BARS]
    height, left, width = 22 * len(shown) + 40, 150.0, 420.0
    low, high = value_range([value for _, value in shown], (0.0,))
    parts = []
    for index, (name, value) in enumerate(shown):
        top = 10 + 22 * index
        length = (width - left - 60) * max(value - low, 0) / (high - low)
        parts.append(text(left - 8, top + 14, shortened(name, left - 16), "end"))
        parts.append(segment((left, top + 9), (left + length, top + 9), "line s1 thick"))
        written = f"{value:,.0f}" if float(value).is_integer() else number(value)
        parts.append(text(left + length + 8, top + 14, written, "start"))
    parts.append(text((left + width) / 2, height - 6, figure.unit, kind="name"))
    words = "; ".join(f"{name} {value:g}" for name, value in shown)
    hidden = len(figure.values) - len(shown)
    caption = f"{figure.note} {hidden} more are not shown." if hidden else figure.note
    svg = picture(width, height, f"{figure.title}. {words}.", *parts)
    return Figure(figure.title, svg, caption.strip())


def _scatter(figure: figures.Scatter) -> Figure:
    step = -(-len(figure.x) // MAX_DOTS)
    points = list(zip(figure.x, figure.y, strict=True))[::step]
    x_range, y_range = value_range(figure.x), value_range(figure.y)
    if figure.diagonal:
        x_range = y_range = min(x_range[0], y_range[0]), max(x_range[1], y_range[1])
    plot = Plot.of(x_range, y_range, 420, 380)
    parts = [plot.axes(figure.x_label, figure.y_label)]
    if figure.diagonal:
        low, high = x_range
        parts.append(segment(plot.at(low, low), plot.at(high, high), "guess"))
    dots = [(x, y, f"{number(x)}, {number(y)}") for x, y in points]
    parts.append(plot.dots(dots, "s1 soft"))
    shown = f"{len(points):,} of {len(figure.x):,} points are drawn." if step > 1 else ""
    caption = f"{figure.note} {shown}".strip()
    svg = picture(420, 380, f"{figure.title}. {caption}", *parts)
    return Figure(figure.title, svg, caption)


def _lines(figure: figures.Lines) -> Figure:
    curves = list(figure.curves.items())[:MAX_CURVES]
    points = [point for _, curve in curves for point in curve]
    x_range, y_range = (value_range([point[axis] for point in points]) for axis in (0, 1))
    plot = Plot.of(x_range, y_range)
    parts = [plot.axes(figure.x_label, figure.y_label)]
    legend: Sequence[tuple[str, str]] = [
        (shortened(name, 180), series(index)) for index, (name, _) in enumerate(curves)
    ]
    parts += [plot.line(list(curve), series(index)) for index, (_, curve) in enumerate(curves)]
    svg = picture(420, 270, f"{figure.title}. {figure.note}", *parts)
    return Figure(figure.title, svg, figure.note, tuple(legend) if len(legend) > 1 else ())
