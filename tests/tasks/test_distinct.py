from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tunewright.tasks.shared.distinct import LOOK_AHEAD, distinct_updates

texts = st.lists(st.sets(st.integers(0, 40), min_size=1, max_size=3), min_size=1, max_size=60)


def updates(texts, batch_size, seed=0):
    order = np.random.default_rng(seed).permutation(len(texts))
    return [u.tolist() for u in distinct_updates(order, texts.__getitem__, batch_size)]


def is_distinct(update, texts):
    return len(set().union(*(texts[row] for row in update))) == sum(len(texts[r]) for r in update)


@given(texts, st.integers(1, 9))
def test_every_row_stands_in_one_update_and_all_but_the_last_are_full(texts, batch_size):
    found = updates(texts, batch_size)
    assert sorted(row for update in found for row in update) == list(range(len(texts)))
    assert [len(update) for update in found[:-1]] == [batch_size] * (len(found) - 1)
    assert len(found) == -(-len(texts) // batch_size)


def test_a_text_that_stands_twice_is_kept_apart():
    rows = [{row // 2} for row in range(40)]
    found = updates(rows, 4)
    assert all(is_distinct(update, rows) for update in found[:-1])
    assert any(not is_distinct(order, rows) for order in np.arange(40).reshape(10, 4).tolist())


def test_rows_without_a_text_in_common_keep_their_order():
    rows = [{row} for row in range(10)]
    order = np.random.default_rng(3).permutation(10)
    found = np.concatenate(list(distinct_updates(order, rows.__getitem__, 4)))
    assert found.tolist() == order.tolist()


def test_a_row_passed_over_comes_first_in_the_next_update():
    rows = [{1}, {1}, {2}, {3}, {4}]
    assert list(map(list, distinct_updates(np.arange(5), rows.__getitem__, 2))) == [
        [0, 2],
        [1, 3],
        [4],
    ]


def test_a_text_that_stands_everywhere_costs_a_bounded_look_ahead():
    asked = []

    def texts_of(row):
        asked.append(row)
        return {7}

    assert len(list(distinct_updates(np.arange(1000), texts_of, 10))) == 100
    assert len(asked) <= 100 * (10 * LOOK_AHEAD + 10)
