from __future__ import annotations

from itertools import accumulate, pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tunewright.models.layers.attention import attend, packed_attention
from tunewright.models.layers.blocks import paired_blocks_of

pytestmark = pytest.mark.usefixtures("either_way")


# bf16 keeps 8 bits, and scores, probabilities and products are each rounded to them. The largest
# share of the largest element in 400 random cases was 0.037, in a gradient.
BF16_TOLERANCE = 0.08

SHAPES = st.fixed_dictionaries(
    {
        "lengths": st.lists(st.integers(1, 19), min_size=1, max_size=5),
        "kv_heads": st.integers(1, 3),
        "groups": st.integers(1, 3),
        "width": st.sampled_from([1, 3, 8, 16]),
        "causal": st.booleans(),
        "window": st.one_of(st.none(), st.integers(1, 20)),
        "scaling": st.sampled_from([None, 0.3]),
        "seed": st.integers(0, 2**16),
    }
)


def tensors(case, dtype=torch.float32):
    """Query (1, H, N, D), key and value (1, K, N, D), and the output's gradient (1, N, H, D)."""
    generator = torch.Generator().manual_seed(case["seed"])
    num_tokens, kv = sum(case["lengths"]), case["kv_heads"]
    heads = kv * case["groups"]

    def draw(*shape):
        return torch.randn(*shape, generator=generator).to(dtype)

    query = draw(1, heads, num_tokens, case["width"]).requires_grad_()
    key, value = (draw(1, kv, num_tokens, case["width"]).requires_grad_() for _ in range(2))
    return query, key, value, draw(1, num_tokens, heads, case["width"])


def boundaries(case):
    return tuple(accumulate(case["lengths"], initial=0))


def ours(case, query, key, value):
    module = nn.Module()
    module.is_causal = case["causal"]
    return packed_attention(
        module,
        query,
        key,
        value,
        None,
        scaling=case["scaling"],
        boundaries=boundaries(case),
        sliding_window=case["window"],
    )[0]


def plain(case, query, key, value):
    """Attention as the textbook writes it: one sequence, one head, one query at a time."""
    scale = case["scaling"] or case["width"] ** -0.5
    rows = []
    for start, end in pairwise(boundaries(case)):
        for place in range(start, end):
            seen = [k for k in range(start, end) if is_seen(case, place, k)]
            heads = []
            for head in range(query.shape[1]):
                of = head // case["groups"]
                scores = key[0, of, seen] @ query[0, head, place] * scale
                weights = scores.exp() / scores.exp().sum()
                heads.append(weights @ value[0, of, seen])
            rows.append(torch.stack(heads))
    return torch.stack(rows)[None]


def is_seen(case, query_place, key_place):
    distance = query_place - key_place
    near = case["window"] is None or abs(distance) < case["window"]
    return near and (distance >= 0 or not case["causal"])


def gradients(attend, case, inputs, gradient):
    leaves = [x.detach().requires_grad_() for x in inputs]
    attend(case, *leaves).backward(gradient)
    return [leaf.grad for leaf in leaves]


@settings(max_examples=40, deadline=None)
@given(SHAPES)
def test_packed_attention_is_textbook_attention_of_each_sequence_forward_and_backward(case):
    query, key, value, gradient = tensors(case)
    found, expected = ours(case, query, key, value), plain(case, query, key, value)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    inputs = (query, key, value)
    for mine, theirs in zip(
        gradients(ours, case, inputs, gradient),
        gradients(plain, case, inputs, gradient),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-4)


@settings(max_examples=20, deadline=None)
@given(SHAPES)
def test_bf16_stays_within_its_rounding_of_fp32_forward_and_backward(case):
    *narrow, gradient = tensors(case, torch.bfloat16)
    wide = [x.detach().float() for x in narrow]
    expected = [plain(case, *wide), *gradients(plain, case, wide, gradient.float())]
    found = [ours(case, *narrow).detach(), *gradients(ours, case, narrow, gradient)]
    for mine, theirs in zip(found, expected, strict=True):
        assert mine.dtype == torch.bfloat16
        largest = max(1.0, float(theirs.abs().max()))
        assert float((mine.float() - theirs).abs().max()) <= BF16_TOLERANCE * largest


@settings(max_examples=40, deadline=None)
@given(SHAPES)
def test_the_path_without_gradients_gives_the_same(case):
    *inputs, _ = tensors(case)
    with torch.no_grad():
        fused = ours(case, *inputs)
    assert not fused.requires_grad
    torch.testing.assert_close(fused, ours(case, *inputs), atol=1e-5, rtol=1e-5)


def test_queries_and_keys_wider_than_the_values_are_narrowed_as_autocast_would():
    wide = torch.randn(1, 2, 5, 4, requires_grad=True)
    narrow = torch.randn(1, 2, 5, 4).bfloat16().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, _ = packed_attention(nn.Module(), wide, wide, narrow, None, boundaries=(0, 2, 5))
    found.sum().backward()
    assert (found.dtype, wide.grad.dtype) == (torch.bfloat16, torch.float32)
    assert narrow.grad.dtype == torch.bfloat16


def test_a_token_of_one_sequence_never_reaches_another():
    case = {"lengths": [3, 4], "kv_heads": 2, "groups": 1, "width": 4, "causal": False}
    case |= {"window": None, "scaling": None, "seed": 0}
    query, key, value, _ = tensors(case)
    ours(case, query, key, value)[0, :3].sum().backward()
    assert value.grad[0, :, :3].abs().min() > 0
    assert value.grad[0, :, 3:].abs().max() == 0


def test_an_argument_wins_over_the_module_s_own_causality():
    query = torch.randn(1, 1, 4, 2)
    module = nn.Module()
    module.is_causal = True
    ends = {"boundaries": (0, 4)}
    open_, _ = packed_attention(module, query, query, query, None, is_causal=False, **ends)
    closed, _ = packed_attention(module, query, query, query, None, **ends)
    assert torch.allclose(closed[0, 0, 0], query[0, 0, 0])
    assert not torch.equal(open_[0, 0, 0], query[0, 0, 0])


def test_a_model_that_does_not_pass_boundaries_on_is_told():
    query = torch.zeros(1, 1, 2, 2)
    with pytest.raises(TypeError) as caught:
        packed_attention(nn.Module(), query, query, query, None)
    assert str(caught.value) == (
        "packed attention needs boundaries=, and this model did not pass it on"
    )


CROSS = st.fixed_dictionaries(
    {
        "lengths": st.lists(
            st.tuples(st.integers(1, 40), st.integers(1, 40)), min_size=1, max_size=6
        ),
        "heads": st.integers(1, 3),
        "biased": st.booleans(),
        "seed": st.integers(0, 2**16),
    }
)


def cross_inputs(case):
    """Query (N, H, D), key and value (M, H, D), a bias (H, S, T) or None, both boundaries."""
    generator = torch.Generator().manual_seed(case["seed"])
    queries, keys = ([0, *accumulate(side)] for side in zip(*case["lengths"], strict=True))
    heads = case["heads"]
    tensors = [
        torch.randn(ends[-1], heads, 4, generator=generator) for ends in (queries, keys, keys)
    ]
    bias = torch.randn(heads, 40, 40, generator=generator) if case["biased"] else None
    return tensors, bias, tuple(queries), tuple(keys)


def cross_by_hand(query, key, value, bias, queries, keys):
    found = []
    for (start, end), (first, last) in zip(pairwise(queries), pairwise(keys), strict=True):
        scores = torch.einsum("nhd,mhd->hnm", query[start:end], key[first:last]) / 2
        if bias is not None:
            scores = scores + bias[:, : end - start, : last - first]
        found.append(torch.einsum("hnm,mhd->nhd", scores.softmax(-1), value[first:last]))
    return torch.cat(found)


@settings(max_examples=40, deadline=None)
@given(CROSS)
def test_cross_attention_is_that_of_each_pair_of_sequences_forward_and_backward(case):
    tensors, bias, queries, keys = cross_inputs(case)
    leaves = [[x.clone().requires_grad_() for x in tensors] for _ in range(2)]
    biases = [None if bias is None else bias.clone().requires_grad_() for _ in range(2)]
    found = attend(*leaves[0], queries, keys, scale=0.5, bias_HST=biases[0])
    expected = cross_by_hand(*leaves[1], biases[1], queries, keys)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    gradient = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1))
    found.backward(gradient)
    expected.backward(gradient)
    if bias is not None:
        leaves = [[*side, own] for side, own in zip(leaves, biases, strict=True)]
    for mine, theirs in zip(*leaves, strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, atol=1e-5, rtol=1e-4)
    with torch.no_grad():
        plain = attend(*tensors, queries, keys, scale=0.5, bias_HST=bias)
    torch.testing.assert_close(plain, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("gradient", [True, False])
def test_a_bias_and_causality_go_together(gradient):
    query, key, value = (torch.randn(9, 2, 4).requires_grad_(gradient) for _ in range(3))
    bias = torch.randn(2, 6, 6)
    found = attend(query, key, value, (0, 3, 9), scale=0.5, causal=True, bias_HST=bias)
    for start, end in ((0, 3), (3, 9)):
        size = end - start
        scores = torch.einsum("nhd,mhd->hnm", query[start:end], key[start:end]) / 2
        future = torch.ones(size, size, dtype=torch.bool).triu(1)
        scores = (scores + bias[:, :size, :size]).masked_fill(future, float("-inf"))
        expected = torch.einsum("hnm,mhd->nhd", scores.softmax(-1), value[start:end])
        torch.testing.assert_close(found[start:end], expected)


def test_pairs_of_unlike_lengths_do_not_share_a_block():
    blocks = paired_blocks_of((0, 30, 32, 34, 63), (0, 31, 34, 36, 96), torch.device("cpu"))
    sizes = sorted((q.num_sequences, q.length, k.length) for q, k in blocks)
    assert sizes == [(1, 29, 60), (1, 30, 31), (2, 2, 3)]
