from __future__ import annotations

import warnings
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st
from seqeval.metrics.sequence_labeling import get_entities
from seqeval.scheme import BILOU, IOB1, IOB2, IOBES, IOE2, Entities

from tunewright.data.cells.tags import (
    check_prefixes,
    continued,
    is_allowed,
    may_follow,
    rewritten,
    scheme_of,
    spans_of,
    strict_spans_of,
    tag_names,
    tags_of,
)
from tunewright.errors import DataError

# The schemes that seqeval has a strict mode for, and the letters of their tags.
STRICT = {
    "BIO": (IOB2, "BI"),
    "IOB1": (IOB1, "BI"),
    "IOE2": (IOE2, "IE"),
    "BIOES": (IOBES, "BIES"),
    "BILOU": (BILOU, "BILU"),
}


def every_tag(scheme):
    return ["O", *(f"{letter}-{label}" for letter in STRICT[scheme][1] for label in "ab")]


def strict_spans_in_seqeval(tags, scheme):
    found = Entities([list(tags)], STRICT[scheme][0]).entities[0]
    return [(entity.start, entity.end, entity.tag) for entity in found]


@given(data=st.data(), scheme=st.sampled_from([*STRICT]))
def test_spans_are_those_of_seqeval_s_default_mode(data, scheme):
    tags = data.draw(st.lists(st.sampled_from(every_tag(scheme)), max_size=12))
    # Its default mode knows no L and no U: they are read as the E and S that they stand for.
    known = [tag.replace("L-", "E-").replace("U-", "S-") for tag in tags]
    expected = [(start, end + 1, label) for label, start, end in get_entities(known)]
    assert spans_of(tags, scheme) == expected


@pytest.mark.parametrize("scheme", STRICT)
def test_strict_spans_are_those_of_seqeval_for_every_short_text(scheme):
    """Well formed or not; four tags hold all that a pattern of seqeval's can look at."""
    num_wellformed = num_tried = 0
    for length in range(5):
        for tags in product(every_tag(scheme), repeat=length):
            assert strict_spans_of(tags, scheme) == strict_spans_in_seqeval(tags, scheme), tags
            num_wellformed += is_allowed(tags, scheme)
            num_tried += 1
    assert 0 < num_wellformed < num_tried / 2


@given(data=st.data(), scheme=st.sampled_from([*STRICT]))
def test_strict_spans_are_those_of_seqeval_for_longer_texts(data, scheme):
    tags = data.draw(st.lists(st.sampled_from(every_tag(scheme)), min_size=5, max_size=16))
    assert strict_spans_of(tags, scheme) == strict_spans_in_seqeval(tags, scheme)


SCHEMES = ["BIO", "IOB1", "IOE2", "BIOES", "BILOU", "BMES", "IO", "plain"]


def spans_from(lengths, scheme):
    """Spans of given (gap, length, label), such as the scheme can tell apart."""
    spans, place = [], 0
    for gap, length, label in lengths:
        gap = 1 if scheme == "IO" and not gap else 0 if scheme == "plain" else gap
        length = 1 if scheme == "plain" else length
        spans.append((place + gap, place + gap + length, label))
        place += gap + length
    return spans, place


@given(lengths=st.lists(st.tuples(st.integers(0, 2), st.integers(1, 3), st.sampled_from("ab")),
                        max_size=6), scheme=st.sampled_from(SCHEMES))  # fmt: skip
def test_spans_become_tags_and_come_back(lengths, scheme):
    spans, num_tokens = spans_from(lengths, scheme)
    tags = tags_of(spans, num_tokens, scheme)
    assert spans_of(tags, scheme) == strict_spans_of(tags, scheme) == spans
    assert is_allowed(tags, scheme)
    assert set(tags) <= {*tag_names("ab", scheme)}


@pytest.mark.parametrize("scheme", STRICT)
def test_tags_are_allowed_when_nothing_is_lost_in_the_strict_mode(scheme):
    known = every_tag(scheme)
    num_allowed = 0
    for tags in product(known, repeat=3):
        again = tags_of(strict_spans_of(tags, scheme), 3, scheme)
        assert is_allowed(tags, scheme) == (list(tags) == again)
        num_allowed += list(tags) == again
    assert 0 < num_allowed < len(known) ** 3


def test_iob1_marks_a_beginning_only_between_neighbours():
    tags = ["I-a", "I-a", "B-a", "O", "I-b"]
    assert spans_of(tags, "IOB1") == [(0, 2, "a"), (2, 3, "a"), (4, 5, "b")]
    assert tags_of([(0, 2, "a"), (2, 3, "a"), (4, 5, "b")], 5, "IOB1") == tags
    assert tag_names("a", "IOB1") == ("O", "B-a", "I-a")


@pytest.mark.parametrize(
    ("tags", "scheme"),
    [
        (["O", "B-a"], "BIO"),
        (["B-a", "O", "I-a"], "BIO"),
        (["I-a", "O", "B-a"], "BIO"),
        (["I-a", "B-a", "O"], "IOB1"),
        (["I-a", "I-b"], "IOB1"),
        (["S-a", "O"], "BIOES"),
        (["I-a", "E-a", "O", "E-b"], "IOE2"),
        (["B-a", "E-a"], "BIOES"),
        (["U-a", "B-b", "L-b"], "BILOU"),
        (["B-a", "M-a", "E-a", "S-b"], "BMES"),
        (["NOUN", "VERB"], "plain"),
        (["person", "O"], "IO"),
        (["B-a", "PUNCT"], "plain"),
        (["-LRB-", "NN-PL"], "plain"),
        (["O"], "BIO"),
    ],
)
def test_the_scheme_is_found(tags, scheme):
    assert scheme_of([tags]) == scheme


@pytest.mark.parametrize(
    ("scheme", "tags"),
    [
        ("BILOU", ["U-a", "B-b", "I-b", "L-b"]),
        ("BMES", ["S-a", "B-b", "M-b", "E-b"]),
        ("IOE2", ["E-a", "I-b", "I-b", "E-b"]),
    ],
)
def test_other_letters_say_the_same(scheme, tags):
    assert spans_of(tags, scheme) == [(0, 1, "a"), (1, 4, "b")]
    assert tags_of([(0, 1, "a"), (1, 4, "b")], 4, scheme) == tags


def test_bare_labels_in_a_row_are_one_span_where_there_is_an_outside():
    tags = ["person", "person", "O", "place", "person"]
    assert spans_of(tags, "IO") == [(0, 2, "person"), (3, 4, "place"), (4, 5, "person")]
    assert tag_names(["person", "place"], "IO") == ("O", "person", "place")


@given(tags=st.lists(st.sampled_from(["O", "pa", "qb"]), max_size=6))
def test_bare_labels_have_the_places_that_seqeval_finds(tags):
    with warnings.catch_warnings(action="ignore"):
        expected = [(start, end + 1) for _, start, end in get_entities(tags)]
    assert [span[:2] for span in spans_of(tags, "IO")] == expected


@pytest.mark.parametrize(
    ("tag", "scheme", "inside"),
    [
        ("B-a", "BIO", "I-a"),
        ("B-a", "BMES", "M-a"),
        ("E-a", "BIOES", "E-a"),
        ("O", "BIO", "O"),
        ("B-a", "plain", "B-a"),
    ],
)
def test_what_begins_goes_on_inside(tag, scheme, inside):
    assert continued(tag, scheme) == inside


def test_plain_tags_are_spans_of_one_token():
    assert spans_of(["NOUN", "NOUN", "X-Y"], "plain") == [
        (0, 1, "NOUN"),
        (1, 2, "NOUN"),
        (2, 3, "X-Y"),
    ]
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
        ("IOB1", "O", "B-a", False),
        ("IOB1", "I-a", "B-a", True),
        ("IOB1", "", "I-a", True),
        ("IOE2", "", "I-a", True),
        ("IOE2", "I-a", "", False),
        ("IOE2", "I-a", "E-b", False),
        ("IOE2", "E-a", "I-a", True),
        ("BILOU", "B-a", "L-a", True),
        ("BILOU", "U-a", "L-a", False),
        ("IO", "a", "b", True),
        ("plain", "NOUN", "NOUN", True),
    ],
)
def test_what_may_follow_what(scheme, first, second, allowed):
    assert may_follow(first, second, scheme) is allowed


@pytest.mark.parametrize("stray", ["PER", "0", "X", "B_ORG"])
def test_a_tag_without_a_prefix_among_others_is_refused(stray):
    rows = [["B-PER", "I-PER", "O"], [stray, "O", stray]]
    with pytest.raises(DataError) as caught:
        check_prefixes(rows)
    assert str(caught.value) == (
        'the training data: it has tags such as "B-PER", "I-PER", and 2 without a prefix, such as '
        f'"{stray}". All tags but O have a prefix, or none has. Write them in one way.'
    )


def test_bare_labels_with_dashes_are_bare_labels():
    check_prefixes([["B-52", "phone", "O"], ["I-phone", "O"]])
    check_prefixes([["PER", "O"], []])
    check_prefixes([["B-PER", "I-PER", "S-ORG", "O"]])


@given(data=st.data(), scheme=st.sampled_from([*STRICT, "BMES"]))
def test_tags_with_letters_of_another_scheme_are_rewritten(data, scheme):
    lengths = data.draw(st.lists(st.integers(1, 3), max_size=4))
    gaps = data.draw(st.lists(st.integers(0, 1), min_size=len(lengths), max_size=len(lengths)))
    spans, place = [], 0
    for length, gap in zip(lengths, gaps, strict=True):
        spans.append((place + gap, place + gap + length, data.draw(st.sampled_from("ab"))))
        place += gap + length
    letters = {"BMES": "BMES"} | {name: known for name, (_, known) in STRICT.items()}
    for other in letters:
        tags = tags_of(spans, place, other)
        is_foreign = not {tag[0] for tag in tags if tag != "O"} <= set(letters[scheme])
        expected = tags_of(spans, place, scheme) if is_foreign else tags
        assert rewritten(tags, scheme) == expected, (other, tags)


@given(data=st.data(), scheme=st.sampled_from([*STRICT]))
def test_odd_tags_of_the_scheme_stay_as_they_are(data, scheme):
    tags = data.draw(st.lists(st.sampled_from(every_tag(scheme)), max_size=6))
    assert rewritten(tags, scheme) == tags
    assert rewritten(["B-a", "O"], "plain") == ["B-a", "O"]
