import math

import pytest

from tunewright.reports import wording
from tunewright.types import Estimate


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("accuracy", "Accuracy"),
        ("f1_macro", "F1 macro"),
        ("roc_auc", "ROC AUC"),
        ("mcc", "Matthews correlation"),
        ("my_own_score", "My own score"),
        ("chrf", "chrF"),
        ("bleu_lowercase", "BLEU lowercase"),
        ("lead_rougeL", "Lead ROUGE-L"),
        ("", ""),
    ],
)
def test_metrics_have_readable_names(name, words):
    assert wording.readable(name) == words


def test_numbers_have_fixed_decimals_or_a_dash():
    assert wording.number(1234.5678) == "1,234.568"
    assert [wording.number(value) for value in (None, math.nan, math.inf)] == ["–"] * 3
    assert wording.percent(0.1234) == "12.3\N{NO-BREAK SPACE}%"


def test_an_interval_without_ends_is_a_dash():
    assert wording.interval(Estimate(0.5, 0.4, 0.6)) == "0.400 to 0.600"
    assert wording.interval(Estimate(0.5, math.nan, math.nan)) == "–"


def test_clipped_text_says_how_much_is_missing():
    assert wording.clipped("abcdef", 6) == "abcdef"
    assert wording.clipped("abcdef", 4) == "abcd… (2 more characters)"


def test_settings_are_flattened_in_their_order():
    settings = {"seed": 7, "a": {"b": {"c": None}, "d": [1, True]}, "e": {}, "f": ()}
    assert list(wording.flat(settings)) == [
        ("seed", "7"),
        ("a.b.c", "not set"),
        ("a.d", "1, yes"),
        ("e", "{}"),
        ("f", "none"),
    ]


def test_surrogate_pairs_are_joined_and_lone_ones_replaced():
    assert wording.printable("\ud83d\ude00 \udc00 好\x07") == "😀 \ufffd 好\ufffd"
