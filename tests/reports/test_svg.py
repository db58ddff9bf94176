import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunewright.reports.svg import (
    Plot,
    Scale,
    element,
    rounded,
    series,
    shortened,
    text_width,
    tick_words,
    value_range,
)

floats = st.floats(-1e9, 1e9, allow_nan=False)


def test_attributes_and_text_are_escaped():
    drawn = element("text", {"x": 1.25, "class": 'a" onload="b'}, "<b>&", title="'<i>'")
    assert drawn == (
        '<text x="1.2" class="a&#34; onload=&#34;b">'
        "<title>&#39;&lt;i&gt;&#39;</title>&lt;b&gt;&amp;</text>"
    )


@pytest.mark.parametrize(("value", "words"), [(3.0, "3"), (3.14, "3.1"), (-0.5, "-0.5")])
def test_lengths_are_short(value, words):
    assert rounded(value) == words


def test_a_scale_maps_its_ends_and_keeps_others_inside():
    scale = Scale(0, 10, 100, 200)
    assert [scale(value) for value in (0, 5, 10, -3, 99)] == [100, 150, 200, 100, 200]


def test_ticks_are_round_and_inside():
    assert Scale(0, 1, 0, 1).ticks(5) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert Scale(3, 97, 0, 1).ticks(5) == [20, 40, 60, 80]


@given(st.lists(floats))
def test_a_range_is_never_empty_and_holds_all_values(values):
    low, high = value_range(values)
    assert low < high
    margin = (high - low) * 1e-6
    assert all(low - margin <= value <= high + margin for value in values)


def test_a_range_ignores_what_is_not_finite():
    assert value_range([math.nan, math.inf]) == (0, 1)
    assert value_range([0.9, math.nan, 0.98]) == pytest.approx((0.9, 0.98))


@pytest.mark.parametrize(
    ("value", "step", "words"),
    [
        (0.0, 1e-5, "0"),
        (2e-5, 1e-5, "2e-5"),
        (2.5e-5, 5e-6, "2.5e-5"),
        (0.25, 0.25, "0.25"),
        (0.2, 0.1, "0.2"),
        (40.0, 20.0, "40"),
        (25000.0, 5000.0, "25k"),
        (20_000_000.0, 5_000_000.0, "20M"),
    ],
)
def test_ticks_have_the_decimals_that_they_need(value, step, words):
    assert tick_words(value, step) == words


def test_chinese_is_wider_than_latin():
    assert text_width("好好", 10) == 20
    assert text_width("ab", 10) == pytest.approx(11)
    assert text_width("e\u0301" * 2, 10) == pytest.approx(11)


@given(st.text(), st.floats(20, 300))
def test_shortened_text_fits_or_says_that_it_goes_on(words, width):
    short = shortened(words, width)
    assert short == words or short.endswith("…")
    assert text_width(short) <= width


def test_a_character_with_endless_marks_is_cut():
    short = shortened("e" + "\u0301" * 100_000, 100)
    assert len(short) < 50
    assert short.endswith("…")


def test_a_line_leaves_out_what_is_not_finite_or_too_near():
    plot = Plot.of((0, 1), (0, 1))
    points = [(0.0, 0.0), (1e-6, 1e-6), (0.5, math.nan), (1.0, 1.0)]
    assert plot.line(points, "s1") == '<path d="M50 226L408 12" class="line s1"></path>'
    assert plot.line([], "s1") == ""


def test_colours_repeat_after_the_last():
    assert [series(index) for index in (0, 5, 6)] == ["s1", "s6", "s1"]
