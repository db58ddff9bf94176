from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

from tunewright.metrics.summaries import (
    ROUGE_METRICS,
    rouge_metrics,
    rouge_scores,
    rouge_words,
)

NAMES = ["rouge1", "rouge2", "rougeL", "rougeLsum"]
REFERENCE = RougeScorer(NAMES, use_stemmer=False)
texts = st.lists(
    st.sampled_from(["the", "The", "cat", "sat,", "mat.", "on", "3.5", "don't", "naïve", "\n"]),
    max_size=14,
).map(" ".join)


@given(texts, st.lists(texts, min_size=1, max_size=3))
def test_scores_equal_those_of_rouge_score(answer, references):
    found = REFERENCE.score_multi(references, answer)
    expected = {name: 100 * score.fmeasure for name, score in found.items()}
    assert rouge_scores(answer, references) == pytest.approx(expected, abs=1e-9)


def test_a_summary_of_lines_is_scored_line_by_line():
    answer, reference = "the cat sat\non the mat today", "on the mat\nthe cat sat down"
    found = rouge_scores(answer, [reference])
    assert found["rougeLsum"] == pytest.approx(100 * 2 * 6 / 14)
    assert found["rougeL"] == pytest.approx(100 * 2 * 3 / 14)


def test_every_chinese_character_is_a_word():
    assert rouge_words("基于GPT-2的Transformer模型") == [
        *"基于", "gpt", "2", "的", "transformer", *"模型"
    ]  # fmt: skip
    assert rouge_scores("深度学习", ["深度模型"])["rouge1"] == pytest.approx(50)


def test_words_of_other_scripts_are_whole_and_accents_are_those_of_rouge_score():
    assert rouge_words("Кошка сидит. Café") == ["кошка", "сидит", "caf"]
    assert rouge_words("ひらがな") == list("ひらがな")


def test_metrics_are_means_of_the_rows_that_count():
    statistics = {name: np.array([10.0, 20.0, 60.0]) for name in NAMES}
    assert rouge_metrics(statistics) == dict.fromkeys(NAMES, pytest.approx(30))
    assert rouge_metrics(statistics, np.array([1, 0, 1])) == dict.fromkeys(NAMES, pytest.approx(35))
    assert np.isnan(rouge_metrics(statistics, np.zeros(3))["rougeL"])


def test_the_longest_common_subsequence_comes_first():
    assert [spec.name for spec in ROUGE_METRICS] == ["rougeL", "rouge1", "rouge2", "rougeLsum"]
