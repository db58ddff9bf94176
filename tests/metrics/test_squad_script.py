"""Answers are measured as the script of SQuAD 2.0 does it (Rajpurkar et al. 2018).

The script is no package: what it computes stands here once more, from its published definition.
"""

from __future__ import annotations

import re
import string
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunewright.metrics.answers import answer_metrics, answer_scores, best_threshold


def normalised_there(text):
    kept = "".join(sign for sign in text.lower() if sign not in set(string.punctuation))
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", kept).split())


def exact_there(gold, answer):
    return float(normalised_there(gold) == normalised_there(answer))


def f1_there(gold, answer):
    true, found = normalised_there(gold).split(), normalised_there(answer).split()
    if not true or not found:
        return float(true == found)
    num_same = sum((Counter(true) & Counter(found)).values())
    if not num_same:
        return 0.0
    precision, recall = num_same / len(found), num_same / len(true)
    return 2 * precision * recall / (precision + recall)


def raw_there(score, questions):
    """The score of every answer as it is given, whatever its probability of being none."""
    found = []
    for golds, answer, _ in questions:
        kept = [gold for gold in golds if normalised_there(gold)] or [""]
        found.append(max(score(gold, answer) for gold in kept))
    return found


def evaluated_there(questions, threshold=1.0):
    figures = {}
    for name, score in (("exact", exact_there), ("f1", f1_there)):
        scores = [
            float(not golds) if nothing > threshold else raw
            for raw, (golds, _, nothing) in zip(raw_there(score, questions), questions, strict=True)
        ]
        for kind, kept in (("", (True, False)), ("HasAns_", (True,)), ("NoAns_", (False,))):
            own = [s for s, (golds, *_) in zip(scores, questions, strict=True)
                   if bool(golds) in kept]  # fmt: skip
            if own:
                figures[kind + name] = sum(own) / len(own)
    return figures


def best_there(score, questions):
    current = best = sum(not golds for golds, *_ in questions)
    raw = raw_there(score, questions)
    for place in sorted(range(len(questions)), key=lambda place: questions[place][2]):
        golds, answer, _ = questions[place]
        current += raw[place] if golds else -1 if answer else 0
        best = max(best, current)
    return best / len(questions)


# Words, articles alone, signs alone (of ASCII, which do not count, and others, which do), accents
# and cases that change a word's length.
PIECES = ("the", "A", "an", "Eiffel", "tower,", "tower", "theatre", "(1889)", "1889", "-", "...",
          "“", "–", "café", "CAFÉ", "Straße", "İstanbul", "a\u00a0b", "U.S.", "\t")  # fmt: skip
ANSWER = st.lists(st.sampled_from(PIECES), max_size=5).map(" ".join)
GOLDS = st.lists(ANSWER.filter(bool), max_size=3)
QUESTIONS = st.lists(st.tuples(GOLDS, ANSWER), min_size=1, max_size=10).flatmap(
    lambda pairs: st.permutations(range(1, len(pairs) + 1)).map(
        lambda order: [(*pair, n / 16) for pair, n in zip(pairs, order, strict=True)]
    )
)
NAMES = {
    "f1": "f1",
    "exact_match": "exact",
    "f1_has_answer": "HasAns_f1",
    "exact_match_has_answer": "HasAns_exact",
    "accuracy_no_answer": "NoAns_exact",
}


def measured(questions):
    scores = [answer_scores(answer, golds) for golds, answer, _ in questions]
    return answer_metrics(
        {
            "exact": np.array([each.exact for each in scores]),
            "f1": np.array([each.f1 for each in scores]),
            "has_answer": np.array([bool(golds) for golds, *_ in questions]),
        }
    )


@given(questions=QUESTIONS)
def test_every_figure_is_that_of_the_script(questions):
    found, expected = measured(questions), evaluated_there(questions)
    for name, value in found.items():
        if not np.isnan(value):  # there is no question of that kind
            assert value == pytest.approx(expected[NAMES[name]], abs=1e-9), name
    assert ("NoAns_exact" in expected) == ("accuracy_no_answer" in found)


@pytest.mark.parametrize(
    ("answer", "golds", "f1"),
    [
        ("", ["the", "Eiffel tower"], 0.0),
        ("", ["...", "1889"], 0.0),
        ("", ["..."], 1.0),
        ("an", ["the"], 1.0),
        ("...", [], 1.0),
        ("café", ["CAFÉ!"], 1.0),
        ("Eiffel", ["the tower", "Eiffel tower"], 2 / 3),
    ],
)
def test_true_answers_of_signs_and_articles_alone_count_where_there_is_no_other(answer, golds, f1):
    assert answer_scores(answer, golds).f1 == pytest.approx(f1)
    assert evaluated_there([(golds, answer, 0.0)])["f1"] == pytest.approx(f1)


@pytest.mark.parametrize(("name", "score"), [("f1", f1_there), ("exact", exact_there)])
@given(questions=QUESTIONS)
def test_the_best_threshold_scores_what_the_script_s_best_one_does(name, score, questions):
    raw = [getattr(answer_scores(answer, golds), name) for golds, answer, _ in questions]
    margins, has = [q[2] for q in questions], [bool(q[0]) for q in questions]
    found = evaluated_there(questions, best_threshold(margins, raw, has))[name]
    every = [evaluated_there(questions, threshold)[name] for threshold in (0.0, *margins)]
    assert found == pytest.approx(max(every), abs=1e-9)
    # The script takes an answer such as "the" for a wrong one here, and for none when it measures.
    if all(golds or not answer or normalised_there(answer) for golds, answer, _ in questions):
        assert found == pytest.approx(best_there(score, questions), abs=1e-9)
