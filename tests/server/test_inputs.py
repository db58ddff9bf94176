"""Rows of a request are read by the columns of training."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tunewright.errors import DataError
from tunewright.server.inputs import rows_of
from tunewright.server.refusals import Refused

PAIRS = {"text": "question", "text_pair": "answer", "label": "kind"}


@pytest.fixture
def model(model_of):
    """A classifier of pairs, trained on columns of other names."""
    return replace(model_of("text-classification"), columns=PAIRS)


@pytest.mark.parametrize(
    "inputs",
    [
        {"question": "a", "answer": "b"},
        {"Question": "a", "ANSWER": "b"},
        {"text": "a", "sentence2": "b"},
        ["a", "b"],
    ],
)
def test_columns_of_training_and_usual_names_are_read(model, inputs):
    (row,), is_batch = rows_of(model, inputs)
    assert (row.values, is_batch) == ({"text": "a", "text_pair": "b"}, False)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (
            {"question": "a"},
            'inputs: there is no text_pair, and training read it (from "answer"). '
            'A model reads what it has learned from. Call it "answer".',
        ),
        ({"text": "a"}, "inputs: there is no text_pair, and training read it"),
        ({"answer": "b"}, 'inputs: there is no column "text"'),
        (
            {"question": "a", "answer": "b", "shop": "c"},
            'inputs: "shop" is no column. There is question, answer.',
        ),
    ],
)
def test_half_a_pair_and_other_columns_are_refused(model, inputs, message):
    with pytest.raises((Refused, DataError)) as caught:
        rows_of(model, inputs)
    assert str(caught.value).startswith(message)
    assert "data.columns" not in str(caught.value)


def test_a_second_text_that_training_had_not_is_refused(model):
    alone = replace(model, columns={"text": "question"})
    with pytest.raises(Refused, match='"answer" is no column'):
        rows_of(alone, {"question": "a", "answer": "b"})
