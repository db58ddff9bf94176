from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from seqeval.metrics.sequence_labeling import get_entities
from seqeval.scheme import IOB2, IOBES, Entities

from tunewright.data.tags import (
    may_follow,
    scheme_of,
    spans_of,
    strict_spans_of,
    tag_names,
    tags_of,
)

BIO = st.lists(st.sampled_from(["O", "B-a", "I-a", "B-b", "I-b"]), max_size=12)
BIOES = st.lists(
    st.sampled_from(["O", *(f"{p}-{label}" for p in "BIES" for label in "ab")]), max_size=12
)


@given(tags=st.one_of(BIO, BIOES))
def test_spans_are_those_of_seqeval_s_default_mode(tags):
    expected = [(start, end + 1, label) for label, start, end in get_entities(tags)]
    assert spans_of(tags) == expected


@given(tags=BIO)
def test_strict_spans_of_bio_are_those_of_seqeval_s_strict_mode(tags):
    found = Entities([tags], IOB2).entities[0]
    assert strict_spans_of(tags, "BIO") == [(e.start, e.end, e.tag) for e in found]


@given(tags=BIOES)
def test_strict_spans_of_bioes_are_those_of_seqeval_s_strict_mode(tags):
    found = Entities([tags], IOBES).entities[0]
    assert strict_spans_of(tags, "BIOES") == [(e.start, e.end, e.tag) for e in found]


@given(lengths=st.lists(st.tuples(st.integers(0, 2), st.integers(1, 3), st.sampled_from("ab")),
                        max_size=6), scheme=st.sampled_from(["BIO", "BIOES"]))  # fmt: skip
def test_spans_become_tags_and_come_back(lengths, scheme):
    spans, place = [], 0
    for gap, length, label in lengths:
        spans.append((place + gap, place + gap + length, label))
        place += gap + length
    tags = tags_of(spans, place + 1, scheme)
    assert spans_of(tags) == strict_spans_of(tags, scheme) == spans
    assert all(may_follow(a, b, scheme) for a, b in zip(["", *tags], [*tags, ""], strict=True))


def test_iob1_marks_a_beginning_only_between_neighbours():
    tags = ["I-a", "I-a", "B-a", "O", "I-b"]
    assert spans_of(tags) == [(0, 2, "a"), (2, 3, "a"), (4, 5, "b")]
    assert scheme_of([tags]) == "BIO"


@pytest.mark.parametrize(
    ("tags", "scheme"),
    [
        (["O", "B-a"], "BIO"),
        (["S-a", "O"], "BIOES"),
        (["U-a", "B-b", "L-b"], "BIOES"),
        (["NOUN", "VERB"], "plain"),
        (["B-a", "PUNCT"], "plain"),
        (["O"], "BIO"),
    ],
)
def test_the_scheme_is_found(tags, scheme):
    assert scheme_of([tags]) == scheme


def test_bilou_is_bioes_in_other_letters():
    assert spans_of(["U-a", "B-b", "I-b", "L-b"]) == [(0, 1, "a"), (1, 4, "b")]


def test_plain_tags_are_spans_of_one_token():
    assert spans_of(["NOUN", "NOUN", "O"]) == [(0, 1, "NOUN"), (1, 2, "NOUN")]
    assert tag_names(["NOUN", "VERB"], "plain") == ("NOUN", "VERB")


@pytest.mark.parametrize(
    ("scheme", "first", "second", "allowed"),
    [
        ("BIO", "", "I-a", False),
        ("BIO", "B-a", "I-a", True),
        ("BIO", "B-a", "I-b", False),
        ("BIO", "I-a", "O", True),
        ("BIO", "O", "I-a", False),
        ("BIOES", "B-a", "O", False),
        ("BIOES", "B-a", "", False),
        ("BIOES", "E-a", "B-a", True),
        ("BIOES", "S-a", "I-a", False),
        ("plain", "NOUN", "NOUN", True),
    ],
)
def test_what_may_follow_what(scheme, first, second, allowed):
    assert may_follow(first, second, scheme) is allowed
