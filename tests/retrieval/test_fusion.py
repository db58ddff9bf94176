"""Two rankings become one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunewright.retrieval.fusion import fused

RANKED = st.dictionaries(st.integers(0, 9), st.floats(-5, 5), max_size=6).map(
    lambda scores: sorted(scores.items(), key=lambda entry: -entry[1])
)


def test_scores_are_brought_to_0_to_1_and_added_by_their_weights():
    found = fused([(1, 0.9), (2, 0.7), (3, 0.5)], [(3, 8.0), (2, 2.0)], weight=0.75)
    assert dict(found) == pytest.approx({1: 0.75, 2: 0.375, 3: 0.25})
    assert [item for item, _ in found] == [1, 2, 3]


def test_a_ranking_without_differences_is_all_best():
    assert fused([(1, 0.4), (2, 0.4)], [], weight=0.5) == [(1, 0.5), (2, 0.5)]


@given(RANKED, RANKED, st.floats(0, 1))
def test_everything_of_either_ranking_is_there_once_from_best_to_worst(first, second, weight):
    found = fused(first, second, weight)
    scores = [score for _, score in found]

    assert sorted(item for item, _ in found) == sorted(dict([*first, *second]))
    assert scores == sorted(scores, reverse=True)
    assert all(-1e-9 <= score <= 1 + 1e-9 for score in scores)


@given(RANKED, RANKED)
def test_a_weight_of_one_keeps_the_order_of_the_first(first, second):
    scores = dict(first)
    found = [scores[item] for item, score in fused(first, second, 1.0) if score > 0]
    assert found == pytest.approx(sorted(found, reverse=True))
