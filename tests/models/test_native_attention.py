"""Attention in native code, against the textbook in double precision."""

from __future__ import annotations

from itertools import accumulate, pairwise, product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tunewright.models.layers.attention import attend
from tunewright.models.layers.native_attention import native_attend
from tunewright.native import native

pytestmark = pytest.mark.skipif(native() is None, reason="there is no native code here")

# Shares of the largest element. bf16 keeps 8 bits: probabilities and gradients of scores are
# rounded to them before their products. The largest in 1,500 random cases: 4e-6 and 0.009.
TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 0.02}

CASES = st.fixed_dictionaries(
    {
        "lengths": st.lists(
            st.tuples(st.integers(1, 300), st.integers(1, 300)), min_size=1, max_size=4
        ),
        "crosses": st.booleans(),
        "shared": st.integers(1, 3),
        "groups": st.integers(1, 3),
        "width": st.sampled_from([1, 5, 16, 32, 48, 64, 80, 128, 256]),
        "causal": st.booleans(),
        "window": st.one_of(st.none(), st.integers(1, 120)),
        "biased": st.booleans(),
        "dtype": st.sampled_from([torch.float32, torch.bfloat16]),
        "seed": st.integers(0, 2**16),
    }
)


def drawn(case):
    """Query (N, H, D), key and value (M, K, D), the gradient and a bias; both boundaries."""
    generator = torch.Generator().manual_seed(case["seed"])
    queries, keys = (tuple(accumulate(side, initial=0)) for side in zip(*case["lengths"]))  # noqa: B905
    keys = keys if case["crosses"] else queries
    heads, width = case["shared"] * case["groups"], case["width"]
    shapes = [(queries[-1], heads), (keys[-1], case["shared"]), (keys[-1], case["shared"])]
    tensors = [
        torch.randn(*shape, width, generator=generator).to(case["dtype"])
        for shape in (*shapes, shapes[0])
    ]
    bias = torch.randn(heads, 300, 300, generator=generator) if case["biased"] else None
    return tensors, bias, queries, keys


def limits(case):
    """Causality and windows are of self-attention."""
    return (False, None) if case["crosses"] else (case["causal"], case["window"])


def by_hand(case, query, key, value, bias, queries, keys):
    causal, window = limits(case)
    key, value = (x.repeat_interleave(case["groups"], 1) for x in (key, value))
    found = []
    for (start, end), (first, last) in zip(pairwise(queries), pairwise(keys), strict=True):
        scores = torch.einsum("nhd,mhd->hnm", query[start:end], key[first:last]) * 0.2
        if bias is not None:
            scores = scores + bias[:, : end - start, : last - first]
        distance = torch.arange(end - start)[:, None] - torch.arange(last - first)
        hidden = (distance < 0) if causal else torch.zeros_like(distance, dtype=torch.bool)
        hidden = hidden if window is None else hidden | (distance.abs() >= window)
        weights = scores.masked_fill(hidden, float("-inf")).softmax(-1)
        found.append(torch.einsum("hnm,mhd->nhd", weights, value[first:last]))
    return torch.cat(found)


def everything(function, tensors, bias):
    """Returns the output and the gradients of all that has one."""
    *inputs, gradient = tensors
    leaves = [x.clone().requires_grad_() for x in inputs]
    bias = None if bias is None else bias.clone().requires_grad_()
    output = function(*leaves, bias)
    output.backward(gradient)
    every = leaves if bias is None else [*leaves, bias]
    return [output.detach(), *(leaf.grad for leaf in every)]


@settings(max_examples=60, deadline=None)
@given(CASES)
def test_it_is_textbook_attention_forward_and_backward(case):
    tensors, bias, queries, keys = drawn(case)
    found = everything(
        lambda q, k, v, b: native_attend(q, k, v, b, queries, keys, 0.2, *limits(case)),
        tensors,
        bias,
    )
    expected = everything(
        lambda q, k, v, b: by_hand(case, q, k, v, b, queries, keys),
        [x.double() for x in tensors],
        None if bias is None else bias.double(),
    )
    for mine, theirs in zip(found, expected, strict=True):
        largest = max(1.0, float(theirs.abs().max()))
        assert float((mine - theirs).abs().max()) <= TOLERANCE[case["dtype"]] * largest


@settings(max_examples=15, deadline=None)
@given(CASES)
def test_the_number_of_threads_changes_no_bit(case):
    tensors, bias, queries, keys = drawn(case)

    def attended(q, k, v, b):
        return native_attend(q, k, v, b, queries, keys, 0.2, *limits(case))

    before = torch.get_num_threads()
    try:
        runs = []
        for number in (1, 2, 5):
            torch.set_num_threads(number)
            runs.append(everything(attended, tensors, bias))
    finally:
        torch.set_num_threads(before)
    for other in runs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(runs[0], other, strict=True))


@pytest.mark.parametrize("target", ["x86-64", "x86-64-v3", "x86-64-v4"])
def test_other_processors_compute_the_same(target, monkeypatch):
    monkeypatch.setenv("TUNEWRIGHT_MARCH", target)
    if native() is None:
        pytest.skip("this compiler, or this processor, does not know it")
    check_attention()


def test_tiles_compute_the_same(plain_tiles):
    check_attention()


def check_attention() -> None:
    for dtype, causal in product(TOLERANCE, (False, True)):
        case = {"lengths": [(70, 9), (33, 150)], "crosses": not causal, "shared": 2, "groups": 2}
        case |= {"width": 48, "causal": causal, "window": 50 if causal else None}
        case |= {"biased": not causal, "dtype": dtype}
        test_it_is_textbook_attention_forward_and_backward.hypothesis.inner_test(case | {"seed": 1})


def test_one_sequence_gets_the_same_bits_alone_and_among_others():
    query, key, value = (torch.randn(90, 3, 32).bfloat16() for _ in range(3))
    together = attend(query, key, value, (0, 17, 60, 90), scale=0.2)
    alone = attend(query[17:60], key[17:60], value[17:60], (0, 43), scale=0.2)

    assert torch.equal(together[17:60], alone)


def test_views_are_read_where_they_lie():
    whole = torch.randn(50, 3, 4, 32)
    query, key, value = whole.unbind(1)
    by_head = [x.transpose(0, 1).contiguous().transpose(0, 1) for x in (query, key, value)]

    found = attend(query, key, value, (0, 20, 50), scale=0.2)
    assert torch.equal(found, attend(*by_head, (0, 20, 50), scale=0.2))
    assert torch.equal(found, attend(*(x.clone() for x in by_head), (0, 20, 50), scale=0.2))


def test_a_sequence_without_keys_finds_nothing_and_one_without_queries_teaches_nothing():
    query = torch.randn(5, 2, 16, requires_grad=True)
    key, value = (torch.randn(7, 2, 16, requires_grad=True) for _ in range(2))
    found = native_attend(query, key, value, None, (0, 3, 3, 5), (0, 0, 4, 7), 0.2, False, None)
    found.sum().backward()

    assert not found[:3].any()
    assert found[3:].all()
    assert not query.grad[:3].any()
    assert not key.grad[:4].any()
    assert not value.grad[:4].any()
    assert value.grad[4:].all()


def test_what_is_kept_for_the_backward_pass_does_not_grow_with_the_square_of_a_text():
    query, key, value = (torch.randn(600, 2, 16, requires_grad=True) for _ in range(3))
    kept = []

    def keep(x):
        kept.append(x.numel())
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        attend(query, key, value, (0, 600), scale=0.2).sum().backward()

    inputs_and_output = 4 * 600 * 2 * 16
    assert sum(kept) <= inputs_and_output + 600 * 2
