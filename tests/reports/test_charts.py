import math

import pytest

from tests.reports.contents import estimate, make_evaluations, make_figures, make_ledger, make_steps
from tunewright.reports import charts
from tunewright.reports.confusion import confused_pairs, confusion_matrix
from tunewright.reports.content import (
    ClassificationFigures,
    Curve,
    LengthBin,
    ReliabilityBin,
    TruncationLedger,
)
from tunewright.types import Estimate

FIGURES = ClassificationFigures(("cat", "dog", "owl"), ((5, 3, 0), (0, 9, 1), (1, 0, 0)))


def test_losses_of_training_and_validation_share_a_picture():
    figure = charts.loss_curve(make_steps(), make_evaluations())
    assert figure.legend == (("training, smoothed", "s1"), ("validation", "s2"))
    assert figure.caption.startswith("From 1.5")


def test_the_kept_checkpoint_is_marked():
    figure = charts.metric_curve(make_evaluations(), "accuracy", 200)
    assert figure.caption == "The kept checkpoint is from step 200, with 0.976."
    assert figure.svg.count('class="ring"') == 1


def test_the_axis_of_a_share_ends_at_one():
    figure = charts.metric_curve([{"step": 49, "metrics": {"accuracy": 0.955}}], "accuracy", 49)
    assert (">1.00<" in figure.svg, ">1.05<" in figure.svg) == (True, False)


def test_speed_names_its_mean_and_utilisation():
    steps = [{"step": i, "tokens_per_second": 1000 * i, "mfu": 0.25} for i in (1, 2, 3)]
    figure = charts.step_curve(steps, "tokens_per_second", "s5")
    assert figure.caption == "2,000 on average. Model FLOPs utilisation 25.0\N{NO-BREAK SPACE}%."


@pytest.mark.parametrize("steps", [[], [{"step": 1}], [{"step": 1, "loss": math.nan}]])
def test_what_was_not_logged_has_no_picture(steps):
    assert charts.loss_curve(steps, []) is None
    assert charts.step_curve(steps, "learning_rate", "s4") is None


def test_the_commonest_confusion_comes_first():
    pairs = [
        (pair.label, pair.predicted, pair.count, pair.share) for pair in confused_pairs(FIGURES)
    ]
    assert pairs == [("cat", "dog", 3, 3 / 8), ("owl", "cat", 1, 1.0), ("dog", "owl", 1, 0.1)]


def test_a_small_matrix_writes_its_counts():
    figure = confusion_matrix(FIGURES)
    assert figure.svg.count("<rect") == 9
    assert "true cat, predicted dog: 3 (37.5\N{NO-BREAK SPACE}% of its rows)" in figure.svg
    assert figure.caption.startswith("14 of 19 rows lie on the diagonal")


def test_a_large_matrix_draws_only_what_is_there():
    labels = [f"class {i}" for i in range(77)]
    figure = confusion_matrix(make_figures(labels, 40, 0.9))
    assert 77 < figure.svg.count("<rect") < 77 * 6
    assert figure.min_width > 800


def test_a_matrix_too_large_to_see_is_not_drawn():
    count = 161
    matrix = [[1] * count] * count
    assert confusion_matrix(ClassificationFigures([str(i) for i in range(count)], matrix)) is None


def test_a_class_without_rows_divides_by_nothing():
    figure = confusion_matrix(ClassificationFigures(("a", "b"), ((0, 0), (1, 1))))
    assert "true a, predicted b: 0<" in figure.svg


def test_a_matrix_has_to_fit_its_labels():
    with pytest.raises(ValueError, match="2 labels need 2 rows of as many"):
        ClassificationFigures(("a", "b"), ((1, 2), (3,)))


def test_a_curve_needs_as_many_x_as_y():
    with pytest.raises(ValueError, match='curve "a": 2 x values, 1 y values'):
        Curve("a", (0, 1), (0,))


def test_of_many_curves_the_averages_and_the_worst_are_drawn():
    areas = (0.9, 0.8, math.nan, 0.7, 0.99, 0.98, 0.97, 0.6)
    curves = [Curve(f"c{i}", (0, 1), (0, 1), area) for i, area in enumerate(areas)]
    figure = charts.roc([*curves, Curve("macro", (0, 1), (0, 1), 0.9, is_average=True)])
    names = [name for name, _ in figure.legend]
    assert names == ["macro 0.900", "c2", "c7 0.600", "c3 0.700", "c1 0.800", "c0 0.900"]
    assert figure.caption.startswith("6 of 9 curves: the averages, and the classes with")


def test_reliability_leaves_out_empty_bins():
    bins = [ReliabilityBin(math.nan, math.nan, 0), ReliabilityBin(0.9, 0.8, 5)]
    figure = charts.reliability(bins)
    assert figure.svg.count("<circle") == 1
    assert figure.caption.startswith("Of 5 answers")
    assert charts.reliability(bins[:1]) is None


def test_lengths_past_the_limit_have_another_colour():
    figure = charts.length_histogram(make_ledger(limit=256))
    assert figure.svg.count('class="bar s1"') == 4
    assert figure.svg.count('class="bar s2"') == 11


BINS = [LengthBin(1, 9, 2), LengthBin(9, 50, 1)]


@pytest.mark.parametrize(
    ("reads_long", "cut_texts", "caption"),
    [
        ("window", 0, "Texts of more than 8 tokens are read in windows of that length."),
        (
            "window",
            1,
            "Texts of more than 8 tokens are read in windows of that length. 25.0\xa0% of the "
            "texts are cut.",
        ),
        ("error", 0, "Texts of more than 8 tokens are refused."),
        ("mixed", 0, "Texts of more than 8 tokens are cut, or read in windows of that length."),
        ("truncate", 0, "0.0\xa0% of the texts are longer than the 8 tokens that are read."),
    ],
)
def test_texts_that_are_read_whole_are_not_marked_as_cut(reads_long, cut_texts, caption):
    ledger = TruncationLedger(8, 4, 60, cut_texts, 3 * cut_texts, BINS, reads_long=reads_long)
    figure = charts.length_histogram(ledger)
    assert figure.caption == caption
    assert 'class="bar s2"' not in figure.svg


def test_a_ledger_without_a_histogram_has_no_picture():
    assert charts.length_histogram(TruncationLedger(8, 0, 0, 0, 0)) is None
    assert charts.length_histogram(TruncationLedger(8, 1, 3, 0, 0, [LengthBin(0, 8, 1)]))


def test_an_interval_says_its_numbers():
    scale = charts.shared_scale([estimate(0.9)])
    mark = charts.interval_mark(estimate(0.9), scale, 0.2)
    assert 'aria-label="0.900, 95 % interval 0.880 to 0.916"' in mark
    assert 'class="reference"' not in mark  # off the scale


def test_a_scale_of_fractions_stays_within_zero_and_one():
    scale = charts.shared_scale([estimate(0.99), Estimate(0.01, 0.002, 0.03)])
    assert (scale.low, scale.high) == (0, 1)
