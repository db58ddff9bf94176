from __future__ import annotations

import pytest

from tests.reports.contents import make_metrics
from tunewright.figures import Bars, Lines, Scatter, Table
from tunewright.reports import ReportContent, render_report
from tunewright.reports.drawn import MAX_BARS, MAX_DOTS, cell, draw

FIGURES = [
    Table("By type", ("type", "F1", "rows"), [("person", 0.5, 1200), ("<b>", 1.0, 3)], "A note."),
    Bars("Errors", {"missed": 3, "spurious": 1.5}, "spans"),
    Scatter("True and predicted", [1, 2, 3], [1.5, 2, 2.5], "true", "predicted", diagonal=True),
    Lines("Recall", {"ours": [(1, 0.2), (10, 0.9)], "BM25": [(1, 0.1), (10, 0.5)]}, "k", "recall"),
]


@pytest.fixture(scope="module")
def page():
    return render_report(
        ReportContent("run", "retrieval", "today", make_metrics(0.9), figures=FIGURES)
    )


def test_every_figure_stands_under_answers(page):
    section = page[page.index('id="answers"') :]
    assert [title for title in ("By type", "Errors", "True and predicted", "Recall")
            if title not in section] == []  # fmt: skip
    assert "A note." in section


def test_cells_are_escaped_and_numbers_set_right(page):
    assert '<td class="number">0.500</td><td class="number">1,200</td>' in page
    assert "<bdi>&lt;b&gt;</bdi>" in page


def test_a_report_without_figures_has_no_such_section():
    page = render_report(ReportContent("run", "x", "today", make_metrics(0.9)))
    assert 'id="answers"' not in page


@pytest.mark.parametrize("empty", [Bars("a", {}), Scatter("a", [], []), Lines("a", {"b": []})])
def test_what_has_no_values_is_not_drawn(empty):
    assert draw(empty) is None


def test_many_bars_and_dots_are_cut_and_counted():
    bars = draw(Bars("a", {str(n): n for n in range(MAX_BARS + 5)}))
    assert bars.caption == "5 more are not shown."
    dots = draw(Scatter("a", range(2 * MAX_DOTS), range(2 * MAX_DOTS)))
    assert dots.svg.count("<circle") == MAX_DOTS
    assert dots.caption == "1,500 of 3,000 points are drawn."


def test_curves_of_two_names_have_a_legend():
    assert draw(FIGURES[3]).legend == (("ours", "s1"), ("BM25", "s2"))


@pytest.mark.parametrize(("value", "written"), [("", "–"), (1234, "1,234"), (0.12345, "0.123")])
def test_cells_are_written_as_people_read_them(value, written):
    assert cell(value) == written
