from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from seqeval import metrics as seqeval
from seqeval.scheme import IOB2

from tunewright.data.tags import spans_of, strict_spans_of
from tunewright.metrics.entities import (
    ENTITY_METRICS,
    entity_counts,
    entity_metrics,
    label_scores,
    strict_counts,
)

TAGS = st.lists(
    st.lists(
        st.tuples(*[st.sampled_from(["O", "B-a", "I-a", "B-b", "I-b"])] * 2), min_size=1, max_size=8
    ),
    min_size=1,
    max_size=5,
)
LABELS = ("a", "b")


def statistics_of(true, answered):
    rows = []
    for gold, found in zip(true, answered, strict=True):
        rows.append(
            entity_counts(spans_of(gold), spans_of(found), LABELS)
            | {
                "strict": strict_counts(
                    strict_spans_of(gold, "BIO"), strict_spans_of(found, "BIO")
                ),
                "tokens": np.array([sum(map(str.__eq__, gold, found)), len(gold)]),
            }
        )
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


def unzipped(rows):
    return [[[pair[side] for pair in row] for row in rows] for side in (0, 1)]


@given(rows=TAGS)
@pytest.mark.filterwarnings("ignore")
def test_scores_are_seqeval_s(rows):
    true, answered = unzipped(rows)
    found = entity_metrics(statistics_of(true, answered))
    assert list(found) == [spec.name for spec in ENTITY_METRICS]
    expected = {
        "f1": seqeval.f1_score(true, answered),
        "precision": seqeval.precision_score(true, answered),
        "recall": seqeval.recall_score(true, answered),
        "f1_weighted": seqeval.f1_score(true, answered, average="weighted"),
        "accuracy": seqeval.accuracy_score(true, answered),
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-12)
    if any(tag != "O" for row in (*true, *answered) for tag in row):
        macro = seqeval.f1_score(true, answered, average="macro")
        assert found["f1_macro"] == pytest.approx(macro, abs=1e-12)
    if all(any(tag.startswith("B") for tag in row) for row in (*true, *answered)):
        strict = seqeval.f1_score(true, answered, mode="strict", scheme=IOB2)
        assert found["f1_strict"] == pytest.approx(strict, abs=1e-12)


@given(rows=TAGS, data=st.data())
def test_a_row_that_counts_twice_is_a_row_that_stands_there_twice(rows, data):
    true, answered = unzipped(rows)
    sizes = st.lists(st.integers(0, 3), min_size=len(rows), max_size=len(rows))
    counts = data.draw(sizes.filter(any))
    repeated = [
        [row for row, count in zip(side, counts, strict=True) for _ in range(count)]
        for side in (true, answered)
    ]
    found = entity_metrics(statistics_of(true, answered), np.array(counts))
    assert found == pytest.approx(entity_metrics(statistics_of(*repeated)))


def test_labels_that_training_never_saw_have_a_column_of_their_own():
    counts = entity_counts([(0, 1, "new"), (1, 2, "a")], [(1, 2, "a")], LABELS)
    assert [list(counts[name]) for name in ("true", "answered", "right")] == [
        [1, 0, 1],
        [1, 0, 0],
        [1, 0, 0],
    ]


def test_each_label_has_its_scores():
    statistics = statistics_of([["B-a", "O", "B-b"]], [["B-a", "B-a", "O"]])
    a, b = label_scores(statistics, LABELS)
    assert (a.label, a.precision, a.recall, a.num_entities) == ("a", 0.5, 1.0, 1)
    assert (b.label, b.precision, b.recall, b.f1) == ("b", 0.0, 0.0, 0.0)
