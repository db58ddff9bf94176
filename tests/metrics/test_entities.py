from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from seqeval import metrics as seqeval
from seqeval.scheme import IOB1, IOB2, IOBES, IOE2

from tunewright.data.cells.tags import spans_of, strict_spans_of
from tunewright.metrics.entities import (
    ENTITY_METRICS,
    MAX_CONFUSED,
    Confusion,
    EntityReducer,
    entity_confusions,
    entity_counts,
    entity_statistics,
    label_confusions,
    label_scores,
)

LABELS = ("a", "b")
SEQEVAL = {"BIO": IOB2, "IOB1": IOB1, "IOE2": IOE2, "BIOES": IOBES}


def rows_in(letters):
    tags = st.sampled_from(["O", *(f"{letter}-{label}" for letter in letters for label in LABELS)])
    return st.lists(st.lists(st.tuples(tags, tags), min_size=1, max_size=8), min_size=1, max_size=5)


def statistics_of(true, answered, scheme="BIO"):
    rows = [
        entity_statistics(
            (spans_of(gold, scheme), spans_of(found, scheme)),
            (strict_spans_of(gold, scheme), strict_spans_of(found, scheme)),
            (sum(map(str.__eq__, gold, found)), len(gold)),
            LABELS,
        )
        for gold, found in zip(true, answered, strict=True)
    ]
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


def unzipped(rows):
    return [[[pair[side] for pair in row] for row in rows] for side in (0, 1)]


def expected_of(true, answered, scheme):
    """What seqeval says, in those of its modes that find an entity; it fails on none."""
    found = {"accuracy": seqeval.accuracy_score(true, answered)}
    modes = {"": {}, "_strict": {"mode": "strict", "scheme": SEQEVAL[scheme]}}
    for ending, mode in modes.items():
        read = (lambda tags: strict_spans_of(tags, scheme)) if mode else spans_of
        if not any(read(tags) for tags in (*true, *answered)):
            continue
        for name in ("precision", "recall", "f1"):
            score = getattr(seqeval, f"{name}_score")
            found[name + ending] = score(true, answered, **mode)
            found[f"{name}_macro{ending}"] = score(true, answered, average="macro", **mode)
        found[f"f1_weighted{ending}"] = seqeval.f1_score(true, answered, average="weighted", **mode)
    return found


@pytest.mark.parametrize(
    ("scheme", "letters"), [("BIO", "BI"), ("IOB1", "BI"), ("IOE2", "IE"), ("BIOES", "BIES")]
)
@given(data=st.data())
def test_scores_are_seqeval_s_in_both_modes(scheme, letters, data):
    true, answered = unzipped(data.draw(rows_in(letters)))
    found = EntityReducer.of(statistics_of(true, answered, scheme))()
    with warnings.catch_warnings(action="ignore"):
        expected = expected_of(true, answered, scheme)
    assert set(found) >= {spec.name for spec in ENTITY_METRICS}
    shared = found.keys() & expected.keys()
    assert {name: found[name] for name in shared} == pytest.approx(
        {name: expected[name] for name in shared}, abs=1e-12
    )


def test_every_metric_is_one_of_seqeval_s():
    names = expected_of([["B-a", "O"]], [["B-a", "O"]], "BIO")
    assert {spec.name for spec in ENTITY_METRICS} <= set(names)


@given(rows=rows_in("BI"), data=st.data())
def test_a_row_that_counts_twice_is_a_row_that_stands_there_twice(rows, data):
    true, answered = unzipped(rows)
    sizes = st.lists(st.integers(0, 3), min_size=len(rows), max_size=len(rows))
    counts = data.draw(sizes.filter(any))
    repeated = [
        [row for row, count in zip(side, counts, strict=True) for _ in range(count)]
        for side in (true, answered)
    ]
    found = EntityReducer.of(statistics_of(true, answered))(np.array(counts))
    assert found == pytest.approx(EntityReducer.of(statistics_of(*repeated))())


def test_labels_that_training_never_saw_have_a_column_of_their_own():
    counts = entity_counts([(0, 1, "new"), (1, 2, "a")], [(1, 2, "a")], LABELS)
    assert counts.tolist() == [[1, 0, 1], [1, 0, 0], [1, 0, 0]]


def test_each_label_has_its_scores():
    statistics = statistics_of([["B-a", "O", "B-b"]], [["B-a", "B-a", "O"]])
    a, b = label_scores(statistics, LABELS)
    assert (a.label, a.precision, a.recall, a.num_entities) == ("a", 0.5, 1.0, 1)
    assert (b.label, b.precision, b.recall, b.f1) == ("b", 0.0, 0.0, 0.0)


def test_what_only_the_default_mode_reads_is_not_right_in_the_strict_one():
    (a, _) = label_scores(statistics_of([["B-a", "O"]], [["I-a", "O"]]), LABELS)
    assert (a.f1, a.f1_strict) == (1.0, 0.0)


def test_labels_that_are_taken_for_others_at_the_same_place_are_counted():
    true = [["B-a", "I-a", "O"], ["B-a", "O", "B-b"], ["B-b", "O", "O"]]
    answered = [["B-b", "I-b", "O"], ["B-b", "I-b", "B-b"], ["B-a", "O", "O"]]
    found = label_confusions(statistics_of(true, answered), LABELS)
    assert found == [Confusion("a", "b", 1), Confusion("b", "a", 1)]


def test_of_very_many_labels_no_confusions_are_kept():
    labels = [str(number) for number in range(MAX_CONFUSED + 1)]
    assert entity_confusions([(0, 1, "1")], [(0, 1, "2")], labels).shape == (0, 0)
