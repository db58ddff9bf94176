"""Native attention of the newest tokens and native selection, against plain torch."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tunewright.models.generating.native_writing import Newest, native_likeliest
from tunewright.native import native

pytestmark = pytest.mark.skipif(native() is None, reason="there is no native code here")

TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 0.01}

CASES = st.fixed_dictionaries(
    {
        "rows": st.integers(1, 5),
        "beams": st.integers(1, 4),
        "tokens": st.integers(1, 70),
        "heads": st.integers(1, 4),
        "width": st.sampled_from([1, 6, 16, 24, 64, 80]),
        "biased": st.booleans(),
        "heads_apart": st.booleans(),
        "dtype": st.sampled_from([torch.float32, torch.bfloat16]),
        "seed": st.integers(0, 2**16),
    }
)


def blocks(case, num_rows, generator):
    """Query (R, 1, H, E), and two blocks (rows, T, H, E) whose heads lie together or apart."""
    heads, width, tokens = case["heads"], case["width"], case["tokens"]
    query = torch.randn(case["rows"] * case["beams"], 1, heads, width, generator=generator)
    shape = (
        (num_rows, heads, tokens, width)
        if case["heads_apart"]
        else (num_rows, tokens, heads, width)
    )
    found = [torch.randn(shape, generator=generator).to(case["dtype"]) for _ in range(2)]
    if case["heads_apart"]:
        found = [block.transpose(1, 2) for block in found]
    return query.to(case["dtype"]), *found


def by_hand(query, key, value, bias, seen):
    """Attention in double precision: key and value are (R, T, H, E), `seen` (R, T)."""
    query, key, value = query[:, 0].double(), key.double(), value.double()
    scores = torch.einsum("rhe,rthe->rht", query, key) * query.shape[-1] ** -0.5
    if bias is not None:
        scores = scores + bias[:, 0].double()
    weights = scores.masked_fill(~seen[:, None], -torch.inf).softmax(-1)
    return torch.einsum("rht,rthe->rhe", weights, value)[:, None]


def bias_of(case, generator):
    return (
        torch.randn(case["heads"], 1, case["tokens"], generator=generator)
        if case["biased"]
        else None
    )


def assert_close(found, expected, dtype):
    assert found.dtype == dtype
    assert (found.double() - expected).abs().max() <= TOLERANCE[dtype] * expected.abs().max().clip(
        1
    )


@given(case=CASES)
@settings(max_examples=60, deadline=None)
def test_beginnings_attend_to_the_tokens_they_went_on_from(case):
    generator = torch.Generator().manual_seed(case["seed"])
    num_rows = case["rows"] * case["beams"]
    query, key, value = blocks(case, num_rows, generator)
    bias = bias_of(case, generator)
    origins = torch.randint(num_rows, (num_rows, case["tokens"] + 3), generator=generator)
    found = Newest(origins.int()).attend(query, key, value, bias)
    places = torch.arange(case["tokens"])
    taken = [block[origins[:, : case["tokens"]], places] for block in (key, value)]
    seen = torch.ones(num_rows, case["tokens"], dtype=torch.bool)
    assert_close(found, by_hand(query, *taken, bias, seen), case["dtype"])


@given(case=CASES)
@settings(max_examples=60, deadline=None)
def test_beams_of_a_row_attend_to_its_source_and_not_to_padding(case):
    generator = torch.Generator().manual_seed(case["seed"])
    query, key, value = blocks(case, case["rows"], generator)
    bias = bias_of(case, generator)
    seen = torch.rand(case["rows"], case["tokens"], generator=generator) < 0.7
    seen[:, 0] = True
    found = Newest(beams=case["beams"], seen=seen).attend(query, key, value, bias)
    whole = [block.repeat_interleave(case["beams"], 0) for block in (key, value, seen)]
    assert_close(found, by_hand(query, *whole[:2], bias, whole[2]), case["dtype"])


@given(
    rows=st.integers(1, 4),
    beams=st.integers(1, 5),
    vocabulary=st.integers(2, 200),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    seed=st.integers(0, 2**16),
)
@settings(max_examples=100, deadline=None)
def test_the_likeliest_are_those_of_a_sort(rows, beams, vocabulary, dtype, seed):
    generator = torch.Generator().manual_seed(seed)
    logits = (5 * torch.randn(rows * beams, vocabulary, generator=generator)).to(dtype)
    before = -torch.rand(rows, beams, generator=generator)
    wanted = min(2 * beams, beams * vocabulary)
    places, scores = native_likeliest(logits, before, wanted)
    summed = logits.double().log_softmax(-1).view(rows, beams, -1) + before[:, :, None]
    summed = summed.flatten(1)
    expected = summed.sort(descending=True).values[:, :wanted]
    assert torch.allclose(scores.double(), expected, atol=1e-5)
    assert torch.allclose(summed.gather(1, places), expected, atol=1e-5)
    assert all(len(set(row)) == wanted for row in places.tolist())


def test_equal_ones_come_in_the_order_of_their_places():
    logits = torch.zeros(2, 40)
    logits[:, [7, 30]] = 3
    places, _ = native_likeliest(logits, torch.zeros(1, 2), 5)
    assert places.tolist() == [[7, 30, 47, 70, 0]]


@pytest.mark.parametrize("num_threads", [1, 2, 3])
def test_the_number_of_threads_changes_no_bit(num_threads):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(12, 500, generator=generator)
    before, threads = torch.zeros(3, 4), torch.get_num_threads()
    query, key, value = (torch.randn(12, n, 2, 20, generator=generator) for n in (1, 9, 9))

    def found():
        origins = torch.arange(12, dtype=torch.int32)[:, None].expand(12, 9).contiguous()
        return (
            *native_likeliest(logits, before, 8),
            Newest(origins).attend(query, key, value, None),
        )

    expected = found()
    try:
        torch.set_num_threads(num_threads)
        assert all(map(torch.equal, found(), expected))
    finally:
        torch.set_num_threads(threads)
