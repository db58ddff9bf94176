"""Whose turn it is: how the parts of a multi-task share the updates of an epoch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.tasks.examples import EXAMPLES, SETTINGS, UNLIKE, UNLIKE_PARTS, rows_of
from tests.training.loops import build_loop
from tunewright.tasks.base import Task
from tunewright.tasks.multi_task import MultiTask
from tunewright.tasks.sentence_embedding import SentenceEmbedding
from tunewright.types import Features, TokenStream

PARTS = {"a": "text-classification", "b": "regression", "c": "token-classification"}
SAMPLINGS = ["size", "temperature", "round-robin"]


def multi_task(**settings):
    return MultiTask(parts={name: {"name": task} for name, task in PARTS.items()}, **settings)


def encoded(sizes, targets=lambda number: {}):
    """Rows of the parts a, b, ... as they are after encoding, all of one token."""
    names = [name for name, size in zip("abc", sizes, strict=False) for _ in range(size)]
    return [
        [Features(i, {f"{name}/text": TokenStream(np.array([1]))}, targets(i))]
        for i, name in enumerate(names)
    ]


def updates_of(task, rows, batch_size, seed=0):
    order = np.random.default_rng(seed).permutation(len(rows))
    return list(task.updates(order, rows, batch_size))


def owners(rows, update):
    return {next(iter(rows[i][0].streams))[0] for i in update}


def turns_of(rows, updates):
    return "".join(owners(rows, update).pop() for update in updates)


sizes_of_three = st.tuples(*(st.integers(1, 60) for _ in range(3)))


@given(sizes=sizes_of_three, batch_size=st.integers(1, 80), sampling=st.sampled_from(SAMPLINGS))
def test_every_part_has_an_update_in_an_epoch_of_as_many_as_slices(sizes, batch_size, sampling):
    task, rows = multi_task(sampling=sampling), encoded(sizes)
    size = task.update_size(len(rows), batch_size)
    found = updates_of(task, rows, size)
    assert 1 <= size <= batch_size
    assert len(found) == -(-len(rows) // size)
    assert all(len(owners(rows, update)) == 1 for update in found)
    assert set(turns_of(rows, found)) == {"a", "b", "c"}
    if sampling == "size":
        assert sorted(np.concatenate(found)) == list(range(len(rows)))


@given(num_rows=st.integers(3, 200), batch_size=st.integers(1, 100))
def test_an_update_is_no_smaller_than_it_has_to_be(num_rows, batch_size):
    size = multi_task().update_size(num_rows, batch_size)
    assert size == batch_size or -(-num_rows // (size + 1)) < len(PARTS)


def test_ten_and_five_and_five_rows_are_an_update_each():
    task, rows = multi_task(), encoded((10, 5, 5))
    found = updates_of(task, rows, task.update_size(20, 16))
    assert sorted(map(len, found)) == [5, 5, 10]


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_where_updates_are_fewer_than_parts_chance_decides(sampling):
    task, rows = multi_task(sampling=sampling), encoded((20, 10, 10))
    found = [updates_of(task, rows, 40, seed) for seed in range(60)]
    assert {len(updates) for updates in found} == {1}
    assert {turns_of(rows, updates) for updates in found} == {"a", "b", "c"}


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_a_part_without_rows_among_those_at_hand_has_no_update(sampling):
    task, rows = multi_task(sampling=sampling), encoded((20, 0, 12))
    found = updates_of(task, rows, 4)
    assert len(found) == 8
    assert set(turns_of(rows, found)) == {"a", "c"}


# Parts with a way of their own to choose the rows of an update ---------------------------------


def texts(number):
    """Each text stands in two neighbouring rows."""
    return {"text": number // 2}


def queries(number):
    return {"group": number // 4, "label": 1.0}


def embedding_and(other):
    return {"a": {"name": "sentence-embedding", "objective": "ranking"}, "b": {"name": other}}


@given(
    sizes=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    batch_size=st.integers(1, 20),
    sampling=st.sampled_from(SAMPLINGS),
)
def test_a_part_with_its_own_updates_has_as_many_as_its_share(sizes, batch_size, sampling):
    task = MultiTask(parts=embedding_and("regression"), sampling=sampling)
    rows = encoded(sizes, texts)
    size = task.update_size(len(rows), batch_size)
    found = updates_of(task, rows, size)
    assert len(found) == -(-len(rows) // size)
    assert set(turns_of(rows, found)) == {"a", "b"}
    assert all(len(update) and len(set(update)) == len(update) for update in found)
    if sampling == "size":
        assert sorted(np.concatenate(found)) == list(range(len(rows)))


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_no_text_stands_twice_in_an_update_of_an_embedding_part(sampling):
    task = MultiTask(parts=embedding_and("regression"), sampling=sampling)
    rows = encoded((40, 37), texts)
    mixed = updates_of(task, rows, 8)
    own = [update for update in mixed if owners(rows, update) == {"a"}]
    assert len(own) >= 4
    for update in own:
        assert len({rows[i][0].targets["text"] for i in update}) == len(update)


def test_the_rows_of_a_query_stay_together_in_a_reranking_part():
    reranking = {"name": "reranking", "objective": "listwise", "rows_hold_lists": False}
    task = MultiTask(parts={"a": reranking, "b": {"name": "regression"}})
    rows = encoded((40, 40), queries)
    own = [u for u in updates_of(task, rows, 8) if owners(rows, u) == {"a"}]
    for query in range(10):
        assert sum(query in {rows[i][0].targets["group"] for i in update} for update in own) == 1


def test_a_part_chooses_its_rows_among_features_as_it_made_them(monkeypatch):
    seen = []

    def updates(self, order, rows, batch_size):
        seen.extend(name for row in rows[: len(rows)] for name in row[0].streams)
        return Task.updates(self, order, rows, batch_size)

    monkeypatch.setattr(SentenceEmbedding, "updates", updates)
    task = MultiTask(parts=embedding_and("regression"))
    updates_of(task, encoded((8, 8), texts), 4)
    assert set(seen) == {"text"}


# What an update's loss looks at ----------------------------------------------------------------


@pytest.fixture
def unlike():
    """Parts of unlike kinds with enough rows that each has two updates of four."""
    rows = rows_of([row for row in UNLIKE for _ in range(4)])
    parts = UNLIKE_PARTS | {"meaning": {"name": "sentence-embedding", "distinct": False}}
    return MultiTask(parts=parts).within(64).learn(rows), rows


def test_an_update_has_the_scope_of_its_part(unlike, tiny_folder):
    task, rows = unlike
    loop = build_loop(tiny_folder("bert"), task, rows)
    scopes = {next(iter(row[0].streams)): task.scope_of(row) for row in loop.rows}
    assert scopes == {
        "topic/text": "row",
        "names/text": "row",
        "meaning/text": "batch",
        "answers/text": "row",
    }
    assert task.scope == "batch"
    assert MultiTask(**SETTINGS["multi-task"]).scope == "row"


def gradients_of_updates(loop):
    """The gradient of every update of an epoch, and how many forward passes each took."""
    passes = []
    forward = loop._forward
    loop._forward = lambda step, batch: passes.append(batch) or forward(step, batch)
    found = []
    for indices, _ in loop._updates(0):
        passes.clear()
        loop._reseed(0)
        loop.model.zero_grad(set_to_none=True)
        loop.model.train()
        _, count = loop._accumulate(0, loop._shared(indices, 0))
        named = loop.model.named_parameters()
        gradients = {name: p.grad / count for name, p in named if p.grad is not None}
        found.append((next(iter(passes[0].streams)), gradients, len(passes)))
    return found


def test_every_update_cut_to_pieces_has_the_gradient_of_one_batch(unlike, tiny_folder):
    task, rows = unlike
    folder = tiny_folder("bert")
    whole = gradients_of_updates(build_loop(folder, task, rows, batch_size=4))
    pieces = gradients_of_updates(build_loop(folder, task, rows, batch_size=4, max_tokens=1))
    assert [name for name, _, _ in whole] == [name for name, _, _ in pieces]
    assert {name for name, _, _ in whole} == {f"{name}/text" for name in UNLIKE_PARTS}
    for (name, expected, _), (_, found, _) in zip(whole, pieces, strict=True):
        assert found.keys() == expected.keys()
        largest = max(float(gradient.abs().max()) for gradient in expected.values())
        for key, gradient in expected.items():
            torch.testing.assert_close(
                found[key], gradient, rtol=1e-5, atol=1e-5 * largest, msg=f"{name} {key}"
            )


def test_only_the_updates_whose_rows_look_at_one_another_run_twice(unlike, tiny_folder):
    task, rows = unlike
    loop = build_loop(tiny_folder("bert"), task, rows, batch_size=4, max_tokens=1)
    for name, _, num_passes in gradients_of_updates(loop):
        inputs = {"meaning/text": 2 * (4 * 3)}.get(name, 4)  # three texts a row, and each twice
        assert num_passes == inputs, name


def test_a_loop_trains_every_part_of_few_rows(tiny_folder):
    rows = rows_of(EXAMPLES["multi-task"])
    task = MultiTask(**SETTINGS["multi-task"]).within(64).learn(rows)
    loop = build_loop(tiny_folder("bert"), task, rows, batch_size=8)
    assert loop.steps_per_epoch == 2
    trained = [owners_of(loop, indices) for indices, _ in loop._updates(0)]
    assert sorted(trained) == ["mood/text", "topic/text"]


def owners_of(loop, indices):
    (name,) = {next(iter(loop.rows[i][0].streams)) for i in indices}
    return name
