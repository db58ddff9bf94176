"""Tagged texts: their words, and what of them is marked."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise

import datasets
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tasks.examples import rows_of
from tunewright.data import read_table
from tunewright.tasks.shared.words import read_tagged

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


TOKENS, TAGS = ["it's", "a", "film"], ["O", "B-x", "I-x"]
ENTITIES = [{"start": 0, "end": 4, "label": "y"}, {"start": 7, "end": 11, "label": "x"}]


@pytest.mark.parametrize("write", [json.dumps, str, "[{0[0]!r} {0[1]!r}\n {0[2]!r}]".format])
def test_tokens_and_tags_may_be_written_as_text(write):
    (row,) = rows_of([{"tokens": write(TOKENS), "tags": write(TAGS)}])
    (plain,) = rows_of([{"tokens": TOKENS, "tags": TAGS}])
    assert read_tagged(row) == read_tagged(plain)


@pytest.mark.parametrize("tags", ["[0, -100, 12]", "[   0 -100   12]"])
def test_tags_that_are_numbers_may_be_written_as_text(tags):
    (row,) = rows_of([{"tokens": str(TOKENS), "tags": tags}])
    assert read_tagged(row).tags == ["0", "", "12"]


@pytest.mark.parametrize("role", ["entities", "tags"])
@pytest.mark.parametrize("write", [json.dumps, str])
@pytest.mark.parametrize("spans", [ENTITIES, [[0, 4, "y"], [7, 11, "x"]]])
def test_spans_may_be_written_as_text(role, write, spans):
    (row,) = rows_of([{"text": "it's a film", role: write(spans)}])
    assert read_tagged(row).marks == [(0, 4, "y"), (7, 11, "x")]


def test_a_blank_cell_is_no_list():
    rows = rows_of(
        [
            {"tokens": "", "tags": "", "text": "a film", "entities": '[[2, 6, "x"]]'},
            {"tokens": '["a", "film"]', "tags": '["O", "B-x"]', "text": "", "entities": ""},
            {"tokens": "", "tags": "", "text": "a film", "entities": " "},
        ]
    )
    texts = [read_tagged(row) for row in rows]
    assert [text.has_tokens for text in texts] == [False, True, False]
    assert [text.places("BIO") for text in texts] == [[(2, 6, "x")], [(2, 6, "x")], []]
    assert [text.is_known for text in texts] == [True, True, False]


def test_lists_that_other_libraries_wrote_to_a_csv_file_are_read(tmp_path):
    wide = {"tokens": [TOKENS], "tags": [TAGS], "ids": [[0, 1, 2]], "text": ["it's a film"],
            "entities": [ENTITIES]}  # fmt: skip
    datasets.Dataset.from_dict(wide).to_csv(tmp_path / "a.csv")
    table = read_table(tmp_path / "a.csv")
    (named,) = table.rows({"tokens": "tokens", "tags": "tags"})
    (numbered,) = table.rows({"tokens": "tokens", "tags": "ids"})
    (marked,) = table.rows({"text": "text", "entities": "entities"})
    assert read_tagged(named).tags == TAGS
    assert read_tagged(numbered).tags == ["0", "1", "2"]
    assert read_tagged(marked).marks == [(0, 4, "y"), (7, 11, "x")]
