from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tunewright.models.files.architecture import ENCODER, MASKED_LM
from tunewright.models.files.loading import load_library_model
from tunewright.models.layers import embedding
from tunewright.models.layers.embedding import RowEmbedding, keep_row_gradients

IDS = st.lists(st.integers(0, 19), min_size=1, max_size=30)


def both(padding_idx=None):
    torch.manual_seed(0)
    plain = nn.Embedding(20, 6, padding_idx)
    rows = RowEmbedding.of(nn.Embedding(20, 6, padding_idx, _weight=plain.weight.detach().clone()))
    return plain, rows


def step(table, ids, optimizer):
    """One update of two forward passes, the second over the first half of the ids."""
    for part in (ids, ids[: len(ids) // 2 + 1]):
        values = table(torch.tensor([part]))
        (values * torch.arange(values.numel()).view_as(values)).sum().backward()
    gradient = table.weight.grad.clone()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return gradient


@given(updates=st.lists(IDS, min_size=1, max_size=4), padding_idx=st.sampled_from([None, 3]))
def test_gradients_and_weights_are_those_of_a_plain_embedding_to_the_bit(updates, padding_idx):
    plain, rows = both(padding_idx)
    optimizers = [torch.optim.AdamW(table.parameters(), lr=0.1) for table in (plain, rows)]
    for ids in updates:
        expected, found = (
            step(table, ids, one) for table, one in zip((plain, rows), optimizers, strict=True)
        )
        assert torch.equal(found, expected)
    assert torch.equal(rows.weight, plain.weight)


def test_the_block_of_the_gradient_is_kept_between_updates():
    _, rows = both()
    optimizer = torch.optim.SGD(rows.parameters(), lr=0.1)
    places = set()
    for ids in ([1, 2], [3], [4, 4]):
        rows(torch.tensor(ids)).sum().backward()
        places.add(rows.weight.grad.data_ptr())
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    assert len(places) == 1
    assert rows.weight.grad is None


def test_a_frozen_table_and_an_answer_make_no_gradient():
    _, rows = both()
    with torch.no_grad():
        assert not rows(torch.tensor([1])).requires_grad
    rows.weight.requires_grad_(False)
    assert not rows(torch.tensor([1])).requires_grad


@pytest.fixture
def small_tables(monkeypatch):
    monkeypatch.setattr(embedding, "LEAST_ELEMENTS", 5000)


def test_large_word_embeddings_of_a_model_are_replaced_and_its_weights_keep_their_names(
    tiny_folder, small_tables
):
    model = load_library_model(tiny_folder("bert"), ENCODER).model
    before = model.state_dict()
    keep_row_gradients(model)
    assert type(model.get_input_embeddings()) is RowEmbedding
    assert type(model.embeddings.position_embeddings) is nn.Embedding
    assert list(model.state_dict()) == list(before)
    table = model.get_input_embeddings()
    assert torch.equal(table.weight, before["embeddings.word_embeddings.weight"])


def test_tied_weights_keep_their_dense_gradient(tiny_folder, small_tables):
    model = load_library_model(tiny_folder("bert"), MASKED_LM).model
    keep_row_gradients(model)
    assert type(model.get_input_embeddings()) is nn.Embedding


def test_small_tables_are_left_alone(tiny_folder):
    model = load_library_model(tiny_folder("bert"), ENCODER).model
    keep_row_gradients(model)
    assert type(model.get_input_embeddings()) is nn.Embedding
