from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tasks.examples import EXAMPLES, rows_of
from tests.training.loops import build_loop
from tunewright.tasks.text_classification import TextClassification
from tunewright.training.order import (
    Blocks,
    OnDemandRows,
    Picked,
    one_ahead,
    order_of_epoch,
)

SIZES = st.lists(st.integers(0, 30), min_size=1, max_size=12).filter(any)
SEEDS, EPOCHS, COUNTS = st.integers(0, 2**32 - 1), st.integers(0, 1000), st.integers(1, 9)


def blocks(sizes, window_blocks=3, chunk_rows=8):
    return Blocks(np.cumsum([0, *sizes]), window_blocks, chunk_rows)


@given(SIZES, SEEDS, EPOCHS, COUNTS, COUNTS, st.integers(1, 40))
def test_an_epoch_has_every_row_once_in_chunks_of_whole_updates(
    sizes, seed, epoch, window, batch_size, chunk_rows
):
    chunks = list(blocks(sizes, window, chunk_rows).chunks(seed, epoch, batch_size))
    assert sorted(np.concatenate(chunks)) == list(range(sum(sizes)))
    assert [len(chunk) % batch_size for chunk in chunks[:-1]] == [0] * (len(chunks) - 1)


@given(SIZES, SEEDS, EPOCHS, COUNTS, COUNTS, st.data())
def test_an_epoch_can_be_taken_up_at_any_chunk(sizes, seed, epoch, window, batch_size, data):
    where = blocks(sizes, window)
    whole = [chunk.tolist() for chunk in where.chunks(seed, epoch, batch_size)]
    first = data.draw(st.integers(0, len(whole)))
    rest = [chunk.tolist() for chunk in where.chunks(seed, epoch, batch_size, first)]
    assert rest == whole[first:]


@given(SIZES, SEEDS, EPOCHS, COUNTS, COUNTS, st.integers(1, 40))
def test_the_order_does_not_depend_on_the_size_of_chunks_and_updates(
    sizes, seed, epoch, window, batch_size, chunk_rows
):
    one = np.concatenate(list(blocks(sizes, window).chunks(seed, epoch, 1)))
    other = list(blocks(sizes, window, chunk_rows).chunks(seed, epoch, batch_size))
    assert np.concatenate(other).tolist() == one.tolist()


@given(SIZES, SEEDS, EPOCHS)
def test_one_window_of_all_blocks_is_the_order_of_rows_in_memory(sizes, seed, epoch):
    chunks = blocks(sizes, len(sizes)).chunks(seed, epoch, 4)
    assert np.concatenate(list(chunks)).tolist() == order_of_epoch(sum(sizes), seed, epoch).tolist()


def test_rows_are_mixed_within_windows_of_blocks_from_all_over_the_file():
    (first, *_) = blocks([10] * 100, window_blocks=5, chunk_rows=50).chunks(7, 0, 10)
    own = set(first // 10)
    assert len(own) == 5
    assert max(own) - min(own) > 30
    assert len(set(first[:10] // 10)) > 2


def test_every_window_epoch_and_seed_has_an_order_of_its_own():
    where = blocks([10] * 4, window_blocks=2, chunk_rows=20)
    orders = [
        tuple(np.argsort(chunk))
        for seed in (0, 1)
        for epoch in (0, 1)
        for chunk in where.chunks(seed, epoch, 20)
    ]
    assert len(set(orders)) == 8


def test_each_chunk_is_expected_before_the_one_in_front_of_it_is_used():
    told = []
    chunks = iter([np.array([1]), np.array([2]), np.array([3])])
    for chunk in one_ahead(chunks, lambda rows: told.append(f"expect {rows[0]}")):
        told.append(f"use {chunk[0]}")
    assert told == ["expect 1", "expect 2", "use 1", "expect 3", "use 2", "use 3"]


def test_picked_rows_are_a_sequence_of_their_own():
    picked = Picked(["a", "b", "c", "d"], np.array([3, 1, 0]))
    assert (list(picked), picked[0], list(picked[1:]), len(picked)) == (
        ["d", "b", "a"],
        "d",
        ["b", "a"],
        3,
    )


class Listed(OnDemandRows):
    """Rows in memory that pretend to lie in blocks."""

    def __init__(self, rows, where):
        self.rows, self.blocks, self.expected = rows, where, []

    def __len__(self):
        return len(self.rows)

    def _made_at(self, place):
        return self.rows[place]

    def expect(self, rows_R):
        self.expected.append(rows_R.tolist())


@pytest.fixture
def loop(tiny_folder):
    """Returns a function (where) -> loop of a tiny BERT over eight rows that lie so."""

    def build(where, steps=6):
        rows = rows_of(EXAMPLES["text-classification"])
        task = TextClassification().within(64).learn(rows)
        one = build_loop(tiny_folder("bert"), task, rows, steps=steps, batch_size=2)
        one.rows = Listed(one.rows, where)
        return one

    return build


def losses(one):
    return [event.loss for event in one.run()]


def test_rows_in_blocks_train_to_the_same_bits_from_any_update_on(loop):
    where = blocks([3, 1, 4], window_blocks=2, chunk_rows=4)
    undisturbed, before = loop(where), loop(where, steps=3)
    expected = losses(undisturbed)
    assert losses(before) == expected[:3]
    before.schedule = undisturbed.schedule
    assert losses(before) == expected[3:]
    # What was trained before is not read again: chunks of two updates, the second epoch's last two.
    assert before.rows.expected[-2:] == undisturbed.rows.expected[-2:]


def test_rows_in_one_window_train_as_rows_in_memory(loop):
    assert losses(loop(blocks([3, 1, 4], 3, 100))) == losses(loop(Blocks.whole(8)))
