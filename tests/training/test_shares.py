from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunewright.training.shares import shares

sizes = st.lists(st.integers(0, 500), max_size=60)


@given(sizes, st.integers(1, 9))
def test_every_place_is_in_one_share_and_each_share_keeps_the_order(sizes, num_shares):
    found = shares(sizes, num_shares)
    assert len(found) == num_shares
    assert sorted(place for share in found for place in share) == list(range(len(sizes)))
    assert all(share == sorted(share) for share in found)


@given(sizes.filter(len), st.integers(1, 9))
def test_no_share_has_more_than_the_smallest_and_one_place(sizes, num_shares):
    totals = [sum(sizes[place] for place in share) for share in shares(sizes, num_shares)]
    assert max(totals) - min(totals) <= max(sizes)


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([100, 10, 10, 10], [[0], [1, 2, 3]]),
        ([5, 4, 3, 3, 3], [[0, 3], [1, 2, 4]]),
        ([7], [[0], []]),
        ([], [[], []]),
    ],
)
def test_the_largest_goes_to_whoever_has_least(sizes, expected):
    assert shares(sizes, 2) == expected
