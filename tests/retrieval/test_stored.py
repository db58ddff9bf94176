"""Stored vectors: smaller, and compared as what they stand for."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunewright.models.pooling import to_bits
from tunewright.retrieval import stored
from tunewright.retrieval.embedder import of_unit_length
from tunewright.retrieval.stored import in_full, packed, stored_vectors

FORMS = ["float32", "int8", "binary"]


def vectors(num, dimensions, seed=0):
    made = np.random.default_rng(seed).normal(size=(num, dimensions)).astype(np.float32)
    return of_unit_length(made)


def kept(vectors_PD, form):
    """Returns vectors as an index has them in memory."""
    raws = packed(vectors_PD, form)
    raws_PB = np.frombuffer(b"".join(raws), np.uint8).reshape(len(raws), -1)
    return stored_vectors(raws_PB, form, vectors_PD.shape[1])


@pytest.mark.parametrize(("form", "num_bytes"), [("float32", 1536), ("int8", 388), ("binary", 48)])
def test_a_vector_of_384_numbers_takes_so_many_bytes(form, num_bytes):
    assert {len(raw) for raw in packed(vectors(5, 384), form)} == {num_bytes}


@given(st.integers(1, 20), st.integers(1, 40), st.integers(0, 99))
def test_8_bits_are_at_most_half_a_step_away(num, dimensions, seed):
    made = vectors(num, dimensions, seed)
    steps_P1 = np.abs(made).max(axis=1, keepdims=True) / 127
    assert (np.abs(in_full(kept(made, "int8")) - made) <= steps_P1 * 0.501).all()


@given(st.integers(1, 20), st.integers(1, 40), st.integers(0, 99))
def test_signs_stand_for_a_vector_of_length_1(num, dimensions, seed):
    made = vectors(num, dimensions, seed)
    full = in_full(kept(made, "binary"))
    np.testing.assert_allclose(full, np.where(made > 0, 1, -1) / np.sqrt(dimensions), atol=1e-6)
    np.testing.assert_array_equal(kept(made, "binary").bits_PW, to_bits(made))


def test_float32_is_kept_to_the_bit():
    made = vectors(7, 5)
    np.testing.assert_array_equal(kept(made, "float32"), made)


@given(
    st.integers(0, 20), st.integers(1, 40), st.sampled_from(FORMS), st.integers(1, 30),
    st.integers(0, 99),
)  # fmt: skip
def test_products_are_those_of_what_vectors_stand_for(num, dimensions, form, part, seed):
    made, query_D = vectors(num + 1, dimensions, seed)[1:], vectors(1, dimensions, seed + 1)[0]
    raws_PB = np.frombuffer(b"".join(packed(made, form)), np.uint8).reshape(num, -1) if num else (
        np.zeros((0, len(packed(vectors(1, dimensions), form)[0])), np.uint8)
    )  # fmt: skip
    has = stored_vectors(raws_PB, form, dimensions)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stored, "PART", part)
        found = has @ query_D
        chosen = np.arange(num) % 2 == 0
        some = has[chosen] @ query_D
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, in_full(has) @ query_D, atol=2e-6)
    np.testing.assert_allclose(some, found[chosen], atol=2e-6)


@pytest.mark.parametrize("form", FORMS)
def test_a_vector_of_zeros_is_stored(form):
    zeros = np.zeros((1, 9), np.float32)
    assert np.isfinite(kept(zeros, form) @ np.ones(9, np.float32)).all()
