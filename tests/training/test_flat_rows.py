"""Encoded rows come back from flat arrays as they were."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tasks.examples import ARCHITECTURES, EXAMPLES, SETTINGS, rows_of
from tunewright.models.text.tokenizers import load_tokenizer
from tunewright.tasks import find_task
from tunewright.training.flat_rows import FlatRows, Flattener
from tunewright.types import Features, TokenStream


def flattened(rows):
    flat = Flattener()
    for features in rows:
        flat.add(features)
    found = flat.arrays()
    return None if found is None else FlatRows(*found)


def plain(value):
    """Returns a value with its types, to be compared exactly."""
    if isinstance(value, np.ndarray):
        return ("array", value.dtype.str, value.shape, value.tolist())
    if isinstance(value, list | tuple):
        return (type(value), [plain(item) for item in value])
    return (type(value), value)


def plain_features(item):
    streams = {
        name: [plain(getattr(stream, field)) for field in TokenStream.__slots__]
        for name, stream in item.streams.items()
    }
    targets = {name: plain(target) for name, target in item.targets.items()}
    return item.row_id, item.window, streams, targets


def assert_alike(found, expected):
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        assert list(map(plain_features, ours)) == list(map(plain_features, theirs))


@pytest.mark.parametrize("name", sorted(EXAMPLES.keys() - {"image-captioning"}))
def test_rows_of_every_task_come_back_as_they_were(name, tiny_folder):
    rows = rows_of(EXAMPLES[name])
    tokenizer = load_tokenizer(tiny_folder(ARCHITECTURES.get(name, "bert")))
    task = find_task(name)(**SETTINGS.get(name, {})).within(64).learn(rows)
    encoded = [task.encode(row, tokenizer) for row in rows]
    assert_alike(flattened(encoded), encoded)


def test_rows_with_pictures_are_given_up_on(tiny_folder):
    name = "image-captioning"
    tokenizer = load_tokenizer(tiny_folder(ARCHITECTURES[name]))
    flat = Flattener()
    flat.add(find_task(name)(**SETTINGS[name]).encode(rows_of(EXAMPLES[name])[0], tokenizer))
    assert flat.arrays() is None


NUMBERS = st.lists(st.integers(0, 9), max_size=4)
ARRAYS = NUMBERS.map(lambda values: np.array(values, np.int32))
TARGETS = st.fixed_dictionaries(
    {"i": st.integers(-9, 9)},
    optional={
        "f": st.floats(allow_nan=False),
        "b": st.booleans(),
        "t": NUMBERS.filter(len).map(tuple),
        "l": st.lists(st.floats(allow_nan=False), min_size=1, max_size=3),
        "a": ARRAYS,
        "m": st.lists(st.booleans(), max_size=3).map(np.array).filter(lambda a: a.dtype == bool),
    },
)
STREAMS = st.builds(
    TokenStream,
    ARRAYS,
    st.none() | ARRAYS,
    st.integers(0, 5),
    st.integers(0, 5),
    st.none() | NUMBERS.map(lambda v: np.array([v, v], np.int32).T.reshape(-1, 2)),
)
ROWS = st.lists(
    st.lists(
        st.builds(
            Features,
            st.integers(0, 9),
            st.dictionaries(st.sampled_from(["text", "source two"]), STREAMS, max_size=2),
            TARGETS,
            st.integers(0, 3),
        ),
        max_size=3,
    ),
    max_size=5,
)


@given(ROWS)
def test_any_rows_come_back_as_they_were(rows):
    assert_alike(flattened(rows), rows)


@pytest.mark.parametrize("targets", [(1, 2.0), (1, (1,)), ("a", "b"), ((), (1,)), ({}, {})])
def test_rows_that_would_not_come_back_as_they_were_have_no_such_form(targets):
    rows = [[Features(0, {}, {"x": target})] for target in targets]
    assert flattened(rows) is None


def test_what_comes_back_can_be_written_into_and_the_arrays_stay():
    rows = [[Features(0, {"text": TokenStream(np.arange(3))}, {"x": np.arange(4)})]]
    found = flattened(rows)
    found[0][0].targets["x"][:] = 9
    found[0][0].streams["text"].token_ids[:] = 9
    assert_alike(found, rows)
