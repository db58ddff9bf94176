from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tunewright.errors import SettingsError
from tunewright.models.batch import pack
from tunewright.models.pooling import (
    from_int8,
    normalised,
    pool,
    quantised,
    to_bits,
    to_int8,
    truncated,
    value_ranges,
)
from tunewright.types import Features, TokenStream

lengths = st.lists(st.integers(1, 9), min_size=1, max_size=6)


def stream_of(sizes):
    items = [Features(i, {"text": TokenStream([1] * size)}) for i, size in enumerate(sizes)]
    return pack(items).streams["text"]


def vectors(num, seed=0):
    made = np.random.default_rng(seed).normal(size=(num, 20)).astype(np.float32)
    return made / np.linalg.norm(made, axis=1, keepdims=True)


@given(lengths, st.sampled_from(["mean", "cls", "last"]))
def test_packed_pooling_is_that_of_sentence_transformers(sizes, pooling):
    modules = pytest.importorskip("sentence_transformers.sentence_transformer.modules")
    hidden_ND = torch.randn(sum(sizes), 4, generator=torch.Generator().manual_seed(0))
    found = pool(hidden_ND, stream_of(sizes), pooling)
    padded = torch.nn.utils.rnn.pad_sequence(hidden_ND.split(sizes), batch_first=True)
    mask = torch.arange(max(sizes)) < torch.tensor(sizes)[:, None]
    theirs = modules.Pooling(4, {"last": "lasttoken"}.get(pooling, pooling))
    expected = theirs({"token_embeddings": padded, "attention_mask": mask.long()})
    torch.testing.assert_close(found, expected["sentence_embedding"])


def test_vectors_are_float32_whatever_the_model_computes_in():
    hidden_ND = torch.ones(3, 4, dtype=torch.bfloat16)
    assert pool(hidden_ND, stream_of([1, 2]), "mean").dtype == torch.float32


def test_normalised_vectors_have_length_one_and_zeros_stay():
    found = normalised(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
    torch.testing.assert_close(found, torch.tensor([[0.6, 0.8], [0.0, 0.0]]))


def test_a_truncated_vector_is_its_beginning_at_length_one():
    found = truncated(np.array([[3, 4, 12], [0, 0, 1]], np.float32), 2)
    np.testing.assert_allclose(found, [[0.6, 0.8], [0, 0]])
    kept = truncated(np.array([[3, 4, 12]], np.float32), 2, normalize=False)
    np.testing.assert_allclose(kept, [[3, 4]])


@given(st.integers(2, 40), st.integers(0, 1000))
def test_codes_are_those_of_sentence_transformers(num, seed):
    quantize = pytest.importorskip("sentence_transformers.util.quantization").quantize_embeddings
    known, new = vectors(num, seed), vectors(5, seed + 1)
    ranges = value_ranges(known)
    expected = quantize(new, "int8", ranges=ranges)
    assert to_int8(new, ranges).tolist() == expected.tolist()
    assert to_bits(new).tolist() == quantize(new, "ubinary").tolist()


FORMS = ["float32", "int8", "uint8", "binary", "ubinary"]


@given(st.integers(2, 40), st.sampled_from(FORMS), st.booleans())
def test_smaller_forms_are_those_of_sentence_transformers(num, form, are_given):
    quantize = pytest.importorskip("sentence_transformers.util.quantization").quantize_embeddings
    made, ranges = vectors(num), value_ranges(vectors(9, 1)) if are_given else None
    found, expected = quantised(made, form, ranges), quantize(made, form, ranges=ranges)
    assert found.dtype == expected.dtype
    assert found.tolist() == expected.tolist()


@pytest.mark.parametrize("form", FORMS)
def test_no_vectors_have_the_smaller_form_of_none(form):
    quantize = pytest.importorskip("sentence_transformers.util.quantization").quantize_embeddings
    none, ranges = np.zeros((0, 20), np.float32), value_ranges(vectors(3))
    found, expected = quantised(none, form, ranges), quantize(none, form)
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)


def test_a_single_vector_has_no_ranges():
    with pytest.raises(SettingsError, match="they cannot be taken from fewer than two vectors"):
        quantised(vectors(1), "int8")
    assert quantised(vectors(1), "binary").shape == (1, 3)


def test_codes_stand_for_values_at_most_half_a_step_away():
    made = vectors(50)
    ranges = value_ranges(made)
    steps = (ranges[1] - ranges[0]) / 255
    away = np.abs(from_int8(to_int8(made, ranges), ranges) - made)
    assert (away <= steps * 0.501).all()


def test_a_number_that_never_changes_has_a_code_all_the_same():
    made = np.array([[0.5, 1.0], [0.5, 2.0]], np.float32)
    assert to_int8(made, value_ranges(made))[:, 0].tolist() == [-128, -128]
