from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sacrebleu.metrics import BLEU, CHRF

from tunewright.metrics.spec import MetricSpec
from tunewright.metrics.translation import (
    TRANSLATION_METRICS,
    TranslationReducer,
    signatures,
    translation_metrics,
    translation_statistics,
    word_rule,
)

PAIRS = [
    ("Ein Hund rennt.", ["Ein Hund rennt."]),
    ("ein hund läuft, 3.5 km - weit", ["Ein Hund rennt 3,5 km weit!"]),
    ("Zwei Männer &quot;stehen&quot; am Herd-\nund kochen", ["Zwei Männer stehen am Herd."]),
    ("", ["Nichts"]),
    ("A b c d e f", ["a B c d e f g"]),
]
words = st.lists(
    st.sampled_from(
        ["the", "The", "cat", "3.5", "3,", "dogs-", "sat.", "(on)", "&amp;", "“猫”", "猫坐"]
    ),
    min_size=1,
    max_size=9,
).map(" ".join)


def stacked(answers, references, rule="13a"):
    rows = [translation_statistics(*pair, rule) for pair in zip(answers, references, strict=True)]
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


def expected(answers, references, rule="13a"):
    """What sacreBLEU says; it wants one list for each place of a reference."""
    by_place = [list(texts) for texts in zip(*references, strict=True)]
    return {
        "bleu": BLEU(tokenize=rule).corpus_score(answers, by_place).score,
        "bleu_lowercase": BLEU(tokenize=rule, lowercase=True).corpus_score(answers, by_place).score,
        "chrf": CHRF().corpus_score(answers, by_place).score,
    }


@pytest.mark.parametrize("rule", ["13a", "zh", "char"])
@given(st.lists(st.tuples(words, st.lists(words, min_size=2, max_size=2)), min_size=1, max_size=6))
def test_figures_equal_those_of_sacrebleu(rule, pairs):
    answers, references = (list(side) for side in zip(*pairs, strict=True))
    found = translation_metrics(stacked(answers, references, rule))
    assert found == pytest.approx(expected(answers, references, rule), abs=1e-9)


def test_sentences_with_marks_numbers_and_entities_are_cut_as_sacrebleu_cuts_them():
    answers, references = (list(side) for side in zip(*PAIRS, strict=True))
    found = translation_metrics(stacked(answers, references))
    assert found == pytest.approx(expected(answers, references), abs=1e-9)
    assert found["bleu_lowercase"] > found["bleu"] > 20


def test_counts_of_rows_are_rows_repeated():
    answers, references = (list(side) for side in zip(*PAIRS, strict=True))
    statistics = stacked(answers, references)
    drawn = {
        name: np.repeat(values, [2, 0, 1, 1, 3], axis=0) for name, values in statistics.items()
    }
    counted = TranslationReducer(statistics)(np.array([2, 0, 1, 1, 3]))
    assert counted == pytest.approx(translation_metrics(drawn))


def test_a_perfect_answer_has_100_and_a_wrong_one_0():
    assert translation_metrics(stacked(["a b c d e"], [["a b c d e"]]))["bleu"] == pytest.approx(
        100
    )
    assert translation_metrics(stacked(["x"], [["a b c d"]])) == dict.fromkeys(
        ("bleu", "chrf", "bleu_lowercase"), 0.0
    )


def test_the_nearest_length_of_several_references_counts():
    assert stacked(["a b c"], [["a", "a b c d"]])["bleu"][0, 1] == 4
    assert stacked(["a b c"], [["a b c d", "a b"]])["bleu"][0, 1] == 2


def test_signatures_are_those_of_sacrebleu():
    answers, by_place = ["ein Hund"], [["ein Hund"], ["der Hund"]]
    bleu, lower, chrf = BLEU(tokenize="zh"), BLEU(tokenize="zh", lowercase=True), CHRF()
    for metric in (bleu, lower, chrf):
        metric.corpus_score(answers, by_place)
    assert signatures("zh", 2) == {
        "bleu": str(bleu.get_signature()),
        "chrf": str(chrf.get_signature()),
        "bleu_lowercase": str(lower.get_signature()),
    }


def test_chinese_references_are_cut_by_character():
    assert word_rule(["一只狗在跑。", "a TV 电视机前的人"]) == "zh"
    assert word_rule(["Ein Hund.", "一"]) == "13a"
    assert word_rule([""]) == "13a"


def test_bleu_comes_first_and_higher_is_better():
    assert TRANSLATION_METRICS[0].name == "bleu"
    assert all(isinstance(m, MetricSpec) and m.higher_is_better for m in TRANSLATION_METRICS)
