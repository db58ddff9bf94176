"""A small vocabulary for pictures: an element, a scale, a plot area, and the marks drawn in it.

Everything is a pure function from plain numbers to SVG text. Colours are named by class (`s1` to
`s6`, `rule`, `heat`) and resolved by the page's style sheet, so that one picture is right in the
light, in the dark and on paper. Text and attributes are escaped on the way in.

Lengths are in the picture's own units, which are CSS pixels when it is shown at full size.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

Point = tuple[float, float]
Attribute = str | float

NUM_SERIES = 6
"""The colours in the style sheet; each has its own dash too, so that hue is never the only cue."""

FONT_SIZE = 12.0
_WIDE, _NARROW = 1.0, 0.55  # advance of a CJK and of a Latin character, in font sizes


def element(
    tag: str, attributes: Mapping[str, Attribute], *children: Markup | str, title: str = ""
) -> Markup:
    """Returns one SVG element, its attributes and text children escaped.

    `title` becomes the element's `<title>`, which browsers show when it is pointed at.
    """
    written = Markup("").join(
        Markup(' {}="{}"').format(Markup(name), _attribute(value))
        for name, value in attributes.items()
    )
    if title:
        children = (element("title", {}, title), *children)
    inside = Markup("").join(children)
    return Markup("<{0}{1}>{2}</{0}>").format(Markup(tag), written, inside)


def picture(width: float, height: float, description: str, *children: Markup) -> Markup:
    """Returns a whole picture that scales with its column; `description` is its text twin."""
    return element(
        "svg",
        {
            "viewBox": f"0 0 {rounded(width)} {rounded(height)}",
            "width": width,
            "height": height,
            "role": "img",
            "aria-label": description,
        },
        *children,
    )


def text(x: float, y: float, words: str, anchor: str = "middle", kind: str = "tick") -> Markup:
    """Returns a line of text; `kind` is its class: `tick`, `name`, `cell` or `mark`."""
    return element("text", {"x": x, "y": y, "text-anchor": anchor, "class": kind}, words)


def segment(start: Point, end: Point, kind: str) -> Markup:
    """Returns a straight line between two points; `kind` is its class."""
    (x1, y1), (x2, y2) = start, end
    return element("line", {"x1": x1, "y1": y1, "x2": x2, "y2": y2, "class": kind})


def rounded(value: float) -> str:
    """Returns a length with at most one decimal, as short as it can be written."""
    return f"{value:.1f}".removesuffix(".0")


def text_width(words: str, size: float = FONT_SIZE) -> float:
    """Returns about how wide a text is when set in `size`; CJK characters count as square."""
    return size * sum(
        _WIDE if unicodedata.east_asian_width(letter) in "WF" else _NARROW
        for letter in words
        if not unicodedata.combining(letter)
    )


def shortened(words: str, width: float, size: float = FONT_SIZE) -> str:
    """Returns the text, ended by an ellipsis where it would be wider than `width`."""
    kept = words[: int(4 * width / size)]  # zero-width characters do not go on for ever
    if kept == words and text_width(words, size) <= width:
        return words
    while kept and text_width(kept, size) > width - size:
        kept = kept[:-1]
    return kept.rstrip() + "…"


def _attribute(value: Attribute) -> str:
    return value if isinstance(value, str) else rounded(value)


@dataclass(frozen=True, slots=True)
class Scale:
    """Maps values from `low` to `high` onto lengths from `start` to `end`, linearly."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        inside = min(max(value, self.low), self.high)
        return self.start + (inside - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self, about: int = 5) -> list[float]:
        """Returns round values inside the scale, about as many as asked for."""
        step = _round_step((self.high - self.low) / max(about, 1))
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [index * step for index in range(first, last + 1)]


def value_range(values: Iterable[float], include: Sequence[float] = ()) -> tuple[float, float]:
    """Returns round bounds around the finite values; never empty, (0, 1) when there are none."""
    finite = [value for value in (*values, *include) if math.isfinite(value)]
    if not finite:
        return 0.0, 1.0
    low, high = min(finite), max(finite)
    if low == high:
        margin = abs(low) * 0.1 or 1.0
        low, high = low - margin, high + margin
    step = _round_step((high - low) / 5)
    return math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step


def tick_words(value: float, step: float) -> str:
    """Returns a tick's value with the decimals that its step needs, such as `0.25` or `12k`."""
    if value == 0:
        return "0"
    if step < 1e-3:
        return f"{value:.1e}".replace("e-0", "e-").replace(".0e", "e")
    if step >= 1_000_000 or abs(value) >= 10_000_000:
        return f"{value / 1e6:g}M"
    if step >= 1000 or abs(value) >= 10_000:
        return f"{value / 1000:g}k"
    decimals = max(0, math.ceil(-math.log10(step) - 1e-9))
    if decimals and not math.isclose(step, round(step, decimals)):
        decimals += 1
    return f"{value:.{decimals}f}"


def _round_step(step: float) -> float:
    power = 10.0 ** math.floor(math.log10(step))
    return next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= step * 0.999)


@dataclass(frozen=True, slots=True)
class Plot:
    """A plot area with its two scales, inside a picture of `width` by `height`."""

    width: float
    height: float
    x: Scale
    y: Scale

    @classmethod
    def of(
        cls,
        x_range: tuple[float, float],
        y_range: tuple[float, float],
        width: float = 420,
        height: float = 270,
    ) -> Plot:
        """Returns a plot with room for ticks on the left and below."""
        left, right, top, bottom = 50.0, 12.0, 12.0, 44.0
        x = Scale(*x_range, left, width - right)
        return cls(width, height, x, Scale(*y_range, height - bottom, top))

    def at(self, x: float, y: float) -> Point:
        """Returns where a pair of values lies in the picture."""
        return self.x(x), self.y(y)

    def axes(self, x_name: str, y_name: str = "") -> Markup:
        """Returns grid lines, ticks and the names of both axes."""
        middle = (self.x.start + self.x.end) / 2
        names = [text(middle, self.height - 6, x_name, kind="name")]
        if y_name:
            y = (self.y.start + self.y.end) / 2
            names.append(
                element(
                    "text",
                    {"transform": f"translate(11 {rounded(y)}) rotate(-90)", "class": "name"}
                    | {"text-anchor": "middle"},
                    y_name,
                )
            )
        return Markup("").join([self._y_ticks(), self._x_ticks(), *names])

    def _x_ticks(self) -> Markup:
        ticks = self.x.ticks(6)
        step = ticks[1] - ticks[0] if len(ticks) > 1 else 1.0
        base = self.y.start
        words = [text(self.x(tick), base + 18, tick_words(tick, step)) for tick in ticks]
        return Markup("").join([segment((self.x.start, base), (self.x.end, base), "axis"), *words])

    def _y_ticks(self) -> Markup:
        ticks = self.y.ticks(5)
        step = ticks[1] - ticks[0] if len(ticks) > 1 else 1.0
        parts = []
        for tick in ticks:
            y = self.y(tick)
            parts.append(segment((self.x.start, y), (self.x.end, y), "rule"))
            parts.append(text(self.x.start - 8, y + 4, tick_words(tick, step), "end"))
        return Markup("").join(parts)

    def line(self, points: Sequence[Point], kind: str) -> Markup:
        """Returns a line through the finite points; steps under half a pixel are left out."""
        places = _thinned([self.at(x, y) for x, y in points if _is_finite(x, y)])
        if not places:
            return Markup("")
        path = "M" + "L".join(f"{rounded(x)} {rounded(y)}" for x, y in places)
        return element("path", {"d": path, "class": f"line {kind}"})

    def dots(self, points: Sequence[tuple[float, float, str]], kind: str) -> Markup:
        """Returns a dot for each (x, y, words); the words are shown when it is pointed at."""
        return Markup("").join(
            element(
                "circle",
                {"cx": self.x(x), "cy": self.y(y), "r": 3.5, "class": f"dot {kind}"},
                title=words,
            )
            for x, y, words in points
            if _is_finite(x, y)
        )

    def bar(self, x_range: tuple[float, float], y: float, kind: str, words: str = "") -> Markup:
        """Returns a bar from the x axis up to `y`, one unit narrower than its range."""
        left, right = (self.x(edge) for edge in x_range)
        top = self.y(y)
        return element(
            "rect",
            {
                "x": left + 0.5,
                "y": top,
                "width": max(right - left - 1, 0.5),
                "height": self.y.start - top,
                "class": f"bar {kind}",
            },
            title=words,
        )


def series(index: int) -> str:
    """Returns the class of the series at `index`, counted from 0; the colours repeat."""
    return f"s{index % NUM_SERIES + 1}"


def _is_finite(*values: float) -> bool:
    return all(math.isfinite(value) for value in values)


def _thinned(points: Sequence[Point]) -> list[Point]:
    kept: list[Point] = []
    for point in points:
        if not kept or math.dist(kept[-1], point) >= 0.5:
            kept.append(point)
    if kept and kept[-1] != points[-1]:
        kept.append(points[-1])
    return kept
