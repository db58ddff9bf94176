"""Tagged texts: their words, and what of them is marked."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from tests.tasks.examples import rows_of
from tunewright.tasks.words import read_tagged

TEXTS = st.text(st.sampled_from("ab 很!é"), max_size=30)
MARKS = st.lists(
    st.tuples(st.integers(0, 31), st.integers(0, 31), st.sampled_from(["x", "y"])), max_size=8
)


def tagged(text, marks):
    """Returns a text with marks that may overlap, as answers beside true marks may not."""
    (row,) = rows_of([{"text": text}])
    return replace(read_tagged(row), marks=marks)


@given(TEXTS, MARKS)
def test_a_mark_holds_the_words_that_begin_inside_it(text, marks):
    text = tagged(text, marks)
    inside = [
        ([place for place, (begin, _) in enumerate(text.words) if start <= begin < end], label)
        for start, end, label in marks
    ]
    expected = [(places[0], places[-1] + 1, label) for places, label in inside if places]
    assert text.spans("BIO") == expected


@given(TEXTS, MARKS)
def test_words_are_cut_at_every_edge_inside_them(text, marks):
    text = tagged(text, marks)
    edges = {place for start, end, _ in marks for place in (start, end)}
    expected = []
    for start, end in text.words:
        places = [start, *(place for place in range(start + 1, end) if place in edges), end]
        expected += pairwise(places)
    cut = text.cut()
    assert cut.words == expected
    assert [edge.tolist() for edge in cut.edges] == [
        [a for a, _ in expected],
        [b for _, b in expected],
    ]
