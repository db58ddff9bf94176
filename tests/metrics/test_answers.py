from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from torchmetrics.functional.text import squad

from tunewright.metrics.answers import answer_metrics, answer_scores, best_threshold, normalized

WORDS = st.lists(
    st.sampled_from(["the", "Eiffel", "tower,", "a", "tower", "An", "(1889)", "-"]), max_size=6
).map(" ".join)


@given(answer=WORDS, true=st.lists(WORDS, min_size=1, max_size=3))
def test_scores_are_those_of_the_squad_script(answer, true):
    true = [text for text in true if normalized(text)] or ["Eiffel"]  # that of 2016 keeps them
    found = answer_scores(answer, true)
    golds = {"answers": {"text": true, "answer_start": [0] * len(true)}, "id": "1"}
    expected = squad({"prediction_text": answer, "id": "1"}, golds)
    assert 100 * found.exact == pytest.approx(float(expected["exact_match"]), abs=1e-6)
    assert 100 * found.f1 == pytest.approx(float(expected["f1"]), abs=1e-4)  # fp32 there


@given(answer=WORDS, true=st.lists(WORDS, min_size=1, max_size=3))
def test_scores_where_every_question_has_an_answer_are_those_of_the_script_of_2016(answer, true):
    found = answer_scores(answer, true, may_lack=False)
    golds = {"answers": {"text": true, "answer_start": [0] * len(true)}, "id": "1"}
    expected = squad({"prediction_text": answer, "id": "1"}, golds)
    assert 100 * found.exact == pytest.approx(float(expected["exact_match"]), abs=1e-6)
    assert 100 * found.f1 == pytest.approx(float(expected["f1"]), abs=1e-4)  # fp32 there


@pytest.mark.parametrize(
    ("text", "expected"),
    [("The  Eiffel Tower!", "eiffel tower"), ("a an the", ""), ("theory-A", "theorya")],
)
def test_texts_are_normalised_as_the_squad_script_does(text, expected):
    assert normalized(text) == expected


@pytest.mark.parametrize(
    ("answer", "true", "exact", "f1"),
    [
        ("北京大学", ["北京大学"], 1.0, 1.0),
        ("《北京大学》", ["北京大学。"], 1.0, 1.0),
        ("北京", ["北京大学"], 0.0, 2 * 2 / (2 + 4)),
        ("大学北京", ["北京大学"], 0.0, 2 * 2 / (4 + 4)),
        ("", ["北京"], 0.0, 0.0),
        ("在2008年", ["2008年"], 0.0, 2 * 2 / (3 + 2)),
        ("上海", ["北京", "上海"], 1.0, 1.0),
        ("64.6", ["364.6公里"], 0.0, 1 / 3),
        ("Nintendo 64游戏", ["nintendo64 游戏"], 1.0, 2 * 2 / (4 + 3)),
        ("50%的人", ["50的人"], 1.0, 1.0),
        ("NBA总决赛", ["NBA"], 0.0, 0.0),
        ("the NBA", ["NBA"], 1.0, 1.0),
    ],
)
def test_chinese_answers_are_compared_by_their_longest_common_run(answer, true, exact, f1):
    found = answer_scores(answer, true)
    assert (found.exact, found.f1) == (exact, pytest.approx(f1))


def test_no_answer_is_right_only_where_there_is_none():
    assert answer_scores("", []).exact == 1.0
    assert answer_scores("", ["x"]).f1 == 0.0
    assert answer_scores("x", []).f1 == 0.0


def test_means_count_rows_as_often_as_they_stand_there():
    statistics = {
        "exact": np.array([1.0, 0.0, 1.0]),
        "f1": np.array([1.0, 0.5, 1.0]),
        "has_answer": np.array([1, 1, 0]),
    }
    found = answer_metrics(statistics, np.array([1, 2, 1]))
    assert found["f1"] == pytest.approx(3 / 4)
    assert found["f1_has_answer"] == pytest.approx(2 / 3)
    assert found["accuracy_no_answer"] == 1.0
    assert "f1_has_answer" not in answer_metrics({k: v[:2] for k, v in statistics.items()})


@given(
    rows=st.lists(
        st.tuples(st.integers(-5, 5).map(float), st.sampled_from([0.0, 0.5, 1.0]), st.booleans()),
        min_size=1,
        max_size=12,
    )
)
def test_no_other_threshold_gives_a_better_f1(rows):
    rows = [(margin, f1 if has else 0.0, has) for margin, f1, has in rows]

    def mean(threshold):
        return np.mean([(not has) if m > threshold else f1 for m, f1, has in rows])

    margins, f1, has = zip(*rows, strict=True)
    found = best_threshold(margins, f1, has)
    others = [mean(t) for t in (*np.array(margins) - 0.5, max(margins) + 1)]
    assert mean(found) == pytest.approx(max(others))
